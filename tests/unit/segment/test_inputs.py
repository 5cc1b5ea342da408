"""Which files are scans, and what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from hippo_nnunet.errors import DataError
from hippo_nnunet.segment.inputs import find_scans


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(found) -> list[tuple[str, str]]:
    return [(one.name, str(one.folder)) for one in found]


def test_files_and_folders(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.nii.gz", "a_T1w.nii", ".hidden.nii", "notes.txt", "b_mask.mgz")))
    touch(tmp_path / "b_desc-hippocampus_dseg.nii.gz", tmp_path / "b_desc-hippocampus_probseg.nii.gz")
    assert names(find_scans([tmp_path, tmp_path / "b.nii.gz"])) == [("a", "."), ("b", ".")]


def test_a_bids_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-a/anat/sub-02_ses-a_run-1_T1w.nii.gz")
    second = "sub-02/ses-a/anat/sub-02_ses-a_run-2_T1w.nii.gz"
    others = ("sub-01/anat/sub-01_T2w.nii.gz", "derivatives/x/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    hidden = "sub-01/anat/._sub-01_T1w.nii.gz"
    touch(*(tmp_path / name for name in (*raw, second, *others, "sub-01/anat/sub-01_T1w.json", hidden)))
    (tmp_path / "dataset_description.json").write_text("{}")
    expected = [
        ("sub-01", "sub-01/anat"),
        ("sub-02_ses-a_run-1", "sub-02/ses-a/anat"),
        ("sub-02_ses-a_run-2", "sub-02/ses-a/anat"),
    ]
    assert names(find_scans([tmp_path])) == expected
    assert names(find_scans([tmp_path / "sub-02"])) == expected[1:]
    assert names(find_scans([tmp_path / "sub-02" / "ses-a"])) == expected[1:]
    monkeypatch.chdir(tmp_path / "sub-02")
    assert names(find_scans([Path()])) == expected[1:]


def test_scans_beside_a_subject_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "a.nii.gz", tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    assert names(find_scans([tmp_path])) == [("sub-01", "sub-01/anat")]
    assert "1 images in" in caplog.text and "left out, as it is a BIDS dataset" in caplog.text


def test_the_innermost_subject_counts(tmp_path: Path) -> None:
    touch(tmp_path / "sub-study" / "data" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    assert names(find_scans([tmp_path / "sub-study" / "data"])) == [("sub-01", "sub-01/anat")]


def test_links_are_scans_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path / "pool" / "key.nii.gz")
    for subject in ("one", "two"):
        (tmp_path / subject).mkdir()
        (tmp_path / subject / "T1.nii.gz").symlink_to(tmp_path / "pool" / "key.nii.gz")
    assert names(find_scans([tmp_path / "one", tmp_path / "two"])) == [("one_T1", "."), ("two_T1", ".")]


def test_equal_names_get_their_folders(tmp_path: Path) -> None:
    touch(tmp_path / "one" / "T1.nii.gz", tmp_path / "two" / "T1.nii.gz")
    assert names(find_scans([tmp_path / "one", tmp_path / "two"])) == [("one_T1", "."), ("two_T1", ".")]


def test_two_scans_that_cannot_be_told_apart(tmp_path: Path) -> None:
    touch(tmp_path / "T1.nii.gz", tmp_path / "T1.nii")
    with pytest.raises(DataError, match=r"T1\.nii.* and .*T1\.nii.* would both be called"):
        find_scans([tmp_path])


def test_dicom_names_the_converter(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM" + bytes(20))
    for path in (tmp_path, tmp_path / "IM0001"):
        with pytest.raises(DataError, match="dcm2niix -z y -o scans"):
            find_scans([path])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.nii.gz", "no such file or folder"),
        (lambda folder: folder, "no scan .* in this folder"),
    ],
)
def test_nothing_to_segment(make, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        find_scans([make(tmp_path)])


def test_other_files(tmp_path: Path) -> None:
    touch(tmp_path / "scan.mgz")
    with pytest.raises(DataError, match="not a NIfTI image by its name"):
        find_scans([tmp_path / "scan.mgz"])
    for name in (".nii.gz", "_T1w.nii.gz", ".T1.nii.gz"):
        touch(tmp_path / name)
        with pytest.raises(DataError, match="no name before its ending, or a hidden one"):
            find_scans([tmp_path / name])
    with pytest.raises(DataError, match="no scans"):
        find_scans([])


def test_a_bids_dataset_without_t1(tmp_path: Path) -> None:
    touch(tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    with pytest.raises(DataError, match="a BIDS dataset without T1 images"):
        find_scans([tmp_path])
