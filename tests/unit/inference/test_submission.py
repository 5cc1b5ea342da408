"""The submission archive: its bytes, and what is refused."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import typer
from typer.testing import CliRunner

from hippo_nnunet.cli.submit import submit
from hippo_nnunet.data.nifti_header import CHANGED_FIELDS
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.inference.submission import case_images, dataset_labels, verify_submission, write_submission

LABELS = {0, 1, 2}
TASK = "Task04_Hippocampus"
SHAPE = (5, 6, 7)
CASES = ["hippocampus_007", "hippocampus_014"]


def image(kind: str) -> nibabel.Nifti1Image:
    """Images whose headers are awkward in different ways."""
    rng = np.random.default_rng(1)
    voxels = rng.normal(100, 20, SHAPE).astype(np.float32)
    affine = np.diag([1.0, 1.25, 0.7, 1.0])
    affine[:3, 3] = 3, -8, 11
    if kind == "oblique":
        q, _ = np.linalg.qr(np.array([[1.0, 0.2, 0], [-0.2, 1, 0.1], [0.05, -0.1, 1]]))
        affine[:3, :3] = q * [1.0, 1.25, 0.7]
    made = nibabel.Nifti1Image(voxels, affine)
    header = made.header
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=3)
    header["descrip"] = b"scanner 5.0.10"
    header["cal_max"], header["glmax"], header["toffset"] = 255, 7, 0.5
    header["pixdim"][4:] = 1, 0, 0, 0
    header.set_xyzt_units("mm", "sec")
    if kind == "extension":
        header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"kept"))
    if kind == "bare":
        header.set_qform(None, code=0)
        header.set_sform(None, code=0)
        made = nibabel.Nifti1Image(voxels, None, header)
    if kind == "int16":
        made = nibabel.Nifti1Image(voxels.astype(np.int16), None, header)
        made.header.set_data_dtype(np.int16)
    if kind == "big-endian":
        made = nibabel.Nifti1Image(voxels, None, header.as_byteswapped(">"))
    return made


KINDS = ["plain", "oblique", "extension", "bare", "int16", "big-endian"]


def make(root: Path, kind: str = "plain", suffix: str = "") -> tuple[Path, Path]:
    """Write images, and predictions as nnU-Net writes them: through SimpleITK, with a header of its own."""
    images, predictions = root / "imagesTs", root / "predictions"
    images.mkdir(parents=True)
    predictions.mkdir()
    (predictions / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Anterior": 1, "Posterior": 2}}))
    for number, case in enumerate(CASES):
        nibabel.save(image(kind), images / f"{case}{suffix}.nii.gz")
        source = SimpleITK.ReadImage(str(images / f"{case}{suffix}.nii.gz"))
        labels = np.random.default_rng(number).integers(0, 3, SHAPE[::-1]).astype(np.uint8)
        prediction = SimpleITK.GetImageFromArray(labels)
        prediction.CopyInformation(source)
        SimpleITK.WriteImage(prediction, str(predictions / f"{case}.nii.gz"), True)
    return predictions, images


def unpack(archive: Path, case: str) -> bytes:
    with zipfile.ZipFile(archive) as source:
        return gzip.decompress(source.read(f"{TASK}/{case}.nii.gz"))


@pytest.mark.parametrize("kind", KINDS)
def test_header_is_the_images_bit_by_bit(tmp_path: Path, kind: str) -> None:
    predictions, images = make(tmp_path, kind)
    archive = tmp_path / "out" / "submission.zip"
    assert write_submission(predictions, images, archive) == CASES
    assert verify_submission(archive, images, LABELS) == []
    with zipfile.ZipFile(archive) as source:
        assert source.namelist() == [f"{TASK}/{case}.nii.gz" for case in CASES]
    fields = nibabel.Nifti1Header.template_dtype.fields
    for case in CASES:
        before = gzip.decompress((images / f"{case}.nii.gz").read_bytes())
        after = unpack(archive, case)
        same = bytearray(after[: len(after) - np.prod(SHAPE)])
        for name in CHANGED_FIELDS:
            dtype, offset = fields[name][:2]
            same[offset : offset + dtype.itemsize] = before[offset : offset + dtype.itemsize]
        assert bytes(same) == before[: len(same)]
        written = nibabel.Nifti1Image.from_bytes(after)
        assert written.get_data_dtype() == np.uint8
        original = nibabel.load(images / f"{case}.nii.gz")
        np.testing.assert_array_equal(written.affine, original.affine)
        expected = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(predictions / f"{case}.nii.gz")))
        np.testing.assert_array_equal(np.asarray(written.dataobj), expected.transpose(2, 1, 0))


def test_same_input_same_bytes(tmp_path: Path) -> None:
    predictions, images = make(tmp_path)
    for name in ("one.zip", "two.zip"):
        write_submission(predictions, images, tmp_path / name)
        for path in predictions.iterdir():
            path.touch()
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_cases_that_end_in_four_digits(tmp_path: Path) -> None:
    for name in ("scan_0001", "scan_0002"):
        (tmp_path / f"{name}.nii.gz").touch()
    assert list(case_images(tmp_path)) == ["scan_0001", "scan_0002"]


def test_nnunets_channel_names(tmp_path: Path) -> None:
    predictions, images = make(tmp_path, suffix="_0000")
    (images / f"{CASES[0]}_0001.nii.gz").write_bytes(b"another channel")
    (images / f"._{CASES[0]}_0000.nii.gz").write_bytes(b"resource fork")
    assert list(case_images(images)) == CASES
    write_submission(predictions, images, tmp_path / "s.zip")
    assert verify_submission(tmp_path / "s.zip", images, LABELS) == []


def test_float_predictions_with_whole_values_become_integers(tmp_path: Path) -> None:
    predictions, images = make(tmp_path)
    path = predictions / f"{CASES[0]}.nii.gz"
    source = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asarray(source.dataobj, np.float32), source.affine), path)
    write_submission(predictions, images, tmp_path / "s.zip")
    assert nibabel.Nifti1Image.from_bytes(unpack(tmp_path / "s.zip", CASES[0])).get_data_dtype() == np.uint8


def rewrite(path: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    source = nibabel.load(path)
    voxels, affine = change(np.asarray(source.dataobj).copy(), source.affine.copy())
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def shifted(affine: np.ndarray) -> np.ndarray:
    affine[0, 3] += 0.5
    return affine


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p, i: (p / f"{CASES[1]}.nii.gz").unlink(), r"no prediction for 1 cases \(hippocampus_014\)"),
        (lambda p, i: (i / f"{CASES[1]}.nii.gz").unlink(), r"no image for 1 cases \(hippocampus_014\)"),
        (lambda p, i: rewrite(p / f"{CASES[0]}.nii.gz", lambda v, a: (v[1:], a)), r"007\.nii\.gz: got shape \(4, 6, 7"),
        (lambda p, i: rewrite(p / f"{CASES[0]}.nii.gz", lambda v, a: (v, shifted(a))), r"007\.nii\.gz: got affine"),
        (lambda p, i: rewrite(p / f"{CASES[0]}.nii.gz", lambda v, a: (v + 1, a)), r"got the values \[3\]"),
        (lambda p, i: rewrite(p / f"{CASES[0]}.nii.gz", lambda v, a: (v / np.float32(2), a)), r"got the values \[0\.5"),
        (
            lambda p, i: rewrite(p / f"{CASES[0]}.nii.gz", lambda v, a: (np.where(v == 1, np.float32("nan"), v), a)),
            r"got the values \[nan",
        ),
        (lambda p, i: (p / f"{CASES[0]}.nii.gz").write_bytes(b"\x1f\x8bno"), r"007\.nii\.gz: cannot be read"),
        (lambda p, i: (i / f"{CASES[0]}.nii.gz").write_bytes(b"no"), r"007\.nii\.gz: not a readable"),
        (lambda p, i: (p / "dataset.json").unlink(), "--dataset-json"),
    ],
)
def test_bad_predictions_leave_nothing_behind(tmp_path: Path, damage: Callable, message: str) -> None:
    predictions, images = make(tmp_path)
    damage(predictions, images)
    with pytest.raises(DataError, match=message):
        write_submission(predictions, images, tmp_path / "out" / "s.zip")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_an_archive_is_not_replaced_unasked_nor_by_a_bad_one(tmp_path: Path) -> None:
    predictions, images = make(tmp_path)
    archive = tmp_path / "s.zip"
    write_submission(predictions, images, archive)
    good = archive.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        write_submission(predictions, images, archive)
    rewrite(predictions / f"{CASES[1]}.nii.gz", lambda v, a: (v + 5, a))
    with pytest.raises(DataError, match="got the values"):
        write_submission(predictions, images, archive, overwrite=True)
    assert archive.read_bytes() == good
    with pytest.raises(ConfigError, match=r"\.zip"):
        write_submission(predictions, images, tmp_path / "s.tar")
    with pytest.raises(ConfigError, match="task name"):
        write_submission(predictions, images, tmp_path / "t.zip", task_name="../up")


def repack(archive: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """Change the entries (name to unpacked bytes) of an archive."""
    with zipfile.ZipFile(archive) as source:
        entries = {name: gzip.decompress(source.read(name)) for name in source.namelist()}
    change(entries)
    with zipfile.ZipFile(archive, "w") as target:
        for name, content in entries.items():
            target.writestr(name, gzip.compress(content))


FIRST = f"{TASK}/{CASES[0]}.nii.gz"
OFFSETS = {name: place[1] for name, place in nibabel.Nifti1Header.template_dtype.fields.items()}


def patch(field: str, fmt: str, value: float) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        content = bytearray(entries[FIRST])
        struct.pack_into("<" + fmt, content, OFFSETS[field], value)
        entries[FIRST] = bytes(content)

    return change


def replace_first(make_content: Callable[[bytes], bytes]) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        entries[FIRST] = make_content(entries[FIRST])

    return change


def resaved_float(content: bytes) -> bytes:
    source = nibabel.Nifti1Image.from_bytes(content)
    return nibabel.Nifti1Image(np.asarray(source.dataobj, np.float32), source.affine, None).to_bytes()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda e: e.pop(FIRST), "hippocampus_007.nii.gz: missing"),
        (lambda e: e.update({f"{TASK}/hippocampus_999.nii.gz": b""}), "not expected"),
        (lambda e: e.update({f"{TASK}/._hippocampus_007.nii.gz": b""}), "not expected"),
        (lambda e: e.update({"hippocampus_007.nii.gz": e.pop(FIRST)}), "not expected"),
        (lambda e: e.update({f"{TASK}/../../evil.nii.gz": b""}), "leads out of the archive"),
        (lambda e: e.update({"/etc/evil": b""}), "leads out of the archive"),
        (lambda e: e.update({f"{TASK}\\evil": b""}), "leads out of the archive"),
        (patch("srow_x", "f", 1.5), "header field srow_x"),
        (patch("qoffset_y", "f", -8.001), "header field qoffset_y"),
        (patch("sform_code", "h", 1), "header field sform_code is 1, the input image has 3"),
        (patch("qform_code", "h", 0), "header field qform_code is 0, the input image has 1"),
        (patch("dim", "h", 4), "header field dim is [4, 5, 6, 7, 1, 1, 1, 1], the input image has [3, 5, "),
        (patch("pixdim", "f", -1.0), "header field pixdim"),
        (patch("xyzt_units", "B", 3), "header field xyzt_units"),
        (patch("descrip", "B", 88), "header field descrip"),
        (patch("scl_slope", "f", 2.0), "voxels are scaled"),
        (patch("datatype", "h", 16), "expected integers"),
        (replace_first(lambda c: c[:-1] + b"\x03"), "got the values [3]"),
        (replace_first(lambda c: c[:-10]), "200 bytes of voxels, expected 210"),
        (replace_first(lambda c: c + b"\0"), "211 bytes of voxels, expected 210"),
        (replace_first(lambda c: c[:100]), "truncated"),
        (replace_first(resaved_float), "expected integers"),
        (replace_first(lambda c: c + bytes(10**7)), "unpacks to more than"),
    ],
)
def test_a_wrong_archive_is_refused(tmp_path: Path, change: Callable, problem: str) -> None:
    predictions, images = make(tmp_path)
    archive = tmp_path / "s.zip"
    write_submission(predictions, images, archive)
    repack(archive, change)
    assert any(problem in found for found in verify_submission(archive, images, LABELS))


def test_zip_tricks_are_refused(tmp_path: Path) -> None:
    predictions, images = make(tmp_path)
    good = tmp_path / "good.zip"
    write_submission(predictions, images, good)
    content = good.read_bytes()

    twice = tmp_path / "twice.zip"
    twice.write_bytes(content)
    with zipfile.ZipFile(twice, "a") as target, pytest.warns(UserWarning, match="Duplicate"):
        target.writestr(FIRST, b"")
    assert any("2 entries of this name" in p for p in verify_submission(twice, images, LABELS))

    link = tmp_path / "link.zip"
    with zipfile.ZipFile(link, "w") as target:
        entry = zipfile.ZipInfo(FIRST)
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        target.writestr(entry, "/etc/passwd")
    assert any("symbolic link" in p for p in verify_submission(link, images, LABELS))

    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr(FIRST, bytes(10**7))
    assert any("more than a label image" in p for p in verify_submission(bomb, images, LABELS))

    broken = tmp_path / "broken.zip"
    place = content.index(b"\x1f\x8b") + 60
    broken.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    assert any("cannot be unpacked" in p for p in verify_submission(broken, images, LABELS))

    broken.write_bytes(content[:500])
    assert "not a readable zip archive" in verify_submission(broken, images, LABELS)[0]
    with pytest.raises(DataError, match="no such file"):
        verify_submission(tmp_path / "none.zip", images, LABELS)


def test_a_damaged_image_is_not_the_archives_fault(tmp_path: Path) -> None:
    predictions, images = make(tmp_path)
    archive = tmp_path / "s.zip"
    write_submission(predictions, images, archive)
    (images / f"{CASES[1]}.nii.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=rf"{CASES[1]}\.nii\.gz"):
        verify_submission(archive, images, LABELS)


def test_all_problems_are_listed(tmp_path: Path) -> None:
    predictions, images = make(tmp_path)
    archive = tmp_path / "s.zip"
    write_submission(predictions, images, archive)

    def change(entries: dict[str, bytes]) -> None:
        patch("toffset", "f", 9)(entries)
        replace_first(lambda c: c[:-1] + b"\x07")(entries)
        del entries[f"{TASK}/{CASES[1]}.nii.gz"]
        entries["readme.txt"] = b""

    repack(archive, change)
    assert len(verify_submission(archive, images, LABELS)) == 4


def test_labels_of_both_kinds_of_dataset_json(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    for labels, expected in (
        ({"0": "background", "1": "Anterior", "2": "Posterior"}, {0, 1, 2}),
        ({"background": 0, "whole": [1, 2], "front": 1, "ignore": 3}, {0, 1, 2}),
    ):
        path.write_text(json.dumps({"labels": labels}))
        assert dataset_labels(path) == expected
    path.write_text("{}")
    with pytest.raises(DataError, match="no readable labels"):
        dataset_labels(path)


def test_command_line(tmp_path: Path) -> None:
    predictions, images = make(tmp_path)
    archive = tmp_path / "s.zip"
    runner, app = CliRunner(), typer.Typer()
    app.command()(submit)
    written = runner.invoke(
        app, [str(predictions), "--images", str(images), "--output", str(archive)], catch_exceptions=False
    )
    assert written.exit_code == 0
    assert "2 cases, verified" in written.stdout
    check = ["--verify", str(archive), "--images", str(images)]
    assert isinstance(runner.invoke(app, check).exception, DataError)  # no dataset.json above the images
    check += ["--dataset-json", str(predictions / "dataset.json")]
    assert runner.invoke(app, check).exit_code == 0
    repack(archive, patch("srow_x", "f", 1.5))
    refused = runner.invoke(app, check)
    assert isinstance(refused.exception, DataError)
    assert "header field srow_x" in refused.stdout
    for wrong in ([], [str(predictions), "--verify", str(archive)], [str(predictions)]):
        assert runner.invoke(app, [*wrong, "--images", str(images)]).exit_code == 2
