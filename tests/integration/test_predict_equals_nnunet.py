"""Our predictions are nnU-Net's: one model with its folds, and an ensemble, against nnU-Net's own commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_dataset import ATTENTION, PLANS, TEST_CASES, UNET, TinyDataset
from typer.testing import CliRunner

from hippo_nnunet import trainers
from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.loading import load_model
from hippo_nnunet.inference.predict import PredictOptions, predict

pytestmark = pytest.mark.slow

FILES = {f"{case}.nii.gz" for case in TEST_CASES}
TOLERANCE = 1e-3


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def assert_same_segmentations(ours: Path, theirs: Path) -> None:
    same = [voxels(ours / name) == voxels(theirs / name) for name in sorted(FILES)]
    assert np.mean([s.mean() for s in same]) >= 0.9999
    assert any(voxels(ours / name).any() for name in FILES), "an empty segmentation proves nothing"


def assert_same_probabilities(ours: Path, theirs: Path) -> None:
    """Compare but for rounding: nnU-Net sums in half precision, which is coarse where patches have little weight.

    In the corners of a 3D image that costs it hundredths; test_only_the_precision_of_sums_differs is strict.
    """
    for case in TEST_CASES:
        mine, stock = (np.load(folder / f"{case}.npz")["probabilities"] for folder in (ours, theirs))
        assert mine.dtype == stock.dtype == np.float32
        assert (np.abs(mine - stock) < TOLERANCE).mean() > 0.97


@pytest.fixture(scope="module")
def stock(trained: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nnU-Net's own commands predict: `unet` and `attention`, and `ensemble` of both."""
    folder = tmp_path_factory.mktemp("stock")
    for name, trainer, configuration, folds in [
        ("unet", UNET, "2d", (0, 1)),
        ("attention", ATTENTION, "3d_fullres", (0,)),
    ]:
        options = ("-c", configuration, "-p", PLANS, "-f", *folds, "-device", "cpu", "-npp", 0, "-nps", 0)
        where = ("-i", trained.images, "-o", folder / name)
        trained.command(
            "nnUNetv2_predict", *where, "-d", trained.number, "-tr", trainer, *options, "--save_probabilities"
        )
    members = (folder / "unet", folder / "attention")
    trained.command("nnUNetv2_ensemble", "-i", *members, "-o", folder / "ensemble", "-np", 1, "--save_npz")
    return folder


def test_folds_of_one_model(trained: TinyDataset, stock: Path, tmp_path: Path) -> None:
    written = predict(
        trained.images, tmp_path / "out", [trained.model(UNET)], PredictOptions(device="cpu", save_probabilities=True)
    )
    assert {path.name for path in written} == FILES
    assert_same_segmentations(tmp_path / "out", stock / "unet")
    assert_same_probabilities(tmp_path / "out", stock / "unet")


def test_ensemble_of_2d_and_3d(trained: TinyDataset, stock: Path, tmp_path: Path) -> None:
    models = [trained.model(UNET), trained.model(ATTENTION, "3d_fullres")]
    predict(trained.images, tmp_path / "out", models, PredictOptions(device="cpu", save_probabilities=True))
    assert_same_segmentations(tmp_path / "out", stock / "ensemble")
    assert_same_probabilities(tmp_path / "out", stock / "ensemble")


def test_only_the_precision_of_sums_differs(
    trained: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nnU-Net's own predictor, made to sum in single precision, gives our probabilities."""
    models = [trained.model(UNET), trained.model(ATTENTION, "3d_fullres")]
    predict(trained.images, tmp_path / "out", models, PredictOptions(device="cpu", save_probabilities=True))
    monkeypatch.setattr(torch, "half", torch.float32)
    predictors = [nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False) for _ in models]
    for predictor, model in zip(predictors, models, strict=True):
        predictor.initialize_from_trained_model_folder(str(model), None)
    for case in TEST_CASES:
        expected = []
        for predictor in predictors:
            data, properties = SimpleITKIO().read_images([str(trained.images / f"{case}_0000.nii.gz")])
            expected.append(predictor.predict_single_npy_array(data, properties, save_or_return_probabilities=True)[1])
        ours = np.load(tmp_path / "out" / f"{case}.npz")["probabilities"]
        assert np.abs(ours - np.mean(expected, axis=0)).max() < 1e-5


def test_openvino(trained: TinyDataset, stock: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    models = [trained.model(UNET), trained.model(ATTENTION, "3d_fullres")]
    for backend in ("openvino", "torch"):
        predict(
            trained.images,
            tmp_path / backend,
            models,
            PredictOptions(device="cpu", save_probabilities=True, backend=backend),
        )
    assert_same_segmentations(tmp_path / "openvino", stock / "ensemble")
    for case in TEST_CASES:
        one, other = (np.load(tmp_path / b / f"{case}.npz")["probabilities"] for b in ("openvino", "torch"))
        assert 0 < np.abs(one - other).max() < 1e-4


@pytest.mark.parametrize(("name", "configuration"), [(UNET, "2d"), (ATTENTION, "2d"), (ATTENTION, "3d_fullres")])
def test_networks_are_those_of_the_trainers(trained: TinyDataset, name: str, configuration: str) -> None:
    """They are built without importing the trainers, and must not drift apart from them."""
    made = load_model(trained.model(name, configuration), (0,), "checkpoint_final.pth")
    network = getattr(trainers, name).build_network_architecture(
        made["plans_manager"], made["configuration_manager"], 1, 3, enable_deep_supervision=False
    )
    assert str(made["network"]) == str(network)
    assert made["trainer_name"] == name
    axes = made["inference_allowed_mirroring_axes"]
    assert axes == {"2d": (1,), "3d_fullres": None}[configuration], "of the schedule"


def test_a_trainer_of_nnunets(trained: TinyDataset, tmp_path: Path) -> None:
    copy = tmp_path / trained.model(UNET).name
    (copy / "fold_0").mkdir(parents=True)
    for name in ("dataset.json", "plans.json"):
        (copy / name).write_bytes((trained.model(UNET) / name).read_bytes())
    checkpoint = torch.load(trained.model(UNET) / "fold_0" / "checkpoint_final.pth", weights_only=False)
    torch.save({**checkpoint, "trainer_name": "nnUNetTrainer"}, copy / "fold_0" / "checkpoint_final.pth")
    one = trained.images / f"{TEST_CASES[0]}_0000.nii.gz"
    for folder, model in (("theirs", copy), ("ours", trained.model(UNET))):
        predict(one, tmp_path / folder, [model], PredictOptions(folds=[0], device="cpu"))
    name = f"{TEST_CASES[0]}.nii.gz"
    assert (voxels(tmp_path / "theirs" / name) == voxels(tmp_path / "ours" / name)).all()


def test_nothing_heavy_is_imported(trained: TinyDataset, tmp_path: Path) -> None:
    """One case shall take a few seconds: torch's compiler, nnU-Net's trainers and plotting would double them."""
    one = trained.images / f"{TEST_CASES[0]}_0000.nii.gz"
    options = ["predict", "--input", str(one), "--output", str(tmp_path / "out"), "--device", "cpu"]
    options += ["--model", str(trained.model(ATTENTION))]
    heavy = ["torch._dynamo", "sympy", "matplotlib", "sklearn", "nnunetv2.training.nnUNetTrainer", "open_clip"]
    code = (
        "import sys; from hippo_nnunet.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
        f"print('imported', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"


def test_geometry_is_the_images(trained: TinyDataset, tmp_path: Path) -> None:
    """Voxels are anisotropic and oblique, the plans transpose, resample and crop."""
    predict(trained.images, tmp_path / "out", [trained.model(UNET)], PredictOptions(folds=[1], device="cpu"))
    for case in TEST_CASES:
        image = sitk.ReadImage(str(trained.images / f"{case}_0000.nii.gz"))
        segmentation = sitk.ReadImage(str(tmp_path / "out" / f"{case}.nii.gz"))
        assert segmentation.GetSize() == image.GetSize()
        assert "integer" in segmentation.GetPixelIDTypeAsString()
        for get in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(segmentation, get)() == pytest.approx(getattr(image, get)(), abs=1e-5)


def test_model_finds_what_it_was_trained_on(trained: TinyDataset, tmp_path: Path) -> None:
    """A transposed or shifted output would be on the right grid, with wrong content."""
    predict(trained.images, tmp_path / "out", [trained.model(UNET)], PredictOptions(device="cpu", use_mirroring=False))
    for case in TEST_CASES:
        image = voxels(trained.images / f"{case}_0000.nii.gz")
        found, bright = voxels(tmp_path / "out" / f"{case}.nii.gz") > 0, image > 2
        assert 2 * (found & bright).sum() / (found.sum() + bright.sum()) > 0.8


def test_nothing_is_left_but_the_results(trained: TinyDataset, tmp_path: Path) -> None:
    models = [trained.model(UNET)]
    predict(trained.images, tmp_path / "out", models, PredictOptions(device="cpu"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"dataset.json", "plans.json"}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    with pytest.raises(DataError, match=r"tiny_901.nii.gz exists already.*--overwrite"):
        predict(trained.images, tmp_path / "out", models, PredictOptions(device="cpu"))
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    other = [trained.model(ATTENTION, "3d_fullres")]
    one = trained.images / f"{TEST_CASES[0]}_0000.nii.gz"
    predict(one, tmp_path / "out", other, PredictOptions(device="cpu", overwrite=True))


def test_output_that_cannot_be_written(trained: TinyDataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/out: cannot write there \(.*\): .*choose another folder"):
        predict(trained.images, tmp_path / "file" / "out", [trained.model(UNET)], PredictOptions(device="cpu"))


def test_weights_of_another_network(trained: TinyDataset, tmp_path: Path) -> None:
    """A second fold that does not fit is found before the first case is predicted."""
    copy = tmp_path / trained.model(UNET).name
    for fold, source in ((0, UNET), (1, ATTENTION)):
        (copy / f"fold_{fold}").mkdir(parents=True)
        content = (trained.model(source) / f"fold_{fold}" / "checkpoint_final.pth").read_bytes()
        (copy / f"fold_{fold}" / "checkpoint_final.pth").write_bytes(content)
    for name in ("dataset.json", "plans.json"):
        (copy / name).write_bytes((trained.model(UNET) / name).read_bytes())
    with pytest.raises(DataError, match="cannot be loaded"):
        predict(trained.images, tmp_path / "out", [copy], PredictOptions(device="cpu"))
    assert not (tmp_path / "out").exists()


def test_command(trained: TinyDataset, tmp_path: Path) -> None:
    from hippo_nnunet.cli.main import app

    one = trained.images / f"{TEST_CASES[0]}_0000.nii.gz"
    options = ["--input", str(one), "--output", str(tmp_path / "out"), "--device", "cpu", "--no-mirroring"]
    result = CliRunner().invoke(app, ["predict", *options, "--model", str(trained.model(UNET)), "--folds", "0"])
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(tmp_path / "out" / f"{TEST_CASES[0]}.nii.gz")]
