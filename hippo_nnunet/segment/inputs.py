"""Scans to segment: files, folders of scans, and BIDS datasets; each gets a name and a place in the output."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.data.layout import ENDINGS, IMAGE_ENDINGS
from hippo_nnunet.errors import DataError

log = logging.getLogger(__name__)

_BIDS_T1 = "anat/*_T1w.nii*"
_OURS = re.compile(r".*_(dseg|probseg)\.nii(\.gz)?")
"""Files of ours, or of other programs, that are no scans, in a folder of scans."""
_SUBJECT, _SESSION = re.compile(r"sub-[A-Za-z0-9]+"), re.compile(r"ses-[A-Za-z0-9]+")
_DICOM_AT, _DICOM = 128, b"DICM"


@dataclass(frozen=True)
class Input:
    """A scan to segment.

    Attributes:
        path: Its file.
        name: Unique among the scans of a call.
        folder: Where its files go below the output folder; `.` outside of BIDS.
    """

    path: Path
    name: str
    folder: Path = Path()


def find_scans(paths: Sequence[Path]) -> list[Input]:
    """Find the scans.

    Args:
        paths: NIfTI files; folders that hold them; BIDS datasets, or subjects of one, for their `anat/*_T1w` images.

    Returns:
        In order; a file named twice is one scan.

    Raises:
        DataError: A path is missing, a folder has no scan or holds DICOM files, or two scans have the same name.
    """
    found: dict[Path, Input] = {}
    for path in paths:
        if path.is_dir():
            new = _in_folder(path)
        elif path.is_file():
            new = [_file(path)]
        else:
            raise DataError(f"{path}: no such file or folder: name the scans to segment")
        for one in new:
            found.setdefault(Path(os.path.abspath(one.path)), one)  # noqa: PTH100 - links are scans of their own
    if not found:
        raise DataError("no scans: name files, folders or BIDS datasets")
    return _distinct(list(found.values()))


def is_bids(folder: Path) -> bool:
    """Tell whether a folder is a BIDS dataset, or one of its subjects or sessions."""
    name = folder.absolute().name
    if (folder / "dataset_description.json").is_file() or _SUBJECT.fullmatch(name) or _SESSION.fullmatch(name):
        return True
    return any(one.is_dir() and _SUBJECT.fullmatch(one.name) for one in folder.iterdir())


def _in_folder(folder: Path) -> list[Input]:
    try:
        files = sorted(one for one in folder.iterdir() if not one.name.startswith("."))
        bids = is_bids(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}): correct its permissions") from error
    images = [one for one in files if one.name.endswith(ENDINGS) and not _OURS.fullmatch(one.name)]
    others = [one for one in files if one.name.lower().endswith(IMAGE_ENDINGS) and not one.name.endswith(ENDINGS)]
    if bids:
        if images:
            log.warning("%d images in %s are left out, as it is a BIDS dataset: name them", len(images), folder)
        return _in_bids(folder)
    if not images:
        if dicom := next((one for one in files if is_dicom(one)), None):
            raise _dicom(folder, dicom)
        inside = [one.name for one in files if one.is_dir()]
        raise DataError(
            f"{folder}: no scan (.nii.gz or .nii) in this folder: name the folder of scans"
            + (f", such as {folder / inside[0]}" if inside else "")
        )
    if others:
        log.warning("%d images in %s are left out, first %s: save them as .nii.gz", len(others), folder, others[0].name)
    return [_file(one) for one in images]


def _in_bids(folder: Path) -> list[Input]:
    """Return the T1 images of raw data, not of derivatives inside of it."""
    found = [
        path
        for start in ("", "ses-*/", "sub-*/", "sub-*/ses-*/")
        for path in folder.glob(start + _BIDS_T1)
        if path.name.endswith(ENDINGS) and not path.name.startswith(".")
    ]
    if not found:
        raise DataError(
            f"{folder}: a BIDS dataset without T1 images (sub-*/[ses-*/]anat/*_T1w.nii.gz): name the scans themselves"
        )
    return [Input(path, _stem(path).removesuffix("_T1w"), _bids_folder(path)) for path in sorted(found)]


def _bids_folder(path: Path) -> Path:
    """Return the folder of the same subject and session below another root."""
    parts = path.absolute().parent.parts
    start = max((number for number, part in enumerate(parts) if _SUBJECT.fullmatch(part)), default=len(parts) - 1)
    return Path(*parts[start:])


def _file(path: Path) -> Input:
    if not path.name.endswith(ENDINGS):
        if is_dicom(path):
            raise _dicom(path.parent, path)
        raise DataError(f"{path}: not a NIfTI image by its name: expected {' or '.join(ENDINGS)}")
    name = _stem(path).removesuffix("_T1w")
    if not name or name.startswith("."):
        raise DataError(f"{path}: the scan has no name before its ending, or a hidden one: rename it")
    return Input(path, name)


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, by its content."""
    try:
        with path.open("rb") as stream:
            stream.seek(_DICOM_AT)
            return stream.read(4) == _DICOM
    except OSError:
        return False


def _dicom(folder: Path, file: Path) -> DataError:
    return DataError(
        f"{folder}: holds DICOM files ({file.name}), which segment does not read: convert them first, with dcm2niix: "
        f"dcm2niix -z y -o scans {folder}"
    )


def _stem(path: Path) -> str:
    return next(path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending))


def _distinct(scans: list[Input]) -> list[Input]:
    """Add the folder to names that several scans share, such as subject1/T1.nii.gz and subject2/T1.nii.gz."""
    counts = Counter(one.name for one in scans)
    named = [
        Input(one.path, f"{one.path.absolute().parent.name}_{one.name}", one.folder) if counts[one.name] > 1 else one
        for one in scans
    ]
    if again := [name for name, count in Counter(one.name for one in named).items() if count > 1]:
        name = min(again)
        both = [str(one.path) for one in named if one.name == name]
        remedy = "rename one, or segment them into different folders"
        raise DataError(f"{both[0]} and {both[1]} would both be called {name}: {remedy}")
    return named
