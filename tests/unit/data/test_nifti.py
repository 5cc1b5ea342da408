"""Reading one NIfTI file: odd headers and files under wrong names, and what every command makes of them."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from hippo_nnunet.data.cases import InputCase, check_images
from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.exploration import explore_dataset
from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.grid import Grid, grid_difference
from hippo_nnunet.data.layout import read_dataset
from hippo_nnunet.data.nifti import check_header, read_volume
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.reading import find_reader, read_segmentation
from hippo_nnunet.evaluation.tables import evaluate_folder
from hippo_nnunet.inference.submission import write_submission

VOXELS = np.arange(1, 61, dtype=np.float32).reshape(3, 4, 5)
AFFINE = np.array([[1.0, 0, 0, 4], [0, 2, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1]])


def write(path: Path, voxels: np.ndarray = VOXELS, affine: np.ndarray = AFFINE, qform: int = 1, sform: int = 1) -> Path:
    """Write an image; a form without a code is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, qform)
    image.set_sform(affine, sform)
    nib.save(image, path)
    return path


def patch(path: Path, field: str, value: float, index: int = 0) -> Path:
    """Overwrite one header field of a .nii.gz file."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    dtype, offset = nib.Nifti1Header.template_dtype.fields[field][:2]
    base = dtype.base
    start = offset + index * base.itemsize
    content[start : start + base.itemsize] = np.array(value, base).tobytes()
    path.write_bytes(gzip.compress(bytes(content), 1))
    return path


def two_sizes(path: Path, qform: int) -> Path:
    """Write an image of 1 mm by pixdim and 0.5 mm by the sform."""
    image = nib.Nifti1Image(VOXELS, np.eye(4))
    image.set_sform(np.diag([0.5, 0.5, 0.5, 1]), 1)
    image.set_qform(np.eye(4) if qform else None, qform)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def test_two_voxel_sizes_are_refused_by_every_command(tmp_path: Path) -> None:
    path = two_sizes(tmp_path / "a_0000.nii.gz", qform=0)
    sizes = r"1 x 1 x 1 mm in pixdim, which counts for nnU-Net, but 0\.5 x 0\.5 x 0\.5 mm in the sform"
    for reader in ("SimpleITKIO", "NibabelIO"):
        with pytest.raises(FoundProblem, match=sizes):
            read_volume(path, reader=reader)
    with pytest.raises(DataError, match=sizes):
        check_images(InputCase("a", (path,)))
    with pytest.raises(DataError, match=sizes):
        read_segmentation(find_reader(".nii.gz", path), path)


def test_two_voxel_sizes_with_a_qform_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = two_sizes(tmp_path / "a_0000.nii.gz", qform=1)
    (warning,) = read_volume(path).warnings
    assert (warning.problem, warning.severity) == ("voxel-size", "warning")
    check_images(InputCase("a", (path,)))
    assert "0.5 x 0.5 x 0.5 mm in the sform" in caplog.text
    with pytest.raises(FoundProblem, match="two voxel sizes"):
        read_volume(path, reader="NibabelIO")  # its masks would have the other size


@pytest.mark.parametrize(("code", "unit", "scale"), [(1, "m", 1000), (3, "micron", 0.001)])
def test_units_are_those_of_simpleitk_and_named(tmp_path: Path, code: int, unit: str, scale: float) -> None:
    path = patch(write(tmp_path / "a.nii.gz"), "xyzt_units", code)
    volume = read_volume(path)
    assert volume.spacing_mm == pytest.approx((scale, 2 * scale, 3 * scale))
    np.testing.assert_allclose(volume.affine[:3], AFFINE[:3] * scale, atol=1e-6 * scale)
    (warning,) = volume.warnings
    assert warning.problem == "units"
    assert f"the header's unit is {unit}; nnU-Net, with SimpleITKIO, reads a voxel size of" in warning.message
    by_nibabel = read_volume(path, reader="NibabelIO")
    assert by_nibabel.spacing_mm == (1, 2, 3)
    assert "reads a voxel size of 1 x 2 x 3 mm" in by_nibabel.warnings[0].message


def long_quaternion(path: Path, sform: int) -> Path:
    write(path, sform=sform)
    for axis, value in (("b", 0.70710), ("c", 0.70712), ("d", 0)):
        patch(path, f"quatern_{axis}", value)
    return path


@pytest.mark.parametrize("sform", [0, 1])
def test_a_quaternion_that_rounding_made_too_long_is_read(tmp_path: Path, sform: int) -> None:
    path = long_quaternion(tmp_path / "a.nii.gz", sform)
    image = sitk.ReadImage(str(path))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    # SimpleITK's position and nibabel's, from the normalised quaternion, agree
    assert not volume.warnings
    if not sform:
        with pytest.raises(FoundProblem, match="nibabel, with which nnU-Net reads, refuses it"):
            read_volume(path, reader="NibabelIO")


def identity_sform(path: Path) -> Path:
    """Write a true qform beside an sform that is the identity."""
    affine = AFFINE.copy()
    affine[:3, :3] = [[0, 0, 3], [1, 0, 0], [0, 2, 0]]
    write(path, affine=affine)
    for row, letter in enumerate("xyz"):
        for column in range(4):
            patch(path, f"srow_{letter}", float(row == column), column)
    return path


ODD_HEADERS = {
    "micron": lambda path: patch(write(path), "xyzt_units", 3),
    "metre": lambda path: patch(write(path), "xyzt_units", 1),
    "long quaternion": lambda path: long_quaternion(path, 1),
    "long quaternion alone": lambda path: long_quaternion(path, 0),
    "identity sform": identity_sform,
    "two sizes": lambda path: two_sizes(path, 1),
    "no codes": lambda path: write(path, qform=0, sform=0),
}


@pytest.mark.parametrize("header", ODD_HEADERS.values(), ids=ODD_HEADERS)
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_what_predict_accepts_submit_accepts(tmp_path: Path, header: Callable[[Path], Path], reader: str) -> None:
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    path = header(tmp_path / "images" / "a.nii.gz")
    try:
        check_images(InputCase("a", (path,)), reader)
    except DataError as error:
        assert reader == "NibabelIO" and ("w2 should be positive" in str(error) or "two voxel sizes" in str(error))
        return
    library = recursive_find_reader_writer_by_name(reader)()
    array, properties = library.read_images([str(path)])
    (tmp_path / "out").mkdir()
    library.write_seg((array[0] > 30).astype(np.uint8), str(tmp_path / "out" / "a.nii.gz"), properties)
    archive = tmp_path / "s.zip"
    assert write_submission(tmp_path / "out", tmp_path / "images", archive, labels={0, 1}) == ["a"]
    moved = AFFINE.copy()
    moved[0, 3] += 50
    write(tmp_path / "out" / "a.nii.gz", (VOXELS > 30).astype(np.uint8), moved)
    with pytest.raises(DataError, match=r"got affine.*expected.*the image's header is in"):
        write_submission(tmp_path / "out", tmp_path / "images", archive, labels={0, 1}, overwrite=True)


def disguised(kind: str, path: Path) -> Path:
    plain = nib.Nifti1Image(VOXELS, AFFINE).to_bytes()
    if kind == "plain":
        path.write_bytes(plain)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.nii", plain)
    elif kind == "NIfTI-2":
        nib.save(nib.Nifti2Image(VOXELS, AFFINE), path)
    elif kind == "trailing":
        path.write_bytes(gzip.compress(plain) + b"more")
    elif kind == "checksum":
        path.write_bytes(gzip.compress(plain)[:-8] + b"\1" * 8)
    else:
        path = path.with_suffix("")
        path.write_bytes(gzip.compress(plain))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("plain", r"not compressed, though its name ends in \.gz; rename it to a\.nii, or compress it"),
        ("zip", "a zip archive, not a NIfTI image; unpack it"),
        ("NIfTI-2", "a NIfTI-2 image, which SimpleITK and thus nnU-Net cannot read; save it as NIfTI-1"),
        ("trailing", "other bytes follow the gzip data, which is whole; unpack it with gunzip -c"),
        ("gzip", r"gzip-compressed data under the name of an uncompressed file; rename it to a\.nii\.gz"),
        ("checksum", r"truncated or damaged \(CRC check failed.*; copy or download it again"),
    ],
)
def test_whole_files_under_a_wrong_name_are_named(tmp_path: Path, kind: str, message: str) -> None:
    path = disguised(kind, tmp_path / "a.nii.gz")
    with pytest.raises(FoundProblem, match=message):
        open_image(path)


def test_submit_names_what_an_image_is(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    disguised("plain", tmp_path / "images" / "a.nii.gz")
    write(tmp_path / "out" / "a.nii.gz")
    with pytest.raises(DataError, match=r"not compressed.*rename it to a\.nii"):
        write_submission(tmp_path / "out", tmp_path / "images", tmp_path / "s.zip", labels={0, 1})


def test_sheared_axes_are_checked_with_the_reader_of_the_dataset(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 1] = 0.05
    for number, case in enumerate("ab"):
        write(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", VOXELS**number + VOXELS, affine, qform=0)
        write(tmp_path / "labelsTr" / f"{case}.nii.gz", (VOXELS - number > 20).astype(np.uint8), affine, qform=0)
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "one": 1}, "numTraining": 2}
    content["file_ending"] = ".nii.gz"
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    findings = check_dataset(tmp_path)
    assert {finding.problem for finding in findings} == {"unreadable"}
    assert all('"overwrite_image_reader_writer": "NibabelIO"' in finding.remedy for finding in findings)
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "overwrite_image_reader_writer": "NibabelIO"}))
    assert [f for f in check_dataset(tmp_path) if f.severity == "error"] == []
    case = InputCase("a", (tmp_path / "imagesTr" / "a_0000.nii.gz",))
    with pytest.raises(DataError, match="orthonormal"):
        check_images(case)
    check_images(case, "NibabelIO")
    labels = tmp_path / "labelsTr"
    table = evaluate_folder(labels, labels, {"one": 1}, ".nii.gz", reader_name="NibabelIO")
    assert table["dice"].tolist() == [1.0, 1.0]


def moved_by(shift_mm: float) -> Grid:
    affine = AFFINE.copy()
    affine[0, 3] += shift_mm
    return Grid((3, 4, 5), affine, (1, 2, 3))


def test_one_tolerance_of_a_hundredth_of_a_voxel() -> None:
    assert grid_difference(moved_by(0.0099), moved_by(0), "x") is None
    difference = grid_difference(moved_by(0.011), moved_by(0), "x")
    assert difference is not None and difference.text == "affine differs from that of x: it lies up to 0.011 mm away"


def test_labels_five_micrometres_off_pass_everywhere(tmp_path: Path) -> None:
    off = AFFINE.copy()
    off[0, 3] += 0.005
    first, second = write(tmp_path / "a_0000.nii.gz"), write(tmp_path / "a_0001.nii.gz", affine=off)
    check_images(InputCase("a", (first, second)))
    mask = (VOXELS > 30).astype(np.uint8)
    write(tmp_path / "labels" / "a.nii.gz", mask, off)
    write(tmp_path / "out" / "a.nii.gz", mask)
    assert evaluate_folder(tmp_path / "out", tmp_path / "labels", {"one": 1}, ".nii.gz")["dice"].tolist() == [1.0]


def test_a_case_that_memory_cannot_hold_is_named_by_check_and_explore(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for case in "ab":
        write(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", VOXELS + ord(case))
        write(tmp_path / "labelsTr" / f"{case}.nii.gz", (VOXELS > 20).astype(np.uint8))
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "one": 1}, "numTraining": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))

    def allocate(path: Path, *rest: object) -> object:
        if path.name == "a_0000.nii.gz":
            raise MemoryError
        return read_volume(path, *rest)  # type: ignore[arg-type]

    for module in ("check_case", "exploration_case"):
        monkeypatch.setattr(f"hippo_nnunet.data.{module}.read_volume", allocate)
    (finding,) = (f for f in check_dataset(tmp_path) if f.severity == "error")
    assert (finding.path.name, finding.problem) == ("a_0000.nii.gz", "memory")
    explored = explore_dataset(read_dataset(tmp_path))
    assert explored.cases["case"].tolist() == ["b"]
    assert [problem.case for problem in explored.problems] == ["a"]


def test_an_image_that_memory_cannot_hold_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.nii.gz")
    monkeypatch.setattr("hippo_nnunet.data.nifti.free_memory", lambda: 400)
    with pytest.raises(FoundProblem, match=r"a\.nii\.gz: \(3, 4, 5\) voxels of type float32 do not fit into"):
        read_volume(path)


def test_a_header_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    path = write(tmp_path / "image.nii.gz")
    assert check_header(path) == "RAS"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FoundProblem) as problem:
        check_header(path)
    assert problem.value.finding.problem == "unreadable"
    assert "cannot be opened (" in problem.value.finding.message
