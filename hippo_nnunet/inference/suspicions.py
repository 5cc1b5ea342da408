"""Scans that a model does not know: refused, or predicted with a warning and flags."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.cases import CheckedCase, InputCase
from hippo_nnunet.data.description import Labels
from hippo_nnunet.data.nifti_file import load_header
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.known_images import Floats, KnownImages

log = logging.getLogger(__name__)


class Suspicions:
    """Compares scans with what a model knows; without that, accepts all of them.

    Args:
        known: What the model knows of its images; None: nothing is compared.
        checked: The scans.
    """

    def __init__(self, known: KnownImages | None, checked: Iterable[CheckedCase]) -> None:
        self._known = known
        self._checked = {one.case: one for one in checked}
        self._flags: dict[InputCase, tuple[str, ...]] = {}

    def refuse(self, case: InputCase) -> None:
        """Refuse a scan of which no mask can be right.

        Raises:
            DataError: It is a head, is stored along other axes, or does not vary.
        """
        if self._known is None:
            return
        one = self._checked[case]
        problem = self._known.refusal(one.shape[::-1], one.spacing_mm[::-1], one.axis_codes)
        if problem:
            header = load_header(case.files[0]).header
            if not header["sform_code"] and not header["qform_code"]:
                problem = "no orientation: sform_code and qform_code are 0: correct the header (dcm2niix writes it)"
            raise DataError(f"{case.files[0]}: {problem}")
        if one.lowest == one.highest:
            raise DataError(f"{case.files[0]}: every voxel is {one.lowest:g}: replace the file")

    def look(self, case: InputCase, image: Floats) -> None:
        """Warn of what differs, and keep its flags.

        Args:
            case: The scan.
            image: Its first channel, preprocessed (z, y, x), with the axes of the file.
        """
        if self._known is None:
            return
        one = self._checked[case]
        found = [
            *self._known.check_grid(one.shape[::-1], one.spacing_mm[::-1]),
            *self._known.check_intensities(one.lowest),
            *self._known.check_content(image),
        ]
        for suspicion in found:
            log.warning("%s: %s: %s", case.files[0], suspicion.flag, suspicion.text)
        self._flags[case] = tuple(suspicion.flag for suspicion in found)

    def look_at_labels(self, case: InputCase, segmentation: npt.NDArray[np.unsignedinteger], labels: Labels) -> None:
        """Warn of labels that are missing in a segmentation."""
        if self._known is None:
            return
        missing = sorted({*labels.values} - {0, *np.unique(segmentation).tolist()})
        if missing:
            log.warning(
                "%s: no voxel of label %s was found: look at the image and its mask",
                *(case.files[0], ", ".join(map(str, missing))),
            )

    def flags(self, case: InputCase) -> tuple[str, ...]:
        """Return what was suspicious."""
        return self._flags.get(case, ())
