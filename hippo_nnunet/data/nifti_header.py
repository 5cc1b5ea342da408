"""The exact header of an input image, and label images with the same header."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from hippo_nnunet.data.nifti_file import disguise
from hippo_nnunet.errors import DataError

CHANGED_FIELDS = ("datatype", "bitpix", "scl_slope", "scl_inter", "cal_max", "cal_min")
"""Fields that differ between an input image and its label image: storage and display of the voxels."""

_HEADER_BYTES = 348
_LARGEST_OFFSET = 2**26


@dataclass(frozen=True)
class InputHeader:
    """Header of a single-file NIfTI-1 image.

    Attributes:
        path: The image.
        prefix: Everything before the voxels: 348 bytes of header, then the header extensions.
        shape: Voxels along (x, y, z).
    """

    path: Path
    prefix: bytes
    shape: tuple[int, ...]

    def label_bytes(self, labels: np.ndarray) -> bytes:
        """Build the label image, uncompressed.

        Args:
            labels: Array of `shape` with integers from 0 to 65535 of any dtype.

        Returns:
            The bytes of a NIfTI-1 file: this header but for CHANGED_FIELDS, then uint8 (uint16 above 255).
        """
        header = self._header()
        dtype = np.dtype(np.uint8 if labels.max(initial=0) <= 255 else np.uint16).newbyteorder(header.endianness)
        fields = header.structarr
        fields["datatype"] = nibabel.nifti1.data_type_codes[dtype]
        fields["bitpix"] = 8 * dtype.itemsize
        fields["scl_slope"], fields["scl_inter"], fields["cal_max"], fields["cal_min"] = 1, 0, 0, 0
        return header.binaryblock + self.prefix[_HEADER_BYTES:] + labels.astype(dtype).tobytes(order="F")

    def differences(self, content: bytes) -> list[str]:
        """Compare the beginning of a label image with this header.

        Args:
            content: Bytes of a NIfTI-1 file.

        Returns:
            One line for each field (outside CHANGED_FIELDS) that is not bit-equal, and one if extensions differ.
        """
        mine, other = (
            self._header(),
            nibabel.Nifti1Header(content[:_HEADER_BYTES], byte_order(self.prefix), check=False),
        )
        problems = []
        for name, (dtype, offset) in ((n, f[:2]) for n, f in nibabel.Nifti1Header.template_dtype.fields.items()):
            place = slice(offset, offset + dtype.itemsize)
            if name not in CHANGED_FIELDS and self.prefix[place] != content[place]:
                got, expected = other.structarr[name].tolist(), mine.structarr[name].tolist()
                problems.append(f"header field {name} is {got}, the input image has {expected}")
        if not problems and content[_HEADER_BYTES : len(self.prefix)] != self.prefix[_HEADER_BYTES:]:
            problems.append("the header extensions are not those of the input image")
        return problems

    def _header(self) -> nibabel.Nifti1Header:
        return nibabel.Nifti1Header(self.prefix[:_HEADER_BYTES], byte_order(self.prefix), check=False)


def byte_order(header: bytes) -> str:
    """Byte order of a NIfTI-1 header, `<` or `>`, from its size field."""
    return "<" if int.from_bytes(header[:4], "little") == _HEADER_BYTES else ">"


def read_input_header(path: Path) -> InputHeader:
    """Read everything before the voxels of an image.

    Args:
        path: Single-file NIfTI-1 image, `.nii.gz`.

    Returns:
        Its header.

    Raises:
        DataError: The file is not such an image, is truncated, or is not 3D.
    """
    try:
        other = disguise(path)
        if other:
            raise DataError(f"{path}: not a readable .nii.gz image ({other[0]}): {other[1]}")
        with gzip.open(path) as stream:
            block = stream.read(_HEADER_BYTES)
            sizes = [int.from_bytes(block[:4], order) for order in ("little", "big")]
            if len(block) < _HEADER_BYTES or block[344:348] != b"n+1\0" or _HEADER_BYTES not in sizes:
                raise ValueError("no single-file NIfTI-1 header")
            header = nibabel.Nifti1Header(block, byte_order(block), check=False)
            offset = float(header.structarr["vox_offset"])
            if not (_HEADER_BYTES + 4 <= offset <= _LARGEST_OFFSET and offset == int(offset)):
                raise ValueError(f"vox_offset {offset}")
            rest = stream.read(int(offset) - _HEADER_BYTES)
            if len(rest) != int(offset) - _HEADER_BYTES:
                raise ValueError("it ends within the header")
            shape = tuple(int(n) for n in header.get_data_shape())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: not a readable .nii.gz image ({error}): replace the file") from error
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"{path}: got shape {shape}, expected a 3D image: give one channel for each file")
    return InputHeader(path, block + rest, shape)
