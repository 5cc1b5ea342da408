"""Small tensors copied to the device without making the host wait for it."""

from __future__ import annotations

from functools import lru_cache

import torch


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor of the CPU on a device.

    Args:
        tensor: Any shape; on the CPU it is returned as it is.
        device: Where it is wanted. To a GPU it goes from pinned memory: a copy from ordinary memory waits for whatever
            the GPU still has to do.
    """
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return a small tensor (n,) that every batch needs, copied to the device once. It must not be changed."""
    return torch.tensor(values, dtype=dtype, device=device)
