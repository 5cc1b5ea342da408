"""The packaged model on the real test images: right masks, and no quiet mask of what it does not know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.evaluation.known_images import FLAGS
from hippo_nnunet.sharing.known_images_fit import ct_like

pytestmark = pytest.mark.real

NUMBER = 8

Change = Callable[[nibabel.Nifti1Image], nibabel.Nifti1Image]


def images(folder: Path) -> list[Path]:
    return sorted(folder.glob("hippocampus_*.nii.gz"))[:NUMBER]


def voxels(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change the voxels, not the header."""
    return lambda image: nibabel.Nifti1Image(
        change(np.asarray(image.dataobj, np.float32)).astype(np.float32), image.affine
    )


def coarse(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """Average over 2 x 2 x 2 voxels."""
    array = np.asarray(image.dataobj, np.float32)
    x, y, z = (size // 2 for size in array.shape)
    mean = array[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
    return nibabel.Nifti1Image(mean, image.affine @ np.diag([2, 2, 2, 1]))


def predicted(folder: Path, tmp_path: Path, change: Change) -> tuple[pd.Series, Path]:
    """The flags of each changed image, those of images only; and the folder of the masks."""
    (tmp_path / "in").mkdir()
    for path in images(folder):
        nibabel.save(change(nibabel.load(path)), tmp_path / "in" / path.name)
    arguments = ["predict", "-i", tmp_path / "in", "-o", tmp_path / "out", "--volumes", tmp_path / "v.csv"]
    done = CliRunner().invoke(app, [str(word) for word in arguments])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "v.csv", keep_default_na=False)
    return table.groupby("case")["flags"].agg(lambda of: " ".join({*" ".join(of).split()} & {*FLAGS})), tmp_path / "out"


def test_masks_of_training_images(task04: Path, tmp_path: Path) -> None:
    """It has seen these, so this shows only that preprocessing, network and labels are put together rightly."""
    flags, out = predicted(task04 / "imagesTr", tmp_path, lambda image: image)
    assert (flags != "").sum() <= 1
    for path in images(task04 / "labelsTr"):
        reference, mask = (np.asarray(nibabel.load(p).dataobj) for p in (path, out / path.name))
        for label in (1, 2):
            one, other = mask == label, reference == label
            assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.82


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (voxels(lambda array: array[::-1]), "side"),
        (voxels(lambda array: array[:, ::-1]), "orientation"),
        (voxels(lambda array: array.transpose(1, 2, 0)), "orientation"),
        (voxels(lambda array: array.max() - array), "contrast"),
        (voxels(lambda array: ct_like(array, np.random.default_rng(0))), "contrast"),
        (coarse, "voxel-size"),
    ],
    ids=["mirrored", "flipped", "axes", "inverted", "ct", "2 mm"],
)
def test_no_quiet_mask(task04: Path, tmp_path: Path, change: Change, flag: str) -> None:
    flags, _ = predicted(task04 / "imagesTs", tmp_path, change)
    assert (flags != "").all()
    assert flags.str.contains(flag).sum() >= NUMBER - 1


def test_scale_of_intensities_does_not_matter(task04: Path, tmp_path: Path) -> None:
    flags, _ = predicted(task04 / "imagesTs", tmp_path, voxels(lambda array: 1e-3 * array))
    assert (flags != "").sum() <= 1


def test_axes_and_heads_are_refused(task04: Path, tmp_path: Path) -> None:
    image = nibabel.load(images(task04 / "imagesTs")[0])
    turned = nibabel.as_closest_canonical(image).as_reoriented(np.array([[0, -1], [1, -1], [2, 1]]))
    nibabel.save(turned, tmp_path / "lps.nii.gz")
    head = np.random.default_rng(0).normal(size=(90, 110, 90)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(head, np.diag([2, 2, 2, 1])), tmp_path / "head.nii.gz")
    for name, message in (("lps", "its axes are LPS"), ("head", "use 'hippo-nnunet segment'")):
        done = CliRunner().invoke(app, ["predict", "-i", str(tmp_path / f"{name}.nii.gz"), "-o", str(tmp_path / "out")])
        assert message in str(done.exception)
        assert not (tmp_path / "out").exists()
