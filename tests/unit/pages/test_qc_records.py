"""Records of the QC page: what does not fit together is refused with the scan's name."""

from __future__ import annotations

import numpy as np
import pytest

from hippo_nnunet.errors import DataError
from hippo_nnunet.pages.qc.records import Registration, ScanRecord, Side

IMAGE, LABELS = np.zeros((4, 5, 6)), np.zeros((4, 5, 6), np.uint8)


@pytest.mark.parametrize(
    ("image", "labels", "spacing_mm", "message"),
    [
        (IMAGE, LABELS[:3], (1, 1, 1), r"shape \(4, 5, 6\) and a mask of shape \(3, 5, 6\)"),
        (IMAGE[0], LABELS[0], (1, 1, 1), "three axes"),
        (IMAGE[:0], LABELS[:0], (1, 1, 1), "three axes"),
        (IMAGE, LABELS, (1, 0, 1), "cannot have the size"),
        (IMAGE, LABELS, (1, 1), "cannot have the size"),
        (IMAGE, LABELS, (1, float("nan"), 1), "cannot have the size"),
        (IMAGE, LABELS + 3, (1, 1, 1), r"values \[3\]"),
    ],
)
def test_record_refuses_what_does_not_fit(image, labels, spacing_mm, message):
    with pytest.raises(DataError, match=f"scan S 1: .*{message}"):
        ScanRecord("S 1", ("anterior", "posterior"), [Side(image, labels, spacing_mm)])


def test_record_checks_the_registration():
    with pytest.raises(DataError, match="scan S"):
        ScanRecord("S", registration=Registration(IMAGE, LABELS[1:] > 0, (2, 2, 2)))
