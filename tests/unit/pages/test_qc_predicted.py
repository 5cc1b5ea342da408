"""`predict --qc`: what is shown of a case is what lies in its files."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hippo_nnunet.analysis.predicted_volumes import PredictedVolumes
from hippo_nnunet.analysis.volume_preparation import NO_CALIBRATION, prepare_volumes
from hippo_nnunet.data.cases import InputCase
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.case_volumes import FLAG_WORDS, FLAGS, flags_in_words
from hippo_nnunet.evaluation.known_images import FLAGS as IMAGE_FLAGS
from hippo_nnunet.evaluation.segmentation_shape import Segmentation
from hippo_nnunet.evaluation.volume_calibration import LabelCalibration, VolumeCalibration, uncalibrated
from hippo_nnunet.pages.qc.pictures import pixels_of
from hippo_nnunet.pages.qc.predicted import PredictedPage
from hippo_nnunet.pages.qc.records import VolumeRow
from hippo_nnunet.pages.qc.scan_files import StoredScan, read_scans

LABELS = {"anterior": 1, "posterior": 2, "total": (1, 2)}


def files(folder: Path, affine: np.ndarray, codes: int = 1) -> Segmentation:
    """A case whose voxels are stored as (inferior to superior, anterior to posterior, right to left) or the like."""
    body = np.zeros((8, 10, 12), np.uint8)  # right, anterior, superior
    body[2:6, 5:8, 4:9] = 1
    body[2:6, 2:5, 4:7] = 2
    image = 100.0 + 50 * body
    image[7, :, :] = 0
    image[3, 6, 6] = 400
    back = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.io_orientation(affine)
    )
    arrays = [nib.orientations.apply_orientation(array, back) for array in (image, body)]
    paths = [folder / "case 1_0000.nii.gz", folder / "case 1.nii.gz"]
    for path, array in zip(paths, arrays, strict=True):
        made = nib.Nifti1Image(
            np.ascontiguousarray(array.astype(np.float32 if array is arrays[0] else np.uint8)), affine
        )
        made.set_sform(affine, codes)
        made.set_qform(affine, codes)
        nib.save(made, path)
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0)[::-1])
    p = np.full((3, *arrays[1].T.shape), 0.1)
    p[0] = 0.8
    return Segmentation("case 1", arrays[1].T, spacing, p, images=paths[:1], written=paths[1])


AFFINES = {
    "RAS": np.diag([1.0, 1.5, 2.0, 1.0]),
    "SPL": np.array([[0.0, 0, -1.0, 9], [0, -1.5, 0, 4], [2.0, 0, 0, -7], [0, 0, 0, 1]]),
}


def added(tmp_path: Path, segmentation: Segmentation, calibration: VolumeCalibration) -> StoredScan:
    page = PredictedPage(tmp_path / "qc", PredictedVolumes(None, calibration), [Path("a/m.onnx")], overwrite=False)
    page.check([InputCase(segmentation.case, tuple(segmentation.images))])
    page.add(segmentation)
    assert page.write() == tmp_path / "qc" / "index.html"
    (scan,) = read_scans(tmp_path / "qc")
    return scan


@pytest.mark.parametrize("codes", ["RAS", "SPL"])
def test_a_case_is_shown_in_the_body_s_directions_however_it_is_stored(tmp_path, codes):
    segmentation = files(tmp_path, AFFINES[codes])
    scan = added(tmp_path, segmentation, uncalibrated(LABELS))
    (strip,) = scan.strips
    sagittal, coronal, axial = strip.cuts
    assert [cut.voxels for cut in strip.cuts] == [(10, 12), (8, 12), (8, 10)]
    assert sagittal.place_mm[2:] == (15.0, 24.0)
    assert axial.ends == tuple("LRPA")
    assert np.asarray(pixels_of(coronal))[:, 7].max() == 0  # the dark slice is on the right
    assert [line.label for line in sagittal.outlines] == [0, 1]
    assert scan.labels == ("anterior", "posterior")
    voxel = 3.0
    assert scan.volumes[0] == VolumeRow("anterior", 60 * voxel, None, None, 0)
    assert scan.volumes[2] == VolumeRow("total", 96 * voxel, None, None, None)
    assert scan.doubt == pytest.approx(0.2)
    assert scan.level is None
    assert scan.flags == ()
    assert scan.details == {"image": "case 1_0000.nii.gz", "voxels": "1 × 1.5 × 2 mm", "model": "m.onnx"}


def test_a_header_without_directions_gives_no_letters(tmp_path):
    segmentation = files(tmp_path, AFFINES["RAS"], codes=0)
    assert all(cut.ends == () for cut in added(tmp_path, segmentation, uncalibrated(LABELS)).strips[0].cuts)


def test_intervals_and_flags_come_from_the_calibration(tmp_path):
    residuals = tuple(np.linspace(-30.0, 10.0, 41))
    known = LabelCalibration(residuals, (1 / 42,) * 41, log_volume=(np.log(1000.0), 0.01), doubt=0.1)
    calibration = VolumeCalibration(LABELS, dict.fromkeys(LABELS, known), 0.9)
    scan = added(tmp_path, files(tmp_path, AFFINES["RAS"]), calibration)
    assert scan.level == 0.9
    row = scan.volumes[0]
    assert row.low_mm3 is not None and row.high_mm3 is not None
    assert 180 - 30 <= row.low_mm3 < 160 < 180 < row.high_mm3 <= 190
    assert scan.flags == (FLAG_WORDS["volume"], FLAG_WORDS["doubt"])


def test_regions_are_drawn_by_the_values_that_are_written(tmp_path):
    labels = {"whole": (1, 2), "posterior": 2}
    scan = added(tmp_path, files(tmp_path, AFFINES["RAS"]), uncalibrated(labels))
    assert scan.labels == ("1", "posterior")
    assert [row.label for row in scan.volumes] == [None, 1]


def test_large_images_are_cropped_around_the_labels(tmp_path):
    image = np.zeros((90, 100, 80), np.float32)
    image[40:44, 50:60, 30:34] = 5
    for name in ("c_0000.nii.gz", "c.nii.gz"):
        nib.save(
            nib.Nifti1Image((image > 0).astype(np.uint8) if name == "c.nii.gz" else image, np.eye(4)), tmp_path / name
        )
    segmentation = Segmentation(
        "c", (image.T > 0) * 1, (1, 1, 1), images=[tmp_path / "c_0000.nii.gz"], written=tmp_path / "c.nii.gz"
    )
    scan = added(tmp_path, segmentation, uncalibrated({"one": 1}))
    assert scan.strips[0].cuts[0].voxels == (10 + 2 * 15, 4 + 2 * 15)


def test_every_flag_has_words():
    assert set(FLAG_WORDS) == {*FLAGS, *IMAGE_FLAGS}


def test_flags_name_their_labels_unless_all_have_them():
    import pandas as pd

    rows = pd.DataFrame({"label": ["a", "b", "total"], "flags": ["components doubt", "doubt", "components doubt"]})
    assert flags_in_words(rows) == [f"a, total: {FLAG_WORDS['components']}", FLAG_WORDS["doubt"]]
    assert flags_in_words(rows.assign(flags="")) == []


def test_records_are_replaced_only_if_asked(tmp_path):
    segmentation = files(tmp_path, AFFINES["RAS"])
    added(tmp_path, segmentation, uncalibrated(LABELS))
    volumes = PredictedVolumes(None, uncalibrated(LABELS))
    cases = [InputCase("case 1", tuple(segmentation.images))]
    with pytest.raises(DataError, match="--overwrite"):
        PredictedPage(tmp_path / "qc", volumes, [], overwrite=False).check(cases)
    PredictedPage(tmp_path / "qc", volumes, [], overwrite=True).check(cases)


def test_cases_that_failed_are_on_the_page(tmp_path):
    page = PredictedPage(tmp_path / "qc", PredictedVolumes(None, uncalibrated(LABELS)), [Path("m")], overwrite=False)
    page.fail({"broken": "broken.nii.gz: truncated"})
    assert "broken.nii.gz: truncated" in page.write().read_text(encoding="utf-8")
    assert read_scans(tmp_path / "qc")[0].doubt is None


def test_a_page_alone_needs_no_calibration(tmp_path, caplog):
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "one": 1}}')
    with caplog.at_level(logging.INFO):
        volumes = prepare_volumes(None, [tmp_path], None, None)
    assert "no intervals" in caplog.text
    assert volumes.write() is None
    assert prepare_volumes(None, [tmp_path], None, NO_CALIBRATION).calibration.labels == {"one": 1}
