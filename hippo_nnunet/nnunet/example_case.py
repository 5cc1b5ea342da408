"""One case as nnU-Net passes it to the network: from its preprocessed folder, or computed with its functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.exploration_case import LoadedCase
from hippo_nnunet.data.layout import Dataset
from hippo_nnunet.errors import DataError
from hippo_nnunet.files import read_json
from hippo_nnunet.nnunet.case_files import check_cases
from hippo_nnunet.nnunet.paths import FOLDER_VARIABLES
from hippo_nnunet.nnunet.plans import configuration_of, is_plans
from hippo_nnunet.nnunet.preprocessed import stored_cases

_PREFERRED = ("3d_fullres", "3d_lowres", "2d")


@dataclass(frozen=True)
class PreprocessedCase:
    """A case after preprocessing.

    Args:
        channels: shape (channels, z, y, x), float32.
        label: shape (z, y, x); None without reference; negative outside nnU-Net's non-zero mask.
        spacing_mm: voxel size along (x, y, z).
        source: its origin, as text.
    """

    channels: npt.NDArray[np.float32]
    label: npt.NDArray[np.int64] | None
    spacing_mm: tuple[float, ...]
    source: str


def stored_case(dataset: Dataset, case: LoadedCase) -> PreprocessedCase | None:
    """Read a case from nnU-Net's preprocessed folder.

    Searches ``nnUNet_preprocessed``, else beside ``nnUNet_raw``; nnUNetPlans first, and 3d_fullres before 3d_lowres and
    2d.

    Args:
        dataset: a dataset; only nnU-Net's form can be preprocessed.
        case: the case as read from its files.

    Returns:
        The case with its axes in the order of the file, or None if it is not preprocessed.

    Raises:
        DataError: it exists, but cannot be read.
    """
    for folder in _preprocessed_folders(dataset):
        plans_files = [p for p in folder.glob("*.json") if is_plans(read_json(p))]
        for file in sorted(plans_files, key=lambda p: (p.stem != "nnUNetPlans", p.stem)):
            plans = read_json(file)
            names = [*_PREFERRED, *plans["configurations"]]
            for name in dict.fromkeys(name for name in names if name in plans["configurations"]):
                configuration = configuration_of(plans, name)
                data = folder / configuration["data_identifier"]
                if case.id in stored_cases(data):
                    spacing = [float(size) for size in configuration["spacing"]]
                    source = f"nnU-Net's preprocessed data ({file.stem}, {name})"
                    return _load(data, case, plans["transpose_forward"], spacing, source)
    return None


def computed_case(
    case: LoadedCase, normalisations: Sequence[str], within_mask: bool, spacing_mm: Sequence[float]
) -> PreprocessedCase:
    """Crop, normalise and resample a case with nnU-Net's own functions.

    Args:
        case: the case as read from its files.
        normalisations: name of nnU-Net's class for each channel; not CTNormalization, which needs a plan.
        within_mask: normalise within the non-zero mask.
        spacing_mm: target voxel size along (x, y, z).

    Returns:
        The case as preprocessed by the plan of nnU-Net's default planner.

    Source: nnunetv2 2.8.1, ``preprocessing/preprocessors/default_preprocessor.py``.
    """
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
    from nnunetv2.preprocessing.normalization import default_normalization_schemes as schemes
    from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

    data = np.stack([channel.astype(np.float32) for channel in case.channels])
    label = None if case.label is None else case.label[None].copy()
    data, seg, _ = crop_to_nonzero(data, label)
    for index, name in enumerate(normalisations):
        normaliser = getattr(schemes, name)(use_mask_for_norm=within_mask, intensityproperties={})
        data[index] = normaliser.run(data[index], seg[0])
    before, after = tuple(reversed(case.spacing_mm)), tuple(reversed(spacing_mm))
    shape = compute_new_shape(data.shape[1:], before, after)
    steps = ["cropped to non-zero", "normalised"]
    if tuple(shape) != data.shape[1:]:
        kinds = ((data, False, 3), (seg, True, 1))
        data, seg = (
            resample_data_or_seg_to_shape(array, shape, before, after, is_seg, order, 0, None)
            for array, is_seg, order in kinds
        )
        steps.append("resampled")
    return PreprocessedCase(
        channels=data.astype(np.float32),
        label=None if label is None else np.asarray(seg[0], dtype=np.int64),
        spacing_mm=tuple(float(size) for size in spacing_mm),
        source=f"computed here with nnU-Net's functions ({', '.join(steps)}), because there is no preprocessed folder",
    )


def _preprocessed_folders(dataset: Dataset) -> list[Path]:
    if dataset.form != "nnunet":
        return []
    named = os.environ.get(FOLDER_VARIABLES[1])
    root = Path(named) if named else dataset.folder.parent.parent / "nnUNet_preprocessed"
    folder = root / dataset.folder.name
    return [folder] if folder.is_dir() else []


def _load(
    folder: Path, case: LoadedCase, transpose: Sequence[int], spacing: list[float], source: str
) -> PreprocessedCase:
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    check_cases(folder, [case.id])
    try:
        data, seg, _, _ = infer_dataset_class(str(folder))(str(folder)).load_case(case.id)
        channels, label = np.asarray(data[:], dtype=np.float32), np.asarray(seg[:], dtype=np.int64)
    except Exception as error:  # blosc2 and numpy raise various exceptions for a damaged file
        message = f"preprocessed case '{case.id}' in {folder} cannot be read ({' '.join(str(error).split())})"
        raise DataError(f"{message}; delete that folder and preprocess again") from error
    original = tuple(reversed(case.spacing_mm))
    if len(spacing) == 2:  # a 2d configuration keeps the distance between slices
        spacing = [original[transpose[0]], *spacing]
    back = np.argsort(transpose)
    in_file_order = tuple(float(spacing[axis]) for axis in back)
    return PreprocessedCase(
        channels.transpose(0, *(back + 1)), label[0].transpose(*back), tuple(reversed(in_file_order)), source
    )
