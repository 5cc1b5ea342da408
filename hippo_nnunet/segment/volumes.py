"""Volumes of segmented scans, with intervals and flags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hippo_nnunet.data.description import TOTAL
from hippo_nnunet.evaluation.case_volumes import flags_in_words, judge
from hippo_nnunet.evaluation.known_images import Floats, KnownImages
from hippo_nnunet.evaluation.segmentation_shape import Segmentation, measure_labels
from hippo_nnunet.evaluation.volume_calibration import VolumeCalibration
from hippo_nnunet.segment.boxes import SIDES
from hippo_nnunet.segment.tables import COLUMNS

BOTH = "both"
"""Side of the row with the sum of both sides."""
LARGEST_ASYMMETRY = 25.0
"""Percent beyond which a difference between the sides is flagged."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """What volumes and images are compared with.

    Attributes:
        calibration: Intervals and limits of each label.
        known: What the model knows of its images; None: nothing is compared.
    """

    calibration: VolumeCalibration
    known: KnownImages | None = None

    def image_flags(self, box: Floats) -> tuple[str, ...]:
        """Return what is suspicious about a box, (z, y, x) of 1 mm voxels: see `known_images.FLAGS`."""
        return () if self.known is None else tuple(one.flag for one in self.known.check_content(box))

    def side(self, side: str, segmentation: Segmentation) -> tuple[list[Row], list[str]]:
        """Measure one hippocampus.

        Args:
            side: `left`, `right`, or empty where it is not known.
            segmentation: On the model's grid, or a crop's own one; its case is the scan's name.

        Returns:
            Rows of the table, without `mask_mm3`; and reasons to look, in words.
        """
        judged = judge(pd.DataFrame(measure_labels(segmentation, self.calibration.labels)), self.calibration)
        judged["flags"] = (judged["flags"] + " " + " ".join(segmentation.image_flags)).str.strip()
        rows = [
            {"scan": segmentation.case, "side": side, **{name: row[name] for name in COLUMNS if name in row}}
            for row in judged.to_dict("records")
        ]
        for row in rows:
            row["label"] = str(row["label"]).lower()
        words = flags_in_words(judged)
        return rows, [f"{side}: {word}" if side else word for word in words]


def both_sides(scan: str, rows: Sequence[Row], intracranial_mm3: float | None) -> tuple[Row, list[str]]:
    """Return the row of both sides together, and reasons to look at the difference.

    The asymmetry index is 100 (left - right) / mean of both, in percent of the totals. There is no interval: errors of
    the two sides of one head go together, in a way that the calibration does not know.
    """
    of_sides = [[row for row in rows if row["side"] == side] for side in SIDES]
    wholes = [next((row for row in own if row["label"] == TOTAL), own[0]) for own in of_sides]  # one label: no total
    left, right = (float(row["volume_mm3"]) for row in wholes)
    asymmetry = 100 * (left - right) / ((left + right) / 2) if left + right > 0 else math.nan
    row: Row = {"scan": scan, "side": BOTH, "label": TOTAL, "volume_mm3": left + right, "flags": ""}
    row |= {"asymmetry_percent": asymmetry, "mask_mm3": sum(row["mask_mm3"] for row in wholes)}
    if intracranial_mm3 is not None:
        row |= of_intracranial(left + right, intracranial_mm3)
    words = []
    if not abs(asymmetry) <= LARGEST_ASYMMETRY:
        words.append(f"left and right differ by {abs(asymmetry):.0f} % of their mean")
        row["flags"] = "asymmetry"
    return row, words


def of_intracranial(volume_mm3: float, intracranial_mm3: float) -> Row:
    """Return the columns that compare a volume with the intracranial volume."""
    return {"intracranial_mm3": intracranial_mm3, "intracranial_percent": 100 * volume_mm3 / intracranial_mm3}
