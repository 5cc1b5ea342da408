"""A trained model as an ONNX file: the masks of torch, in a process that imports neither torch nor nnU-Net."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from tiny_dataset import ATTENTION, TEST_CASES, UNET, TinyDataset, tiny_case, write_image
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.errors import ConfigError, DataError, UpstreamError
from hippo_nnunet.inference.onnx_predict import OnnxOptions, predict_onnx
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.inference.scans import FailedScans
from hippo_nnunet.models.onnx_file import open_onnx
from hippo_nnunet.sharing import onnx_exporting
from hippo_nnunet.sharing.exporting import ExportOptions
from hippo_nnunet.sharing.onnx_exporting import export_onnx

pytestmark = pytest.mark.slow

WITHOUT_TORCH = """
import sys
from hippo_nnunet.cli.main import main
try:
    main()
finally:
    unwanted = {"torch", "nnunetv2", "onnx", "pandas", "skimage", "sklearn"} & set(sys.modules)
    assert not unwanted, unwanted
"""


@pytest.fixture(scope="module")
def files(trained: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """UNET in 2d with two folds, ATTENTION in 3d_fullres with one."""
    folder = tmp_path_factory.mktemp("onnx")
    return {
        "2d": export_onnx(trained.model(UNET), folder / "2d.onnx", ExportOptions(licence="CC0-1.0")),
        "3d_fullres": export_onnx(trained.model(ATTENTION, "3d_fullres"), folder / "3d.onnx"),
    }


def folder_of(trained: TinyDataset, configuration: str) -> Path:
    return trained.model(UNET if configuration == "2d" else ATTENTION, configuration)


@pytest.fixture(scope="module")
def images(trained: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans that are resampled, and one of the model's own voxel size."""
    folder = tmp_path_factory.mktemp("images")
    for case in TEST_CASES:
        (folder / f"{case}_0000.nii.gz").write_bytes((trained.images / f"{case}_0000.nii.gz").read_bytes())
    write_image(tiny_case(7)[0], folder / "own_0000.nii.gz")
    image = sitk.ReadImage(str(folder / "own_0000.nii.gz"))
    image.SetSpacing((1.0, 1.0, 1.0))
    sitk.WriteImage(image, str(folder / "own_0000.nii.gz"))
    return folder


def assert_same(found: Path, expected: Path) -> None:
    """Geometry to the bit, labels in 99.999 % of the voxels, probabilities but for rounding."""
    equal = total = 0
    for case in (*TEST_CASES, "own"):
        ours, theirs = (sitk.ReadImage(str(folder / f"{case}.nii.gz")) for folder in (found, expected))
        for name in ("GetSpacing", "GetOrigin", "GetDirection", "GetSize", "GetPixelID"):
            assert getattr(ours, name)() == getattr(theirs, name)()
        one, other = (sitk.GetArrayFromImage(image) for image in (ours, theirs))
        assert other.any()
        equal, total = equal + int((one == other).sum()), total + other.size
        one, other = (np.load(folder / f"{case}.npz")["probabilities"] for folder in (found, expected))
        np.testing.assert_allclose(one, other, atol=1e-5)
        one, other = (pickle.loads((folder / f"{case}.pkl").read_bytes()) for folder in (found, expected))
        assert one == other
    assert equal >= 0.99999 * total
    for name in ("dataset.json", "plans.json"):
        assert json.loads((found / name).read_text()) == json.loads((expected / name).read_text())


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_masks_are_torchs_in_a_process_without_torch(
    trained: TinyDataset, files: dict[str, Path], images: Path, tmp_path: Path, configuration: str
) -> None:
    options = PredictOptions(device="cpu", backend="torch", save_probabilities=True)
    predict(images, tmp_path / "torch", [folder_of(trained, configuration)], options)
    model, out = files[configuration], tmp_path / "onnx"
    command = [sys.executable, "-c", WITHOUT_TORCH, "predict", "-m", model, "-i", images, "-o", out]
    done = subprocess.run(
        [*map(str, command), "--save-probabilities"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out / f"{case}.nii.gz") for case in sorted((*TEST_CASES, "own"))]
    assert_same(out, tmp_path / "torch")


def test_several_files_are_an_ensemble(
    trained: TinyDataset, files: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    models = [folder_of(trained, configuration) for configuration in files]
    shared = {"save_probabilities": True, "use_mirroring": False}
    predict(images, tmp_path / "torch", models, PredictOptions(device="cpu", backend="torch", **shared))
    predict_onnx(images, tmp_path / "onnx", list(files.values()), OnnxOptions(**shared))
    assert_same(tmp_path / "onnx", tmp_path / "torch")


def test_volumes_are_those_of_the_folder(
    trained: TinyDataset, files: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    def table(name: str, model: Path) -> str:
        options = ["--volumes", str(tmp_path / f"{name}.csv"), "--calibration", "none", "--no-mirroring"]
        arguments = ["predict", "-m", str(model), "-i", str(images / "own_0000.nii.gz"), "-o", str(tmp_path / name)]
        assert CliRunner().invoke(app, [*arguments, *options]).exit_code == 0
        return (tmp_path / f"{name}.csv").read_text()

    assert table("onnx", files["2d"]) == table("torch", trained.model(UNET))


def test_what_is_in_the_file(trained: TinyDataset, files: dict[str, Path]) -> None:
    model = open_onnx(files["2d"])
    assert model.description["folds"] == [0, 1]
    assert model.description["licence"] == "CC0-1.0"
    assert {"torch", "nnunetv2", "onnx", "onnxruntime"} <= set(model.description["versions"])
    assert set(model.checkpoints) == {"0", "1"}
    for text in (str(trained.root), "site-packages", ".py"):
        assert text.encode() not in model.content


def test_the_same_model_gives_the_same_bytes(trained: TinyDataset, files: dict[str, Path], tmp_path: Path) -> None:
    again = export_onnx(trained.model(UNET), tmp_path / "again.onnx", ExportOptions(licence="CC0-1.0"))
    assert again.read_bytes() == files["2d"].read_bytes()
    with pytest.raises(DataError, match="exists already"):
        export_onnx(trained.model(UNET), again)
    export_onnx(trained.model(UNET), again, ExportOptions(folds=[1], overwrite=True))
    assert open_onnx(again).description["folds"] == [1]


def test_a_file_that_computes_something_else_is_not_written(
    trained: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_exporting, "TOLERANCE", -1.0)
    with pytest.raises(UpstreamError, match=r"m\.onnx: not written, onnxruntime's logits differ"):
        export_onnx(trained.model(UNET), tmp_path / "m.onnx", ExportOptions(folds=[0]))
    assert not any(tmp_path.iterdir())


def test_what_cannot_be_exported(trained: TinyDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"with --onnx, the model is an \.onnx file"):
        export_onnx(trained.model(UNET), tmp_path / "m.hippo")
    with pytest.raises(ConfigError, match="an ONNX file holds no metrics"):
        export_onnx(trained.model(UNET), tmp_path / "m.onnx", ExportOptions(experiment=tmp_path))
    (tmp_path / "m.onnx").write_text("mine")
    with pytest.raises(DataError, match="is not a model of 'model export --onnx', so it is not replaced"):
        export_onnx(trained.model(UNET), tmp_path / "m.onnx", ExportOptions(overwrite=True))


def test_bad_scans_are_left_out(files: dict[str, Path], images: Path, tmp_path: Path) -> None:
    scans = [images / "own_0000.nii.gz", tmp_path / "bad_0000.nii.gz"]
    scans[1].write_bytes(b"\x1f\x8bbroken")
    with pytest.raises(FailedScans, match=r"bad_0000\.nii\.gz: truncated or damaged.*the other 1 are done") as error:
        predict_onnx(scans, tmp_path / "out", [files["2d"]])
    assert error.value.written == [tmp_path / "out" / "own.nii.gz"]
    with pytest.raises(DataError, match="exists already"):
        predict_onnx(scans[0], tmp_path / "out", [files["2d"]])
    assert predict_onnx(scans[0], tmp_path / "out", [files["2d"]], OnnxOptions(overwrite=True))


@pytest.mark.parametrize(
    "option",
    [
        ("--folds", "0"),
        ("--device", "cuda"),
        ("--backend", "torch"),
        ("--prompt", "a=b"),
        ("--trust-checkpoint",),
    ],
)
def test_options_without_meaning_are_named(files: dict[str, Path], tmp_path: Path, option: tuple[str, ...]) -> None:
    arguments = ["predict", "-m", str(files["2d"]), "-i", str(tmp_path), "-o", str(tmp_path / "out"), *option]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert f"{option[0]}: not with an ONNX file" in " ".join(done.output.split())
