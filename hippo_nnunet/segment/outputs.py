"""Files of a segmented scan: label map, probabilities, and a JSON file that is written last, so it marks completion."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from hippo_nnunet import __version__
from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.errors import DataError, DependencyError
from hippo_nnunet.files import write_json, write_text
from hippo_nnunet.nnunet.paths import folder_problem
from hippo_nnunet.outputs import first_line, missing_parents, output_file, remove_empty, writing
from hippo_nnunet.segment.inputs import Input

log = logging.getLogger(__name__)

DESCRIPTION = "desc-hippocampus"
FORMAT = "hippo_nnunet segmented scan"
_LOOKUP_HEADER = "index\tname\tcolor"
_PLACE = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z"),
)
"""Fields of a header that say where voxels lie, beside pixdim."""
_COLOURS = ("#1b9e77", "#d95f02", "#66c2a5", "#fc8d62", "#7570b3", "#e7298a", "#a6761d", "#666666")


@dataclass(frozen=True)
class ScanFiles:
    """Where a scan's files go.

    Attributes:
        output: The output folder.
        scan: The scan.
    """

    output: Path
    scan: Input

    def _path(self, suffix: str) -> Path:
        return self.output / self.scan.folder / f"{self.scan.name}_{DESCRIPTION}_{suffix}"

    @property
    def labels(self) -> Path:
        """The label map."""
        return self._path("dseg.nii.gz")

    @property
    def record(self) -> Path:
        """What was measured, written last."""
        return self._path("dseg.json")

    @property
    def lookup(self) -> Path:
        """Names of the label map's values."""
        return self._path("dseg.tsv")

    @property
    def probabilities(self) -> Path:
        """Probability of each label, 4D."""
        return self._path("probseg.nii.gz")

    @property
    def of_probabilities(self) -> Path:
        """Names of the probability maps."""
        return self._path("probseg.json")


def check_output(output: Path, scans: Sequence[Input]) -> None:
    """Refuse an output folder that cannot be written to, or in which the scans themselves lie.

    Raises:
        DataError: Says which.
    """
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file: choose a folder")
    inside = [one.path for one in scans if one.path.resolve().parent == (output / one.folder).resolve()]
    if inside:
        raise DataError(f"{output} is where {inside[0].name} lies: choose another folder for the results")
    created = missing_parents(output / "file")
    problem = folder_problem(output)
    remove_empty(created)
    if problem:
        raise DataError(f"{output}: cannot write there ({problem}): make room, or choose another folder")


def finished(files: ScanFiles, asked: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the record of a scan that was segmented before; None if it was not, not to the end, or is damaged.

    Args:
        files: The scan's files.
        asked: What must be equal for the result to be the same: see `run`; None: no result is to be kept.

    Raises:
        DataError: Something else is in the place of the files, or they were made from another scan, by another model,
            or in another way.
    """
    if not files.record.exists():
        if files.labels.exists():
            _check_begun(files)
        return None
    try:
        record = json.loads(files.record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if asked is None:
            return None
        raise DataError(f"{files.record}: cannot be read ({error}): delete it, or give --overwrite") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"{files.record}: is not a file of segment: choose another output folder")
    if asked is None or not files.labels.exists():
        return None
    other = [name for name, value in asked.items() if record.get("made_from", {}).get(name) != value]
    if other:
        raise DataError(
            f"{files.labels}: was made with another {', '.join(other)}: give --overwrite to replace it, or choose "
            "another output folder"
        )
    for path in (files.labels, files.probabilities) if asked["probabilities"] else (files.labels,):
        if not path.exists():
            return None
        try:
            open_image(path)
        except FoundProblem as error:
            log.warning("%s: the scan is segmented again", error)
            return None
    if record.get("version") != __version__:
        text = "%s is kept, as version %s of this program made it: --overwrite makes it again with %s"
        log.warning(text, files.labels, record.get("version"), __version__)
    return record


def _check_begun(files: ScanFiles) -> None:
    """Refuse to replace a label map without record, unless our look-up table, written before it, is beside it."""
    try:
        ours = first_line(files.lookup) == _LOOKUP_HEADER
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise DataError(f"{files.labels}: exists already and is not a file of segment: choose another output folder")


def save_map(path: Path, voxels: npt.NDArray[Any], header: nib.Nifti1Header, affine: npt.NDArray[np.float64]) -> None:
    """Write a map on a scan's own grid.

    Args:
        path: `.nii.gz`.
        voxels: In the axis order of the file, 3D or 4D, uint8 or float32.
        header: The scan's, for its qform, sform and units.
        affine: The scan's, for a header without orientation.

    Raises:
        DataError: It cannot be written.
    """
    image = nib.Nifti1Image(voxels, None, dtype=voxels.dtype)
    for name in (*_PLACE, "xyzt_units"):
        image.header[name] = header[name]
    image.header["pixdim"][:4] = header["pixdim"][:4]
    if not header["qform_code"] and not header["sform_code"]:
        image.header.set_sform(affine, 1)
    with output_file(path) as temporary:
        nib.save(image, temporary)


def save_record(files: ScanFiles, record: Mapping[str, Any]) -> None:
    """Write the record.

    Raises:
        DataError: It cannot be written.
    """
    with writing(files.record):
        write_json(files.record, {"format": FORMAT, **record})


def save_probability_names(files: ScanFiles, names: Sequence[str]) -> None:
    """Name the maps of a 4D file, as BIDS derivatives do.

    Raises:
        DataError: It cannot be written.
    """
    with writing(files.of_probabilities):
        write_json(files.of_probabilities, {"LabelMap": list(names)})


def save_lookup(files: ScanFiles, names: Sequence[str]) -> None:
    """Write the look-up table of a label map, as BIDS derivatives do: index, name and colour.

    Raises:
        DataError: It cannot be written.
    """
    rows = [f"{number}\t{name}\t{_COLOURS[(number - 1) % len(_COLOURS)]}" for number, name in enumerate(names, 1)]
    with writing(files.lookup):
        write_text(files.lookup, "\n".join([_LOOKUP_HEADER, *rows]) + "\n")


def save_bids_description(output: Path) -> None:
    """Write the `dataset_description.json` of a BIDS derivative, unless there is one.

    Raises:
        DataError: It cannot be written.
    """
    path = output / "dataset_description.json"
    content = {
        "Name": "hippocampus segmentation",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "hippo_nnunet", "Version": __version__}],
    }
    if not path.exists():
        with writing(path):
            write_json(path, content)


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or what it was raised from, is a full disk or an exceeded quota."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def full_disk(output: Path, done: int, total: int) -> DependencyError:
    """Return the error that stops a run on a full disk."""
    return DependencyError(
        f"{output}: the disk is full after {done} of {total} scans, which are complete: make room, and start the same "
        "command again; it goes on with the others"
    )
