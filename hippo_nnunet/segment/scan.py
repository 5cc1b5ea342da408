"""Read a scan into one frame: closest-to-RAS axis order, and mm around the middle of the image."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel import orientations

from hippo_nnunet.data.finding import Finding, FoundProblem
from hippo_nnunet.data.grid import TOLERANCE_VOXELS, shift_mm, sizes_text
from hippo_nnunet.data.nifti import check_sizes
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.errors import DataError
from hippo_nnunet.memory import free_memory

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

SIZES_MM = (0.2, 6.0)
"""Voxel edges outside of which a header is wrong, or nothing of a hippocampus can be seen."""
_FLOAT_BYTES = 4
_SAME_SIZE = 1e-3
"""Largest relative difference between voxel sizes that count as equal."""


@dataclass(frozen=True)
class Scan:
    """A scan in closest-to-RAS axis order.

    Points are given in mm in the scan's *frame*: axes as the header's affine orients them (x to the right, y to the
    front, z up), origin in the middle of the image. The header's own origin is not used, because it says where the
    scanner's or an atlas's origin lies, not where the head does.

    Attributes:
        path: Its file.
        image: float32 (x, y, z).
        matrix: mm along the frame's axes for each step of one voxel, shape (3, 3).
        stored: How the file's axes are ordered and flipped (nibabel's `io_orientation`).
        stored_shape: Size as the file stores it.
        header: The file's header.
        affine: Voxel-to-world matrix of the axes as stored, mm, RAS+.
        notes: What the header leaves open, in words.
    """

    path: Path
    image: Floats = field(repr=False)
    matrix: Matrix
    stored: npt.NDArray[np.float64]
    stored_shape: tuple[int, ...]
    header: nib.Nifti1Header = field(repr=False)
    affine: Matrix
    notes: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edges along (x, y, z) of `image`."""
        x, y, z = np.linalg.norm(self.matrix, axis=0).tolist()
        return x, y, z

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return abs(float(np.linalg.det(self.matrix)))

    @property
    def origin_mm(self) -> Matrix:
        """The frame's origin in the file's world coordinates, RAS+."""
        return np.asarray((self.affine @ [*((np.array(self.stored_shape) - 1) / 2), 1.0])[:3])

    @property
    def to_frame(self) -> Matrix:
        """Voxel indices (x, y, z) of `image` to mm in the frame, shape (4, 4)."""
        affine = np.eye(4)
        affine[:3, :3] = self.matrix
        affine[:3, 3] = -self.matrix @ ((np.array(self.image.shape) - 1) / 2)
        return affine

    def as_stored(self, canonical: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Return voxels in the axis order of `image` in that of the file."""
        back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), self.stored)
        return np.ascontiguousarray(orientations.apply_orientation(canonical, back))


def read_scan(path: Path, assume_ras: bool = False) -> Scan:
    """Read a 3D NIfTI-1 file; of four dimensions where the last one is 1.

    Args:
        path: `.nii.gz` or `.nii`.
        assume_ras: Take a file whose header gives no orientation as stored in RAS order.

    Raises:
        FoundProblem: The file is damaged or no such image, holds NaN, infinity, nothing but one value, or colours, has
            an impossible voxel size, or no orientation.
    """
    image = open_image(path)

    def problem(code: str, message: str, remedy: str) -> FoundProblem:
        return FoundProblem(Finding(path, None, code, message, remedy))

    shape = image.shape[:3] if image.shape[3:] == (1,) * (len(image.shape) - 3) else image.shape
    if len(shape) != 3:
        remedy = "give one 3D image, such as the T1: fslsplit or nibabel.four_to_three split a file"
        raise problem("not-3d", f"{len(shape)}D image of shape {image.shape}, expected 3D", remedy)
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise problem("unreadable", f"voxel type {dtype}, expected real numbers", "save it as int16 or float32")
    if 3 * _FLOAT_BYTES * np.prod(shape, dtype=float) > free_memory():
        raise problem("memory", f"{shape} voxels do not fit into the free memory", "use a machine with more memory")
    header, affine = image.header, np.asarray(image.affine, np.float64)
    if not header["sform_code"] and not header["qform_code"]:
        if not assume_ras:
            remedy = "correct the header (dcm2niix writes it), or give --assume-ras if you know that x runs to the "
            remedy += "right, y to the front and z up; a wrong guess exchanges left and right"
            raise problem("orientation", "no orientation: sform_code and qform_code are 0", remedy)
        affine = np.diag([*map(float, header.get_zooms()[:3]), 1.0])
    check_sizes(image, path)
    notes, used = _notes(path, header, tuple(shape))
    affine = affine if used is None else used
    _check_affine(path, affine)
    voxels = np.asarray(image.dataobj, np.float32).reshape(shape)
    if not np.isfinite(voxels).all():
        count = int(np.count_nonzero(~np.isfinite(voxels)))
        raise problem("non-finite", f"{count} voxels are NaN or infinite", "replace them by finite intensities")
    if voxels.min() == voxels.max():
        raise problem("empty", f"every voxel is {voxels.flat[0]:g}", "replace the file")
    stored = orientations.io_orientation(affine)
    canonical = np.ascontiguousarray(orientations.apply_orientation(voxels, stored), np.float32)
    to_canonical = affine @ orientations.inv_ornt_aff(stored, shape)
    return Scan(
        path,
        canonical,
        np.round(to_canonical[:3, :3], 5),  # equal for all ways to store one image, whose headers round differently
        stored,
        tuple(shape),
        header,
        affine,
        notes,
    )


def _check_affine(path: Path, affine: Matrix) -> None:
    with np.errstate(all="ignore"):  # headers may hold extreme numbers
        edges = np.linalg.norm(affine[:3, :3], axis=0)
        volume = abs(np.linalg.det(affine[:3, :3]))
        flat = not np.isfinite(affine).all() or not volume > 0.1 * edges.prod()
    if flat:
        raise DataError(f"{path}: the affine is not finite or flattens the image: write a valid affine")
    if edges.min() < SIZES_MM[0] or edges.max() > SIZES_MM[1]:
        raise DataError(
            f"{path}: voxels of {sizes_text(edges)} mm; expected edges of {SIZES_MM[0]:g} to {SIZES_MM[1]:g} mm: "
            "correct the header if it is wrong, or use a scan with smaller voxels"
        )


def _notes(path: Path, header: nib.Nifti1Header, shape: tuple[int, ...]) -> tuple[tuple[str, ...], Matrix | None]:
    """Compare sform and qform.

    Returns:
        What is to be said; and the qform where the sform must not be used, because its voxels have another size than
        pixdim says: a registration to another head has scaled it, and volumes would be scaled too.
    """
    if not header["sform_code"] or not header["qform_code"]:
        return (), None
    sform, qform = header.get_sform(), header.get_qform()
    _check_affine(path, sform)
    shift = shift_mm(sform, qform, shape)
    edges = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (sform, qform)]
    if shift <= TOLERANCE_VOXELS * edges[1].min():
        return (), None
    codes = ["".join(nib.aff2axcodes(affine)) for affine in (sform, qform)]
    text = (
        f"sform ({codes[0]}, code {int(header['sform_code'])}) and qform ({codes[1]}, code "
        f"{int(header['qform_code'])}) disagree by up to {shift:.3g} mm; "
    )
    if np.allclose(edges[0], edges[1], rtol=_SAME_SIZE):
        return (f"{text}the sform is used",), None
    sizes = f"{sizes_text(edges[0])} mm, and pixdim {sizes_text(edges[1])} mm"
    return (f"{text}the qform is used, as the sform has voxels of {sizes}",), np.asarray(qform, np.float64)
