"""Scans of a QC page on disk: `scans/<file>.png` to look at, `scans/<file>.json` from which the page is made.

Every scan is written by itself, so that a run of hundreds can be interrupted and go on.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hippo_nnunet.errors import DataError
from hippo_nnunet.files import atomic_path, read_object, write_json
from hippo_nnunet.nnunet.paths import folder_problem
from hippo_nnunet.outputs import missing_parents, remove_empty
from hippo_nnunet.pages.qc.montage import montage
from hippo_nnunet.pages.qc.pictures import Cut, Outline, Strip, registration_strip, side_strip
from hippo_nnunet.pages.qc.records import ScanRecord, VolumeRow
from hippo_nnunet.pages.templating import PAGE, is_own_page

SCANS = "scans"
_FORMAT = "hippo_nnunet QC scan 1"
_LONGEST = 120
_REMEDY = "delete it, and segment the scan again to have it back"


@dataclass(frozen=True)
class StoredScan:
    """A scan as it is stored: a `ScanRecord` whose arrays became pictures.

    Attributes:
        name: See `ScanRecord`, also for all others that are not explained here.
        labels: Names of the labels.
        volumes: Rows of the table.
        flags: Reasons to look at it.
        doubt: None: not known.
        level: Coverage of the intervals.
        details: Further facts.
        strips: Its pictures.
        digest: Of all the above: an answer on the page holds for exactly this content.
    """

    name: str
    labels: tuple[str, ...]
    volumes: tuple[VolumeRow, ...]
    flags: tuple[str, ...]
    doubt: float | None
    level: float | None
    details: dict[str, str]
    strips: tuple[Strip, ...]
    digest: str = ""


def check_folder(folder: Path, names: Iterable[str] = (), overwrite: bool = False) -> None:
    """Refuse a folder in which another page would be replaced, or scans that exist, before any work is done.

    Args:
        folder: The page's folder; it need not exist.
        names: Scans that will be written.
        overwrite: Replace scans of the same names.

    Raises:
        DataError: Names what is in the way.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: choose a folder for the QC page")
    if not is_own_page(folder / PAGE):
        raise DataError(f"{folder / PAGE} is no page of hippo_nnunet, so it is not replaced: choose another folder")
    scans = folder / SCANS
    if scans.exists() and not scans.is_dir():
        raise DataError(f"{scans} is a file, where a QC page has a folder: choose another folder, or move it away")
    created = missing_parents(folder / PAGE)
    problem = folder_problem(folder)
    remove_empty(created)
    if problem:
        raise DataError(f"{folder}: cannot write there ({problem}): choose another folder for the QC page")
    taken = [name for name in names if _json(folder, name).exists()]
    if taken and not overwrite:
        more = f" (and {len(taken) - 1} more)" if len(taken) > 1 else ""
        raise DataError(f"{folder} has a QC record of {taken[0]}{more}: choose another folder, or give --overwrite")


def write_scan(folder: Path, record: ScanRecord) -> Path:
    """Write the pictures and the record of one scan, each atomically, the record last; an earlier one is replaced.

    Args:
        folder: The page's folder, which is created.
        record: The scan.

    Returns:
        The JSON file. The PNG file beside it has the same name; a scan without pictures has none.

    Raises:
        DataError: It cannot be written.
    """
    strips = [side_strip(side, len(record.labels)) for side in record.sides]
    if record.registration is not None:
        strips.append(registration_strip(record.registration))
    stored = StoredScan(
        record.name,
        tuple(record.labels),
        tuple(record.volumes),
        tuple(record.flags),
        None if math.isnan(record.doubt) else record.doubt,
        record.level,
        dict(record.details),
        tuple(strips),
    )
    target = _json(folder, record.name)
    picture = target.with_suffix(".png")
    try:
        if strips:
            with atomic_path(picture) as temporary:
                montage(strips).save(temporary, "png")
        else:
            picture.unlink(missing_ok=True)
        content = asdict(stored)
        del content["digest"]
        write_json(target, {"format": _FORMAT, **content}, indent=None)
    except OSError as error:
        raise DataError(f"{target} cannot be written ({error}): make room, or choose another folder") from error
    return target


def read_scans(folder: Path) -> list[StoredScan]:
    """Read all scans of a page, those to look at first in front: largest doubt, an unknown one before all.

    Raises:
        DataError: A file in `scans` is no record of a scan.
    """
    found = (path for path in (folder / SCANS).glob("*.json") if not path.name.startswith("."))
    scans = [_read(path) for path in found]
    return sorted(scans, key=lambda scan: (-math.inf if scan.doubt is None else -scan.doubt, scan.name))


def _json(folder: Path, name: str) -> Path:
    """Return the record's file: the name with every doubtful character as %XX, cut and numbered if it is very long."""
    safe = quote(name, safe=" ", errors="surrogateescape").replace(".", "%2E", name.startswith("."))
    if len(safe) > _LONGEST or not safe:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
        safe = f"{safe[:_LONGEST]}~{digest}"
    return folder / SCANS / f"{safe}.json"


def _read(path: Path) -> StoredScan:
    content = read_object(path, _REMEDY)
    if content.pop("format", None) != _FORMAT:
        raise DataError(f"{path} is no record of a QC page ('{_FORMAT}'): move it away, or delete it")
    try:
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
        return StoredScan(
            str(content["name"]),
            tuple(map(str, content["labels"])),
            tuple(VolumeRow(**row) for row in content["volumes"]),
            tuple(map(str, content["flags"])),
            None if content["doubt"] is None else float(content["doubt"]),
            content["level"],
            {str(name): str(value) for name, value in content["details"].items()},
            tuple(map(_strip, content["strips"])),
            digest,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is a damaged record ({type(error).__name__}: {error}); {_REMEDY}") from error


def _strip(content: dict[str, Any]) -> Strip:
    cuts = [
        Cut(
            **{
                **cut,
                **{name: tuple(cut[name]) for name in ("voxels", "place_mm", "ends")},
                "outlines": tuple(Outline(**outline) for outline in cut["outlines"]),
            }
        )
        for cut in content["cuts"]
    ]
    return Strip(**{**content, "size_mm": tuple(content["size_mm"]), "cuts": tuple(cuts)})
