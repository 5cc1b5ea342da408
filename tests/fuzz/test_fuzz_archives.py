"""Archives that came from elsewhere: Decathlon tasks as .tar, submissions as .zip."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fuzzing import Fuzz, refusal
from hypothesis import strategies as st
from mutations import changed_bytes, write

from hippo_nnunet.data.archive import open_dataset
from hippo_nnunet.inference.submission import verify_submission, write_submission

pytestmark = pytest.mark.fuzz

LABELS = frozenset({0, 1, 2})


def _task() -> bytes:
    """A small task of two files, in a tar."""
    description = {"modality": {"0": "MRI"}, "labels": {"0": "background"}, "training": [], "numTraining": 0}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in (("Task04_X/dataset.json", json.dumps(description).encode()), ("Task04_X/é", b"x" * 600)):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _with_checksums(content: bytes) -> bytes:
    """Make the checksum of each header right again, so that the damage is read."""
    fixed = bytearray(content)
    for start in range(0, len(fixed) - 511, 512):
        if fixed[start + 257 : start + 262] == b"ustar":
            block = fixed[start : start + 512]
            block[148:156] = b" " * 8
            fixed[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    return bytes(fixed)


def _zipped() -> bytes:
    """The same task in a ZIP."""
    packed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(_task())) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made,
    ):
        for member in source:
            content = source.extractfile(member)
            assert content is not None
            made.writestr(member.name, content.read())
    return packed.getvalue()


def test_tasks(fuzz: Fuzz, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    right, zipped = _task(), _zipped()
    header = changed_bytes(right, within=4096)
    outside = tmp_path / "outside"
    write(outside, "untouched")

    def check(content: bytes) -> None:
        path = write(tmp_path / "task.tar", content)

        def read() -> None:
            with open_dataset(path) as dataset:
                assert not any(found.is_symlink() for found in dataset.folder.parent.rglob("*"))

        refusal(read)
        assert list((tmp_path / "tmp").iterdir()) == []
        assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "task.tar", "tmp"]

    packed = (header.map(gzip.compress), changed_bytes(gzip.compress(right)), changed_bytes(zipped))
    fuzz(check, st.one_of(header, header.map(_with_checksums), header.map(_with_checksums), *packed), 100)


def test_submissions(fuzz: Fuzz, tmp_path: Path) -> None:
    for name, dtype in (("images", np.float32), ("predictions", np.uint8)):
        array = (np.arange(60) % 3).astype(dtype).reshape(3, 4, 5)
        made = nib.Nifti1Image(array, np.eye(4))
        write(tmp_path / name / "a.nii.gz", gzip.compress(made.to_bytes()))
    archive = tmp_path / "a.zip"
    write_submission(tmp_path / "predictions", tmp_path / "images", archive, "Task04_X", labels=LABELS)
    right = archive.read_bytes()
    directory = right.index(b"PK\x01\x02")

    def check(content: bytes) -> None:
        problems: list[str] = []
        write(archive, content)
        refusal(lambda: problems.extend(verify_submission(archive, tmp_path / "images", LABELS, "Task04_X")))
        assert all(len(problem.splitlines()) == 1 for problem in problems), problems

    tail = changed_bytes(right[directory:]).map(lambda end: right[:directory] + end)
    fuzz(check, st.one_of(changed_bytes(right), tail), 100)


def test_a_submission_of_many_zeros(tmp_path: Path) -> None:
    """A member that unpacks to far more than its image is not unpacked whole."""
    made = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4))
    write(tmp_path / "images" / "a.nii.gz", gzip.compress(made.to_bytes()))
    packed = gzip.compress(b"\0" * 2**26)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Task04_X/a.nii.gz", packed)
    (problem,) = verify_submission(tmp_path / "a.zip", tmp_path / "images", LABELS, "Task04_X")
    assert "more than a label image of this shape can take" in problem
