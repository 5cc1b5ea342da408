"""Label images read as nnU-Net reads them, and the grids on which they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hippo_nnunet.data.description import nnunet_readers
from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.grid import Grid
from hippo_nnunet.data.layout import ENDINGS
from hippo_nnunet.data.nifti import affine_of_itk, check_sizes
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.errors import DataError, one_line

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter


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
    reasons = []
    for reader_class in nnunet_readers().values():
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
        DataError: The file is missing, truncated, has more than one channel, or has two voxel sizes: see `check_sizes`.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        image = open_image(path) if path.name.endswith(ENDINGS) else None  # SimpleITK fills truncated files with zeros
        array, properties = reader.read_seg(str(path))
        if image is not None:
            check_sizes(image, path, reader=type(reader).__name__)
    except Exception as error:
        reason = error.finding.message if isinstance(error, FoundProblem) else one_line(error)
        raise DataError(
            f"{path}: cannot be read ({reason}): replace the file; "
            "if 'hippo-nnunet run' wrote it, delete it and run again"
        ) from error
    if array.ndim != 4 or array.shape[0] != 1:
        raise DataError(f"{path}: got an array of shape {array.shape}, expected one channel of a 2D or 3D image")
    return array[0], properties


def grid_of(properties: Mapping[str, Any], shape: tuple[int, ...]) -> Grid:
    """Return the grid that nnU-Net's reader found.

    Args:
        properties: See `read_segmentation`; readers of photographs know no position.
        shape: Of the array, (z, y, x).
    """
    affine = np.diag([*properties["spacing"][::-1], 1.0])
    itk, nibabel = properties.get("sitk_stuff", {}), properties.get("nibabel_stuff", {})
    if len(itk.get("spacing", ())) == 3:
        affine = affine_of_itk(itk["spacing"], itk["origin"], itk["direction"])
    elif nibabel:
        affine = np.asarray(nibabel.get("reoriented_affine", nibabel["original_affine"]))
    return Grid(shape[::-1], affine, tuple(np.linalg.norm(affine[:3, :3], axis=0)))
