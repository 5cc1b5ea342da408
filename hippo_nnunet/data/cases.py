"""Images to predict: found by name, grouped into cases, and checked before a network runs."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.grid import grid_difference
from hippo_nnunet.data.layout import ENDINGS, IMAGE_ENDINGS, SIMPLE_ITK
from hippo_nnunet.data.nifti import Volume, read_volume
from hippo_nnunet.errors import DataError

log = logging.getLogger(__name__)

_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class InputCase:
    """The images of one case.

    Attributes:
        case: Identifier: the file's name without ending and without nnU-Net's channel number.
        files: One image for each channel, in order.
    """

    case: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class CheckedCase:
    """A case whose images can be predicted.

    Attributes:
        case: The case.
        shape: Voxels along (z, y, x).
        nonzero_shape: The same of the bounding box of non-zero voxels, to which nnU-Net crops.
        spacing_mm: Voxel size along (z, y, x).
        axis_codes: Direction of the axes (x, y, z), such as `RAS`.
        lowest: Lowest intensity.
        highest: Highest intensity.
    """

    case: InputCase
    shape: tuple[int, ...]
    nonzero_shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    axis_codes: str
    lowest: float
    highest: float

    @classmethod
    def of(cls, case: InputCase, volumes: Sequence[Volume]) -> CheckedCase:
        """Describe a case whose channels were read."""
        first = volumes[0]
        nonzero = np.any([volume.array != 0 for volume in volumes], axis=0)
        sizes = tuple(part.stop - part.start for part in bounding_box(nonzero))
        lowest = min(float(volume.array.min()) for volume in volumes)
        highest = max(float(volume.array.max()) for volume in volumes)
        return cls(case, first.array.shape, sizes, first.spacing_mm[::-1], first.axis_codes, lowest, highest)

    @property
    def voxels(self) -> int:
        """Number of voxels of one channel."""
        return prod(self.shape)


def bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the part of each axis outside of which a mask, true somewhere, is false."""
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return tuple(box)


def find_cases(inputs: Path | Sequence[Path], channels: int) -> list[InputCase]:
    """Group images into cases by their names; reads no image.

    Args:
        inputs: Folders or files. Names are nnU-Net's (`<case>_0000.nii.gz`, one file for each channel) or, for one
            channel, also the plain `<case>.nii.gz` of the MSD; hidden files in folders are left out.
        channels: Channels that the model takes.

    Returns:
        The cases, sorted.

    Raises:
        DataError: A file or folder is missing or empty, a file's name is not that of a NIfTI file, a case has another
            number of channels, or two files are the same channel of the same case.
    """
    paths = _files([inputs] if isinstance(inputs, Path) else inputs)
    files = {path: next(path.name.removesuffix(e) for e in ENDINGS if path.name.endswith(e)) for path in paths}
    stems = set(files.values())
    found: dict[str, dict[int, Path]] = {}
    for path, stem in files.items():
        case, channel = _case_and_channel(path, stem, stems, channels)
        if channel in found.setdefault(case, {}):
            raise DataError(
                f"{path} and {found[case][channel]} are both channel {channel:04d} of case {case}: remove one"
            )
        found[case][channel] = path
    for case, images in found.items():
        if sorted(images) != list(range(channels)):
            got = ", ".join(f"{channel:04d}" for channel in sorted(images))
            raise DataError(
                f"case {case} in {next(iter(images.values())).parent}: got the channels {got}, but the model takes "
                f"{channels}: give _0000 to _{channels - 1:04d}; if the number is part of the case's name, append _0000"
            )
    return [InputCase(case, tuple(images[c] for c in range(channels))) for case, images in sorted(found.items())]


def check_images(case: InputCase, reader: str = SIMPLE_ITK) -> CheckedCase:
    """Read the images of a case and refuse what nnU-Net would silently misread: see `read_images`."""
    return CheckedCase.of(case, read_images(case, reader))


def read_images(case: InputCase, reader: str = SIMPLE_ITK) -> list[Volume]:
    """Read the images of a case and refuse what nnU-Net would silently misread; log what their headers leave open.

    Args:
        case: The case.
        reader: nnU-Net's reader of the model: see `read_volume`.

    Returns:
        One volume for each channel.

    Raises:
        DataError: An image is refused by `read_volume`, is empty or holds a NaN or an infinite voxel, or the channels
            lie on different grids.
    """
    volumes: list[Volume] = []
    for path in case.files:
        volume = read_volume(path, case.case, reader)
        if volume.non_finite:
            raise DataError(
                f"{path}: {volume.non_finite} voxels are NaN or infinite: replace them by finite intensities"
            )
        if not volume.array.any():
            raise DataError(f"{path}: every voxel is 0: replace the file")
        volumes.append(volume)
        difference = grid_difference(volume.grid, volumes[0].grid, str(volumes[0].path))
        if difference:
            raise DataError(f"{path}: {difference.text}: resample the channels of a case to one grid")
        for warning in volume.warnings:
            log.warning(warning.describe())
    return volumes


def _files(inputs: Iterable[Path]) -> list[Path]:
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            try:
                names = sorted(path.iterdir())
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror}): correct its permissions") from error
            images = [p for p in names if p.name.lower().endswith(IMAGE_ENDINGS) and not p.name.startswith(".")]
            inside = [p for p in images if p.name.endswith(ENDINGS)]
            if not inside:
                raise DataError(f"{path}: no image ({' or '.join(ENDINGS)}) in this folder: name the folder of images")
            if others := [p for p in images if p not in inside]:
                log.warning(
                    "%d images in %s are left out, first %s: save them as .nii.gz", len(others), path, others[0].name
                )
            files += inside
        elif not path.is_file():
            raise DataError(f"{path}: no such file or folder: name the images to predict")
        elif not path.name.endswith(ENDINGS):
            raise DataError(f"{path}: not a NIfTI image by its name: expected {' or '.join(ENDINGS)}")
        elif path.name in ENDINGS:
            raise DataError(f"{path}: the image has no name before its ending: rename it to case{path.name}")
        else:
            files.append(path)
    if not files:
        raise DataError("no images to predict: name a folder or files")
    return list({path.absolute(): path for path in files}.values())


def _case_and_channel(path: Path, stem: str, stems: set[str], channels: int) -> tuple[str, int]:
    """Split a name; a single-channel image's last four digits are part of its case unless `<case>_0000` exists."""
    match = _CHANNEL.fullmatch(stem)
    if match and (channels > 1 or match[2] == "0000" or f"{match[1]}_0000" in stems):
        return match[1], int(match[2])
    if channels > 1:
        raise DataError(
            f"{path}: the model takes {channels} channels, and this name has no channel number: rename it to "
            f"{stem}_0000 and so on"
        )
    return stem, 0
