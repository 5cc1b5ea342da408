"""Label images read as nnU-Net reads them, and whether two of them lie on the same grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hippo_nnunet.data.nifti import content_length
from hippo_nnunet.errors import DataError

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

_GEOMETRY_TOLERANCE_MM = 1e-3


def find_reader(file_ending: str, example: Path, preferred: str | None = None) -> BaseReaderWriter:
    """Find the reader that nnU-Net would take for a file ending: the first that can read the example.

    Args:
        file_ending: As in dataset.json: `.nii.gz`.
        example: A file with that ending.
        preferred: Name of a reader that dataset.json asks for (`overwrite_image_reader_writer`).

    Returns:
        An instance of nnU-Net's reader and writer.

    Raises:
        DataError: No reader of nnU-Net can read it.
    """
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    reasons = []
    for reader_class in LIST_OF_IO_CLASSES:
        asked = preferred in (None, "None", reader_class.__name__)
        if asked and file_ending.lower() in reader_class.supported_file_endings:
            try:
                reader_class().read_seg(str(example))
            except Exception as error:
                reasons.append(f"{reader_class.__name__}: {' '.join(str(error).split())}")
            else:
                return reader_class()
    raise DataError(
        f"{example}: none of nnU-Net's readers for {file_ending} reads it ({'; '.join(reasons) or 'there is none'}): "
        "replace the file"
    )


def read_segmentation(reader: BaseReaderWriter, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a label image with nnU-Net's reader.

    Args:
        reader: One of nnU-Net's readers.
        path: The file.

    Returns:
        The array in the reader's axis order (z, y, x), shape (d, h, w), and the reader's properties (geometry).

    Raises:
        DataError: The file is missing, truncated, or has more than one channel.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        content_length(path)  # raises where a file is truncated: SimpleITK silently reads zeros there
        array, properties = reader.read_seg(str(path))
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read ({' '.join(str(error).split())}): replace the file; "
            "if 'hippo-nnunet run' wrote it, delete it and run again"
        ) from error
    if array.ndim != 4 or array.shape[0] != 1:
        raise DataError(f"{path}: got an array of shape {array.shape}, expected one channel of a 2D or 3D image")
    return array[0], properties


def geometry_difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str | None:
    """Compare the geometry that nnU-Net's readers return: spacing, and SimpleITK's or nibabel's position and axes.

    Args:
        found: Properties of one image: see `read_segmentation`.
        expected: Properties of the image that it should lie on.

    Returns:
        What differs, got and expected; None where they agree.
    """
    for key, value in expected.items():
        if isinstance(value, Mapping):
            problem = geometry_difference(found[key], value)
            if problem:
                return problem
        elif not np.allclose(found[key], value, rtol=1e-4, atol=_GEOMETRY_TOLERANCE_MM):
            return f"got {key} {np.asarray(found[key]).tolist()}, expected {np.asarray(value).tolist()}"
    return None
