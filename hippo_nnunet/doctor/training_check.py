"""Checks every way to train on this machine, from a synthetic dataset to predictions, line by line.

What it takes on a GPU and on two CPU cores: docs/gpu.md.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

from hippo_nnunet.doctor.isolation import Outcome, run_checks
from hippo_nnunet.doctor.training_lines import lines
from hippo_nnunet.doctor.training_spec import Settings
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.experiment.manifest import PACKAGES, git_commit, installed_version
from hippo_nnunet.files import write_json
from hippo_nnunet.nnunet.api import resolve_device
from hippo_nnunet.nnunet.paths import environment
from hippo_nnunet.threads import cpu_count
from hippo_nnunet.training.precision_choice import VARIABLE as PRECISION

LOG = "training_check.log"
CORES_PER_PROCESS = 5
"""Cores for each process that checks a GPU, and its compilers; at most `MAX_PROCESSES` share the GPU."""
MAX_PROCESSES = 4
FORMAT = 1


def check_training(
    device: str, work: Path, report: Path | None, quick: bool, tell: Callable[[Outcome], None]
) -> dict[str, Any]:
    """Run every line of the check.

    Args:
        device: `auto`, `cpu` or `cuda`. On a CPU the check is always quick.
        work: Folder for dataset, trainings and log; created if missing.
        report: JSON file that is written after every line; None for no file.
        quick: Compile two networks only, once each.
        tell: Called with each outcome.

    Returns:
        What the file holds: the machine, versions, and the outcome of each line. Names no host, user or folder.

    Raises:
        ConfigError: Unknown device.
        DependencyError: The device is not there.
    """
    import torch

    started = monotonic()
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device '{device}': the training check knows auto, cpu and cuda")
    device = resolve_device(device)
    cuda = device == "cuda"
    work = work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    settings = Settings(device, work, torch.cuda.device_count() if cuda else 0, quick or not cuda)
    processes = max(1, min(MAX_PROCESSES, cpu_count() // CORES_PER_PROCESS)) if cuda else 1
    document: dict[str, Any] = {
        "format": FORMAT,
        "device": device,
        "quick": settings.quick,
        "processes": processes,
        **describe(cuda),
        "lines": [],
    }
    environ = {
        **environment(work, {}),
        "nnUNet_def_n_proc": "2",
        "nnUNet_n_proc_DA": "2",
        PRECISION: "float32",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "compiled"),
    }
    if processes > 1:
        environ["TORCHINDUCTOR_COMPILE_THREADS"] = str(CORES_PER_PROCESS)
    order = [check.name for check in lines(settings)]
    for outcome in run_checks(lines, settings, work / LOG, environ, processes):
        outcome = _without_folders(outcome, work)
        document["lines"].append(asdict(outcome))
        document["lines"].sort(key=lambda line: order.index(line["name"]))
        document["seconds"] = round(monotonic() - started, 1)
        if report is not None:
            write_json(report, document)
        tell(outcome)
    return document


def describe(cuda: bool) -> dict[str, Any]:
    """Return what the lines ran on: system, processor, memory, GPU, versions and commit."""
    import torch

    properties = torch.cuda.get_device_properties(0) if cuda else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": properties.name if properties else None,
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1) if properties else None,
        "gpu_capability": f"{properties.major}.{properties.minor}" if properties else None,
        "gpus": torch.cuda.device_count() if cuda else 0,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if cuda else None,
        "python": platform.python_version(),
        "versions": {name: installed_version(name) for name in PACKAGES},
        "commit": git_commit(),
    }


def _without_folders(outcome: Outcome, work: Path) -> Outcome:
    """Return an outcome whose reason names neither folders of this machine nor its name."""
    reason = outcome.reason
    for part, stand_in in ((work, "WORK"), (sys.prefix, "PYTHON"), (Path.cwd(), "."), (Path.home(), "~")):
        if len(str(part)) > 1:
            reason = reason.replace(str(part), stand_in)
    node = platform.node()
    return replace(outcome, reason=reason.replace(node, "HOST") if len(node) > 3 else reason)
