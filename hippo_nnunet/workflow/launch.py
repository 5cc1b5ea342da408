"""Starts Snakemake on an experiment, watches its markers, and says what went wrong."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.clip.models import chosen_encoder
from hippo_nnunet.clip.weights import weights_file
from hippo_nnunet.errors import ConfigError, DependencyError, HippoError
from hippo_nnunet.nnunet.api import cpu_count
from hippo_nnunet.nnunet.paths import NnunetFolders, folder_problem
from hippo_nnunet.training import recipes
from hippo_nnunet.workflow import estimate, targets
from hippo_nnunet.workflow.experiment import DONE, FAILURE, FILE, Experiment

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
POLL_S = 0.5


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
        DependencyError: The profile's plugin, or the weights of a variant's CLIP encoder, are not there.
        HippoError: A job failed; holds the job's own message and the log file.
    """
    _check_profile(settings.profile)
    problem = folder_problem(folder)
    if problem:
        raise ConfigError(f"{folder}: {problem}; choose a folder that you can write to")
    targets.check_trained(experiment, folders)
    _check_encoders(experiment, folder)
    with _only_run(folder):
        experiment.save(folder / FILE)
        for marker in targets.lost(experiment, folder, folders):
            log.info("%s is gone and will be made again", marker.relative_to(DONE))
            (folder / marker).unlink()
        (folder / FAILURE).unlink(missing_ok=True)
        products = targets.products_of(folders.raw / experiment.dataset, settings.source)
        command = _command(folder, settings, products)
        snakemake_log = folder / "logs" / "snakemake.log"
        snakemake_log.parent.mkdir(exist_ok=True)
        with snakemake_log.open("a") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream)
            try:
                _watch(process, targets.all_markers(experiment, products), experiment, folder, folders, settings)
            except KeyboardInterrupt:
                process.wait()
                raise
        if process.returncode:
            raise _failure(folder, snakemake_log)


def dry_run(experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings) -> str:
    """Return Snakemake's table of the jobs that a run would do; changes nothing in the experiment's folder.

    Raises:
        HippoError: Snakemake cannot work out the jobs.
    """
    _check_profile(settings.profile)
    products = targets.products_of(folders.raw / experiment.dataset, settings.source)
    lost = targets.lost(experiment, folder, folders)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        experiment.save(scratch / FILE)
        for marker in targets.all_markers(experiment, products):
            if (folder / marker).exists() and marker not in lost:
                (scratch / marker).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(folder / marker, scratch / marker)
        command = [*_command(scratch, settings, products), "--dry-run", "--quiet", "rules", "host", "reason"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HippoError(f"Snakemake cannot work out the jobs of {folder}: {_last_line(done.stderr)}")
    output = done.stdout + done.stderr
    table = output.partition("Job stats:\n")[2].partition("\n\n")[0]
    return table.strip() or "nothing is missing"


@contextmanager
def _only_run(folder: Path) -> Iterator[None]:
    """Hold a lock that the system lets go of when this process ends, however it ends."""
    from filelock import FileLock, Timeout

    (folder / DONE).mkdir(exist_ok=True)
    try:
        with FileLock(folder / DONE / "run.lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(f"{folder}: another run is at work there; wait for it, or end it first") from None


def _command(folder: Path, settings: Settings, products: Collection[str]) -> list[str]:
    packaged = HERE / "profiles" / settings.profile
    cores = ("--cores", str(max(cpu_count(), settings.parallel)))
    limit = cores if settings.profile == "local" else ("--jobs", str(settings.parallel))
    config = {"products": ",".join(products), "device": settings.device, "parallel": str(settings.parallel)}
    if settings.source is not None:
        config["source"] = str(settings.source.resolve())
    return [
        *(sys.executable, "-m", "hippo_nnunet.workflow.process", str(os.getpid())),
        *("--snakefile", str(HERE / "Snakefile")),
        *("--directory", str(folder)),
        *("--workflow-profile", str(packaged if packaged.is_dir() else Path(settings.profile).resolve())),
        *limit,
        *("--resources", f"training={settings.parallel}"),
        *("--config", *(f"{key}={value}" for key, value in config.items())),
    ]


def _check_profile(profile: str) -> None:
    if not (HERE / "profiles" / profile).is_dir() and not Path(profile).is_dir():
        raise ConfigError(f"profile '{profile}' is neither local, slurm nor the folder of a Snakemake profile")
    if profile == "slurm" and importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise DependencyError("profile 'slurm' needs a plugin: pip install snakemake-executor-plugin-slurm")


def _check_encoders(experiment: Experiment, folder: Path) -> None:
    """Look for the weights of the CLIP encoders that missing trainings want: what lacks shows now, not in an hour."""
    trainers = {cell.trainer for cell in experiment.cells() if not (folder / cell.marker).exists()}
    wanted = {recipe.mini for recipe in map(recipes.parse, trainers) if recipe.base == recipes.CLIP_BASE}
    for mini in sorted(wanted):
        weights_file(chosen_encoder(mini))


def _watch(
    process: subprocess.Popen[bytes],
    markers: list[Path],
    experiment: Experiment,
    folder: Path,
    folders: NnunetFolders,
    settings: Settings,
) -> None:
    """Show progress and the expected time that is left until Snakemake ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    seen = {m for m in markers if (folder / m).exists()}
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(markers), completed=len(seen))
        changed = True
        while True:
            ended = process.poll() is not None
            new = [m for m in markers if m not in seen and (folder / m).exists()]
            seen.update(new)
            for marker in new:
                log.info("done: %s", marker.relative_to(DONE))
            if new or changed:
                left = remaining_seconds(experiment, folder, folders, settings)
                progress.update(task, completed=len(seen), description=f"about {duration(left)} of training left")
                changed = False
            if ended:
                return
            time.sleep(POLL_S)


def remaining_seconds(experiment: Experiment, folder: Path, folders: NnunetFolders, settings: Settings) -> float:
    """Return the expected seconds of the trainings that are missing; NaN where nobody knows."""
    missing = estimate.missing_trainings(experiment, folder, folders.results, settings.device)
    return sum(expected.seconds for expected in missing) / settings.parallel


def duration(seconds: float) -> str:
    """Return seconds in words: `45 s`, `12 min`, `1 h 40 min`; `an unknown time` for NaN."""
    if math.isnan(seconds):
        return "an unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _failure(folder: Path, snakemake_log: Path) -> HippoError:
    try:
        failed = json.loads((folder / FAILURE).read_text())
        return HippoError(f"{failed['job']}: {failed['message']} (log: {folder / failed['log']})")
    except (OSError, ValueError, KeyError):
        logs = [p for p in (folder / "logs").rglob("*.log") if p != snakemake_log]
        newest = max(logs, key=lambda p: p.stat().st_mtime, default=snakemake_log)
        return HippoError(
            f"a job ended without saying why, perhaps killed or out of memory; look at {newest} and {snakemake_log}, "
            "then run again: it goes on where it stopped"
        )


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no message")
