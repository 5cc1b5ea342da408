"""The precision that a training computes in: half where the processor multiplies in it, as nnU-Net does on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from hippo_nnunet.training.precision_choice import chosen_precision


def half_precision(device: torch.device) -> torch.dtype | None:
    """Return the type that a training's convolutions and products are computed in; None for float32 throughout.

    On a GPU float16, as in nnU-Net. On a CPU bfloat16 where it has instructions for it (x86-64 with AVX512-BF16 or
    AMX), or what `chosen_precision` says. Weights, their updates and the loss are float32 everywhere.

    Raises:
        ConfigError: See `chosen_precision`.
    """
    if device.type == "cuda":
        return torch.float16
    if device.type != "cpu":
        return None
    bfloat16 = _cpu_multiplies_bfloat16() if (chosen := chosen_precision()) is None else chosen == "bfloat16"
    return torch.bfloat16 if bfloat16 else None


def precision_name(half: torch.dtype | None) -> str:
    """Return `half_precision`'s answer in words, such as `bfloat16`."""
    return str(half or torch.float32).removeprefix("torch.")


def autocast(device: torch.device, half: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass computes in `half_precision`'s answer."""
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
    """Let a network answer with `exact_on_cpu`, for code that computes the loss itself."""
    hook = network.register_forward_hook(lambda _network, _inputs, output: exact_on_cpu(output))
    try:
        yield
    finally:
        hook.remove()


def _cpu_multiplies_bfloat16() -> bool:
    """Ask PyTorch, whose questions have no public names yet."""
    questions = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(question() for question in questions if question is not None)
