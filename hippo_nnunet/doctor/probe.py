"""Finds out in a separate process which classes nnU-Net resolves and which device torch sees.

Only a fresh process gives the answers of `nnUNetv2_train`: it has the same variables and none of our imports, and an
import that crashes does not end `doctor`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hippo_nnunet.processes import python_command

TRAINER = "AttentionUNetTrainer"
PLANNER = "AttentionUNetPlanner"


@dataclass(frozen=True)
class Probe:
    """What the separate process found.

    Attributes:
        trainer: Dotted name of the class that nnU-Net resolves for `AttentionUNetTrainer`; empty if it finds none.
        trainer_error: Why it finds none.
        planner: Dotted name of the class that nnU-Net resolves for `AttentionUNetPlanner`; empty if it finds none.
        planner_error: Why it finds none.
        accelerator: Name of the GPU that torch can use; empty without one.
        cuda_build: CUDA version that torch was built for; empty for a CPU build.
        crash: Why the process gave no answer; empty if it ran to its end.
    """

    trainer: str = ""
    trainer_error: str = ""
    planner: str = ""
    planner_error: str = ""
    accelerator: str = ""
    cuda_build: str = ""
    crash: str = ""


def probe(environ: Mapping[str, str], timeout_s: float = 300) -> Probe:
    """Run the look-ups in a fresh Python with these environment variables.

    Args:
        environ: The environment of that process.
        timeout_s: Time limit in seconds.

    Returns:
        What it found; a process that dies or hangs is reported in `crash`, not raised.
    """
    command = python_command("-c", "from hippo_nnunet.doctor.probe import main; main()")
    try:
        done = subprocess.run(
            command, env=dict(environ), capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return Probe(crash=f"no answer within {timeout_s:.0f} s")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return Probe(crash=lines[-1] if lines else f"exit code {done.returncode}")
    return Probe(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print this process's `Probe` as one line of JSON."""
    with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints while it searches
        trainer, trainer_error = _resolve_trainer()
        planner, planner_error = _resolve_planner()
        accelerator, cuda_build = _devices()
    found = Probe(trainer, trainer_error, planner, planner_error, accelerator, cuda_build)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


def _resolve_trainer() -> tuple[str, str]:
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    try:
        return _dotted(recursive_find_trainer_class_by_name(TRAINER)), ""
    except Exception as error:
        if isinstance(error, RuntimeError) and str(error).startswith("Could not find"):
            return "", "nnU-Net does not find it"
        return "", _reason(error)


def _resolve_planner() -> tuple[str, str]:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = Path(nnunetv2.__path__[0]) / "experiment_planning"
    try:
        found = recursive_find_python_class(str(folder), PLANNER, current_module="nnunetv2.experiment_planning")
    except Exception as error:
        return "", _reason(error)
    return (_dotted(found), "") if found else ("", "nnU-Net does not find it")


def _devices() -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0), torch.version.cuda or ""
    return "Apple GPU" if torch.backends.mps.is_available() else "", torch.version.cuda or ""


def _dotted(found: type) -> str:
    return f"{found.__module__}.{found.__qualname__}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
