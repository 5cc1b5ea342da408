"""One scan among many: whether a model can predict it, and a failure that does not stop the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hippo_nnunet.data.cases import CheckedCase, InputCase
from hippo_nnunet.data.grid import sizes_text
from hippo_nnunet.errors import DataError, HippoError
from hippo_nnunet.memory import free_memory

if TYPE_CHECKING:
    from hippo_nnunet.inference.batched_predictor import BatchedPredictor

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_MOST_NAMED = 5
_FLOAT_BYTES = 4


class Attempts:
    """Runs one step of a scan after another, and keeps the reason where one fails.

    Args:
        scans: Number of scans; the failure of an only one is not logged, because it ends the command.

    Attributes:
        scans: The same.
        reasons: Case to the reason of its failure.
    """

    def __init__(self, scans: int) -> None:
        self.reasons: dict[str, str] = {}
        self.scans = scans

    def run(self, case: InputCase, step: Callable[[], Result]) -> Result | None:
        """Return the step's result; None if it raised an exception."""
        try:
            return step()
        except HippoError as error:
            reason = str(error)
        except Exception as error:  # nnU-Net, torch and scipy raise various exceptions for an unusual image
            log.debug("case %s", case.case, exc_info=True)
            reason = f"{case.files[0]}: cannot be predicted ({type(error).__name__}: {' '.join(str(error).split())})"
        self.reasons[case.case] = reason
        if self.scans > 1:
            log.warning("case %s is left out: %s", case.case, reason)
        return None


class FailedScans(DataError):  # noqa: N818 - it carries what was written
    """Some scans failed; the files of all others are written.

    Args:
        attempts: What was attempted.
        written: The files written.
    """

    def __init__(self, attempts: Attempts, written: Sequence[Path] = ()) -> None:
        self.written = list(written)
        reasons, total = attempts.reasons, attempts.scans
        text = "; ".join(list(reasons.values())[:_MOST_NAMED])
        if len(reasons) > _MOST_NAMED:
            text += f"; and {len(reasons) - _MOST_NAMED} more: see the warnings above"
        if total > 1:
            done = total - len(reasons)
            others = f"; the other {done} are done" if done else ""
            text = f"{len(reasons)} of {total} scans failed: {text}{others}"
        super().__init__(text)


def check_size(checked: CheckedCase, predictor: BatchedPredictor) -> int:
    """Compute the size of a scan on the model's grid, and refuse one that vanishes or does not fit into the memory.

    Args:
        checked: The scan.
        predictor: The model.

    Returns:
        Voxels of the preprocessed image.

    Raises:
        DataError: Names file, voxel size and resulting shape.
    """
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

    plans = predictor.plans_manager
    axes = list(plans.transpose_forward)
    if plans.plans["image_reader_writer"].endswith("WithReorient"):
        axes = [_canonical_axes(checked.axis_codes)[axis] for axis in axes]
    spacing, target = [checked.spacing_mm[axis] for axis in axes], list(predictor.configuration_manager.spacing)
    target = [*spacing[: 3 - len(target)], *target]  # a 2d configuration keeps the distance between slices
    shape = compute_new_shape([checked.nonzero_shape[axis] for axis in axes], spacing, target)
    in_file = [axes.index(axis) for axis in (2, 1, 0)]  # to x, y, z
    before, after, wanted = (
        sizes_text(sizes)
        for sizes in (checked.nonzero_shape[::-1], [shape[i] for i in in_file], [target[i] for i in in_file])
    )
    text = (
        f"{checked.case.files[0]}: its voxels of {sizes_text(checked.spacing_mm[::-1])} mm are resampled to the "
        f"model's {wanted} mm, from {before} to {after} voxels"
    )
    remedy = "correct the voxel size if it is wrong"
    if min(shape) < 1:
        raise DataError(f"{text}, so nothing is left: {remedy}, else use a model of finer voxels, or a 2d model")
    voxels = max(prod(int(size) for size in shape), checked.voxels)
    heads = predictor.label_manager.num_segmentation_heads
    needed = _FLOAT_BYTES * voxels * (len(checked.case.files) + 2 * heads + 1)
    if needed > free_memory():
        raise DataError(
            f"{text}, which takes {needed / 2**30:.3g} GiB of memory, and {free_memory() / 2**30:.3g} GiB are free: "
            f"{remedy}, else crop it or use a machine with more memory"
        )
    return voxels


def _canonical_axes(codes: str) -> list[int]:
    """Return the axes (z, y, x) of a file in the order in which a reader that reorients to RAS returns them."""
    return [2 - next(axis for axis, code in enumerate(codes) if code in pair) for pair in ("IS", "PA", "LR")]
