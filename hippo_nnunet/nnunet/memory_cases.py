"""Reads nnU-Net's preprocessed cases into memory for `hippo_nnunet.training.memory_data`, where they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from hippo_nnunet.errors import DataError, one_line
from hippo_nnunet.memory import free_memory
from hippo_nnunet.training.case_bank import CaseBank, MemoryCase

CPU_SHARE = 0.5
"""Share of the free memory that the cases may take."""

CUDA_SHARE = 0.25
"""The same on a GPU, where the network's feature maps will need most of the memory."""


def load_bank(dataset: Any, device: torch.device, label_dtype: torch.dtype) -> CaseBank:
    """Load every case of a preprocessed dataset.

    Args:
        dataset: An nnU-Net dataset (`nnUNetBaseDataset`) without segmentations of a previous stage.
        device: Device of the tensors.
        label_dtype: Integer type that holds every label and -1.

    Returns:
        The cases in the order of `dataset.identifiers`.

    Raises:
        DataError: A preprocessed file is missing or cannot be read; names the case.
    """
    voxels = sum(int(np.prod(shape[1:])) for shape in shapes(dataset))
    return CaseBank(_read_cases(dataset), voxels, device, label_dtype)


def _read_cases(dataset: Any) -> Iterator[MemoryCase]:
    for key in dataset.identifiers:
        image, labels, properties = read_case(dataset, key)
        locations = {
            name: compact(np.asarray(voxels)[:, 1:], labels.shape[1:])
            for name, voxels in properties["class_locations"].items()
            if len(voxels) > 0
        }
        yield MemoryCase(
            key, torch.from_numpy(image.astype(np.float32, copy=False)), torch.from_numpy(labels[0]), locations
        )


def read_case(dataset: Any, key: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Read a preprocessed case whole.

    Args:
        dataset: An nnU-Net dataset (`nnUNetBaseDataset`).
        key: The case.

    Returns:
        Image and labels, (channel, z, y, x), and nnU-Net's properties.

    Raises:
        DataError: A preprocessed file is missing or cannot be read; names the case.
    """
    try:
        data, seg, _, properties = dataset.load_case(key)
        return np.ascontiguousarray(data[:]), np.ascontiguousarray(seg[:]), properties
    except Exception as error:  # blosc2, numpy and pickle raise various exceptions for a damaged file
        raise _unreadable(dataset, key, error) from error


def shapes(dataset: Any) -> Iterator[tuple[int, ...]]:
    """Yield each case's shape (channel, z, y, x); voxels stay on disk.

    Raises:
        DataError: A preprocessed file is missing or cannot be read; names the case.
    """
    for key in dataset.identifiers:
        try:
            data, _, _, _ = dataset.load_case(key)
        except Exception as error:
            raise _unreadable(dataset, key, error) from error
        yield data.shape


def _unreadable(dataset: Any, key: str, error: Exception) -> DataError:
    reason = one_line(error)
    return DataError(
        f"preprocessed case '{key}' cannot be read ({reason}): delete {dataset.source_folder}, then preprocess again: "
        "'hippo-nnunet plan' does, and 'hippo-nnunet run' by itself"
    )


def compact(voxels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return voxel indices (n, 3) in the smallest of int16 and int32 that holds every index of a shape.

    nnU-Net keeps up to 10000 voxels of every class and case as int64.
    """
    return voxels.astype(np.int16 if max(shape) <= np.iinfo(np.int16).max else np.int32)


def memory_shortfall(datasets: Sequence[Any], device: torch.device, label_bytes: int) -> str | None:
    """Check whether the cases fit into memory.

    Args:
        datasets: nnU-Net datasets.
        device: Device of the tensors.
        label_bytes: Bytes of a label.

    Returns:
        None where they fit; otherwise a sentence with both figures.

    Raises:
        DataError: A preprocessed file is missing or cannot be read; names the case.
    """
    needed = 0
    for shape in (shape for dataset in datasets for shape in shapes(dataset)):
        needed += int(np.prod(shape[1:])) * (4 * shape[0] + label_bytes)
    on_gpu = device.type == "cuda"
    share = CUDA_SHARE if on_gpu else CPU_SHARE
    allowed = share * free_device_memory(device)
    if needed <= allowed:
        return None
    of_what = f"the free memory of {device}" if on_gpu else "the free memory"
    return f"the cases need {needed / 1e9:.1f} GB, {share:.0%} of {of_what} is {allowed / 1e9:.1f} GB"


def free_device_memory(device: torch.device) -> int:
    """Return how many bytes this process may still take on a device; what torch holds there unused counts as free."""
    if device.type != "cuda":
        return free_memory()
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused
