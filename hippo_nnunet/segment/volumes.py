"""Volumes of segmented scans, with intervals and flags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.evaluation.case_volumes import flags_in_words, judge
from hippo_nnunet.evaluation.known_images import Floats, KnownImages
from hippo_nnunet.evaluation.segmentation_shape import Segmentation, measure_labels
from hippo_nnunet.evaluation.volume_calibration import TOTAL, VolumeCalibration
from hippo_nnunet.segment.tables import COLUMNS

BOTH = "both"
"""Side of the row with the sum of both sides."""
LARGEST_ASYMMETRY = 25.0
"""Percent beyond which a difference between the sides is flagged."""
_OF_BOX = {
    "side": "looks like a hippocampus of the other side: is the head where the registration says?",
    "orientation": "looks turned: is the orientation in the header right, and the head where the registration says?",
}
"""Words for suspicions about a box that we made."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Judge:
    """What volumes and images are compared with.

    Args:
        calibration: Intervals and limits of each label.
        known: What the model knows of its images; None: nothing is compared.
    """

    calibration: VolumeCalibration
    known: KnownImages | None = None

    def side(self, scan: str, side: str, segmentation: Segmentation, seen: Floats) -> tuple[list[Row], list[str]]:
        """Measure one hippocampus.

        Args:
            scan: Name of the scan.
            side: `left`, `right`, or empty where it is not known.
            segmentation: On the model's grid, or a crop's own one.
            seen: The image as the network sees it, (z, y, x).

        Returns:
            Rows of the table, without `mask_mm3`; and reasons to look, in words.
        """
        measured = measure_labels(segmentation, self.calibration.labels)
        judged = judge(pd.DataFrame(measured), self.calibration)
        words = flags_in_words(judged)
        rows = [
            {"scan": scan, "side": side, **{name: value for name, value in row.items() if name in COLUMNS}}
            for row in judged.to_dict("records")
        ]
        for row in rows:
            row["label"] = str(row["label"]).lower()
        if self.known is not None:
            suspicions = self.known.check_content(seen)
            words += [_OF_BOX.get(one.flag, one.text) if side else one.text for one in suspicions]
            for row in rows:
                row["flags"] = " ".join([*row["flags"].split(), *(one.flag for one in suspicions)])
        return rows, [f"{side}: {word}" if side else word for word in words]


def both_sides(scan: str, rows: Sequence[Row], intracranial_mm3: float | None) -> tuple[Row, list[str]]:
    """Return the row of both sides together, and reasons to look at the difference.

    The asymmetry index is 100 (left - right) / mean of both, in percent of the totals. There is no interval: errors of
    the two sides of one head go together, in a way that the calibration does not know.
    """
    totals = {row["side"]: float(row["volume_mm3"]) for row in rows if row["label"] == TOTAL}
    left, right = totals["left"], totals["right"]
    asymmetry = 100 * (left - right) / ((left + right) / 2) if left + right > 0 else math.nan
    row: Row = {"scan": scan, "side": BOTH, "label": TOTAL, "volume_mm3": left + right, "flags": ""}
    row |= {"asymmetry_percent": asymmetry, "mask_mm3": sum(r["mask_mm3"] for r in rows if r["label"] == TOTAL)}
    if intracranial_mm3 is not None:
        row |= {
            "intracranial_mm3": intracranial_mm3,
            "intracranial_percent": 100 * (left + right) / intracranial_mm3,
        }
    words = []
    if not abs(asymmetry) <= LARGEST_ASYMMETRY:
        words.append(f"left and right differ by {abs(asymmetry):.0f} % of their mean")
        row["flags"] = "asymmetry"
    return row, words


def as_json(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose values JSON holds: plain numbers, NaN as None."""
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
