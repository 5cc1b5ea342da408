"""Weights as safetensors; equal weights give equal bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hippo_nnunet.errors import DataError

if TYPE_CHECKING:
    import torch

_ALIASES = "same_as"
"""The only key of the metadata, because safetensors writes several keys in no fixed order."""


def pack(weights: Mapping[str, torch.Tensor]) -> bytes:
    """Return a state dict as a safetensors file.

    Args:
        weights: Name to tensor. Equal tensors are stored once, since nnU-Net's networks name their encoder twice.

    Raises:
        DataError: A value is not a tensor, or holds NaN or infinity.
    """
    import torch
    from safetensors.torch import save

    stored: dict[str, torch.Tensor] = {}
    same_as: dict[str, str] = {}
    seen: dict[tuple[object, ...], str] = {}
    for name, tensor in weights.items():
        if not isinstance(tensor, torch.Tensor):
            raise DataError(f"weight {name} is a {type(tensor).__name__}, which safetensors cannot hold")
        plain = tensor.detach().cpu().contiguous()
        _check_finite(name, plain)
        raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        key = (hashlib.sha256(raw).digest(), plain.dtype, tuple(plain.shape))
        if key in seen:
            same_as[name] = seen[key]
        else:
            seen[key] = name
            stored[name] = plain.clone()
    return save(stored, {_ALIASES: json.dumps(same_as, sort_keys=True)})


def unpack(content: bytes) -> dict[str, torch.Tensor]:
    """Read what `pack` wrote.

    Raises:
        DataError: It is not a safetensors file, or holds NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        same_as = json.loads(header.get("__metadata__", {}).get(_ALIASES, "{}"))
        weights.update({str(name): weights[of] for name, of in same_as.items() if name not in weights})
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        pickled = " but a pickle, which can run code" if content[:2] in (b"PK", b"\x80\x02", b"\x80\x04") else ""
        raise DataError(f"no safetensors{pickled} ({str(error)[:100]})") from error
    for name, tensor in weights.items():
        _check_finite(name, tensor)
    return weights


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    import torch

    if not torch.isfinite(tensor).all():
        raise DataError(f"weight {name} holds numbers that are NaN or infinite")
