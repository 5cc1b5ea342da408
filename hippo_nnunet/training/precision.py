"""The precision that a training computes in: half where the hardware has instructions for it, as nnU-Net on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from hippo_nnunet.training.precision_choice import requested_precision


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the type of a training's convolutions and matrix products; None for float32 throughout.

    On a CUDA device float16, as in nnU-Net. On a CPU `requested_precision`, else bfloat16 where the processor has
    instructions for it (x86-64 with AVX512-BF16 or AMX). Weights, their updates and the loss are float32 everywhere.

    Raises:
        ConfigError: See `requested_precision`.
    """
    if device.type == "cuda":
        return torch.float16
    if device.type != "cpu":
        return None
    precision = requested_precision() or ("bfloat16" if _cpu_has_bfloat16() else "float32")
    return torch.bfloat16 if precision == "bfloat16" else None


def precision_name(half: torch.dtype | None) -> str:
    """Return the name of `half_precision`'s result, such as `bfloat16`."""
    return str(half or torch.float32).removeprefix("torch.")


def autocast(device: torch.device, half: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return the autocast context of `half_precision`'s result."""
    return nullcontext() if half is None else torch.autocast(device.type, half)


def exact_on_cpu(output: Any) -> Any:
    """Return a network's output, or its list of outputs, for the loss: float32 on a CPU, whose autocast sums in half.

    On a GPU autocast knows which parts of a loss need float32.
    """
    if isinstance(output, list | tuple):
        return [exact_on_cpu(part) for part in output]
    return output.float() if output.device.type == "cpu" else output


@contextmanager
def exact_outputs(network: torch.nn.Module) -> Iterator[None]:
    """Apply `exact_on_cpu` to a network's outputs, for code that computes the loss itself."""
    hook = network.register_forward_hook(lambda _network, _inputs, output: exact_on_cpu(output))
    try:
        yield
    finally:
        hook.remove()


def _cpu_has_bfloat16() -> bool:
    """Tell whether the processor has instructions for bfloat16; PyTorch's queries have no public names yet."""
    queries = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(query() for query in queries if query is not None)
