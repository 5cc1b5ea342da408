"""Open a NIfTI file: whether it is whole, and what else it may be; reads no voxels into memory."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import nibabel as nib
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener

from hippo_nnunet.data.finding import Finding, FoundProblem
from hippo_nnunet.files import is_utf8

AGAIN = "copy or download it again"
"""Remedy for an incomplete file."""

_CHUNK = 1 << 20
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_HEADER_BYTES = {348: "NIfTI-1", 540: "NIfTI-2"}


def open_image(path: Path, case: str | None = None) -> nib.Nifti1Image:
    """Open a NIfTI-1 file and verify that it is as long as its header claims.

    A quaternion that rounding has made too long is normalised, as SimpleITK does; nibabel refuses it.

    Args:
        path: a ``.nii.gz`` or ``.nii`` file.
        case: the case id to name in a problem.

    Returns:
        nibabel's image, voxels not loaded.

    Raises:
        FoundProblem: the file is missing, empty, truncated, damaged, or no NIfTI-1 image, or its name is not UTF-8.
    """

    def problem(code: str, message: str, remedy: str = AGAIN) -> FoundProblem:
        return FoundProblem(Finding(path, case, code, message, remedy))

    if not is_utf8(path):
        raise problem("name", "its name or folder is not UTF-8, which SimpleITK cannot open", "rename it")
    if path.is_dir():
        raise problem("missing-file", "is a folder, not a file", "put the file in its place")
    if not path.is_file():
        raise problem("missing-file", "the file is missing", "add it, or take the case out of the dataset")
    try:
        other = disguise(path)
        if other:
            raise problem("unreadable", *other)
        length = content_length(path)
        image = load_header(path)
    except FoundProblem:
        raise
    except PermissionError as error:
        raise problem("unreadable", f"cannot be read ({error.strerror})", "correct its permissions") from error
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" not in str(error):  # a wrong checksum
            raise problem("unreadable", f"truncated or damaged ({error})") from error
        message = "other bytes follow the gzip data, which is whole"
        raise problem(
            "unreadable", message, "unpack it with gunzip -c, which omits them, and compress it again"
        ) from error
    except (EOFError, zlib.error, OSError) as error:
        raise problem("unreadable", f"truncated or damaged ({error})") from error
    except Exception as error:  # nibabel raises various exceptions for files that are not images
        raise problem("unreadable", f"no NIfTI image ({' '.join(str(error).split())})") from error
    if min(image.shape, default=0) < 1:
        raise problem("not-3d", f"no voxels: shape {image.shape}")
    needed = int(image.dataobj.offset) + math.prod(image.shape) * image.get_data_dtype().itemsize
    if length < needed:
        raise problem("unreadable", f"truncated: {length} bytes of {needed}")
    return image


def content_length(path: Path) -> int:
    """Return the number of bytes of a file, of a `.gz` file when unpacked; raises if that is truncated or damaged."""
    if path.suffix != ".gz":
        return path.stat().st_size
    length = 0
    with gzip.open(path) as stream:
        while chunk := stream.read(_CHUNK):
            length += len(chunk)
    return length


def disguise(path: Path) -> tuple[str, str] | None:
    """Return what a file is, if it is not the NIfTI-1 file that its name promises, and the remedy."""
    compressed = path.suffix == ".gz"
    with path.open("rb") as stream:
        start = stream.read(4)
    if start == _ZIP:
        return "a zip archive, not a NIfTI image", "unpack it"
    if not compressed and start.startswith(_GZIP):
        return "gzip-compressed data under the name of an uncompressed file", f"rename it to {path.name}.gz"
    if compressed and _nifti_version(start):
        return "not compressed, though its name ends in .gz", f"rename it to {path.stem}, or compress it with gzip"
    if compressed and start and not start.startswith(_GZIP):
        return "truncated or damaged: not gzip data", AGAIN
    if compressed:
        with gzip.open(path) as stream:
            start = stream.read(4)
    if _nifti_version(start) == "NIfTI-2":
        return "a NIfTI-2 image, which SimpleITK and thus nnU-Net cannot read", "save it as NIfTI-1"
    return None


def _nifti_version(start: bytes) -> str | None:
    """Name the format by a header's size, its first four bytes in either byte order; None if it is neither."""
    sizes = (int.from_bytes(start, "little"), int.from_bytes(start, "big"))
    return next((_HEADER_BYTES[size] for size in sizes if size in _HEADER_BYTES), None)


def load_header(path: Path) -> nib.Nifti1Image:
    """Return nibabel's image of a NIfTI-1 file with a normalised quaternion; raises nibabel's various exceptions."""
    with ImageOpener(path) as stream:
        header = nib.Nifti1Header.from_fileobj(stream)
    if not bytes(header["magic"]).startswith(b"n+1"):
        raise ValueError("no single-file NIfTI-1 header")
    quaternion = [float(header[f"quatern_{axis}"]) for axis in "bcd"]
    norm = math.hypot(*quaternion)
    if 1 < norm < math.inf:
        for axis, value in zip("bcd", quaternion, strict=True):
            header[f"quatern_{axis}"] = value / norm
    return nib.Nifti1Image(ArrayProxy(path, header), header.get_best_affine(), header)
