"""Averaged probabilities written as segmentations."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nnunetv2.ensembling.ensemble import average_probabilities as nnunets_average
from nnunetv2.ensembling.ensemble import merge_files
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.probabilities import probability_files
from hippo_nnunet.evaluation.selection import choose_ensemble
from hippo_nnunet.evaluation.tables import evaluate_folder, summarise, tag
from hippo_nnunet.inference.ensembling import average_probabilities, write_ensemble, write_out_of_fold

ENDING = ".nii.gz"
LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}
CASES = ["a", "b", "c", "d"]
FOLDS = {"a": 0, "b": 0, "c": 1, "d": 1}
SHAPE = (4, 5, 6)  # x, y, z
AFFINE = np.array([[-1.0, 0, 0, 9], [0, 1.5, 0, -4], [0, 0, 2, 1], [0, 0, 0, 1]])


class Models:
    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(3)
        self.model_folder = root / "model"
        self.model_folder.mkdir()
        self.references = root / "labels"
        self.references.mkdir()
        dataset = {"labels": LABELS, "file_ending": ENDING, "channel_names": {"0": "MRI"}}
        (self.model_folder / "dataset.json").write_text(json.dumps(dataset))
        plans = {"image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager"}
        (self.model_folder / "plans.json").write_text(json.dumps(plans))
        self.dataset = dataset
        for case in CASES:
            truth = rng.integers(0, 3, SHAPE).astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(truth, AFFINE), self.references / f"{case}{ENDING}")
            _, properties = SimpleITKIO().read_seg(str(self.references / f"{case}{ENDING}"))
            for name in ("m1", "m2", "m3"):
                folder = root / name
                folder.mkdir(exist_ok=True)
                one_hot = np.eye(3, dtype=np.float32)[truth].transpose(3, 2, 1, 0)
                scores = np.exp(2 * (one_hot + rng.normal(0, 0.5, one_hot.shape)))
                np.savez_compressed(folder / f"{case}.npz", probabilities=(scores / scores.sum(0)).astype(np.float32))
                (folder / f"{case}.pkl").write_bytes(pickle.dumps(properties))
        self.members = {name: probability_files(root / name) for name in ("m1", "m2", "m3")}


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models(tmp_path)


def test_average_is_nnunets_bit_by_bit(models: Models) -> None:
    files = [member["b"] for member in models.members.values()]
    np.testing.assert_array_equal(average_probabilities(files), nnunets_average([str(f) for f in files]))


def test_files_equal_nnunets_merge(models: Models, tmp_path: Path) -> None:
    write_ensemble(list(models.members.values()), tmp_path / "out", models.model_folder, "none", CASES)
    files = [str(member["a"]) for member in models.members.values()]
    merge_files(files, str(tmp_path / "theirs"), ENDING, SimpleITKIO(), LabelManager(LABELS, None))
    ours, theirs = nibabel.load(tmp_path / "out" / f"a{ENDING}"), nibabel.load(tmp_path / f"theirs{ENDING}")
    np.testing.assert_array_equal(ours.dataobj, theirs.dataobj)
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    np.testing.assert_allclose(ours.affine, AFFINE)
    assert ours.get_data_dtype() == np.uint8
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*(f"{case}{ENDING}" for case in CASES), "dataset.json", "plans.json"}


def test_postprocessing_is_applied(models: Models, tmp_path: Path) -> None:
    probabilities = np.zeros((3, *SHAPE[::-1]), np.float32)
    probabilities[0] = 0.5
    probabilities[1, 0, 0, :2] = probabilities[1, 5, 4, 3] = 0.9  # two voxels, and one far away
    np.savez_compressed(models.members["m1"]["a"], probabilities=probabilities)
    write_ensemble([models.members["m1"]], tmp_path, models.model_folder, "largest_per_label", ["a"])
    voxels = np.asarray(nibabel.load(tmp_path / f"a{ENDING}").dataobj)
    assert np.argwhere(voxels).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_out_of_fold_files_score_the_nested_dice(models: Models, tmp_path: Path) -> None:
    choice = choose_ensemble(models.members, models.references, models.dataset, FOLDS)
    write_out_of_fold(choice, models.members, FOLDS, tmp_path / "oof", models.model_folder)
    table = evaluate_folder(tmp_path / "oof", models.references, {"Anterior": 1, "Posterior": 2}, ENDING)
    summary = summarise(tag(table, "ensemble", "nested", FOLDS))["ensemble"]["nested"]
    assert summary["foreground_mean"]["dice"]["mean"] == pytest.approx(choice.nested_dice, abs=1e-12)


def test_bad_input(models: Models, tmp_path: Path) -> None:
    m1, m2 = models.members["m1"], models.members["m2"]
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"member 2 of 2: no probabilities for 1 of 4 cases \(c\)"):
        write_ensemble([m1, {k: v for k, v in m2.items() if k != "c"}], out, models.model_folder, "none", CASES)
    with pytest.raises(DataError, match=r"dataset\.json is missing"):
        write_ensemble([m1], out, tmp_path, "none", CASES)
    assert not out.exists()
    np.savez_compressed(m2["a"], probabilities=np.zeros((3, 1, 1, 1), np.float32))
    with pytest.raises(DataError, match=r"got probabilities of shape \(3, 1, 1, 1\)"):
        write_ensemble([m1, m2], out, models.model_folder, "none", CASES)
    m1["a"].with_suffix(".pkl").unlink()
    with pytest.raises(DataError, match=r"a\.pkl: cannot be read"):
        write_ensemble([m1], out, models.model_folder, "none", CASES)
    assert not list(out.glob(f"*{ENDING}"))
    choice = choose_ensemble({"m3": models.members["m3"]}, models.references, models.dataset, dict.fromkeys(CASES, 0))
    with pytest.raises(DataError, match="at least two folds"):
        write_out_of_fold(choice, models.members, FOLDS, out, models.model_folder)
