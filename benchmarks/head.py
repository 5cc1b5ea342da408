"""The cosine head against the plain form of the same, and against nnU-Net's 1x1 convolution."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.document import OURS, Result
from benchmarks.memory import MIB
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.networks.cosine_head import CosineHead, text_coordinates

PLAIN, NNUNET = "plain", "nnunet_1x1"
"""The reference, which computes the embedding of each pixel, and nnU-Net's head."""
_SCALE = 100.0
_EMBED_DIM = 512
"""Length of a text embedding of ViT-B-32."""


@dataclass(frozen=True)
class _Job:
    side: str
    batch: int
    size: tuple[int, ...]
    features: int
    classes: int
    repeats: int
    device: str
    threads: int


def plain_cosine_logits(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, text: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Compute what ``CosineHead`` computes the plain way, from the normalised embedding of each pixel.

    Args:
        features: Shape (batch, in_channels, *spatial).
        weight: Shape (embed_dim, in_channels).
        bias: Shape (embed_dim,).
        text: Unit vectors, shape (classes, embed_dim).
        scale: The temperature, a single number.

    Returns:
        Logits (batch, classes, *spatial).
    """
    dimensions = features.dim() - 2
    convolve = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[dimensions]
    ones = [1] * dimensions
    embeddings = convolve(features, weight.view(*weight.shape, *ones), bias)
    return scale * convolve(F.normalize(embeddings, dim=1), text.view(*text.shape, *ones))


def benchmark_head(
    batch: int = 366,
    size: tuple[int, ...] = (56, 40),
    features: int = 32,
    classes: int = 3,
    repeats: int = 3,
    device: str = "cpu",
) -> dict[str, Any]:
    """Measure forward and backward of three heads on one batch of features, each in a separate process, in turn.

    Args:
        batch: Samples.
        size: Spatial size in pixels or voxels.
        features: Channels of the features.
        classes: Classes.
        repeats: Measured runs of each head, after one that warms up and in which the memory is measured.
        device: `cpu` or `cuda`.

    Returns:
        `settings`; for each of `plain`, `ours` and `nnunet_1x1` the `seconds` (median), `all_seconds` and
        `peak_mib`, by which memory grew at most over what holds features and the logits' gradient (of the process on a
        CPU, of torch's allocator on a GPU); and `ratios` of `ours` to the other two, for `seconds` and `peak_mib`.

    Raises:
        ConfigError: An unavailable device, or an impossible size.
    """
    if not 1 <= len(size) <= 3 or min(size) < 1:
        raise ConfigError(f"size {','.join(map(str, size))}: expected one to three numbers of at least 1")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"the device {device} is not there: take cpu, or cuda where torch finds a GPU")
    sides = {}
    for side in (PLAIN, OURS, NNUNET):
        job = _Job(side, batch, size, features, classes, repeats, device, torch.get_num_threads())
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            sides[side] = process.submit(_measure, job).result()
    ratios = {
        f"ours_to_{other}": {
            measure: sides[OURS][measure] / sides[other][measure] for measure in ("seconds", "peak_mib")
        }
        for other in (PLAIN, NNUNET)
    }
    settings = {
        "batch": batch,
        "size": list(size),
        "features": features,
        "embed_dim": _EMBED_DIM,
        "classes": classes,
        "repeats": repeats,
        "device": device,
        "threads": torch.get_num_threads(),
    }
    return {"settings": settings, **sides, "ratios": ratios}


def _measure(job: _Job) -> dict[str, Any]:
    """Measure one head; runs in a separate process."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    x = torch.randn(job.batch, job.features, *job.size, device=job.device)
    gradient = torch.randn(job.batch, job.classes, *job.size, device=job.device)
    text = F.normalize(torch.randn(job.classes, _EMBED_DIM, device=job.device), dim=1)
    scale = torch.tensor(_SCALE, device=job.device, requires_grad=True)
    head = CosineHead(job.features, _EMBED_DIM, classes=job.classes).to(job.device)
    coordinates = text_coordinates(text, head.rows)
    plain = CosineHead(job.features, _EMBED_DIM).to(job.device)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(job.size)](job.features, job.classes, 1).to(job.device)

    def step(samples: int = job.batch) -> float:
        batch = x.detach()[:samples].requires_grad_()
        began = time.perf_counter()
        if job.side == OURS:
            logits = head(batch, coordinates, scale)
        elif job.side == PLAIN:
            logits = plain_cosine_logits(batch, plain.weight, plain.bias, text, scale)
        else:
            logits = conv(batch)
        logits.backward(gradient[:samples])
        if job.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    step(1)  # libraries and kernels, which are loaded once, do not count as the head's memory
    held = _held_bytes(job.device)
    step()
    peak_mib = max(_peak_bytes(job.device) - held, 1) / MIB
    seconds = [step() for _ in range(job.repeats)]
    return {"seconds": statistics.median(seconds), "all_seconds": seconds, "peak_mib": peak_mib}


def _held_bytes(device: str) -> int:
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return int(psutil.Process().memory_info().rss)


def _peak_bytes(device: str) -> int:
    """Highest memory so far; on a CPU of the whole life of the process, hence never too low."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def head_result(found: dict[str, Any]) -> Result:
    """Return a result whose reference is the plain form.

    Args:
        found: What `benchmark_head` returns.
    """
    names = [PLAIN, *(key for key in found if key not in (PLAIN, "settings", "ratios"))]
    sides = {
        name: {"seconds": list(found[name]["all_seconds"]), "peak_mib": [float(found[name]["peak_mib"])]}
        for name in names
    }
    return Result("head", dict(found["settings"]), sides, {"ratios": found["ratios"]})
