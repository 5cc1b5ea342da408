"""When OpenVINO computes a network, and how far it may differ; imports neither OpenVINO nor torch."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from hippo_nnunet.errors import DependencyError, UpstreamError

log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of OpenVINO's logits, relative to the largest logit; ten times the observed one."""

WORTH_VOXELS = 2**20
"""Voxels, times mirrored copies, from which `auto` converts networks: for fewer, conversion takes longer than it saves.
Source: ours, measured with the smallest plan on two CPU cores."""


def is_worth_it(voxels: int | None) -> bool:
    """Tell whether OpenVINO is installed and saves time on so many voxels, times mirrored copies; None for many."""
    return (voxels is None or voxels >= WORTH_VOXELS) and find_spec("openvino") is not None


def require_openvino(other: str) -> None:
    """Check that OpenVINO is installed; `other` is the backend to name as the way out.

    Raises:
        DependencyError: It is not.
    """
    if find_spec("openvino") is None:
        raise DependencyError(
            f"backend openvino is not installed: pip install 'openvino>=2025.0', or --backend {other}"
        )


def disagreement(expected: npt.NDArray[np.float32], found: npt.NDArray[np.float32], other: str) -> str | None:
    """Return what is wrong with OpenVINO's logits in comparison with another backend's; None for nothing."""
    largest, difference = float(np.abs(expected).max()), float(np.abs(found - expected).max())
    if difference <= TOLERANCE * max(1.0, largest):  # also false for NaN
        return None
    return f"its logits differ from {other}'s by {difference:.3g}, and the largest is {largest:.3g}"


def leave_out(backend: str, problem: str, other: str) -> None:
    """Say that another backend computes in OpenVINO's place.

    Raises:
        UpstreamError: `backend` is `openvino`, so nothing may take its place.
    """
    if backend == "openvino":
        raise UpstreamError(f"backend openvino: {problem}; predict with --backend {other}")
    log.warning("OpenVINO is not used: %s; using %s instead", problem, other)
