"""What `predict` refuses before any network runs: images, models, targets, options."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.data.cases import InputCase, check_images, find_cases
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.inference.members import find_members
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.inference.prediction_files import check_output

CHECKPOINT = "checkpoint_final.pth"


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def write(path: Path, voxels: np.ndarray | None = None, affine: np.ndarray | None = None) -> Path:
    voxels = np.arange(1, 61, dtype=np.float32).reshape(3, 4, 5) if voxels is None else voxels
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def make_model(
    folder: Path, dataset_name: str = "Dataset901_Tiny", folds: tuple[object, ...] = (0, 1), **json_: Any
) -> Path:
    """A model folder without weights: enough for all that is checked before loading."""
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    plans = {"dataset_name": dataset_name, "image_reader_writer": "SimpleITKIO"}
    for fold in folds:
        touch(folder / f"fold_{fold}", CHECKPOINT)
    (folder / "dataset.json").write_text(json.dumps(description | json_))
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


@pytest.mark.parametrize(
    ("names", "cases"),
    [
        (("b.nii.gz", "a.nii.gz"), ["a", "b"]),
        (("b_0000.nii.gz", "a_0000.nii.gz"), ["a", "b"]),
        (("b_0000.nii.gz", "a.nii.gz"), ["a", "b"]),
        (("hippocampus_001.nii.gz",), ["hippocampus_001"]),
        (("scan_2023.nii.gz", "scan_2024.nii.gz"), ["scan_2023", "scan_2024"]),
        (("scan_2023_0000.nii.gz",), ["scan_2023"]),
        (("a.b.nii", "._a.b.nii", ".hidden.nii.gz", "dataset.json"), ["a.b"]),
    ],
)
def test_case_names_of_one_channel(tmp_path: Path, names: tuple[str, ...], cases: list[str]) -> None:
    found = find_cases(touch(tmp_path, *names), 1)
    assert [case.case for case in found] == cases
    assert all(len(case.files) == 1 for case in found)


def test_channels_are_grouped_in_order(tmp_path: Path) -> None:
    found = find_cases(touch(tmp_path, "a_0001.nii.gz", "b_0000.nii.gz", "a_0000.nii.gz", "b_0001.nii.gz"), 2)
    assert [(c.case, [f.name for f in c.files]) for c in found] == [
        ("a", ["a_0000.nii.gz", "a_0001.nii.gz"]),
        ("b", ["b_0000.nii.gz", "b_0001.nii.gz"]),
    ]


def test_files_from_several_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = touch(tmp_path / "x", "a.nii.gz"), touch(tmp_path / "y", "b_0000.nii.gz", "c.nii.gz")
    assert [c.case for c in find_cases([first, second / "b_0000.nii.gz"], 1)] == ["a", "b"]
    monkeypatch.chdir(second)
    assert [c.case for c in find_cases([Path("b_0000.nii.gz"), second / "b_0000.nii.gz"], 1)] == ["b"]


def test_images_of_another_kind_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = touch(tmp_path, "a.nii.gz", "b.NII.GZ", "c.nrrd", "notes.txt", ".d.mha")
    assert [case.case for case in find_cases(folder, 1)] == ["a"]
    assert f"2 images in {folder} are left out, first b.NII.GZ" in caplog.text


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        ((), 1, "no image"),
        (("notes.txt",), 1, "no image"),
        (("a_0000.nii.gz", "a_0001.nii.gz"), 1, "channels 0000, 0001, but the model takes 1"),
        (("a_0000.nii.gz",), 2, "channels 0000, but the model takes 2: give _0000 to _0001"),
        (("a_0001.nii.gz", "a_0002.nii.gz"), 2, "channels 0001, 0002"),
        (("a.nii.gz",), 2, "rename it to a_0000"),
        (("a.nii.gz", "a_0000.nii.gz"), 1, "both channel 0000 of case a"),
        (("a.nii", "a.nii.gz"), 1, "both channel 0000 of case a"),
    ],
)
def test_refused_names(tmp_path: Path, names: tuple[str, ...], channels: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_cases(touch(tmp_path, *names), channels)


def test_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such file or folder"):
        find_cases(tmp_path / "nowhere", 1)
    with pytest.raises(DataError, match=r"notes\.txt: not a NIfTI image"):
        find_cases([touch(tmp_path, "notes.txt") / "notes.txt"], 1)


def truncated(path: Path) -> Path:
    write(path, np.random.default_rng(0).random((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:5000])
    return path


def with_voxel(value: float) -> Callable[[Path], Path]:
    voxels = np.ones((3, 4, 5), np.float32)
    voxels[1, 1, 1] = value
    return lambda path: write(path, voxels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (truncated, "truncated or damaged"),
        (lambda path: touch(path.parent, path.name) / path.name, r"a_0000\.nii\.gz: "),
        (lambda path: write(path, np.ones((3, 4, 5, 2), np.float32)), "4D image.*split the channels"),
        (with_voxel(np.nan), "1 voxels are NaN or infinite"),
        (with_voxel(np.inf), "1 voxels are NaN or infinite"),
        (lambda path: write(path, np.zeros((3, 4, 5), np.float32)), "every voxel is 0"),
    ],
)
def test_refused_images(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    path = tmp_path / "a_0000.nii.gz"
    make(path)
    with pytest.raises(DataError, match=message) as caught:
        check_images(InputCase("a", (path,)))
    assert str(path) in str(caught.value)


def test_channels_of_different_grids(tmp_path: Path) -> None:
    first = write(tmp_path / "a_0000.nii.gz")
    other_shape = write(tmp_path / "a_0001.nii.gz", np.ones((3, 4, 6), np.float32))
    moved = write(tmp_path / "b_0001.nii.gz", affine=np.diag([1, 1, 1.5, 1]))
    check_images(InputCase("a", (first, write(tmp_path / "c.nii.gz"))))
    with pytest.raises(DataError, match=r"a_0001.*\(3, 4, 6\).*\(3, 4, 5\)"):
        check_images(InputCase("a", (first, other_shape)))
    with pytest.raises(DataError, match=r"b_0001.*lies up to 2 mm away"):
        check_images(InputCase("a", (first, moved)))


def test_folds_by_default_are_the_numbered_ones_with_the_checkpoint(tmp_path: Path) -> None:
    model = make_model(tmp_path / "m", folds=(10, 2, "all"))
    touch(model / "fold_3", "checkpoint_latest.pth")
    assert find_members([model], None, CHECKPOINT)[0].folds == (2, 10)
    assert find_members([model], ["all"], CHECKPOINT)[0].folds == ("all",)
    only_all = make_model(tmp_path / "n", folds=("all", "²", "00"))
    assert find_members([only_all], None, CHECKPOINT)[0].folds == ("all",)
    assert find_members([model], None, "checkpoint_latest.pth")[0].folds == (3,)


@pytest.mark.parametrize(
    ("folds", "checkpoint", "message"),
    [
        ([0, 4], CHECKPOINT, r"fold_4/checkpoint_final\.pth: no such checkpoint \(folds that have it: 0, 1\)"),
        ([], CHECKPOINT, "no such checkpoint"),
        (None, "checkpoint_best.pth", r"no numbered fold has checkpoint_best\.pth .folds that have it: none"),
    ],
)
def test_missing_folds(tmp_path: Path, folds: list[int] | None, checkpoint: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_members([make_model(tmp_path / "m")], folds, checkpoint)


def test_missing_or_damaged_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no model"):
        find_members([], None, CHECKPOINT)
    with pytest.raises(ConfigError, match="m is missing"):
        find_members([tmp_path / "m"], None, CHECKPOINT)
    model = make_model(tmp_path / "m")
    with pytest.raises(ConfigError, match="given twice"):
        find_members([model, tmp_path / "m" / ".." / "m"], None, CHECKPOINT)
    (model / "plans.json").write_text("{")
    with pytest.raises(DataError, match=r"plans\.json cannot be read as JSON"):
        find_members([model], None, CHECKPOINT)
    with pytest.raises(DataError, match=r"dataset\.json: gives 'a' the label value 1\.5: give the folder of a model"):
        find_members([make_model(tmp_path / "n", labels={"background": 0, "a": 1.5})], None, CHECKPOINT)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"dataset_name": "Dataset902_Other"}, "dataset"),
        ({"labels": {"background": 0, "b": 1}}, "labels"),
        ({"labels": {"background": 0, "a": 1, "b": 2}}, "labels"),
        ({"channel_names": {"0": "T1", "1": "T2"}}, "number of channels"),
        ({"regions_class_order": [1]}, "regions_class_order"),
    ],
)
def test_models_that_do_not_belong_together(tmp_path: Path, other: dict[str, Any], what: str) -> None:
    models = [make_model(tmp_path / "m"), make_model(tmp_path / "n", **other)]
    with pytest.raises(ConfigError, match=rf"cannot predict together: {what}"):
        find_members(models, None, CHECKPOINT)
    assert len(find_members([models[0], make_model(tmp_path / "o")], None, CHECKPOINT)) == 2


def test_existing_target(tmp_path: Path) -> None:
    images, model = touch(tmp_path / "images", "a_0000.nii.gz"), make_model(tmp_path / "m")
    touch(tmp_path / "out", "a.nii.gz")
    with pytest.raises(DataError, match=r"out/a\.nii\.gz exists already: .*--overwrite"):
        predict(images, tmp_path / "out", [model])


def test_existing_probabilities_count_where_they_would_be_replaced(tmp_path: Path) -> None:
    images, model = touch(tmp_path / "images", "a_0000.nii.gz"), make_model(tmp_path / "m")
    touch(tmp_path / "out", "a.npz")
    with pytest.raises(DataError, match=r"out/a\.npz exists already"):
        predict(images, tmp_path / "out", [model], PredictOptions(save_probabilities=True))


def test_the_folder_of_the_images_is_no_target(tmp_path: Path) -> None:
    images, model = touch(tmp_path / "images", "a_0000.nii.gz"), make_model(tmp_path / "m")
    with pytest.raises(DataError, match="is the folder of the images"):
        predict(images / "a_0000.nii.gz", tmp_path / "m" / ".." / "images", [model], PredictOptions(overwrite=True))


def test_somebody_elses_dataset_json_is_kept(tmp_path: Path) -> None:
    images, model = touch(tmp_path / "task" / "imagesTs", "a.nii.gz"), make_model(tmp_path / "m")
    (tmp_path / "task" / "dataset.json").write_text('{"name": "Hippocampus"}')
    with pytest.raises(DataError, match=r"task/dataset\.json exists already and is not of this model"):
        predict(images, tmp_path / "task", [model])
    assert json.loads((tmp_path / "task" / "dataset.json").read_text()) == {"name": "Hippocampus"}


def predictions(folder: Path, model: Path, labels: np.ndarray) -> Path:
    """A folder of predictions, of the case a."""
    write(folder / "a.nii.gz", labels)
    for name in ("dataset.json", "plans.json"):
        (folder / name).write_text((model / name).read_text())
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: write(out / "a.nii.gz"), r"a\.nii\.gz is not a segmentation of 'predict'"),
        (lambda out: write(out / "a.nii.gz", np.full((3, 4, 5), 9, np.uint8)), "is not a segmentation of 'predict'"),
        (lambda out: (out / "a.nii.gz").write_bytes(b"cut off"), "is not a segmentation of 'predict'"),
        (lambda out: (out / "plans.json").unlink(), "is not a segmentation of 'predict'"),
        (lambda out: (out / "imagesTr").mkdir(), "is not a segmentation of 'predict'"),
        (lambda out: (out / "a.nii.gz").rename(out / "b") and (out / "a.nii.gz").symlink_to("b"), "is a link to .*/b"),
    ],
    ids=["scan", "other labels", "damaged", "labels of a dataset", "dataset", "link"],
)
def test_overwriting_keeps_other_files(tmp_path: Path, change: Callable[[Path], object], message: str) -> None:
    images, model = tmp_path / "images", make_model(tmp_path / "m")
    write(images / "a.nii.gz")
    out = predictions(tmp_path / "out", model, np.ones((3, 4, 5), np.uint8))
    (member,) = find_members([model], None, CHECKPOINT)

    def checked() -> None:
        check_output(find_cases(images, 1), out, member, overwrite=True, save_probabilities=False)

    checked()
    change(out)
    with pytest.raises(DataError, match=message):
        checked()


def test_the_folder_of_another_model_is_kept(tmp_path: Path) -> None:
    images, model = touch(tmp_path / "images", "a_0000.nii.gz"), make_model(tmp_path / "m")
    other = make_model(tmp_path / "other", "Dataset902_Other")
    with pytest.raises(DataError, match=r"plans\.json is not replaced, as .*other holds 'fold_.', so it is no folder"):
        predict(images, other, [model], PredictOptions(overwrite=True))


def test_the_original_of_a_linked_scan_is_kept(tmp_path: Path) -> None:
    scan = write(tmp_path / "real" / "a.nii.gz")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.nii.gz").symlink_to(scan)
    with pytest.raises(DataError, match="real is the folder of the images"):
        predict(tmp_path / "links", tmp_path / "real", [make_model(tmp_path / "m")], PredictOptions(overwrite=True))


@pytest.mark.parametrize("name", ["a.nii.gz", "dataset.json", "plans.json", ".", "a.nii.gz/v.csv"])
def test_the_table_of_volumes_is_none_of_the_segmentations(tmp_path: Path, name: str) -> None:
    write(tmp_path / "images" / "a.nii.gz")
    model, out = make_model(tmp_path / "m"), tmp_path / "out"
    options = ("--input", tmp_path / "images", "--output", out, "--model", model, "--calibration", "none")
    result = command(*options, "--volumes", out / name)
    assert isinstance(result.exception, DataError)
    assert "would be" in str(result.exception) or "is a folder" in str(result.exception), result.exception


def test_a_bad_image_is_found_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    truncated(tmp_path / "images" / "b.nii.gz")
    with pytest.raises(DataError, match=r"b\.nii\.gz: truncated or damaged"):
        predict(tmp_path / "images", tmp_path / "out", [make_model(tmp_path / "m")])
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """SimpleITK would abort the process."""
    name = os.fsdecode(b"k\xf6pf.nii.gz")
    write(tmp_path / "images" / name)
    with pytest.raises(DataError, match=r"its name or folder is not UTF-8.*rename it"):
        predict(tmp_path / "images", tmp_path / "out", [make_model(tmp_path / "m")])
    assert not (tmp_path / "out").exists()


def test_wrong_postprocessing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown postprocessing 'biggest': choose one of none"):
        predict(tmp_path, tmp_path / "out", [make_model(tmp_path / "m")], PredictOptions(postprocessing="biggest"))


def command(*options: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, options)])


def test_command_wants_one_of_models_and_an_experiment(tmp_path: Path) -> None:
    result = command("--input", tmp_path, "--output", tmp_path / "out", "--model", tmp_path, "--experiment", tmp_path)
    assert result.exit_code == 2
    assert "give one of --model, --experiment" in " ".join(result.output.replace("│", "").split())
    result = command("--input", tmp_path, "--output", tmp_path / "out", "--model", tmp_path, "--folds", "0-4")
    assert result.exit_code == 2


def test_experiment_that_has_not_chosen(tmp_path: Path) -> None:
    result = command("--input", tmp_path, "--output", tmp_path / "out", "--experiment", tmp_path)
    assert isinstance(result.exception, ConfigError) and "experiment.yaml is missing" in str(result.exception)
    (tmp_path / "experiment.yaml").write_text(
        "dataset: Dataset901_Tiny\npreset: laptop\nvariants: [UNet]\nfolds: {2d: [0]}\n"
    )
    result = command("--input", tmp_path, "--output", tmp_path / "out", "--experiment", tmp_path)
    assert isinstance(result.exception, ConfigError) and "has chosen no ensemble yet" in str(result.exception)


def test_experiment_names_its_ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hippo_nnunet.evaluation.selection import EnsembleChoice
    from hippo_nnunet.experiment.experiment import ensemble_models

    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    experiment = tmp_path / "experiment"
    experiment.mkdir()
    (experiment / "experiment.yaml").write_text(
        "dataset: Dataset901_Tiny\npreset: laptop\nvariants: [UNet]\nfolds: {2d: [0]}\n"
    )
    choice = EnsembleChoice(("m", "n"), "largest_foreground", ())
    choice.to_json(experiment / "ensemble" / "choice.json")
    models, postprocessing = ensemble_models(experiment)
    results = experiment / "nnunet" / "nnUNet_results" / "Dataset901_Tiny"
    assert models == (results / "m", results / "n")
    assert postprocessing == "largest_foreground"
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    assert ensemble_models(experiment)[0][0] == tmp_path / "elsewhere" / "Dataset901_Tiny" / "m"
    root = ensemble_models(experiment, tmp_path / "root")[0][0]
    assert root == tmp_path / "root" / "nnUNet_results" / "Dataset901_Tiny" / "m"
