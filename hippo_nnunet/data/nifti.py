"""Read one NIfTI volume as nnU-Net does, and refuse what nnU-Net would silently misread.

Every command reads images through `read_volume` and compares grids with `hippo_nnunet.data.grid`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the field's habit

from hippo_nnunet.data.finding import Finding, FoundProblem
from hippo_nnunet.data.grid import TOLERANCE_VOXELS, Grid, shift_mm, sizes_text
from hippo_nnunet.data.layout import NIBABEL, SIMPLE_ITK
from hippo_nnunet.data.nifti_file import AGAIN, load_header, open_image
from hippo_nnunet.errors import one_line
from hippo_nnunet.memory import free_memory, is_out_of_memory

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_UNITS = {1: ("m", 1000.0), 3: ("micron", 0.001)}
"""Spatial units in `xyzt_units` other than mm, in mm; any other code counts as mm."""
_SAME_SIZE = 1e-3
"""Largest relative difference between voxel sizes that count as equal."""


@dataclass(frozen=True)
class Volume:
    """A three-dimensional image or label.

    Args:
        path: its file.
        array: the voxels as nnU-Net's reader reads them; shape (z, y, x).
        is_integer: whether the voxels are whole numbers by type, header scaling included.
        non_finite: number of NaN and infinite voxels in the file, which SimpleITK silently reads as 0.
        affine: voxel-to-world matrix as nnU-Net's reader reads it, shape (4, 4), for voxel indices (x, y, z), in mm,
            RAS+.
        spacing_mm: voxel size (x, y, z) as nnU-Net's reader reads it.
        warnings: what the header leaves open, such as two voxel sizes.
    """

    path: Path
    array: npt.NDArray[np.generic]
    is_integer: bool
    non_finite: int
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, float, float]
    warnings: tuple[Finding, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Size as (x, y, z), in voxels."""
        return self.array.shape[::-1]

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.shape, self.affine, self.spacing_mm)

    @property
    def axis_codes(self) -> str:
        """Direction in which each voxel axis (x, y, z) points most nearly, such as `RAS`."""
        return "".join(map(str, nib.aff2axcodes(self.affine)))


def read_volume(path: Path, case: str | None = None, reader: str = SIMPLE_ITK) -> Volume:
    """Check a NIfTI file's integrity and header, and read it.

    SimpleITK fills a truncated file with uninitialised memory, so the length and, for ``.nii.gz``, gzip's checksum are
    verified here. It reads NaN and infinity as 0, so they are counted with nibabel.

    Args:
        path: a ``.nii.gz`` or ``.nii`` file.
        case: the case id to name in a problem.
        reader: nnU-Net's reader of the dataset or model; NIBABEL also reads sheared axes, and ignores the unit.

    Returns:
        The volume.

    Raises:
        FoundProblem: the file is missing, empty, truncated, damaged, no NIfTI-1 image, not 3D, not real-valued, too
            large for the free memory, refused by the reader, or has no usable affine or two voxel sizes.
    """

    def problem(code: str, message: str, remedy: str) -> FoundProblem:
        return FoundProblem(Finding(path, case, code, message, remedy))

    def too_large(image: nib.Nifti1Image) -> FoundProblem:
        message = f"{image.shape} voxels of type {image.get_data_dtype()} do not fit into the memory"
        message += f", of which {free_memory() / 2**30:.1f} GiB are free"
        return problem("memory", message, "crop it, or use a machine with more memory")

    image = open_image(path, case)
    if len(image.shape) != 3:
        remedy = "split the channels: one 3D file each" if len(image.shape) == 4 else "save it as a 3D image"
        raise problem("not-3d", f"{len(image.shape)}D image of shape {image.shape}, expected 3D", remedy)
    dtype = image.get_data_dtype()
    if dtype.kind not in "iuf":
        raise problem("unreadable", f"voxel type {dtype}, expected real numbers", "save it as int16 or float32")
    with np.errstate(all="ignore"):  # headers may hold extreme numbers
        volume_mm3 = np.linalg.det(image.affine[:3, :3])
    if not np.isfinite(image.affine).all() or not np.isfinite(volume_mm3) or volume_mm3 == 0:
        raise problem("affine", "the affine is not finite or flattens the image", "write a valid affine")
    if 2 * math.prod(image.shape) * dtype.itemsize > free_memory():  # the reader's copy and ours
        raise too_large(image)
    is_integer = dtype.kind in "iu" and (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0)
    try:
        read = _with_nibabel if reader.startswith("Nibabel") else _with_simpleitk
        array, affine, spacing_mm = read(path)
        non_finite = 0 if is_integer else int(np.count_nonzero(~np.isfinite(np.asarray(image.dataobj))))
    except (MemoryError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise too_large(image) from error
        reason = str(error).strip().splitlines()[-1]
        library = "nibabel" if read is _with_nibabel else "SimpleITK"
        remedy = AGAIN
        if "orthonormal" in reason:
            remedy = (
                f'resample it to orthogonal axes, or set "overwrite_image_reader_writer": "{NIBABEL}" in dataset.json'
            )
        raise problem("unreadable", f"{library}, with which nnU-Net reads, refuses it ({reason})", remedy) from error
    if array.shape != image.shape[::-1]:
        message = f"nibabel and SimpleITK read different shapes: {image.shape} and {array.shape[::-1]}"
        raise problem("unreadable", message, AGAIN)
    check_sizes(image, path, case, reader)
    volume = Volume(path, array, is_integer, non_finite, affine, spacing_mm)
    warnings = (Finding(path, case, *found, "warning") for found in _doubts(image, volume, reader))
    return Volume(path, array, is_integer, non_finite, affine, spacing_mm, tuple(warnings))


def check_sizes(image: nib.Nifti1Image, path: Path, case: str | None = None, reader: str = SIMPLE_ITK) -> None:
    """Refuse an image whose voxel sizes in pixdim and sform differ, unless a qform tells SimpleITK which is right.

    Args:
        image: what `open_image` returned.
        path: its file.
        case: the case id to name in the problem.
        reader: nnU-Net's reader; NIBABEL writes the size in the sform, but resamples by that in pixdim.

    Raises:
        FoundProblem: names both sizes.
    """
    sizes = _two_sizes(image.header)
    if sizes and (reader.startswith(NIBABEL) or not image.header["qform_code"]):
        raise FoundProblem(Finding(path, case, "voxel-size", sizes, "write the true size into both"))


def place_difference(path: Path, image: Path) -> str | None:
    """Compare the position of a label image with that of its image, in mm; reads no voxels.

    SimpleITK, nibabel and older versions of both prefer different ones of sform and qform, so any may match.

    Args:
        path: the label image, as `open_image` accepts it.
        image: its image, of the same shape.

    Returns:
        Got and expected position; None if they agree as in `grid_difference`.

    Raises:
        FoundProblem: a file cannot be opened: see `open_image`.
    """
    found, expected = open_image(path), open_image(image)
    wanted = _affines(image, expected)
    for affine in wanted:
        tolerance = TOLERANCE_VOXELS * np.linalg.norm(affine[:3, :3], axis=0).min()
        if any(shift_mm(own, affine, found.shape) <= tolerance for own in _affines(path, found)):
            return None
    units = (
        f"{name}'s header is in {spatial_unit(i.header)[0]}" for name, i in (("its", found), ("the image", expected))
    )
    got, want = (affines[0].round(3).tolist() for affines in (_affines(path, found), wanted))
    return f"got affine {got}, expected {want} as {image}, in mm ({', '.join(units)})"


def check_header(path: Path, reader: str = SIMPLE_ITK) -> str:
    """Refuse an image with two voxel sizes; reads no voxels.

    Args:
        path: the image.
        reader: nnU-Net's reader of it.

    Returns:
        The direction in which each voxel axis (x, y, z) points most nearly, such as `RAS`.

    Raises:
        FoundProblem: it cannot be opened, or see `check_sizes`.
    """
    try:
        image = load_header(path)
        affine = image.affine if reader.startswith(NIBABEL) else _itk_affine(path)
    except Exception as error:  # SimpleITK and nibabel raise various exceptions for a damaged file
        reason = one_line(error)
        raise FoundProblem(Finding(path, None, "unreadable", f"cannot be opened ({reason})", AGAIN)) from error
    check_sizes(image, path, reader=reader)
    return "".join(map(str, nib.aff2axcodes(affine)))


def itk_geometry(path: Path) -> dict[str, tuple[float, ...]]:
    """Return spacing, origin and direction (mm, LPS+, axes x, y, z) as SimpleITK reads them; reads no voxels."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _quiet_itk():
        reader.ReadImageInformation()
    return {"spacing": reader.GetSpacing(), "origin": reader.GetOrigin(), "direction": reader.GetDirection()}


def _itk_affine(path: Path) -> npt.NDArray[np.float64]:
    return affine_of_itk(**itk_geometry(path))


def _affines(path: Path, image: nib.Nifti1Image) -> list[npt.NDArray[np.float64]]:
    """Return the affines that readers find in a header, SimpleITK's first; without it if SimpleITK refuses the file."""
    affines = [image.affine]
    if image.header["qform_code"]:
        affines.append(image.header.get_qform())
    with suppress(RuntimeError):
        affines.insert(0, _itk_affine(path))
    return affines


@contextmanager
def _quiet_itk() -> Iterator[None]:
    """Suppress ITK's warnings on headers, which we report ourselves."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def small_labels(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.unsignedinteger]:
    """Convert labels from 0 to 65535 to uint8, or to uint16 where one is above 255."""
    return labels.astype(np.uint8 if labels.max(initial=0) <= 255 else np.uint16)


def nifti_bytes(array: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> bytes:
    """Return an uncompressed NIfTI-1 file, with the affine in both sform and qform.

    Args:
        array: The voxels; shape (x, y, z).
        affine: Voxel-to-world matrix, shape (4, 4), in mm, RAS+, without shear.
    """
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return bytes(image.to_bytes())


def affine_of_itk(
    spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Return the voxel-to-world matrix, shape (4, 4), in mm, RAS+, of SimpleITK's geometry of a 3D image (mm, LPS+)."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (3, 3)) * np.asarray(spacing)
    affine[:3, 3] = origin
    return _LPS_TO_RAS @ affine


_Read = tuple[npt.NDArray[np.generic], npt.NDArray[np.float64], tuple[float, float, float]]


def _with_simpleitk(path: Path) -> _Read:
    with _quiet_itk():
        image = sitk.ReadImage(str(path))
    affine = affine_of_itk(image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    return sitk.GetArrayFromImage(image), affine, image.GetSpacing()


def _with_nibabel(path: Path) -> _Read:
    image = nib.load(path)
    x, y, z = (float(size) for size in image.header.get_zooms())
    return np.asarray(image.dataobj).T, np.asarray(image.affine, dtype=np.float64), (x, y, z)


def spatial_unit(header: nib.Nifti1Header) -> tuple[str, float]:
    """Return a header's spatial unit and its length in mm."""
    return _UNITS.get(int(header["xyzt_units"]) % 8, ("mm", 1.0))


def _two_sizes(header: nib.Nifti1Header) -> str | None:
    """Describe the voxel sizes of a header whose sform has another one than pixdim."""
    if not header["sform_code"]:
        return None
    in_sform = np.linalg.norm(header.get_sform()[:3, :3], axis=0)
    in_pixdim = np.asarray(header.get_zooms()[:3], dtype=np.float64)
    in_sform = in_sform[: len(in_pixdim)]
    if np.allclose(in_sform, in_pixdim, rtol=_SAME_SIZE, atol=0):
        return None
    unit = spatial_unit(header)[0]
    return (
        f"two voxel sizes: {sizes_text(in_pixdim)} {unit} in pixdim, which counts for nnU-Net, but "
        f"{sizes_text(in_sform)} {unit} in the sform"
    )


def _doubts(image: nib.Nifti1Image, volume: Volume, reader: str) -> Iterator[tuple[str, str, str]]:
    """Yield code, message and remedy of what the header leaves open."""
    unit, in_mm = spatial_unit(image.header)
    size = f"{sizes_text(volume.spacing_mm)} mm"
    if in_mm != 1:
        message = f"the header's unit is {unit}; nnU-Net, with {reader}, reads a voxel size of {size}"
        yield "units", message, "check this size; where it is wrong, correct the header (xyzt_units, pixdim, affine)"
    sizes = _two_sizes(image.header)
    if sizes:
        yield "voxel-size", sizes, "write the true size into both"
    elif not reader.startswith("Nibabel"):
        affine = np.diag([in_mm, in_mm, in_mm, 1.0]) @ image.affine
        shift = shift_mm(affine, volume.affine, volume.shape)
        if shift > TOLERANCE_VOXELS * min(volume.spacing_mm):
            message = (
                f"nibabel and SimpleITK differ by {shift:.4g} mm in its position: qform and sform disagree or are unset"
            )
            yield "orientation", message, "write the correct affine into both, with both codes at least 1"
