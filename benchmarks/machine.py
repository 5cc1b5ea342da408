"""What a figure was measured on; names no folder, user or host of the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from hippo_nnunet.experiment.manifest import PACKAGES, git_commit
from hippo_nnunet.nnunet.api import cpu_count

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_n_proc_DA", "nnUNet_def_n_proc", "nnUNet_compile")


def describe() -> dict[str, Any]:
    """Describe this machine and what is installed on it; call it before anything is measured.

    Returns:
        JSON-ready: CPU model, cores that this process may use, memory, GPU, versions, commit, thread settings, and the
        load average of the last minute, which should be near 0.
    """
    import torch

    cuda = torch.cuda.is_available()
    return {
        "system": platform.system(),
        "cpu": cpu_model(),
        "cores": cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in (*PACKAGES, "openvino")},
        "commit": git_commit(),
        "torch_threads": torch.get_num_threads(),
        "environment": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name; what Python knows where Linux does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
