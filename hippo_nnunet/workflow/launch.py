"""Runs Snakemake on an experiment, shows its progress, and reports errors."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hippo_nnunet.data.subjects import Subjects, write_subjects
from hippo_nnunet.errors import ConfigError, HippoError
from hippo_nnunet.experiment import markers, stale
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import DONE, ExperimentPaths
from hippo_nnunet.experiment.split_copy import check_split
from hippo_nnunet.experiment.subjects import split_subjects
from hippo_nnunet.locks import exclusive
from hippo_nnunet.nnunet.paths import NnunetFolders, folder_problem, user_cache
from hippo_nnunet.processes import USER_CACHE, python_command
from hippo_nnunet.threads import cpu_count
from hippo_nnunet.training.precision_choice import requested_precision
from hippo_nnunet.workflow import failures, job_state
from hippo_nnunet.workflow.devices import visible_gpus
from hippo_nnunet.workflow.preparation import PROFILES, check_encoders, check_profile, prepare
from hippo_nnunet.workflow.status import read_status
from hippo_nnunet.workflow.status_text import summary

log = logging.getLogger(__name__)

SNAKEFILE = Path(__file__).with_name("Snakefile")
CLUSTER_CORES = 8
"""CPUs of a job on another machine, if the profile does not set them."""
POLL_S = 0.5
STATUS_INTERVAL_S = 15.0
"""Seconds after which the progress of running trainings is read again."""
LINE_INTERVAL_S = 600.0
"""Seconds between two plain lines while no job ends."""


@dataclass(frozen=True)
class Settings:
    """How to run, as opposed to what: none of this is part of the experiment.

    Attributes:
        device: `cpu`, `cuda` or `mps`; on a cluster also `auto`, which each node resolves.
        parallel: Trainings at the same time.
        profile: `local`, `slurm`, or a folder with a Snakemake profile.
        source: MSD folder or archive, needed until the dataset is converted.
        subjects: The subject of every case, from the user's own table; None without one.
        trust: Use checkpoints, plans and preprocessed cases even if they could run code.
    """

    device: str
    parallel: int = 1
    profile: str = "local"
    source: Path | None = None
    subjects: Subjects | None = None
    trust: bool = False


def run_experiment(experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings) -> None:
    """Run the missing jobs of an experiment.

    Args:
        experiment: What is requested.
        folder: The experiment's folder; created where missing.
        folders: nnU-Net's folders, also in this process's environment.
        settings: How.

    Raises:
        ConfigError: Another `run` works in the folder, the split is not the one that the experiment began with, or a
            fold was trained with another schedule, plans or split.
        DependencyError: Snakemake, the profile's plugin, or the weights of a variant's CLIP encoder are missing.
        HippoError: A job failed; holds the job's own message and the log file.
    """
    problem = folder_problem(folder)
    if problem:
        raise ConfigError(f"{folder}: {problem}; give it room or permissions, or choose a folder that you can write to")
    check_profile(settings.profile)
    check_split(experiment, folders, folder)
    stale.check_trained(experiment, folders, split_subjects(experiment, folders, folder))
    requested_precision()
    check_encoders(experiment, folder)
    try:
        with exclusive(folder / DONE / "run.lock", f"{folder}: another run is at work there"):
            prepare(experiment, folder, folders)
            if settings.subjects is not None:
                write_subjects(settings.subjects, ExperimentPaths(folder).subjects)
            products = markers.products_of(folders.raw / experiment.dataset, settings.source)
            recorded = {  # what `run --status` needs, from wherever it is called
                "device": settings.device,
                "parallel": settings.parallel,
                "profile": settings.profile,
                "products": list(products),
                "folders": [str(folder) for folder in (folders.raw, folders.preprocessed, folders.results)],
            }
            with job_state.recorded(folder, job_state.RUN, "run", failures.describe, recorded):
                _run_snakemake(experiment, folder, folders, settings, products)
    except OSError as error:
        raise HippoError(failures.describe(error, failures.written_to(folder, folders))) from error


def _run_snakemake(
    experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings, products: Collection[str]
) -> None:
    snakemake_log = ExperimentPaths(folder).logs / "snakemake.log"
    snakemake_log.parent.mkdir(exist_ok=True)
    with snakemake_log.open("a") as stream:
        began = stream.tell()
        command, environ = snakemake_command(folder, settings, products), snakemake_environment(folder)
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environ)
        try:
            _watch(process, markers.all_markers(experiment, products), folder)
        except KeyboardInterrupt:
            process.wait()
            raise
    missing = [marker for marker in markers.final(experiment, products) if not (folder / marker).exists()]
    if process.returncode or missing:  # Snakemake may report success if it was asked to end
        with snakemake_log.open(errors="replace") as stream:
            stream.seek(began)
            raise failure_of(folder, failures.written_to(folder, folders), snakemake_error(stream.read()))


def _watch(process: subprocess.Popen[bytes], expected: Sequence[Path], folder: Path) -> None:
    """Show how many jobs are done until Snakemake ends: a bar on a terminal, plain lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    on_terminal = sys.stderr.isatty()
    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    seen = {marker for marker in expected if (folder / marker).exists()}
    with Progress(*columns, console=Console(stderr=True), disable=not on_terminal) as progress:
        task = progress.add_task("", total=len(expected), completed=len(seen))
        progress.update(task, description=summary(read_status(folder, check=False)))
        shown = time.monotonic()
        while True:
            ended = process.poll() is not None
            new = [marker for marker in expected if marker not in seen and (folder / marker).exists()]
            seen.update(new)
            for marker in new:
                log.info("done: %s (%d of %d)", marker.relative_to(DONE), len(seen), len(expected))
            if on_terminal and (new or time.monotonic() - shown > STATUS_INTERVAL_S):
                shown = time.monotonic()
                progress.update(task, completed=len(seen), description=summary(read_status(folder, check=False)))
            elif time.monotonic() - shown > LINE_INTERVAL_S:
                shown = time.monotonic()
                status = summary(read_status(folder, check=False))
                log.info("%d of %d jobs are done; %s", len(seen), len(expected), status)
            if ended:
                return
            time.sleep(POLL_S)


def dry_run(experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings) -> str:
    """Return Snakemake's table of the jobs that a run would do; changes nothing in the experiment's folder.

    Raises:
        HippoError: Snakemake cannot determine the jobs.
    """
    check_profile(settings.profile)
    products = markers.products_of(folders.raw / experiment.dataset, settings.source)
    stale_markers = stale.stale_markers(experiment, folder, folders)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        experiment.save(ExperimentPaths(scratch).request)
        for marker in markers.all_markers(experiment, products):
            if (folder / marker).exists() and marker not in stale_markers:
                (scratch / marker).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / marker, scratch / marker)
        command = [*snakemake_command(scratch, settings, products), "--dry-run", "--quiet", "rules", "host"]
        environ = snakemake_environment(scratch)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, env=environ)
    output = done.stdout + done.stderr
    if done.returncode:
        reason = snakemake_error(output) or (output.strip().splitlines() or ["no message"])[-1]
        raise HippoError(f"Snakemake cannot determine the jobs of {folder}: {reason}")
    table = output.partition("Job stats:\n")[2].partition("\n\n")[0]
    return table.strip() or "nothing is missing"


def snakemake_command(folder: Path, settings: Settings, products: Collection[str]) -> list[str]:
    """Return the command line that runs an experiment's workflow.

    Args:
        folder: The experiment's folder.
        settings: How to run.
        products: What to make of the test images.
    """
    packaged = PROFILES / settings.profile
    here = settings.profile == "local"
    cores = max(cpu_count(), settings.parallel) if here else CLUSTER_CORES
    threads = cores // settings.parallel if here else cores
    limit = ("--cores", str(cores)) if here else ("--jobs", str(settings.parallel))
    config = {"products": ",".join(products), "device": settings.device, "cores": str(cores), "threads": str(threads)}
    if here and settings.device == "cuda":
        config["gpus"] = quote(",".join(visible_gpus()))
    if settings.trust:
        config["trust"] = "yes"
    if settings.source is not None:
        config["source"] = quote(str(settings.source.resolve()))  # Snakemake would read ": " and " #" as YAML
    return [
        *python_command("-m", "hippo_nnunet.processes", str(os.getpid())),
        *("--snakefile", str(SNAKEFILE)),
        *("--directory", str(folder)),
        *("--workflow-profile", str(packaged if packaged.is_dir() else Path(settings.profile).resolve())),
        *limit,
        *("--resources", f"training={settings.parallel}"),
        *("--config", *(f"{key}={value}" for key, value in config.items())),
    ]


def snakemake_environment(folder: Path) -> dict[str, str]:
    """Return the environment of Snakemake, with a cache in the experiment's folder if the user's is not writable."""
    environ, cache, variable = dict(os.environ), user_cache(os.environ), "XDG_CACHE_HOME"
    if cache is None or folder_problem(cache / "snakemake"):
        environ[USER_CACHE] = environ.get(variable, "")
        environ[variable] = str(folder / ".snakemake" / "cache")
    return environ


UNFINISHED = "At least one job did not complete successfully"
"""Snakemake's words for a workflow that did not get to its end, whatever the reason."""
STOPPED = "it was asked to stop (SIGTERM)"


def snakemake_error(output: str) -> str:
    """Return in one line why Snakemake itself ended; empty if one of its jobs failed, or if it does not say.

    Args:
        output: What it printed.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if re.match(r"[A-Za-z_.]*(Error|Exception)\b", line)]
    if not errors or any(line.startswith("Error in rule") for line in lines):
        return ""
    first = lines[errors[-1]]
    reason = " ".join(lines[errors[-1] :][: 2 if first.endswith(":") else 1])[:500]
    return (
        STOPPED
        if UNFINISHED in reason and any(line.startswith("Will exit after finishing") for line in lines)
        else reason
    )


def failure_of(folder: Path, written_to: Sequence[Path], reason: str = "") -> HippoError:
    """Return the error that says why the workflow ended early: that of the first failed job, or which logs to read.

    Args:
        folder: The experiment's folder.
        written_to: Folders whose full disk would explain it.
        reason: Why Snakemake itself ended; empty if it did not say.
    """
    for failed in job_state.failed_jobs(folder).values():
        return HippoError(f"{failed.job}: {failed.failure} (log: {folder / failed.log})")
    full = failures.full(written_to)
    if full:
        return HippoError(f"a job ended without an error message: {full}")
    snakemake_log = ExperimentPaths(folder).logs / "snakemake.log"
    if reason:
        return HippoError(
            f"Snakemake ended before its jobs: {reason}; see {snakemake_log}, then run again: finished jobs are kept"
        )
    logs = [path for path in snakemake_log.parent.rglob("*.log") if path != snakemake_log]
    newest = max(logs, key=lambda path: path.stat().st_mtime, default=None)
    return HippoError(
        "a job ended without an error message, perhaps killed or out of memory; see "
        f"{f'{newest} and ' if newest else ''}{snakemake_log}, then run again: it resumes where it stopped"
    )
