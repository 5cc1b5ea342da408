"""One scan among many: whether a model can predict it, and a failure that does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hippo_nnunet.data.cases import CheckedCase, InputCase, check_images
from hippo_nnunet.data.layout import AXIS_CODES
from hippo_nnunet.data.resampling import resampled_shape, resampling_problem
from hippo_nnunet.errors import DataError, HippoError
from hippo_nnunet.memory import is_out_of_memory, memory_error
from hippo_nnunet.progress import tracked

if TYPE_CHECKING:
    from hippo_nnunet.inference.members import Member

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_MOST_NAMED = 5


class Attempts:
    """Runs one step of a scan after another, and keeps the reason where one fails.

    Args:
        scans: Number of scans; the failure of an only one is not logged, because it ends the command.
        fatal: Tells whether an error would stop all others, too, and is raised.

    Attributes:
        scans: The same.
        reasons: Case to the reason of its failure.
    """

    def __init__(self, scans: int, fatal: Callable[[BaseException], bool] = lambda _: False) -> None:
        self.reasons: dict[str, str] = {}
        self.scans = scans
        self._fatal = fatal

    def run(self, case: InputCase, step: Callable[[], Result]) -> Result | None:
        """Return the step's result; None if it raised an exception."""
        try:
            return step()
        except Exception as error:  # nnU-Net, torch and scipy raise various exceptions for an unusual image
            if self._fatal(error):
                raise
            log.debug("case %s", case.case, exc_info=True)
            if isinstance(error, HippoError):
                reason = str(error)
            elif is_out_of_memory(error):
                reason = str(memory_error(str(case.files[0])))
            else:
                text = f"{type(error).__name__}: {' '.join(str(error).split())}"
                reason = f"{case.files[0]}: cannot be predicted ({text})"
        self.reasons[case.case] = reason
        if self.scans > 1:
            log.warning("case %s is left out: %s", case.case, reason)
        return None


class FailedScans(DataError):  # noqa: N818 - it carries what was written
    """Some scans failed; the files of all others are written.

    Args:
        attempts: What was attempted.
        written: The files written.

    Attributes:
        written: The same.
        reasons: Case to the reason of its failure.
    """

    def __init__(self, attempts: Attempts, written: Sequence[Path] = ()) -> None:
        self.written = list(written)
        self.reasons = reasons = dict(attempts.reasons)
        total = attempts.scans
        text = "; ".join(list(reasons.values())[:_MOST_NAMED])
        if len(reasons) > _MOST_NAMED:
            text += f"; and {len(reasons) - _MOST_NAMED} more: see the warnings above"
        if total > 1:
            done = total - len(reasons)
            others = f"; the other {done} are done" if done else ""
            text = f"{len(reasons)} of {total} scans failed: {text}{others}"
        super().__init__(text)


def check_scans(cases: Sequence[InputCase], member: Member) -> tuple[Attempts, list[CheckedCase]]:
    """Read and check every scan; see `check_images`. Logs scans with unusual axes.

    Args:
        cases: The scans.
        member: A model that predicts them.

    Returns:
        The attempts, and the scans that passed.

    Raises:
        FailedScans: None passed.
    """
    attempts = Attempts(len(cases))
    reader = member.plans["image_reader_writer"]
    steps = tracked(cases, "checking")
    checked = [done for case in steps if (done := attempts.run(case, partial(check_images, case, reader)))]
    if not checked:
        raise FailedScans(attempts)
    warn_of_axes(checked, member)
    return attempts, checked


def check_size(checked: CheckedCase, plans: Mapping[str, Any], spacing_mm: Sequence[float], heads: int) -> int:
    """Compute the size of a scan on the model's grid, and refuse one that vanishes or does not fit into the memory.

    Args:
        checked: The scan.
        plans: Content of plans.json.
        spacing_mm: The configuration's, two numbers for slices, else three.
        heads: Number of the network's outputs.

    Returns:
        Voxels of the scan or of the preprocessed image, whichever are more.

    Raises:
        DataError: Names file, voxel size and resulting shape.
    """
    axes = list(plans["transpose_forward"])
    if plans["image_reader_writer"].endswith("WithReorient"):
        axes = [_canonical_axes(checked.axis_codes)[axis] for axis in axes]
    target = [*(checked.spacing_mm[axis] for axis in axes[: 3 - len(spacing_mm)]), *spacing_mm]  # 2d keeps the slices
    target_mm = [target[axes.index(axis)] for axis in (2, 1, 0)]
    shape, found_mm = checked.nonzero_shape[::-1], checked.spacing_mm[::-1]
    maps = len(checked.case.files) + 2 * heads + 1
    problem = resampling_problem(shape, found_mm, target_mm, maps, "the model's")
    if problem:
        remedy = "correct the voxel size if it is wrong, else crop the scan, or use another model or more memory"
        raise DataError(f"{checked.case.files[0]}: {problem}: {remedy}")
    return max(prod(resampled_shape(shape, found_mm, target_mm)), checked.voxels)


def warn_of_axes(checked: Iterable[CheckedCase], member: Member) -> None:
    """Log which scans have axes that no training image of the model had, if those are known; nothing else changes.

    Args:
        checked: The scans.
        member: The model.
    """
    known = member.dataset_json.get(AXIS_CODES)
    if not isinstance(known, Mapping) or not known or member.plans["image_reader_writer"].endswith("WithReorient"):
        return
    odd: dict[str, list[str]] = {}
    for one in checked:
        if one.axis_codes not in known:
            odd.setdefault(one.axis_codes, []).append(one.case.case)
    for codes, cases in odd.items():
        log.warning(
            "%d scans have the axes %s (%s), but the training images %s: nnU-Net takes voxels as they are stored; "
            "reorient these scans, for example with nibabel.as_closest_canonical",
            *(len(cases), codes, ", ".join(cases[:3]) + (", ..." if len(cases) > 3 else "")),
            ", ".join(sorted(map(str, known))),
        )


def _canonical_axes(codes: str) -> list[int]:
    """Return the axes (z, y, x) of a file in the order in which a reader that reorients to RAS returns them."""
    return [2 - next(axis for axis, code in enumerate(codes) if code in pair) for pair in ("IS", "PA", "LR")]
