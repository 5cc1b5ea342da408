"""The packaged model: made from an experiment, and used by `predict` and `model info` where no other is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from packaged_files import write_files
from tiny_dataset import CASES, TEST_CASES, UNET, TinyDataset
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.metrics import METRICS
from hippo_nnunet.evaluation.segmentation_shape import measure_labels
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.inference.onnx_predict import OnnxOptions, predict_onnx
from hippo_nnunet.models import packaged
from hippo_nnunet.models.onnx_file import open_onnx
from hippo_nnunet.models.packaged import DESCRIPTION, MODEL, open_packaged
from hippo_nnunet.sharing import packaging
from hippo_nnunet.sharing.exporting import ExportOptions, export_model
from hippo_nnunet.sharing.onnx_exporting import export_onnx
from hippo_nnunet.sharing.packaging import PackageOptions, package_model

pytestmark = pytest.mark.slow

WITHOUT_TORCH = """
import sys
from pathlib import Path
from hippo_nnunet.cli.main import main
from hippo_nnunet.models import packaged
packaged.FOLDER = Path(sys.argv.pop(1))
try:
    main()
finally:
    unwanted = {"torch", "nnunetv2", "open_clip", "snakemake", "onnx", "scipy.stats", "yaml"} & set(sys.modules)
    assert not unwanted, unwanted
"""


def model_of(experiment: Path, trained: TinyDataset) -> Path:
    return experiment / "nnunet" / "nnUNet_results" / trained.name / f"{UNET}__CompactPlans__2d"


@pytest.fixture(scope="module")
def measured_experiment(experiment: Path) -> Path:
    """The experiment with a table of metrics, whose figures are made up."""
    rng = np.random.default_rng(0)
    rows = [
        (case, number // 2, "UNet_seed1", "2d", label, *rng.uniform(0.5, 1, len(METRICS)))
        for number, case in enumerate(CASES)
        for label in ("anterior", "posterior")
    ]
    table = pd.DataFrame(rows, columns=["case", "fold", "variant", "configuration", "label", *METRICS])
    path = ExperimentPaths(experiment).per_case
    path.parent.mkdir()
    table.to_csv(path, index=False)
    return experiment


@pytest.fixture(scope="module")
def folder(measured_experiment: Path, trained: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = PackageOptions(tmp_path_factory.mktemp("packaged"), "tiny", "3", folds=[0, 1])
    return package_model(measured_experiment, model_of(measured_experiment, trained), options)


@pytest.fixture
def as_packaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(packaged, "FOLDER", folder)
    return folder


def test_what_is_packaged(folder: Path, trained: TinyDataset, measured_experiment: Path, tmp_path: Path) -> None:
    model = open_packaged(folder)
    assert model.title == "tiny 3"
    opened = open_onnx(model.path)
    assert opened.description["folds"] == [0, 1]
    assert opened.description["licence"] == "CC-BY-SA-4.0"
    assert opened.description["weights"] == "float16"
    source = model.description["source"]
    assert source["checkpoints"] == opened.checkpoints
    assert source["experiment"]["folds"] == [0, 1]
    table = pd.read_csv(ExperimentPaths(measured_experiment).per_case)
    found = model.description["performance"]
    assert (found["cases"], found["folds"]) == (4, 2)
    dice = table[table["label"] == "anterior"]["dice"]
    assert found["by_label"]["anterior"]["dice"]["mean"] == pytest.approx(dice.mean(), abs=1e-5)
    assert found["by_label"]["anterior"]["dice"]["worst"] == pytest.approx(dice.min(), abs=1e-5)
    assert found["by_label"]["anterior"]["hd95_mm"]["worst"] == pytest.approx(
        table[table["label"] == "anterior"]["hd95_mm"].max(), abs=1e-5
    )
    assert next(iter(found["worst_cases"])) == table.groupby("case")["dice"].mean().idxmin()
    assert model.description["images"]["measured"]["false_alarms"]["cross_validated"]["images"] == 4
    assert model.description["images"]["measured"]["false_alarms"]["others"]["images"] == len(TEST_CASES)
    assert model.known_images().axis_codes == ("LPS",)
    text = "".join(path.read_text(errors="replace") for path in folder.iterdir())
    for private in (str(trained.root), str(tmp_path), "site-packages"):
        assert private not in text


def test_the_calibration_is_that_of_the_experiment(
    folder: Path, measured_experiment: Path, trained: TinyDataset
) -> None:
    from hippo_nnunet.analysis.volume_preparation import prepare_volumes

    named = model_of(measured_experiment, trained)
    expected = prepare_volumes(folder / "no.csv", [named], None, measured_experiment, 0.5).calibration
    found = open_packaged(folder).calibration(0.5)
    assert found.level == expected.level == 0.5
    assert {name: asdict(one) for name, one in found.by_label.items()} == {
        name: asdict(one) for name, one in expected.by_label.items()
    }


def test_the_same_arguments_give_the_same_bytes(
    folder: Path, measured_experiment: Path, trained: TinyDataset, tmp_path: Path
) -> None:
    named = model_of(measured_experiment, trained)
    package_model(measured_experiment, named, PackageOptions(tmp_path, "tiny", "3", folds=[0, 1]))
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_what_cannot_be_packaged(
    measured_experiment: Path, trained: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="has no model of this name"):
        package_model(measured_experiment, tmp_path / "Other__Plans__2d", PackageOptions(tmp_path / "out"))
    named = model_of(measured_experiment, trained)
    monkeypatch.setattr(packaging, "LARGEST", 1000)
    with pytest.raises(DataError, match="at most 1000 are packaged"):
        package_model(measured_experiment, named, PackageOptions(tmp_path / "out", folds=[0]))


def test_predict_without_a_model(folder: Path, trained: TinyDataset, tmp_path: Path) -> None:
    """In a process that imports no torch: masks of the model, volumes with intervals, and which model on stderr."""
    arguments = ["predict", "-i", trained.images, "-o", tmp_path / "out"]
    arguments += ["--coverage", "0.5"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, [folder, *arguments])],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "packaged model tiny 3, CC-BY-SA-4.0, as no other is named" in " ".join(done.stderr.split())
    predict_onnx(trained.images, tmp_path / "expected", [folder / MODEL])
    table = pd.read_csv(tmp_path / "out" / "volumes.csv", keep_default_na=False).set_index(["case", "label"])
    for case in TEST_CASES:
        ours, theirs = (tmp_path / name / f"{case}.nii.gz" for name in ("out", "expected"))
        assert ours.read_bytes() == theirs.read_bytes()
        image = sitk.ReadImage(str(ours))
        volume = (sitk.GetArrayFromImage(image) > 0).sum() * np.prod(image.GetSpacing())
        row = table.loc[(case, "total")]
        assert row["volume_mm3"] == pytest.approx(volume, rel=1e-4)
        assert float(row["low_mm3"]) <= float(row["high_mm3"])
        assert row["calibration_cases"] == 4


def test_the_table_in_the_output_folder_keeps_other_scans(
    as_packaged: Path, trained: TinyDataset, tmp_path: Path
) -> None:
    def predicted(case: str, *options: str) -> None:
        image = trained.images / f"{case}_0000.nii.gz"
        done = CliRunner().invoke(app, ["predict", "-i", str(image), "-o", str(tmp_path / "out"), *options])
        assert done.exit_code == 0, done.output

    for case, *options in ([TEST_CASES[0]], [TEST_CASES[1]], [TEST_CASES[0], "--overwrite"]):
        predicted(case, *options)
    table = pd.read_csv(tmp_path / "out" / "volumes.csv")
    first = table[table["case"] == TEST_CASES[0]]
    assert set(table["case"]) == set(TEST_CASES[:2])
    assert not table.duplicated(["case", "label"]).any()
    assert first["volume_mm3"].notna().all()
    (tmp_path / "out" / "volumes.csv").write_text("mine\n")
    image = trained.images / f"{TEST_CASES[0]}_0000.nii.gz"
    refused = CliRunner().invoke(app, ["predict", "-i", str(image), "-o", str(tmp_path / "out"), "--overwrite"])
    assert refused.exit_code != 0
    assert (tmp_path / "out" / "volumes.csv").read_text() == "mine\n"


def test_an_interruption_keeps_the_volumes_of_what_was_segmented(
    as_packaged: Path, trained: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(*arguments: object) -> list[dict[str, str | float]]:
        if measured:
            raise KeyboardInterrupt
        measured.append(measure_labels(*arguments))
        return measured[0]

    monkeypatch.setattr("hippo_nnunet.analysis.predicted_volumes.measure_labels", measure)
    stopped = CliRunner().invoke(app, ["predict", "-i", str(trained.images), "-o", str(tmp_path / "out")])
    assert stopped.exit_code != 0
    assert set(pd.read_csv(tmp_path / "out" / "volumes.csv")["case"]) == {TEST_CASES[0]}


def test_volumes_name_suspicious_images(as_packaged: Path, trained: TinyDataset, tmp_path: Path) -> None:
    image = sitk.ReadImage(str(trained.images / f"{TEST_CASES[0]}_0000.nii.gz"))
    array = sitk.GetArrayFromImage(image)
    changed = {"good": array, "inverted": array.max() - array, "mirrored": array[:, :, ::-1], "ct": 1000 * array - 1024}
    for name, voxels in changed.items():
        other = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
        other.CopyInformation(image)
        (tmp_path / "in").mkdir(exist_ok=True)
        sitk.WriteImage(other, str(tmp_path / "in" / f"{name}.nii.gz"))
    arguments = [
        "predict",
        "-i",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        "--volumes",
        str(tmp_path / "v.csv"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    flags = pd.read_csv(tmp_path / "v.csv", keep_default_na=False).groupby("case")["flags"].agg(" ".join)
    assert "contrast" in flags["inverted"]
    assert {"side", "orientation"} & set(flags["mirrored"].split())  # two boxes look the same upside down
    assert "intensity" in flags["ct"]
    assert not {"contrast", "side", "orientation", "intensity"} & set(flags["good"].split())


def test_unknown_images_are_refused_or_named(
    folder: Path, trained: TinyDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = open_packaged(folder).known_images()

    def refuse(name: str, image: sitk.Image, message: str) -> None:
        sitk.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
        with pytest.raises(DataError, match=message) as error:
            predict_onnx(tmp_path / f"{name}.nii.gz", tmp_path / "out", [folder / MODEL], OnnxOptions(known=known))
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()

    good = sitk.ReadImage(str(trained.images / f"{TEST_CASES[0]}_0000.nii.gz"))
    head = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(90, 100, 90)).astype(np.float32))
    head.SetDirection(good.GetDirection())
    head.SetSpacing((2.0, 2.0, 2.0))
    refuse("head", head, "180 x 200 x 180 mm, but the model knows crops .* use 'hippo-nnunet segment'")
    refuse("axes", sitk.PermuteAxes(good, [1, 0, 2]), "its axes are .*, but .* knows LPS: reorient it")
    flat = good * 0 + 3
    refuse("flat", flat, "every voxel is 3: replace the file")
    coarse = sitk.Resample(
        good, [11, 15, 10], sitk.Transform(), sitk.sitkLinear, good.GetOrigin(), (1.8, 2.1, 2.0), good.GetDirection()
    )
    sitk.WriteImage(coarse, str(tmp_path / "coarse.nii.gz"))
    predict_onnx(tmp_path / "coarse.nii.gz", tmp_path / "out", [folder / MODEL], OnnxOptions(known=known))
    assert "voxel-size: voxels of 1.8 x 2.1 x 2 mm, but the model knows 1 x 1.2 x 0.9 mm" in caplog.text


def test_info(as_packaged: Path) -> None:
    done = CliRunner().invoke(app, ["model", "info"])
    assert done.exit_code == 0, done.output
    model = open_packaged()
    dice = model.description["performance"]["by_label"]["mean"]["dice"]["mean"]
    for text in (
        "packaged model tiny 3",
        f"mean Dice: {dice:.4f}",
        "CC-BY-SA-4.0",
        model.sha256,
        "not a medical device",
    ):
        assert text in done.output


def test_info_of_files(folder: Path, trained: TinyDataset, tmp_path: Path) -> None:
    shared = export_model(trained.model(UNET), tmp_path / "m.hippo", ExportOptions(licence="CC0-1.0", folds=[0]))
    for path, licence in ((folder / MODEL, "CC-BY-SA-4.0"), (shared, "CC0-1.0")):
        done = CliRunner().invoke(app, ["model", "info", str(path)])
        assert done.exit_code == 0, done.output
        assert UNET in done.output
        assert f"licence: {licence}" in done.output
    with pytest.raises(ConfigError, match="only an ONNX file stores half precision"):
        export_model(trained.model(UNET), tmp_path / "half.hippo", ExportOptions(half=True))


def test_a_broken_packaged_model_ends_in_one_line(
    trained: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packaged, "FOLDER", tmp_path / "gone")
    arguments = ["predict", "-i", str(trained.images), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, DataError)
    assert "install hippo_nnunet again" in str(done.exception)
    monkeypatch.setattr(packaged, "FOLDER", write_files(tmp_path / "no_model", images={}))
    done = CliRunner().invoke(app, arguments)
    assert "what it knows of images cannot be read" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [("--folds", "0"), ("--device", "cuda"), ("--backend", "torch")])
def test_options_without_meaning_are_named(as_packaged: Path, tmp_path: Path, option: tuple[str, ...]) -> None:
    arguments = ["predict", "-i", str(tmp_path), "-o", str(tmp_path / "out"), *option]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert f"{option[0]}: not with an ONNX file or the packaged model" in " ".join(done.output.split())


def test_half_precision_is_exact_and_half_the_size(trained: TinyDataset, tmp_path: Path) -> None:
    """The graph is compared with torch's rounded network at export; here with the whole weights."""
    whole = export_onnx(trained.model(UNET), tmp_path / "whole.onnx", ExportOptions())
    half = export_onnx(trained.model(UNET), tmp_path / "half.onnx", ExportOptions(half=True))
    assert open_onnx(whole).description["weights"] == "float32"
    assert len(open_onnx(half).content) < 0.75 * len(open_onnx(whole).content)  # the documents are the same
    options = OnnxOptions(save_probabilities=True)
    for path in (whole, half):
        predict_onnx(trained.images, tmp_path / path.stem, [path], options)
    for case in TEST_CASES:
        one, other = (np.load(tmp_path / name / f"{case}.npz")["probabilities"] for name in ("whole", "half"))
        assert 0 < np.abs(one - other).max() < 0.01


def test_the_description_is_json_without_nan(folder: Path) -> None:
    json.loads((folder / DESCRIPTION).read_text(), parse_constant=lambda name: pytest.fail(name))
