"""One job of the workflow: `python -m hippo_nnunet.workflow.jobs JOB ...`, run in an experiment's folder.

Its log begins with the command that repeats it; its state file says how it ended, so that `run` can repeat the reason
in one line. nnU-Net's folders come from its variables.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import shlex
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.manifest import build_manifest, installed_version
from hippo_nnunet.experiment.paths import DONE, RELATIVE
from hippo_nnunet.files import write_json
from hippo_nnunet.locks import exclusive
from hippo_nnunet.nnunet import api
from hippo_nnunet.nnunet.paths import NnunetFolders, folders_for
from hippo_nnunet.processes import end_with_workers, python_command
from hippo_nnunet.workflow import failures, job_state, steps

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
    """Return the comment lines at the top of a job's log: the command that repeats it, and what it depends on.

    Args:
        arguments: The job's arguments, after `python -m hippo_nnunet.workflow.jobs`.
        environ: The environment; None for this process's.
    """
    environ = os.environ if environ is None else environ
    named = {name: value for name, value in sorted(environ.items()) if name.startswith(PREFIXES) or name in VARIABLES}
    settings = [f"{name}={value}" for name, value in named.items() if not name.startswith("SLURM_")]
    command = ["env", *settings, *python_command("-m", "hippo_nnunet.workflow.jobs", *arguments)]
    started = datetime.now().astimezone().isoformat(timespec="seconds")
    versions = [f"{name} {installed_version(name) or 'missing'}" for name in PACKAGES]
    lines = [
        f"{REPEAT}cd {shlex.quote(str(Path.cwd()))} && {shlex.join(command)}",
        f"# started {started} on {socket.gethostname()}, process {os.getpid()}",
        f"# Python {platform.python_version()}, {', '.join(versions)}",
        *(f"# {name}={value}" for name, value in named.items()),
    ]
    return "\n".join(lines)


def run_job(description: str, job: Callable[[], None], log_file: str) -> int:
    """Run a job and return its exit code.

    It waits for another process that does the same job: one that a killed run left behind, on a cluster for instance.

    Args:
        description: The job in words: `train UNet 2d fold 0`.
        job: The work.
        log_file: Where its output goes, `logs/NAME.log`; without one, no state is recorded.
    """
    name = log_file.removeprefix("logs/").removesuffix(".log")
    lock = DONE / "locks" / f"{description.replace(' ', '-')}.lock"

    def explain(error: BaseException) -> str:
        return failures.describe(error, failures.written_to(Path.cwd(), folders_for(None)))

    state = job_state.recorded(Path.cwd(), name, description, explain) if name else nullcontext()
    try:
        with state, exclusive(lock, f"another process does the job '{description}'", wait=True):
            job()
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line of one job and run it in the current folder."""
    parser = argparse.ArgumentParser(prog="hippo_nnunet.workflow.jobs", description=__doc__)
    parser.add_argument("--log", default="")
    parser.add_argument("job", choices=[*_JOBS])
    parser.add_argument("--source", default="")
    parser.add_argument("--variant", default="")
    parser.add_argument("--configuration", default="")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--gpus", default="")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--trust-checkpoint", action="store_true")
    options = parser.parse_args(arguments)
    sys.stderr.write(log_header(sys.argv[1:] if arguments is None else arguments) + "\n")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)

    def job() -> None:
        api.limit_processes()
        _JOBS[options.job](Experiment.load(RELATIVE.request), folders_for(None), options)

    words = [options.job, options.variant, options.configuration, f"fold {options.fold}" * (options.job == "train")]
    return run_job(" ".join(word for word in words if word), job, options.log)


def _cell(experiment: Experiment, options: argparse.Namespace) -> Cell:
    wanted = (options.variant, options.configuration, options.fold)
    for cell in experiment.cells():
        if (cell.variant, cell.configuration, cell.fold) == wanted:
            return cell
    raise ConfigError("{} asks for no {} {} fold {}".format(RELATIVE.request, *wanted))


_JOBS: dict[str, Callable[[Experiment, NnunetFolders, argparse.Namespace], object]] = {
    "data": lambda e, f, o: steps.data(e, f, Path(o.source) if o.source else None),
    "plan": lambda e, f, o: steps.plan(e, f, Path.cwd()),
    "preprocess": lambda e, f, o: steps.preprocess(e, o.configuration, o.trust_checkpoint),
    "train": lambda e, f, o: steps.train(e, _cell(e, o), o.device, o.threads, o.gpus, o.trust_checkpoint),
    "ensemble": lambda e, f, o: steps.ensemble(e, f, Path.cwd()),
    "evaluate": lambda e, f, o: steps.evaluate(e, f, Path.cwd()),
    "predict": lambda e, f, o: steps.predict(e, f, Path.cwd(), o.variant, o.device, o.trust_checkpoint),
    "submission": lambda e, f, o: steps.submission(e, f, Path.cwd()),
    "manifest": lambda e, f, o: write_json(RELATIVE.manifest, build_manifest(e, Path.cwd(), f, o.device), indent=2),
    "report": lambda e, f, o: steps.report(Path.cwd()),
}


if __name__ == "__main__":
    end_with_workers()
    sys.exit(main())
