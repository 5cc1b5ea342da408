"""The first lines of a job's log: the command that repeats it, and what it depends on."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PREFIXES = ("nnUNet_", "HIPPO_")
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "SLURM_JOB_ID",
)
"""Variables that change what a job does, or say where it ran. No others: they may hold secrets."""
PACKAGES = ("hippo_nnunet", "nnunetv2", "torch", "numpy", "snakemake")
REPEAT = "# repeat: "


def log_header(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> str:
    """Return comment lines that a log begins with.

    Args:
        arguments: The job's arguments, after `python -m hippo_nnunet.workflow.jobs`.
        environ: The environment; None for this process's.
    """
    environ = os.environ if environ is None else environ
    named = {name: value for name, value in sorted(environ.items()) if name.startswith(PREFIXES) or name in VARIABLES}
    settings = [f"{name}={value}" for name, value in named.items() if not name.startswith("SLURM_")]
    command = ["env", *settings, sys.executable, "-m", "hippo_nnunet.workflow.jobs", *arguments]
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    return "\n".join(
        [
            f"{REPEAT}cd {shlex.quote(str(Path.cwd()))} && {shlex.join(command)}",
            f"# started {started} on {socket.gethostname()}, process {os.getpid()}",
            f"# Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
            *(f"# {name}={value}" for name, value in named.items()),
        ]
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
