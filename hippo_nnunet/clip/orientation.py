"""Which way the axes of an image point, and how its slices are turned so that CLIP sees them as in radiology figures.

A frozen encoder saw figures and web images, all in the radiological convention: axial slices with anterior on top,
coronal and sagittal ones with superior on top; the patient's right on the image's left, in sagittal slices anterior on
the left. nnU-Net keeps the voxel order of the file, which is often another one. Every encoder of this package, the
bundled `mini` included, gets slices in the radiological convention: encoders must be trained on slices shown by
`slice_view`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec

from hippo_nnunet.networks.guidance import SliceView

CONVENTION = "radiological"
"""Part of an encoder's hash; another name for another convention."""

# Direction of growing rows and columns by the direction across the slice, in letters of nibabel's axis codes.
_SHOWN = {"S": "PL", "I": "PL", "A": "IL", "P": "IL", "R": "IP", "L": "IP"}
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


def axis_directions(properties: Mapping[str, Any], transpose: Sequence[int]) -> str:
    """Return the direction in which each axis of a preprocessed image grows.

    Args:
        properties: nnU-Net's of the image; SimpleITK's direction or nibabel's affine is read.
        transpose: `transpose_forward` of the plans.

    Returns:
        One letter of R, L, A, P, S and I for each axis (z, y, x), the nearest for an oblique image: `SAR` for a NIfTI
        file with a diagonal, positive affine. Empty where the reader records no orientation, as for PNG and TIFF, and
        for images that are 2D themselves.
    """
    affine = _affine(properties)
    if affine is None or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-6:
        return ""
    of_file = nib.aff2axcodes(from_matvec(affine))[::-1]  # nnU-Net's arrays are (z, y, x)
    return "".join(str(of_file[axis]) for axis in transpose)


def slice_view(directions: str, axis: int) -> SliceView:
    """Return how slices across an axis are shown.

    Args:
        directions: Of the image's axes, as `axis_directions` returns them; empty: slices are shown as they are stored.
        axis: The axis across which slices are taken, 0 to 2.
    """
    if not directions:
        return SliceView()
    stored = [letter for number, letter in enumerate(directions) if number != axis]
    wanted = _SHOWN[directions[axis]]
    transposed = stored[0] not in (wanted[0], _OPPOSITE[wanted[0]])
    rows, columns = reversed(stored) if transposed else stored
    return SliceView(transposed, rows != wanted[0], columns != wanted[1])


def common_directions(directions: Sequence[str]) -> tuple[str, int]:
    """Return the most frequent directions, and how many images have others."""
    ((common, count),) = Counter(directions).most_common(1)
    return common, len(directions) - count


def _affine(properties: Mapping[str, Any]) -> np.ndarray | None:
    """Return the 3x3 matrix from voxel axes (x, y, z) to right, anterior and superior; None without one."""
    if "nibabel_stuff" in properties:
        stored = properties["nibabel_stuff"]
        affine = np.asarray(stored.get("reoriented_affine", stored.get("original_affine")), dtype=float)
        return affine[:3, :3] if affine.shape == (4, 4) else None
    direction = np.asarray(properties.get("sitk_stuff", {}).get("direction", ()), dtype=float)
    side = round(direction.size**0.5)
    if side not in (3, 4):
        return None
    # ITK's coordinates grow to the left, posterior and superior.
    return np.diag([-1.0, -1.0, 1.0]) @ direction.reshape(side, side)[:3, :3]
