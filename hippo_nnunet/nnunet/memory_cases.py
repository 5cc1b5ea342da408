"""Reads nnU-Net's preprocessed cases into memory for `hippo_nnunet.training.memory_data`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import torch

from hippo_nnunet.errors import DataError
from hippo_nnunet.training.memory_data import MemoryCase


def load_cases(dataset: Any, device: torch.device) -> list[MemoryCase]:
    """Load every case of a preprocessed dataset.

    Args:
        dataset: An nnU-Net dataset (`nnUNetBaseDataset`) without segmentations of a previous stage.
        device: Where the tensors shall live.

    Returns:
        The cases in the order of `dataset.identifiers`.

    Raises:
        DataError: A preprocessed file is missing or cannot be read; names the case.
    """
    cases = []
    for key in dataset.identifiers:
        try:
            data, seg, _, properties = dataset.load_case(key)
            image, labels = np.ascontiguousarray(data[:]), np.ascontiguousarray(seg[:])
        except Exception as error:  # blosc2 and numpy raise many kinds for a damaged file
            raise DataError(
                f"preprocessed case '{key}' in {dataset.source_folder} cannot be read ({error}): delete that folder "
                "and run 'hippo-nnunet plan' again"
            ) from error
        locations = {
            name: np.asarray(voxels)[:, 1:] for name, voxels in properties["class_locations"].items() if len(voxels) > 0
        }
        cases.append(
            MemoryCase(
                key,
                torch.from_numpy(image.astype(np.float32, copy=False)).to(device),
                torch.from_numpy(labels[0].astype(np.int16, copy=False)).to(device),
                locations,
            )
        )
    return cases


def memory_shortfall(datasets: Sequence[Any], device: torch.device, share: float = 0.5) -> str | None:
    """Tell whether the cases would fit into memory.

    Args:
        datasets: nnU-Net datasets.
        device: Where the tensors shall live.
        share: Part of the free memory that they may take.

    Returns:
        None where they fit; otherwise a sentence with both figures.
    """
    needed = 0
    for dataset, key in [(d, k) for d in datasets for k in d.identifiers]:
        data, _, _, _ = dataset.load_case(key)
        needed += int(np.prod(data.shape[1:])) * (4 * data.shape[0] + 2)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if needed <= share * free:
        return None
    allowed = share * free
    return f"the cases need {needed / 1e9:.1f} GB, {share:.0%} of the free memory is {allowed / 1e9:.1f} GB"
