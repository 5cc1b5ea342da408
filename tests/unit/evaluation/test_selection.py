"""The choice of an ensemble on out-of-fold probabilities."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunetv2.ensembling.ensemble import average_probabilities
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy import stats

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation import selection
from hippo_nnunet.evaluation.candidates import OutOfFoldDice
from hippo_nnunet.evaluation.gain import gain_between, mean_score
from hippo_nnunet.evaluation.labels import label_manager_of
from hippo_nnunet.evaluation.postprocessing import postprocess
from hippo_nnunet.evaluation.probabilities import out_of_fold_files, probability_files
from hippo_nnunet.evaluation.selection import EnsembleChoice, choose_ensemble

ENDING = ".nii.gz"
DATASET = {"labels": {"background": 0, "Anterior": 1, "Posterior": 2}, "file_ending": ENDING}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2], "front": 1, "ignore": 3},
    "regions_class_order": [2, 1],
    "file_ending": ENDING,
}
SHAPE = (6, 7, 8)  # x, y, z
CASES = [f"case_{i:02d}" for i in range(9)]
FOLDS = {case: i % 3 for i, case in enumerate(CASES)}


class World:
    """Reference files and, for each member asked for, files of noisy probabilities."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root = root
        self.rng = np.random.default_rng(seed)
        self.references = root / "labelsTr"
        self.references.mkdir()
        self.truth = {}
        for case in CASES:
            truth = np.zeros(SHAPE, dtype=np.uint8)
            truth[1:5, 1:4, 1:6], truth[1:5, 4:6, 1:6] = 1, 2
            self.truth[case] = truth
            nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), self.references / f"{case}{ENDING}")

    def member(self, name: str, noise: float, noisy_folds: tuple[int, ...] = (0, 1, 2)) -> dict[str, Path]:
        folder = self.root / name
        folder.mkdir()
        for case, truth in self.truth.items():
            one_hot = np.eye(3, dtype=np.float32)[truth].transpose(3, 2, 1, 0)
            level = noise if FOLDS[case] in noisy_folds else 0.01
            scores = one_hot + self.rng.normal(0, level, one_hot.shape)
            exp = np.exp(3 * scores)
            np.savez_compressed(folder / f"{case}.npz", probabilities=(exp / exp.sum(0)).astype(np.float32))
        return probability_files(folder)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_dice_of_subsets_equals_nnunets(world: World, tmp_path: Path) -> None:
    members = {name: dict(list(world.member(name, 0.5).items())[:2]) for name in "abc"}
    dice = OutOfFoldDice(members, world.references, DATASET)
    subsets = [subset for size in (1, 2, 3) for subset in combinations(range(3), size)]
    dice.compute((subset, "none") for subset in subsets)
    manager, writer = label_manager_of(DATASET), SimpleITKIO()
    for subset in subsets:
        folder = tmp_path / "merged" / "".join(map(str, subset))
        folder.mkdir(parents=True)
        for case in dice.cases:
            merged = average_probabilities([str(members["abc"[i]][case]) for i in subset])
            segmentation = manager.convert_probabilities_to_segmentation(merged)
            _, properties = writer.read_seg(str(world.references / f"{case}{ENDING}"))
            writer.write_seg(segmentation, str(folder / f"{case}{ENDING}"), properties)
        theirs = [
            [
                compute_metrics_one(world.references / f"{case}{ENDING}", folder / f"{case}{ENDING}", label)
                for label in (1, 2)
            ]
            for case in dice.cases
        ]
        np.testing.assert_array_equal(dice[subset, "none"], theirs)


def compute_metrics_one(reference: Path, prediction: Path, label: int, ignore: int | None = None) -> float:
    metrics = compute_metrics(str(reference), str(prediction), SimpleITKIO(), [label], ignore)
    return metrics["metrics"][label]["Dice"]


def test_regions_and_ignore_label_as_nnunet_has_them(world: World, tmp_path: Path) -> None:
    case = CASES[0]
    truth = world.truth[case].copy()
    truth[0] = 3
    nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), world.references / f"{case}{ENDING}")
    probabilities = world.rng.random((2, *SHAPE[::-1]), dtype=np.float32)
    np.savez_compressed(tmp_path / f"{case}.npz", probabilities=probabilities)
    dice = OutOfFoldDice({"a": {case: tmp_path / f"{case}.npz"}}, world.references, REGIONS)
    dice.compute([((0,), "none")])
    segmentation = np.zeros(SHAPE[::-1], dtype=np.uint8)
    segmentation[probabilities[0] > 0.5] = 2
    segmentation[probabilities[1] > 0.5] = 1
    prediction = tmp_path / f"seg{ENDING}"
    nibabel.save(nibabel.Nifti1Image(segmentation.transpose(2, 1, 0), np.eye(4)), prediction)
    reference = world.references / f"{case}{ENDING}"
    expected = [compute_metrics_one(reference, prediction, label, ignore=3) for label in ((1, 2), 1)]
    np.testing.assert_array_equal(dice[(0,), "none"][0], expected)


def test_members_that_average_out_are_joined_and_a_bad_one_is_not(world: World) -> None:
    members = {"a": world.member("a", 0.6), "bad": world.member("bad", 5.0), "b": world.member("b", 0.6)}
    choice = choose_ensemble(members, world.references, DATASET, FOLDS)
    assert choice.members == ("a", "b")
    assert choice.nested_gain > 0
    assert choice.naive_dice == max(c.dice for c in choice.candidates if c.postprocessing == choice.postprocessing)
    singles = [c for c in choice.candidates if len(c.members) == 1 and c.postprocessing == "none"]
    assert len(singles) == 3
    assert len([c for c in choice.candidates if c.postprocessing == "none"]) == 7


def test_equal_scores_go_to_the_smaller_and_earlier(world: World) -> None:
    files = world.member("a", 0.5)
    choice = choose_ensemble({"first": files, "same": files}, world.references, DATASET, FOLDS)
    assert choice.members == ("first",)


def test_nested_score_is_made_by_choices_that_never_saw_the_fold(world: World) -> None:
    # each member fails in one fold only: the choice without fold k can't know which one fails there
    members = {f"bad{fold}": world.member(f"bad{fold}", 3.0, noisy_folds=(fold,)) for fold in range(3)}
    single = {name: members[name] for name in ("bad0",)}
    assert choose_ensemble(single, world.references, DATASET, FOLDS).nested_gain == 0
    choice = choose_ensemble(members, world.references, DATASET, FOLDS)
    for entry in choice.per_fold:
        assert entry.members == (f"bad{entry.fold}",)  # looks perfect on the other folds
        assert entry.cases == 3
    assert choice.nested_dice < choice.naive_dice - 0.1
    assert choice.nested_dice == pytest.approx(np.mean([entry.dice for entry in choice.per_fold]))


def test_one_fold_has_no_nested_score(world: World) -> None:
    choice = choose_ensemble({"a": world.member("a", 0.5)}, world.references, DATASET, dict.fromkeys(CASES, 0))
    assert (choice.nested_dice, choice.nested_gain, choice.per_fold) == (None, None, ())
    assert choice.naive_dice is not None


def test_greedy_choice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    members = {f"m{i}": world.member(f"m{i}", 0.6 if i % 2 else 3.0) for i in range(5)}
    exhaustive = choose_ensemble(members, world.references, DATASET, FOLDS)
    monkeypatch.setattr(selection, "MAX_EXHAUSTIVE", 4)
    greedy = choose_ensemble(members, world.references, DATASET, FOLDS)
    assert set(greedy.members) == {"m1", "m3"}
    assert greedy.naive_dice <= exhaustive.naive_dice
    assert len(greedy.candidates) < len(exhaustive.candidates)


def test_postprocessing_is_taken_where_it_helps(world: World) -> None:
    choice = choose_ensemble({"a": add_islands(world.member("a", 0.01))}, world.references, DATASET, FOLDS)
    assert choice.postprocessing == "largest_foreground"
    assert choice.naive_dice == 1
    assert {entry.postprocessing for entry in choice.per_fold} == {"largest_foreground"}


def add_islands(files: dict[str, Path], voxels: int = 1) -> dict[str, Path]:
    """Add an island of Anterior, far from the rest, to every case."""
    for path in files.values():
        with np.load(path) as content:
            probabilities = content["probabilities"]
        probabilities[:, 7, 6, :voxels] = np.array([0, 1, 0])[:, None]
        np.savez_compressed(path, probabilities=probabilities)
    return files


def test_members_and_postprocessing_are_chosen_together(world: World) -> None:
    # without postprocessing "plain" is better; its errors stay, while those of "islands" can be removed
    members = {"islands": add_islands(world.member("islands", 0.01), 6), "plain": world.member("plain", 0.25)}
    scores = {
        (c.members, c.postprocessing): c.dice
        for c in choose_ensemble(members, world.references, DATASET, FOLDS).candidates
    }
    assert scores[("plain",), "none"] > scores[("islands",), "none"]
    choice = choose_ensemble(members, world.references, DATASET, FOLDS)
    assert (choice.members, choice.postprocessing) == (("islands",), "largest_foreground")


def test_what_the_postprocessing_gains_is_not_credited_to_the_ensemble(world: World) -> None:
    choice = choose_ensemble({"a": add_islands(world.member("a", 0.01))}, world.references, DATASET, FOLDS)
    before = next(c.dice for c in choice.candidates if c.postprocessing == "none")
    assert choice.nested_dice > before
    assert choice.nested_gain == 0
    assert (choice.gain.dice, choice.gain.low, choice.gain.high) == (0, 0, 0)


def test_two_repeats_of_a_recipe_are_the_control(world: World) -> None:
    names = ("UNetTrainer_fast__P__2d", "UNetTrainer_fast_seed1__P__2d", "Other__P__2d")
    choice = choose_ensemble({name: world.member(name, 0.6) for name in names}, world.references, DATASET, FOLDS)
    (control,) = choice.seed_gains
    assert control.members == names[:2]
    dice = {c.members: c.dice for c in choice.candidates if c.postprocessing == choice.postprocessing}
    assert control.dice == pytest.approx(dice[names[:2]] - (dice[names[:1]] + dice[names[1:2]]) / 2)
    assert control.low < control.dice < control.high


def test_the_interval_of_a_gain_resamples_subjects() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(0.02, 0.02, (40, 1))
    table = np.repeat(0.8 + own, 2, axis=1)
    table[0, 1] = np.nan
    other = np.where(np.isnan(table), np.nan, 0.8)
    alone = gain_between(table, other, np.arange(40))
    assert alone.dice == pytest.approx(mean_score(table) - mean_score(other))
    reference = stats.bootstrap((own[:, 0],), np.mean, method="percentile", rng=1).confidence_interval
    assert (alone.low, alone.high) == pytest.approx(tuple(reference), abs=0.001)
    twice = gain_between(np.repeat(table, 2, axis=0), np.repeat(other, 2, axis=0), np.repeat(np.arange(40), 2))
    assert (twice.low, twice.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    few = gain_between(table[:5], other[:5], np.arange(5))
    assert (few.low, few.high) == (None, None)


def test_postprocessing_by_hand() -> None:
    manager = label_manager_of(DATASET)
    line = np.array([1, 1, 1, 2, 0, 2, 2, 0, 1]).reshape(1, 1, 9)
    assert postprocess(line, "none", manager) is line
    assert postprocess(line, "largest_foreground", manager).ravel().tolist() == [1, 1, 1, 2, 0, 0, 0, 0, 0]
    assert postprocess(line, "largest_per_label", manager).ravel().tolist() == [1, 1, 1, 0, 0, 2, 2, 0, 0]
    empty = np.zeros((1, 1, 3), dtype=int)
    assert not postprocess(empty, "largest_per_label", manager).any()
    with pytest.raises(ConfigError, match="unknown postprocessing"):
        postprocess(line, "smooth", manager)


def test_label_absent_everywhere_is_left_out(world: World) -> None:
    for case in CASES:
        nibabel.save(
            nibabel.Nifti1Image(np.where(world.truth[case] == 2, 0, world.truth[case]), np.eye(4)),
            world.references / f"{case}{ENDING}",
        )
        world.truth[case][world.truth[case] == 2] = 0
    choice = choose_ensemble({"a": world.member("a", 0.01)}, world.references, DATASET, FOLDS)
    assert choice.naive_dice == 1
    assert choice.candidates[0].labels == {"Anterior": 1.0, "Posterior": None}


def test_json_round_trip(world: World, tmp_path: Path) -> None:
    choice = choose_ensemble({n: world.member(n, 0.6) for n in "ab"}, world.references, DATASET, FOLDS)
    path = tmp_path / "ensemble" / "choice.json"
    choice.to_json(path)
    assert EnsembleChoice.from_json(path) == EnsembleChoice(choice.members, choice.postprocessing, choice.per_fold)
    assert json.loads(path.read_text())["nested_dice"] == choice.nested_dice
    path.write_text("{}")
    with pytest.raises(DataError, match="not a choice"):
        EnsembleChoice.from_json(path)


def test_bad_input_names_file_or_member(world: World) -> None:
    a, b = world.member("a", 0.5), world.member("b", 0.5)
    with pytest.raises(DataError, match=r"b: no out-of-fold probabilities for 1 of 9 cases \(case_04\)"):
        choose_ensemble({"a": a, "b": {c: p for c, p in b.items() if c != "case_04"}}, world.references, DATASET, FOLDS)
    with pytest.raises(DataError, match="no fold for 9 cases"):
        choose_ensemble({"a": a}, world.references, DATASET, {})
    with pytest.raises(DataError, match="at least one"):
        choose_ensemble({}, world.references, DATASET, FOLDS)
    np.savez_compressed(a["case_03"], probabilities=np.zeros((3, 2, 2, 2), np.float32))
    with pytest.raises(DataError, match=r"case_03\.npz: got probabilities of shape \(3, 2, 2, 2\)"):
        choose_ensemble({"a": a}, world.references, DATASET, FOLDS)
    a["case_02"].write_bytes(a["case_02"].read_bytes()[:100])
    with pytest.raises(DataError, match=r"case_02\.npz: no readable array"):
        choose_ensemble({"a": a}, world.references, DATASET, FOLDS)
    strange = nibabel.Nifti1Image(np.full(SHAPE, 7, np.uint8), np.eye(4))
    nibabel.save(strange, world.references / f"{CASES[0]}{ENDING}")
    with pytest.raises(DataError, match=r"case_00: the reference holds the values \[7"):
        choose_ensemble({"b": b}, world.references, DATASET, FOLDS)


def test_out_of_fold_files(world: World, tmp_path: Path) -> None:
    files = world.member("a", 0.5)
    model = tmp_path / "UNetTrainer__nnUNetPlans__2d"
    for case, path in files.items():
        target = model / f"fold_{FOLDS[case]}" / "validation" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    found, folds = out_of_fold_files(model, (0, 1, 2))
    assert folds == FOLDS
    assert found["case_04"] == model / "fold_1" / "validation" / "case_04.npz"
    with pytest.raises(DataError, match="--npz"):
        out_of_fold_files(model, (0, 5))
    (model / "fold_2" / "validation" / "case_04.npz").write_bytes(b"")
    with pytest.raises(DataError, match="fold 1 already"):
        out_of_fold_files(model, (0, 1, 2))
