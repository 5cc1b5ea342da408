"""From typed options to an experiment, and what an experiment's folder refuses."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.presets import preset_for_training, trainer_name, with_repeats
from hippo_nnunet.experiment.request import Request, dataset_of_task, parse_folds, resolve
from hippo_nnunet.inference.submission import write_submission
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.workflow.launch import Settings, run_experiment
from hippo_nnunet.workflow.preparation import check_encoders

ALL = (0, 1, 2, 3, 4)
CPU = "cpu"


@pytest.fixture
def folders(tmp_path: Path) -> NnunetFolders:
    return NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "Task04_Hippocampus").mkdir()
    return tmp_path / "Task04_Hippocampus"


def experiment(**changes: object) -> Experiment:
    values = {
        "dataset": "Dataset004_Hippocampus",
        "preset": "laptop",
        "variants": ("UNet", "AttentionUNet"),
        "folds": {"2d": ALL, "3d_fullres": (0,)},
    }
    return Experiment(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("variant", "preset", "lengths", "expected"),
    [
        ("UNet", "laptop", {}, "UNetTrainer_fast"),
        ("AttentionUNet_flip", "laptop", {}, "AttentionUNetTrainer_flip_fast"),
        ("AttentionUNet_flip_dice_seed3", "laptop", {"epochs": 4}, "AttentionUNetTrainer_flip_dice_fast_4epochs_seed3"),
        ("UNet", "gpu", {}, "UNetTrainer_40epochs"),
        ("UNet", "standard", {}, "UNetTrainer_50epochs"),
        ("UNet", "standard", {"epochs": 2, "iterations": 7}, "UNetTrainer_2epochs_7iters"),
        ("UNet_9epochs", "standard", {"epochs": 2}, "UNetTrainer_9epochs"),
        ("UNet", "paper", {}, "UNetTrainer"),
        ("CLIPGuidedUNet_noImage_mini", "laptop", {}, "CLIPGuidedUNetTrainer_noImage_mini_fast"),
    ],
)
def test_trainer_of_a_variant(variant: str, preset: str, lengths: dict[str, int], expected: str) -> None:
    assert trainer_name(variant, preset, **lengths) == expected


def test_seeds_add_repeats_of_each_recipe(tmp_path: Path, task: Path, folders: NnunetFolders) -> None:
    asked = Request(task=task, variants="UNet,AttentionUNet_flip,CLIPGuidedUNet_seed7", seeds=3)
    made = resolve(asked, tmp_path / "e", folders, CPU)
    assert made.variants == (
        *("UNet", "UNet_seed1", "UNet_seed2", "AttentionUNet_flip", "AttentionUNet_flip_seed1"),
        *("AttentionUNet_flip_seed2", "CLIPGuidedUNet_seed7"),
    )
    assert made.trainer("UNet_seed2") == "UNetTrainer_fast_seed2"


def test_seeds_extend_an_experiment(tmp_path: Path, folders: NnunetFolders) -> None:
    (tmp_path / "e").mkdir()
    experiment(variants=("UNet", "UNet_seed1")).save(tmp_path / "e" / "experiment.yaml")
    assert resolve(Request(seeds=2), tmp_path / "e", folders, CPU).variants == ("UNet", "UNet_seed1")
    assert resolve(Request(), tmp_path / "e", folders, CPU).variants == ("UNet", "UNet_seed1")
    extended = resolve(Request(seeds=3), tmp_path / "e", folders, CPU).variants
    assert extended == ("UNet", "UNet_seed1", "UNet_seed2")


def test_overnight_trains_each_recipe_three_times(tmp_path: Path, task: Path, folders: NnunetFolders) -> None:
    asked, folder = Request(task=task, variants="UNet", preset="overnight"), tmp_path / "e"
    new = resolve(asked, folder, folders, CPU)
    assert new.variants == ("UNet", "UNet_seed1", "UNet_seed2")
    assert new.trainer("UNet_seed2") == "UNetTrainer_fast_seed2"
    folder.mkdir()
    new.save(folder / "experiment.yaml")
    for again in (asked, Request()):
        assert resolve(again, folder, folders, CPU) == new
    assert resolve(replace(asked, seeds=1), tmp_path / "once", folders, CPU).variants == ("UNet",)


def test_recipes_keep_the_repeats_that_they_have(tmp_path: Path, folders: NnunetFolders) -> None:
    (tmp_path / "e").mkdir()
    experiment(variants=("UNet", "UNet_seed1"), preset="overnight").save(tmp_path / "e" / "experiment.yaml")
    had = ("UNet", "UNet_seed1")
    assert resolve(Request(), tmp_path / "e", folders, CPU).variants == had
    added = resolve(Request(variants="UNet,AttentionUNet"), tmp_path / "e", folders, CPU).variants
    assert added == (*had, "AttentionUNet", "AttentionUNet_seed1", "AttentionUNet_seed2")


def test_adjacent_slices_go_with_2d_alone(tmp_path: Path, task: Path, folders: NnunetFolders) -> None:
    asked = Request(task=task, variants="UNet,UNet_5slices")
    assert resolve(asked, tmp_path / "e", folders, CPU).trainer("UNet_5slices") == "UNetTrainer_5slices_fast"
    both = resolve(replace(asked, configurations="2d,3d_fullres"), tmp_path / "e", folders, CPU)
    trained = {(cell.variant, cell.configuration) for cell in both.cells()}
    assert trained == {("UNet", "2d"), ("UNet", "3d_fullres"), ("UNet_5slices", "2d")}
    assert both.models_to_predict("UNet_5slices") == [both.model("UNet_5slices", "2d")]
    assert len(both.models_to_predict("UNet")) == 2
    with pytest.raises(ConfigError, match="UNet_5slices sees adjacent slices, which goes with 2d, not 3d_fullres"):
        resolve(replace(asked, configurations="3d_fullres"), tmp_path / "e", folders, CPU)
    alone = replace(asked, variants="UNet_5slices", configurations="2d,3d_fullres")
    with pytest.raises(ConfigError, match="'3d_fullres': none of UNet_5slices is trained in it"):
        resolve(alone, tmp_path / "e", folders, CPU)


def test_a_variant_may_be_limited_to_a_configuration(tmp_path: Path, task: Path, folders: NnunetFolders) -> None:
    folder = tmp_path / "e"
    asked = Request(task=task, variants="UNet@3d_fullres,UNet_fast_flip", configurations="2d,3d_fullres", seeds=2)
    new = resolve(asked, folder, folders, CPU)
    assert new.only == {"UNet": ("3d_fullres",), "UNet_seed1": ("3d_fullres",)}
    trained = {cell.variant for cell in new.cells() if cell.configuration == "2d"}
    assert trained == {"UNet_flip_fast", "UNet_flip_fast_seed1"}
    assert new.models_to_predict("UNet_seed1") == [new.model("UNet_seed1", "3d_fullres")]
    assert new.limited_variants()[:2] == ["UNet@3d_fullres", "UNet_seed1@3d_fullres"]
    again = resolve(replace(asked, variants=",".join(new.limited_variants()), seeds=None), folder, folders, CPU)
    assert again == new  # what the report prints asks for the same
    folder.mkdir()
    new.save(folder / "experiment.yaml")
    assert resolve(Request(), folder, folders, CPU) == new
    subsets = resolve(Request(train_cases="5,all"), folder, folders, CPU)
    assert subsets.only["UNet_5cases_seed1"] == ("3d_fullres",)
    of_seed = resolve(
        replace(asked, variants="UNet_seed1@2d,UNet@3d_fullres", train_cases="5", seeds=None),
        folder / "o",
        folders,
        CPU,
    )
    assert of_seed.only == {"UNet_5cases_seed1": ("2d",), "UNet_5cases": ("3d_fullres",)}
    unlimited = resolve(replace(asked, variants="UNet,UNet@3d_fullres,UNet_flip_fast"), folder, folders, CPU)
    assert unlimited.only == {}
    with pytest.raises(ConfigError, match="UNet_flip_fast is trained in 3d_fullres there, not now"):
        resolve(replace(asked, variants="UNet@3d_fullres,UNet_flip_fast@2d"), folder, folders, CPU)


@pytest.mark.parametrize(
    ("variants", "says"),
    [
        ("UNet@3d_fullres", "UNet@3d_fullres: configuration '3d_fullres' is not part of the experiment: add it"),
        ("UNet@", "name a configuration after @, such as UNet@3d_fullres"),
        ("UNet_5slices@3d_fullres,UNet@2d", "configuration '3d_fullres' is not part of the experiment"),
    ],
)
def test_limits_that_make_no_sense(
    tmp_path: Path, task: Path, folders: NnunetFolders, variants: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(Request(task=task, variants=variants), tmp_path / "e", folders, CPU)


def test_limits_of_a_file_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    experiment().save(path)
    whole = path.read_text()
    assert "only" not in whole  # earlier versions know no such entry
    for entry, says in (
        ("only: [2d]", "only: got a list, expected variants, each with a list of configurations"),
        ("only: {UNet: []}", "only: got a dict, expected variants"),
        ("only: {Unknown: [2d]}", "Unknown@2d: variant 'Unknown' is not part of the experiment"),
    ):
        path.write_text(whole.replace("plans:", f"{entry}\nplans:"))
        with pytest.raises(ConfigError, match=says):
            Experiment.load(path)


def test_training_cases_add_subsets_of_each_recipe_with_its_seeds(
    tmp_path: Path, task: Path, folders: NnunetFolders
) -> None:
    asked = Request(
        task=task, variants="UNet,AttentionUNet_flip,UNet_seed7,UNet_9cases", seeds=2, train_cases="5, 20,all"
    )
    made = resolve(asked, tmp_path / "e", folders, CPU)
    assert made.variants == (
        *("UNet_5cases", "UNet_5cases_seed1", "UNet_20cases", "UNet_20cases_seed1", "UNet", "UNet_seed1"),
        *("AttentionUNet_flip_5cases", "AttentionUNet_flip_5cases_seed1", "AttentionUNet_flip_20cases"),
        *("AttentionUNet_flip_20cases_seed1", "AttentionUNet_flip", "AttentionUNet_flip_seed1"),
        *("UNet_5cases_seed7", "UNet_20cases_seed7", "UNet_seed7", "UNet_9cases", "UNet_9cases_seed1"),
    )
    assert made.trainer("UNet_20cases_seed1") == "UNetTrainer_fast_20cases_seed1"
    assert made.full_variants == ("UNet", "UNet_seed1", "AttentionUNet_flip", "AttentionUNet_flip_seed1", "UNet_seed7")


def test_training_cases_extend_an_experiment(tmp_path: Path, folders: NnunetFolders) -> None:
    (tmp_path / "e").mkdir()
    experiment(variants=("UNet", "UNet_seed1")).save(tmp_path / "e" / "experiment.yaml")
    extended = resolve(Request(train_cases="5"), tmp_path / "e", folders, CPU)
    assert extended.variants == ("UNet", "UNet_seed1", "UNet_5cases", "UNet_5cases_seed1")
    extended.save(tmp_path / "e" / "experiment.yaml")
    again = resolve(Request(train_cases="5,all"), tmp_path / "e", folders, CPU)
    assert again == extended


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0", "got '0', expected numbers from 1, or all: 5,10,20,all"),
        ("5,", "got '', expected"),
        ("5,ten", "got 'ten'"),
        ("-5", "got '-5'"),
        ("2.5", "got '2.5'"),
        ("05", "got '05'"),
        ("5,10,5", "5 stands twice"),
        ("all,all", "all stands twice"),
    ],
)
def test_training_cases_that_are_none(tmp_path: Path, task: Path, folders: NnunetFolders, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"--train-cases '{text}': {says}"):
        resolve(Request(task=task, train_cases=text), tmp_path / "e", folders, CPU)


@pytest.mark.parametrize(
    ("variant", "preset", "epochs", "says"),
    [
        ("AtentionUNet_flip", "laptop", None, "AttentionUNet_flip"),
        ("AttentionUNet_flp", "laptop", None, "flip"),
        ("AttentionUNet_fast_flip", "laptop", None, "wrong order"),
        ("AttentionUNet_mini", "laptop", None, "CLIPGuidedUNetTrainer_mini"),
        ("UNet", "desktop", None, "auto, laptop, overnight, pad64, gpu, standard, paper"),
        ("UNet", "laptop", 0, "--epochs 0"),
    ],
)
def test_wrong_variant_or_preset(variant: str, preset: str, epochs: int | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        trainer_name(variant, preset, epochs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", {"2d": ALL, "3d_fullres": ALL}),
        ("3,0", {"2d": (0, 3), "3d_fullres": (0, 3)}),
        ("1-3", {"2d": (1, 2, 3), "3d_fullres": (1, 2, 3)}),
        ("2d=0-4,3d_fullres=0", {"2d": ALL, "3d_fullres": (0,)}),
        ("2d=0,2,3d_fullres=1-2", {"2d": (0, 2), "3d_fullres": (1, 2)}),
        ("3d_fullres=0", {"2d": ALL, "3d_fullres": (0,)}),
    ],
)
def test_folds(text: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert parse_folds(text, ["2d", "3d_fullres"], 5) == expected


@pytest.mark.parametrize("text", ["", "x", "0,,1", "3d_lowres=0", "2d=", "-1", "4-", "4-2", "0,4-2"])
def test_folds_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="--folds"):
        parse_folds(text, ["2d"], 5)


def test_fold_outside_the_split(task: Path, tmp_path: Path, folders: NnunetFolders) -> None:
    with pytest.raises(ConfigError, match="folds 0 to 4"):
        resolve(Request(task=task, folds="5"), tmp_path / "exp", folders, CPU)


def test_the_splits_file_decides_what_all_folds_are(task: Path, tmp_path: Path, folders: NnunetFolders) -> None:
    file = folders.preprocessed / "Dataset004_Hippocampus" / "splits_final.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    found = resolve(Request(task=task), tmp_path / "exp", folders, CPU)
    assert found.folds == {"2d": (0, 1)}
    assert found.complete("2d")


def test_defaults_and_what_the_folder_already_says(task: Path, tmp_path: Path, folders: NnunetFolders) -> None:
    folder = tmp_path / "exp"
    first = resolve(Request(task=task), folder, folders, CPU)
    assert (first.variants, first.folds, first.preset) == (("UNet", "AttentionUNet"), {"2d": ALL}, "laptop")
    first.save(folder / "experiment.yaml")
    assert resolve(Request(), folder, folders, CPU) == first
    added = resolve(Request(configurations="2d,3d_fullres"), folder, folders, CPU)
    assert added.folds == {"2d": ALL, "3d_fullres": ALL}
    assert resolve(Request(variants="UNet,AttentionUNet,UNet_flip"), folder, folders, CPU).variants[-1] == "UNet_flip"


@pytest.mark.parametrize("asked", [None, "auto"])
@pytest.mark.parametrize(("device", "expected"), [("cpu", "laptop"), ("mps", "laptop"), ("cuda", "gpu")])
def test_the_preset_follows_the_device_of_the_first_run_and_stays(
    asked: str | None,
    device: str,
    expected: str,
    task: Path,
    tmp_path: Path,
    folders: NnunetFolders,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "exp"
    with caplog.at_level(logging.INFO):
        first = resolve(Request(task=task, preset=asked), folder, folders, device)
    assert first.preset == expected
    assert f"preset {expected} ({first.plans}" in caplog.text
    first.save(folder / "experiment.yaml")
    assert f"preset: {expected}" in (folder / "experiment.yaml").read_text()
    for other in ("cpu", "cuda"):
        assert resolve(Request(preset=asked), folder, folders, other) == first
    with pytest.raises(ConfigError, match=f"preset is {expected} there, paper now"):
        resolve(Request(preset="paper"), folder, folders, device)


def test_a_named_preset_is_taken_on_every_device(task: Path, tmp_path: Path, folders: NnunetFolders) -> None:
    for device in ("cpu", "cuda"):
        assert resolve(Request(task=task, preset="standard"), tmp_path / "exp", folders, device).preset == "standard"


@pytest.mark.parametrize(
    ("device", "planned", "expected"),
    [
        ("cpu", (), "laptop"),
        ("cuda", (), "gpu"),
        ("cuda", ("CompactPlans",), "laptop"),
        ("cpu", ("nnUNetPlans", "Pad64Plans"), "gpu"),
        ("cpu", ("nnUNetPlans", "CompactPlans"), "laptop"),
        ("cuda", ("nnUNetPlans", "CompactPlans"), "gpu"),
    ],
)
def test_preset_of_a_single_training(tmp_path: Path, device: str, planned: tuple[str, ...], expected: str) -> None:
    for plans in planned:
        (tmp_path / f"{plans}.json").touch()
    assert preset_for_training(device, tmp_path) == expected


def test_a_trainer_stands_for_its_variant(task: Path, tmp_path: Path, folders: NnunetFolders) -> None:
    typed = "UNetTrainer,AttentionUNetTrainer_flip"
    found = resolve(Request(task=task, variants=typed), tmp_path / "exp", folders, CPU)
    assert found.variants == ("UNet", "AttentionUNet_flip")


def test_words_of_a_variant_may_be_typed_in_any_order(task: Path, tmp_path: Path, folders: NnunetFolders) -> None:
    typed = "CLIPGuidedUNet,CLIPGuidedUNet_mini_randomText,CLIPGuidedUNet_randomText_mini"
    found = resolve(Request(task=task, variants=typed), tmp_path / "exp", folders, CPU)
    assert found.variants == ("CLIPGuidedUNet", "CLIPGuidedUNet_randomText_mini")
    with pytest.raises(ConfigError, match="Did you mean 'CLIPGuidedUNet_mini'"):
        resolve(Request(task=task, variants="Unet_mini"), tmp_path / "exp", folders, CPU)


def test_adding_a_configuration_keeps_the_folds_of_the_others(
    task: Path, tmp_path: Path, folders: NnunetFolders
) -> None:
    folder = tmp_path / "exp"
    resolve(Request(task=task, folds="0,1"), folder, folders, CPU).save(folder / "experiment.yaml")
    assert resolve(Request(configurations="2d,3d_fullres"), folder, folders, CPU).folds["2d"] == (0, 1)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(preset="paper"), "preset is laptop there, paper now"),
        (Request(epochs=3), "epochs is the default there, 3 now"),
        (Request(variants="UNet"), "without AttentionUNet"),
        (Request(folds="0"), "2d folds 0,1,2,3,4 there, 0 now"),
        (Request(configurations="3d_fullres"), "2d folds 0,1,2,3,4 there, none now"),
    ],
)
def test_another_request_on_the_same_folder(
    request_: Request, says: str, task: Path, tmp_path: Path, folders: NnunetFolders
) -> None:
    folder = tmp_path / "exp"
    resolve(Request(task=task), folder, folders, CPU).save(folder / "experiment.yaml")
    with pytest.raises(ConfigError, match=says):
        resolve(request_, folder, folders, CPU)


def test_data_is_named_exactly_once(task: Path, tmp_path: Path, folders: NnunetFolders) -> None:
    with pytest.raises(ConfigError, match="--task"):
        resolve(Request(), tmp_path / "exp", folders, CPU)
    with pytest.raises(ConfigError, match="one of them"):
        resolve(Request(task=task, dataset="4"), tmp_path / "exp", folders, CPU)
    with pytest.raises(ConfigError, match="no such folder"):
        resolve(Request(task=tmp_path / "Task05_None"), tmp_path / "exp", folders, CPU)
    with pytest.raises(ConfigError, match="dataset '7'"):
        resolve(Request(dataset="7"), tmp_path / "exp", folders, CPU)


def test_dataset_of_a_task(tmp_path: Path) -> None:
    for ending in ("tar", "tar.gz", "tgz", "zip"):
        (tmp_path / f"Task04_Hippocampus.{ending}").touch()
        assert dataset_of_task(tmp_path / f"Task04_Hippocampus.{ending}") == "Dataset004_Hippocampus"
    for name in ("hippo", "Task04_Hip.pocampus", "Task04_T1+T2"):
        (tmp_path / name).mkdir()
        with pytest.raises(ConfigError, match="form Task04_Hippocampus"):
            dataset_of_task(tmp_path / name)


def test_experiment_file_round_trip(tmp_path: Path) -> None:
    asked = experiment(epochs=3)
    asked.save(tmp_path / "experiment.yaml")
    assert Experiment.load(tmp_path / "experiment.yaml") == asked
    assert str(tmp_path) not in (tmp_path / "experiment.yaml").read_text()


@pytest.mark.parametrize("text", ["", "- 1", "dataset: x", "a: [", "dataset: d\nvariants: [UNet]\nfolds: {2d: [x]}"])
def test_broken_experiment_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"experiment\.yaml"):
        Experiment.load(tmp_path / "experiment.yaml")


def test_cells_and_completeness() -> None:
    asked = experiment()
    cells = asked.cells()
    assert len(cells) == 12
    assert [str(c) for c in cells[:2]] == ["UNet 2d fold 0", "AttentionUNet 2d fold 0"]
    assert asked.ensembled_configurations() == ["2d"]
    assert asked.configurations_to_predict() == ["2d"]
    assert experiment(folds={"2d": (0,)}).configurations_to_predict() == ["2d"]
    assert asked.task == "Task04_Hippocampus"


def test_a_submission_of_a_dataset_with_an_unusual_name(tmp_path: Path) -> None:
    """nnU-Net takes such names; the last job of an experiment must not be the first to refuse them."""
    task = experiment(dataset="Dataset101_T1+T2(a,b)&ä").task
    assert task == "Task101_T1_T2_a_b__ä"
    for folder, array in (("images", np.ones((3, 4, 5), np.float32)), ("predictions", np.ones((3, 4, 5), np.uint8))):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / "a.nii.gz")
    folders = tmp_path / "predictions", tmp_path / "images", tmp_path / "a.zip"
    assert write_submission(*folders, task_name=task, labels={0, 1}) == ["a"]


def test_repeats_of_a_taught_recipe_are_none_of_its_teachers() -> None:
    assert with_repeats(["UNet", "UNet_taught"], 3) == (
        *("UNet", "UNet_seed1", "UNet_seed2"),
        *("UNet_taught", "UNet_taught_seed3", "UNet_taught_seed4"),
    )
    experiment(variants=with_repeats(["UNet", "UNet_taught"], 3))


def test_refused_experiments() -> None:
    with pytest.raises(ConfigError, match="same training, UNetTrainer_fast"):
        experiment(variants=("UNet", "UNet_fast"))
    with pytest.raises(ConfigError, match="same training, UNetTrainer_fast"):
        experiment(variants=("UNet", "UNet_seed0"))  # a short schedule has seed 0 without the word
    experiment(preset="standard", variants=("UNet", "UNet_seed0"))
    with pytest.raises(ConfigError, match="cascade"):
        experiment(folds={"3d_cascade_fullres": ALL})
    with pytest.raises(ConfigError, match="at least one"):
        experiment(variants=())


def test_a_run_looks_for_its_encoders_before_any_job(
    tmp_path: Path, folders: NnunetFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("snakemake")
    monkeypatch.setenv("HIPPO_CLIP_MODEL", "ViT-B-32")
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", str(tmp_path / "missing.pt"))
    asked = experiment(variants=("UNet", "CLIPGuidedUNet_mini", "CLIPGuidedUNet"), folds={"2d": (0,)})
    with pytest.raises(ConfigError, match=r"missing\.pt: there is no such file"):
        run_experiment(asked, tmp_path / "exp", folders, Settings("cpu"))
    assert not (tmp_path / "exp" / "experiment.yaml").exists()
    trained = tmp_path / "exp" / asked.cells()[-1].marker
    trained.parent.mkdir(parents=True)
    trained.touch()
    check_encoders(asked, tmp_path / "exp")  # only mini is wanted still, and it is bundled
