"""When a registration or a box is to be refused, and when a person is to look at it.

The limits lie between what `python -m benchmarks segment` measures on heads, and on images that are no T1 of a human
head: see docs/segment.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from hippo_nnunet.errors import DataError
from hippo_nnunet.segment.registration import Registration

LEAST_SIMILARITY, USUAL_SIMILARITY = 0.5, 0.6
"""Below the first one the image is no T1 of a head or was not found; below the second one somebody should look."""
LEAST_CONTRAST, USUAL_CONTRAST = 0.3, 0.4
"""The same for the contrast within the brain, which is about 0 in another kind of image."""
SCALES = (0.7, 1.2)
"""Brain's lengths over the MNI152's, along principal axes."""
LARGEST_ROTATION_DEGREES = 50.0
LEAST_INSIDE = 0.6
"""Share of brain and rim within the field of view."""
LEAST_BOX_INSIDE = 0.9
"""Share of a box within the field of view."""
FARTHEST_MM = 15.0
"""Distance of a hippocampus from where the registration expects it."""
REMEDY = (
    "if it is a T1 of a head, give --roi MASK with a mask of both hippocampi from another program (aseg, SynthSeg, "
    "hippodeep)"
)


def check_registration(registration: Registration, name: str) -> None:
    """Refuse a registration that failed.

    Args:
        registration: Of a scan.
        name: What messages call the scan.

    Raises:
        DataError: Says what is outside of which limits, and what to do.
    """
    found: list[str] = []
    if registration.similarity < LEAST_SIMILARITY:
        found.append(f"similarity with a T1 of a brain {registration.similarity:.2f}, at least {LEAST_SIMILARITY:g}")
    if registration.contrast < LEAST_CONTRAST:
        found.append(f"contrast within the brain like a T1's {registration.contrast:.2f}, at least {LEAST_CONTRAST:g}")
    if not SCALES[0] <= registration.scales[0] <= registration.scales[2] <= SCALES[1]:
        sizes = " x ".join(f"{scale:.2f}" for scale in registration.scales)
        found.append(f"size {sizes} of the MNI152's brain, each {SCALES[0]:g} to {SCALES[1]:g}")
    if registration.rotation_degrees > LARGEST_ROTATION_DEGREES:
        found.append(
            f"turned by {registration.rotation_degrees:.0f} degrees, at most {LARGEST_ROTATION_DEGREES:.0f}: is the "
            "orientation in the header right?"
        )
    if registration.inside < LEAST_INSIDE:
        found.append(f"{registration.inside:.0%} of the brain in the field of view, at least {LEAST_INSIDE:.0%}")
    if found:
        raise DataError(f"{name}: no brain of a human head in a T1 was found (got {'; '.join(found)}): {REMEDY}")


def check_box(inside: float, side: str, name: str) -> None:
    """Refuse a box that lies outside of the field of view.

    Raises:
        DataError: Names scan and side.
    """
    if inside < LEAST_BOX_INSIDE:
        raise DataError(
            f"{name}: only {inside:.0%} of the box around the {side} hippocampus lies in the field of view, expected "
            f"at least {LEAST_BOX_INSIDE:.0%}: use a scan that shows the whole temporal lobe, or {REMEDY}"
        )


def registration_flags(registration: Registration) -> Sequence[str]:
    """Return reasons to look at a registration that was not refused, in words."""
    flags = []
    if registration.similarity < USUAL_SIMILARITY:
        flags.append(f"registration: similarity {registration.similarity:.2f}, usually above {USUAL_SIMILARITY:g}")
    if registration.contrast < USUAL_CONTRAST:
        flags.append(f"contrast within the brain {registration.contrast:.2f}, usually above {USUAL_CONTRAST:g}")
    if registration.inside < 0.9:
        flags.append(f"registration: {1 - registration.inside:.0%} of the brain is outside of the field of view")
    return flags
