"""Read one NIfTI volume as nnU-Net does, and refuse what nnU-Net would silently misread."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the field's habit

from hippo_nnunet.data.finding import Finding, FoundProblem

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_CHUNK = 1 << 20
AGAIN = "copy or download it again"
"""Remedy for an incomplete file."""


@dataclass(frozen=True)
class Volume:
    """A three-dimensional image or label.

    Args:
        path: its file.
        array: the voxels as read by SimpleITK and thus nnU-Net; shape (z, y, x).
        is_integer: whether the voxels are whole numbers by type, header scaling included.
        non_finite: number of NaN and infinite voxels in the file, which SimpleITK silently reads as 0.
        affine: nibabel's voxel-to-world matrix, shape (4, 4), for voxel indices (x, y, z), in mm, RAS+.
        itk_affine: the same matrix as SimpleITK reads it from the header, shape (4, 4), in mm, RAS+.
        spacing_mm: SimpleITK's spacing (x, y, z).
    """

    path: Path
    array: npt.NDArray[np.generic]
    is_integer: bool
    non_finite: int
    affine: npt.NDArray[np.float64]
    itk_affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, ...]:
        """Size as (x, y, z), in voxels."""
        return self.array.shape[::-1]


def read_volume(path: Path, case: str | None = None) -> Volume:
    """Check a NIfTI file's integrity and header, and read it.

    SimpleITK fills a truncated file with uninitialised memory, so the length and, for ``.nii.gz``, gzip's checksum are
    verified here. It reads NaN and infinity as 0, so they are counted with nibabel.

    Args:
        path: a ``.nii.gz`` or ``.nii`` file.
        case: the case id to name in a problem.

    Returns:
        The volume.

    Raises:
        FoundProblem: the file is missing, empty, truncated, damaged, no NIfTI image, not 3D, not real-valued, without a
            usable affine, or refused by SimpleITK.
    """

    def problem(code: str, message: str, remedy: str) -> FoundProblem:
        return FoundProblem(Finding(path, case, code, message, remedy))

    image = open_image(path, case)
    if len(image.shape) != 3:
        remedy = "split the channels: one 3D file each" if len(image.shape) == 4 else "save it as a 3D image"
        raise problem("not-3d", f"{len(image.shape)}D image of shape {image.shape}, expected 3D", remedy)
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise problem("unreadable", f"voxel type {dtype}, expected real numbers", "save it as int16 or float32")
    affine = np.asarray(image.affine, dtype=np.float64)
    with np.errstate(all="ignore"):  # headers may hold extreme numbers
        volume_mm3 = np.linalg.det(affine[:3, :3])
    if not np.isfinite(affine).all() or not np.isfinite(volume_mm3) or volume_mm3 == 0:
        raise problem("affine", "the affine is not finite or flattens the image", "write a valid affine")
    try:
        read = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        remedy = "resample it to orthogonal axes" if "orthonormal" in reason else AGAIN
        raise problem("unreadable", f"SimpleITK, with which nnU-Net reads, refuses it ({reason})", remedy) from error
    array = sitk.GetArrayFromImage(read)
    if array.shape != image.shape[::-1]:
        message = f"nibabel and SimpleITK read different shapes: {image.shape} and {array.shape[::-1]}"
        raise problem("unreadable", message, AGAIN)
    is_integer = dtype.kind in "iu" and (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0)
    return Volume(
        path=path,
        array=array,
        is_integer=is_integer,
        non_finite=0 if is_integer else int(np.count_nonzero(~np.isfinite(np.asarray(image.dataobj)))),
        affine=affine,
        itk_affine=_affine_of(read),
        spacing_mm=read.GetSpacing(),
    )


def open_image(path: Path, case: str | None = None) -> nib.Nifti1Image:
    """Open a NIfTI file and verify that it is as long as its header claims.

    Args:
        path: a ``.nii.gz`` or ``.nii`` file.
        case: the case id to name in a problem.

    Returns:
        nibabel's image, voxels not loaded.

    Raises:
        FoundProblem: the file is missing, empty, truncated, damaged, or no NIfTI image.
    """

    def problem(code: str, message: str, remedy: str = AGAIN) -> FoundProblem:
        return FoundProblem(Finding(path, case, code, message, remedy))

    if path.is_dir():
        raise problem("missing-file", "is a folder, not a file", "put the file in its place")
    if not path.is_file():
        raise problem("missing-file", "the file is missing", "add it, or take the case out of the dataset")
    try:
        length = content_length(path)
        image = nib.load(path)
    except PermissionError as error:
        raise problem("unreadable", f"cannot be read ({error.strerror})", "correct its permissions") from error
    except (EOFError, zlib.error, OSError) as error:
        raise problem("unreadable", f"truncated or damaged ({error})") from error
    except Exception as error:  # nibabel raises various exceptions for files that are not images
        raise problem("unreadable", f"no NIfTI image ({' '.join(str(error).split())})") from error
    if not isinstance(image, nib.Nifti1Image):
        raise problem("unreadable", f"a {type(image).__name__}, no NIfTI image", "save it as .nii.gz")
    if min(image.shape, default=0) < 1:
        raise problem("not-3d", f"no voxels: shape {image.shape}")
    needed = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    if length < needed:
        raise problem("unreadable", f"truncated: {length} bytes of {needed}")
    return image


def shift_mm(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """Largest distance, in mm, by which two affines place a corner voxel differently.

    Args:
        first: voxel-to-world matrix, shape (4, 4), mm.
        second: the other one.
        shape: size of the volume as (x, y, z), in voxels.
    """
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, size - 1.0) for size in shape))])
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())


def small_labels(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.unsignedinteger]:
    """Convert labels from 0 to 65535 to uint8, or to uint16 where one is above 255."""
    return labels.astype(np.uint8 if labels.max(initial=0) <= 255 else np.uint16)


def content_length(path: Path) -> int:
    """Return the number of bytes of a file, of a `.gz` file when unpacked; raises if that is truncated or damaged."""
    if path.suffix != ".gz":
        return path.stat().st_size
    length = 0
    with gzip.open(path) as stream:
        while chunk := stream.read(_CHUNK):
            length += len(chunk)
    return length


def _affine_of(image: sitk.Image) -> npt.NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return _LPS_TO_RAS @ affine
