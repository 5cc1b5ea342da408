"""Starts Snakemake on an experiment, watches its markers, and says what went wrong."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hippo_nnunet.clip.models import chosen_encoder
from hippo_nnunet.clip.weights import weights_file
from hippo_nnunet.errors import ConfigError, DependencyError, HippoError
from hippo_nnunet.experiment import markers, stale
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import DONE, ExperimentPaths
from hippo_nnunet.experiment.split_copy import check_split, save_split
from hippo_nnunet.locks import exclusive
from hippo_nnunet.nnunet.api import cpu_count
from hippo_nnunet.nnunet.paths import NnunetFolders, folder_problem
from hippo_nnunet.progress import duration
from hippo_nnunet.training import recipes
from hippo_nnunet.training.precision_choice import requested_precision
from hippo_nnunet.workflow import failures, job_state
from hippo_nnunet.workflow.clock import settle
from hippo_nnunet.workflow.devices import visible_gpus
from hippo_nnunet.workflow.restore import put_back
from hippo_nnunet.workflow.time_left import progress_of, together, trainings_left
from hippo_nnunet.workflow.watch import watch

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
CLUSTER_CORES = 8
"""CPUs of a job on another machine, where the profile does not say."""


@dataclass(frozen=True)
class Settings:
    """How to run, as opposed to what: nothing of this is part of the experiment.

    Attributes:
        device: `cpu`, `cuda` or `mps`; on a cluster also `auto`, which each of its machines then decides.
        parallel: Trainings at the same time.
        profile: `local`, `slurm`, or a folder with a Snakemake profile.
        source: MSD folder or archive, needed until the dataset is converted.
    """

    device: str
    parallel: int = 1
    profile: str = "local"
    source: Path | None = None


def run_experiment(experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings) -> None:
    """Do what is missing of an experiment.

    Args:
        experiment: What is asked.
        folder: The experiment's folder; made where missing.
        folders: nnU-Net's folders, also in this process's environment.
        settings: How.

    Raises:
        ConfigError: Another `run` is at work in the folder, or a fold was trained by another schedule or plans.
        DependencyError: Snakemake, the profile's plugin, or the weights of a variant's CLIP encoder are not there.
        HippoError: A job failed; holds the job's own message and the log file.
    """
    problem = folder_problem(folder)
    if problem:
        raise ConfigError(f"{folder}: {problem}; give it room or permissions, or choose a folder that you can write to")
    _check_profile(settings.profile)
    stale.check_trained(experiment, folders)
    requested_precision()
    _check_encoders(experiment, folder)
    try:
        with exclusive(folder / DONE / "run.lock", f"{folder}: another run is at work there"):
            _run(experiment, folder, folders, settings)
    except OSError as error:
        raise HippoError(failures.describe(error, failures.written_to(folder, folders))) from error


def _run(experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings) -> None:
    put_back(experiment, folders, folder)
    check_split(experiment, folders, folder)
    experiment.save(ExperimentPaths(folder).request)
    if (folder / DONE / "plan").exists():
        save_split(experiment, folders, folder)
    for marker in stale.stale_markers(experiment, folder, folders):
        log.info("%s is gone and will be made again", marker.relative_to(DONE))
        (folder / marker).unlink()
    job_state.forget_failures(folder)
    products = markers.products_of(folders.raw / experiment.dataset, settings.source)
    settle(folder / marker for marker in markers.all_markers(experiment, products))
    recorder = job_state.Recorder(folder / job_state.RUN, "run", "", _recorded(settings, folders, products))
    try:
        _work(experiment, folder, folders, settings, products)
    except HippoError as error:
        recorder.end(" ".join(str(error).split()))
        raise
    except KeyboardInterrupt:
        recorder.end("interrupted from the keyboard")
        raise
    recorder.end()


def _recorded(settings: Settings, folders: NnunetFolders, products: Collection[str]) -> dict[str, Any]:
    """Return what `run --status` has to know, asked from anywhere."""
    return {
        "device": settings.device,
        "parallel": settings.parallel,
        "profile": settings.profile,
        "products": list(products),
        "folders": [str(folder) for folder in (folders.raw, folders.preprocessed, folders.results)],
    }


def _work(
    experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings, products: Collection[str]
) -> None:
    """Let Snakemake do what is missing."""
    snakemake_log = ExperimentPaths(folder).logs / "snakemake.log"
    snakemake_log.parent.mkdir(exist_ok=True)

    def tell() -> str:
        return _what_runs(experiment, folder, folders, settings)

    with snakemake_log.open("a") as stream:
        process = subprocess.Popen(_command(folder, settings, products), stdout=stream, stderr=stream)
        try:
            watch(process, markers.all_markers(experiment, products), folder, tell)
        except KeyboardInterrupt:
            process.wait()
            raise
    missing = [marker for marker in markers.final(experiment, products) if not (folder / marker).exists()]
    if process.returncode or missing:  # Snakemake that was asked to end may call that success
        raise _failure(folder, snakemake_log, failures.written_to(folder, folders))


def dry_run(experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings) -> str:
    """Return Snakemake's table of the jobs that a run would do; changes nothing in the experiment's folder.

    Raises:
        HippoError: Snakemake cannot work out the jobs.
    """
    _check_profile(settings.profile)
    products = markers.products_of(folders.raw / experiment.dataset, settings.source)
    lost = stale.stale_markers(experiment, folder, folders)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        experiment.save(ExperimentPaths(scratch).request)
        for marker in markers.all_markers(experiment, products):
            if (folder / marker).exists() and marker not in lost:
                (scratch / marker).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / marker, scratch / marker)
        command = [*_command(scratch, settings, products), "--dry-run", "--quiet", "rules", "host"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HippoError(f"Snakemake cannot work out the jobs of {folder}: {_last_line(done.stderr)}")
    output = done.stdout + done.stderr
    table = output.partition("Job stats:\n")[2].partition("\n\n")[0]
    return table.strip() or "nothing is missing"


def _command(folder: Path, settings: Settings, products: Collection[str]) -> list[str]:
    packaged = HERE / "profiles" / settings.profile
    here = settings.profile == "local"
    cores = max(cpu_count(), settings.parallel) if here else CLUSTER_CORES
    threads = cores // settings.parallel if here else cores
    limit = ("--cores", str(cores)) if here else ("--jobs", str(settings.parallel))
    config = {"products": ",".join(products), "device": settings.device, "cores": str(cores), "threads": str(threads)}
    if here and settings.device == "cuda":
        config["gpus"] = quote(",".join(visible_gpus()))
    if settings.source is not None:
        config["source"] = quote(str(settings.source.resolve()))  # Snakemake would read ": " and " #" as YAML
    return [
        *(sys.executable, "-m", "hippo_nnunet.processes", str(os.getpid())),
        *("--snakefile", str(HERE / "Snakefile")),
        *("--directory", str(folder)),
        *("--workflow-profile", str(packaged if packaged.is_dir() else Path(settings.profile).resolve())),
        *limit,
        *("--resources", f"training={settings.parallel}"),
        *("--config", *(f"{key}={value}" for key, value in config.items())),
    ]


def _check_profile(profile: str) -> None:
    if not profile or not ((HERE / "profiles" / profile).is_dir() or Path(profile).is_dir()):
        raise ConfigError(f"profile '{profile}' is neither local, slurm nor the folder of a Snakemake profile")
    if importlib.util.find_spec("snakemake") is None:
        raise DependencyError("run needs Snakemake, and Snakemake needs Python 3.11 or newer: pip install snakemake")
    if profile == "slurm" and importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise DependencyError("profile 'slurm' needs a plugin: pip install snakemake-executor-plugin-slurm")


def _check_encoders(experiment: Experiment, folder: Path) -> None:
    """Look for the weights of the CLIP encoders that missing trainings want: what lacks shows now, not in an hour."""
    trainers = {cell.trainer for cell in experiment.cells() if not (folder / cell.marker).exists()}
    wanted = {recipe.mini for recipe in map(recipes.parse, trainers) if recipe.base == recipes.CLIP_BASE}
    for mini in sorted(wanted):
        weights_file(chosen_encoder(mini))


def remaining_seconds(
    experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings, running: Sequence[Cell] = ()
) -> float:
    """Return the expected seconds of the trainings that are missing; NaN where nobody knows."""
    left = trainings_left(experiment, folder, folders.results, settings.device, running)
    return together((job.seconds for job in left.values()), (), settings.parallel)


def _what_runs(experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings) -> str:
    """Say which trainings run, how far they are, and how long all that are missing will take."""
    running = [cell for cell in experiment.cells() if _is_running(folder, cell)]
    words = []
    for cell in running:
        progress = progress_of(experiment, cell, folders.results)
        epoch = f", epoch {min(progress.epoch + 1, progress.epochs)} of {progress.epochs}" if progress else ""
        words.append(f"{cell}{epoch}")
    left = duration(remaining_seconds(experiment, folder, folders, settings, running))
    return "; ".join([*words, f"about {left} of training left"])


def _is_running(folder: Path, cell: Cell) -> bool:
    path = folder / job_state.state_file(cell.marker)
    state = job_state.read(path)
    return state is not None and job_state.is_alive(path, state)


def _failure(folder: Path, snakemake_log: Path, written_to: Sequence[Path]) -> HippoError:
    failed = job_state.first_failure(folder)
    if failed is not None:
        return HippoError(f"{failed.job}: {failed.failure} (log: {folder / failed.log})")
    full = failures.full(written_to)
    if full:
        return HippoError(f"a job ended without saying why: {full}")
    logs = [p for p in ExperimentPaths(folder).logs.rglob("*.log") if p != snakemake_log]
    newest = max(logs, key=lambda p: p.stat().st_mtime, default=snakemake_log)
    return HippoError(
        f"a job ended without saying why, perhaps killed or out of memory; look at {newest} and {snakemake_log}, "
        "then run again: it goes on where it stopped"
    )


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")
