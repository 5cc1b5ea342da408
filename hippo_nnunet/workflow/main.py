"""`run` from its options to what it prints."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.request import Request, resolve
from hippo_nnunet.nnunet.api import limit_processes, resolve_device
from hippo_nnunet.nnunet.paths import FOLDER_VARIABLES, NnunetFolders, activate, at_home, folders_for
from hippo_nnunet.progress import duration
from hippo_nnunet.workflow import estimate, launch, results, status_text
from hippo_nnunet.workflow.status import read_status
from hippo_nnunet.workflow.time_left import together

log = logging.getLogger(__name__)


def perform(
    folder: Path, request: Request, root: Path | None, device: str, parallel: int, profile: str, dry_run: bool
) -> Iterator[Table | str]:
    """Run an experiment, or say what that would do.

    Args:
        folder: The experiment's folder.
        request: What is asked.
        root: nnU-Net's root folder, which wins over its variables; None: its variables, else `nnunet` in the folder.
        device: `auto`, `cpu`, `cuda` or `mps`.
        parallel: Trainings at the same time.
        profile: `local`, `slurm` or the folder of a Snakemake profile.
        dry_run: Change nothing, and say what would be done.

    Yields:
        What to print, in order.

    Raises:
        HippoError: A wrong request, or a job that failed; see `resolve` and `run_experiment`.
    """
    folder = at_home(folder).absolute()
    if root is not None:
        for variable in FOLDER_VARIABLES:
            os.environ.pop(variable, None)
    limit_processes()
    root = at_home(root or folder / "nnunet").absolute()
    folders = folders_for(root)
    here = device if device == "auto" and profile != "local" else resolve_device(device)
    experiment = resolve(request, folder, folders, "cuda" if here == "auto" else here)  # clusters have GPUs
    settings = launch.Settings(here, parallel, profile, request.task)
    if dry_run:
        yield from _dry_run(experiment, folder, folders, settings)
        return
    activate(root)
    left = duration(launch.remaining_seconds(experiment, folder, folders, settings))
    log.info("%s on %s: about %s of training", folder, settings.device, left)
    launch.run_experiment(experiment, folder, folders, settings)
    yield results.results_table(experiment, folder)
    yield "\n".join(results.notes(experiment, folder, folders.results))


def show_status(folder: Path, root: Path | None, as_json: bool) -> Iterator[Table | str]:
    """Say what of an experiment is done, running, waiting and failed; see `read_status`.

    Args:
        folder: The experiment's folder.
        root: nnU-Net's root folder, where it is not the one that the last `run` used.
        as_json: Yield one JSON document.

    Yields:
        What to print, in order.

    Raises:
        ConfigError: The folder holds something else.
    """
    status = read_status(folder, root)
    if as_json:
        yield status_text.as_json(status)
    else:
        yield from status_text.describe(status)


def _dry_run(
    experiment: Experiment, folder: Path, folders: NnunetFolders, settings: launch.Settings
) -> Iterator[Table | str]:
    yield launch.dry_run(experiment, folder, folders, settings)
    expected = estimate.missing_trainings(experiment, folder, folders.results, settings.device)
    if expected:
        yield results.plan_table(expected)
    seconds = together((item.seconds for item in expected), (), settings.parallel)
    unknown = " (no estimate for this device)" if math.isnan(seconds) else ""
    yield f"expected time of training on {settings.device}: {duration(seconds)}{unknown}"
