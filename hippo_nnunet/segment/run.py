"""Segment many scans: each is complete on disk before the next one starts, and a repeated start goes on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet import __version__
from hippo_nnunet.data.cases import InputCase
from hippo_nnunet.data.nifti import spatial_unit
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.segmentation_shape import Segmentation
from hippo_nnunet.files import hash_file, json_values
from hippo_nnunet.inference.scans import Attempts, FailedScans
from hippo_nnunet.progress import tracked
from hippo_nnunet.segment.boxes import LEFT, SIDES, Box
from hippo_nnunet.segment.head import SegmentedHead, probability_maps, segment_head
from hippo_nnunet.segment.inputs import Input
from hippo_nnunet.segment.network import BoxModel, SegmentedCrop
from hippo_nnunet.segment.outputs import (
    ScanFiles,
    finished,
    full_disk,
    is_full,
    save_lookup,
    save_map,
    save_probability_names,
    save_record,
)
from hippo_nnunet.segment.roi import boxes_of_masks
from hippo_nnunet.segment.scan import read_scan
from hippo_nnunet.segment.volumes import BOTH, Judge, Row, both_sides, of_intracranial

log = logging.getLogger(__name__)

HEAD, CROP, AUTO = "head", "crop", "auto"
HEAD_MM, CROP_MM = 90.0, 80.0
"""A head's field of view is longer than the first in every direction, a crop's shorter than the second."""


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment.

    Attributes:
        kind: HEAD, CROP, or AUTO: by the field of view.
        rois: Masks of both hippocampi, for one head: see `boxes_of_masks`.
        assume_ras: See `read_scan`.
        probabilities: Also write probability maps of heads.
        intracranial_mm3: Intracranial volume of scans, by name.
        overwrite: Replace what exists of the same scans.
        observe: Called with each scan before it counts as complete.
    """

    kind: str = AUTO
    rois: Sequence[Path] = ()
    assume_ras: bool = False
    probabilities: bool = False
    intracranial_mm3: Mapping[str, float] = field(default_factory=dict)
    overwrite: bool = False
    observe: Callable[[SegmentedScan], None] | None = None


@dataclass(frozen=True)
class SegmentedScan:
    """A scan whose label map is written.

    Attributes:
        source: The scan.
        result: What was found.
        parts: Names of the model's labels.
        rows: Its rows in the table of volumes.
        flags: Reasons to look at it, in words.
    """

    source: Input
    result: SegmentedHead | SegmentedCrop
    parts: tuple[str, ...]
    rows: list[Row]
    flags: list[str]

    @property
    def doubt(self) -> float:
        """The larger one of its sides' doubts; NaN where nothing was found."""
        doubts = [float(row["doubt"]) for row in self.rows if "doubt" in row]
        return float(np.max(doubts)) if doubts else math.nan

    @property
    def names(self) -> list[str]:
        """Names of the label map's values."""
        sides = SIDES if isinstance(self.result, SegmentedHead) else ()
        return [f"{side} {part}" for side in sides for part in self.parts] or list(self.parts)


def segment_scans(
    scans: Sequence[Input], output: Path, model: BoxModel, judge: Judge, options: SegmentOptions | None = None
) -> list[Path]:
    """Segment scans.

    Args:
        scans: See `find_scans`.
        output: Folder of the results: see docs/segment.md.
        model: Segments boxes and crops.
        judge: Judges volumes and images.
        options: How.

    Returns:
        The label maps, those of earlier runs included.

    Raises:
        FailedScans: Some scans failed; all others are done.
        DataError: The output folder cannot be used.
        DependencyError: The disk is full.
    """
    options = options or SegmentOptions()
    attempts = Attempts(len(scans), is_full)
    written: list[Path] = []
    skipped = 0
    for scan in tracked(scans, "segmenting"):
        step = partial(_segment, scan, ScanFiles(output, scan), model, judge, options)
        try:
            done = attempts.run(InputCase(scan.name, (scan.path,)), step)
        except Exception as error:
            raise full_disk(output, len(written), len(scans)) from error
        if done is not None:
            written.append(done[0])
            skipped += done[1]
    if skipped:
        log.info("%d of %d scans were segmented before, and are kept", skipped, len(scans))
    if attempts.reasons:
        raise FailedScans(attempts, written)
    return written


def kind_of(path: Path, kind: str = AUTO) -> str:
    """Return HEAD or CROP; reads no voxels.

    Raises:
        DataError: The file cannot be opened, or its field of view may be either.
    """
    if kind != AUTO:
        return kind
    image = open_image(path)
    in_mm = spatial_unit(image.header)[1]
    size_mm = [in_mm * edge * count for edge, count in zip(image.header.get_zooms()[:3], image.shape[:3], strict=False)]
    if min(size_mm) >= HEAD_MM:
        return HEAD
    if max(size_mm) <= CROP_MM:
        return CROP
    raise DataError(
        f"{path}: a field of view of {' x '.join(f'{mm:.0f}' for mm in size_mm)} mm is neither a head's (at least "
        f"{HEAD_MM:g} mm in each direction) nor that of a crop around a hippocampus (at most {CROP_MM:g} mm): give "
        "--kind head or --kind crop"
    )


def _segment(
    scan: Input, files: ScanFiles, model: BoxModel, judge: Judge, options: SegmentOptions
) -> tuple[Path, bool]:
    """Segment one scan and write its files; returns the label map, and whether it had been made before."""
    kind = kind_of(scan.path, options.kind)
    asked = {
        "scan": hash_file(scan.path),
        "model": hash_file(model.model.path),
        "kind": kind,
        "roi": [hash_file(path) for path in options.rois],
        "probabilities": options.probabilities and kind == HEAD,
        "assume_ras": options.assume_ras,
        "coverage": None if math.isnan(judge.calibration.level) else judge.calibration.level,
    }
    record = finished(files, None if options.overwrite else asked)
    if record is not None:
        _add_intracranial(files, record, options.intracranial_mm3.get(scan.name))
        return files.labels, True
    one = (_head if kind == HEAD else _crop)(scan, files, model, judge, options)
    if options.observe is not None:
        options.observe(one)
    made: dict[str, Any] = {
        "scan": scan.name,
        "source": str(scan.path),
        "version": __version__,
        "made_from": asked,
        "labels": one.names,
        "flags": one.flags,
        "volumes": json_values(one.rows),
    }
    if isinstance(one.result, SegmentedHead) and one.result.registration is not None:
        found = one.result.registration
        made["registration"] = {
            "mni_to_frame": found.matrix.tolist(),
            "similarity": found.similarity,
            "contrast": found.contrast,
            "inside": found.inside,
        }
    save_record(files, made)
    for flag in one.flags:
        log.warning("%s: %s", scan.path, flag)
    return files.labels, False


def _add_intracranial(files: ScanFiles, record: dict[str, Any], intracranial_mm3: float | None) -> None:
    """Add an intracranial volume that is given for a scan that was segmented before."""
    row = record["volumes"][-1]
    if intracranial_mm3 is None or row["side"] != BOTH or row.get("intracranial_mm3") == intracranial_mm3:
        return
    row |= of_intracranial(row["volume_mm3"], intracranial_mm3)
    save_record(files, record)


def _head(scan: Input, files: ScanFiles, model: BoxModel, judge: Judge, options: SegmentOptions) -> SegmentedScan:
    read = read_scan(scan.path, options.assume_ras)
    boxes: Mapping[str, Box] | None = boxes_of_masks(options.rois, read) if options.rois else None
    head = segment_head(read, model, boxes)
    rows: list[Row] = []
    words = [*read.notes, *head.flags]
    counts = np.bincount(head.labels.ravel(), minlength=2 * len(model.parts) + 1) * read.voxel_mm3
    for side, one in head.sides.items():
        first = 0 if side == LEFT else len(model.parts)
        flags = judge.image_flags(one.image.T)
        segmentation = Segmentation(scan.name, one.labels, (1.0, 1.0, 1.0), one.probabilities, image_flags=flags)
        of_side, more = judge.side(side, segmentation)
        for row in of_side:
            label = next(v for n, v in judge.calibration.labels.items() if n.lower() == row["label"])
            row["mask_mm3"] = float(sum(counts[first + value] for value in np.atleast_1d(label)))
        rows += of_side
        words += more
    row, more = both_sides(scan.name, rows, options.intracranial_mm3.get(scan.name))
    codes = {"header": read.notes, "head": head.flags, row["flags"]: more}
    row["flags"] = " ".join(code for code, reasons in codes.items() if reasons)
    names = [f"{side} {part}" for side in SIDES for part in model.parts]
    _remove_earlier(files)
    if options.probabilities:
        maps = probability_maps(head)
        stored = np.stack([read.as_stored(one) for one in np.moveaxis(maps, -1, 0)], -1)
        save_map(files.probabilities, stored, read.header, read.affine)
        save_probability_names(files, names)
    save_lookup(files, names)
    save_map(files.labels, read.as_stored(head.labels).astype(np.uint8), read.header, read.affine)
    return SegmentedScan(scan, head, model.parts, [*rows, row], [*words, *more])


def _crop(scan: Input, files: ScanFiles, model: BoxModel, judge: Judge, options: SegmentOptions) -> SegmentedScan:
    if options.rois:
        raise DataError(f"{scan.path}: --roi is for heads, and this is a crop: leave it out, or give --kind head")
    crop = model.predict_crop(InputCase(scan.name, (scan.path,)), judge.known)
    segmentation = Segmentation(scan.name, crop.labels, crop.spacing_mm, crop.probabilities, image_flags=crop.flags)
    rows, words = judge.side("", segmentation)
    for row in rows:
        row["mask_mm3"] = row["volume_mm3"]
    _remove_earlier(files)
    save_lookup(files, model.parts)
    model.write_crop(crop, files.labels)
    return SegmentedScan(scan, crop, model.parts, rows, words)


def _remove_earlier(files: ScanFiles) -> None:
    """Remove the record, without which an earlier result is not complete, and its probabilities."""
    for file in (files.record, files.probabilities, files.of_probabilities):
        file.unlink(missing_ok=True)
