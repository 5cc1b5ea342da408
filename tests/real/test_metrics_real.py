"""Metrics, selection and submission on the real Task04."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import SimpleITK
from scipy import ndimage

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.probabilities import probability_files
from hippo_nnunet.evaluation.selection import choose_ensemble
from hippo_nnunet.evaluation.tables import evaluate_folder
from hippo_nnunet.inference.submission import case_images, dataset_labels, verify_submission, write_submission

pytestmark = pytest.mark.real

ENDING = ".nii.gz"
LABELS = {"Anterior": 1, "Posterior": 2}


def cases_of(task04: Path, count: int) -> list[str]:
    return sorted(path.name[: -len(ENDING)] for path in (task04 / "labelsTr").glob(f"h*{ENDING}"))[:count]


def test_labels_against_themselves_and_moved(task04: Path, tmp_path: Path) -> None:
    labels, cases = task04 / "labelsTr", cases_of(task04, 6)
    same = evaluate_folder(labels, labels, LABELS, ENDING, cases)
    assert (same["dice"] == 1).all()
    assert (same["hd95_mm"] == 0).all()
    assert same["volume_mm3"].between(500, 4000).all()
    for case in cases:
        source = SimpleITK.ReadImage(str(labels / f"{case}{ENDING}"))
        moved = SimpleITK.GetImageFromArray(np.roll(SimpleITK.GetArrayFromImage(source), 1, axis=2).astype(np.uint8))
        moved.CopyInformation(source)
        SimpleITK.WriteImage(moved, str(tmp_path / f"{case}{ENDING}"))
    alone, together = (evaluate_folder(tmp_path, labels, LABELS, ENDING, cases, n_jobs=n) for n in (1, 2))
    pd.testing.assert_frame_equal(alone, together)
    assert alone["dice"].between(0.75, 0.97).all()
    assert (alone["hd95_mm"] <= 1).all()  # voxels of 1 mm, moved by one
    np.testing.assert_allclose(alone["nsd_1mm"], 1)


def test_images_and_labels_share_their_geometry_for_the_reader(task04: Path) -> None:
    for case in cases_of(task04, 40):
        image, label = (SimpleITK.ReadImage(str(task04 / f / f"{case}{ENDING}")) for f in ("imagesTr", "labelsTr"))
        assert image.GetSize() == label.GetSize()
        np.testing.assert_allclose(image.GetOrigin(), label.GetOrigin(), atol=1e-3)


def test_selection_on_real_shapes(task04: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = cases_of(task04, 10)
    members = {}
    for name, smoothing in (("a", 1.0), ("b", 1.2), ("c", 3.0), ("d", 1.0)):
        folder = tmp_path / name
        folder.mkdir()
        for case in cases:
            truth = SimpleITK.GetArrayFromImage(
                SimpleITK.ReadImage(str(task04 / "labelsTr" / f"{case}{ENDING}"))
            ).astype(int)
            scores = np.eye(3, dtype=np.float32)[truth].transpose(3, 0, 1, 2)
            scores = scores + np.stack([2 * ndimage.gaussian_filter(rng.normal(size=truth.shape), 1) for _ in scores])
            scores = np.exp(3 * np.stack([ndimage.gaussian_filter(score, smoothing) for score in scores]))
            np.savez_compressed(folder / f"{case}.npz", probabilities=(scores / scores.sum(0)).astype(np.float32))
        members[name] = probability_files(folder)
    dataset = {"labels": {"background": 0, **LABELS}, "file_ending": ENDING}
    folds = {case: index % 5 for index, case in enumerate(cases)}
    choice = choose_ensemble(members, task04 / "labelsTr", dataset, folds)
    assert len(choice.members) > 1
    assert choice.nested_gain > 0
    assert choice.nested_dice <= choice.naive_dice + 1e-12
    assert len(choice.per_fold) == 5


@pytest.fixture(scope="module")
def predictions(task04: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fake predictions of the test images as nnU-Net would write them: blobs, and in one case nothing."""
    folder = tmp_path_factory.mktemp("predictions")
    for number, (case, path) in enumerate(case_images(task04 / "imagesTs").items()):
        source = SimpleITK.ReadImage(str(path))
        voxels = np.zeros(source.GetSize()[::-1], dtype=np.uint8)
        if number:
            voxels[10:16, 10:20, 10:25], voxels[16:22, 10:20, 10:25] = 1, 2
        image = SimpleITK.GetImageFromArray(voxels)
        image.CopyInformation(source)
        SimpleITK.WriteImage(image, str(folder / f"{case}{ENDING}"), True)
    return folder


@pytest.fixture(scope="module")
def archive(task04: Path, predictions: Path) -> Path:
    path = predictions.with_name(predictions.name + "_archive") / "Task04_Hippocampus.zip"
    assert len(write_submission(predictions, task04 / "imagesTs", path)) == 40
    return path


def test_submission_of_the_test_cases(task04: Path, predictions: Path, archive: Path) -> None:
    images = task04 / "imagesTs"
    assert verify_submission(archive, images, dataset_labels(task04 / "dataset.json")) == []
    again = archive.with_name("again.zip")
    write_submission(predictions, images, again)
    assert again.read_bytes() == archive.read_bytes()
    with zipfile.ZipFile(archive) as source:
        assert len(source.namelist()) == 40
        for case, path in case_images(images).items():
            written = nibabel.Nifti1Image.from_bytes(gzip.decompress(source.read(f"Task04_Hippocampus/{case}{ENDING}")))
            image = nibabel.load(path)
            np.testing.assert_array_equal(written.affine, image.affine)
            voxels = np.asarray(written.dataobj)
            expected = np.asarray(nibabel.load(predictions / f"{case}{ENDING}").dataobj)
            np.testing.assert_array_equal(voxels, expected)


def test_predictions_of_the_wrong_images_are_refused(task04: Path, predictions: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prediction for 220 cases"):
        write_submission(predictions, task04 / "imagesTr", tmp_path / "s.zip")
