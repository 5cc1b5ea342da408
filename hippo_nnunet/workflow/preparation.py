"""What `run` checks and restores before Snakemake starts, so that problems are found before hours of work."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from hippo_nnunet.clip.models import chosen_encoder
from hippo_nnunet.clip.prompts import PROMPTS_VARIABLE, read_prompts
from hippo_nnunet.clip.weights import weights_file
from hippo_nnunet.errors import ConfigError, DependencyError
from hippo_nnunet.experiment import markers
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import DONE, ExperimentPaths
from hippo_nnunet.experiment.split_copy import restore_split, save_split
from hippo_nnunet.experiment.stale import stale_markers, validation_cases
from hippo_nnunet.files import atomic_path
from hippo_nnunet.nnunet.partial import restore_description
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.training import recipe_words, recipes
from hippo_nnunet.workflow import job_state
from hippo_nnunet.workflow.estimate import missing_trainings

log = logging.getLogger(__name__)

PROFILES = Path(__file__).parent / "profiles"


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no experiment, but holds files that a run would replace.

    Raises:
        ConfigError: Names one of them.
    """
    paths = ExperimentPaths(folder)
    if paths.request.exists() or (folder / DONE).exists():
        return
    written = (paths.manifest, paths.metrics, paths.choice.parent, paths.predictions, paths.report.parent)
    for path in (*written, folder / "submission"):
        if os.path.lexists(path):
            raise ConfigError(f"{path} exists, though {folder} is no experiment: choose a new folder, or move it away")


def check_profile(profile: str) -> None:
    """Refuse a profile that does not exist, or whose packages are missing.

    Raises:
        ConfigError: It is neither a name of ours nor a folder.
        DependencyError: Snakemake or the plugin for SLURM is missing.
    """
    if not profile or not ((PROFILES / profile).is_dir() or Path(profile).is_dir()):
        raise ConfigError(f"profile '{profile}' is neither local, slurm nor the folder of a Snakemake profile")
    if importlib.util.find_spec("snakemake") is None:
        raise DependencyError("run needs Snakemake, and Snakemake needs Python 3.11 or newer: pip install snakemake")
    if profile == "slurm" and importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        raise DependencyError("profile 'slurm' needs a plugin: pip install snakemake-executor-plugin-slurm")


def check_encoders(experiment: Experiment, folder: Path) -> None:
    """Look for the weights of the CLIP encoders that the missing trainings use, and read the user's file of prompts.

    Raises:
        ConfigError: The file of prompts is none.
        DependencyError: They are missing.
    """
    trainers = {cell.trainer for cell in missing_trainings(experiment, folder)}
    used = {recipe.mini for recipe in map(recipes.parse, trainers) if recipe.base == recipe_words.CLIP_BASE}
    for mini in sorted(used):
        weights_file(chosen_encoder(mini))
    if used and os.environ.get(PROMPTS_VARIABLE):
        read_prompts(os.environ[PROMPTS_VARIABLE])


def prepare(experiment: Experiment, folder: Path, folders: NnunetFolders) -> None:
    """Restore missing inputs, write the request, and delete stale markers and the failures of an earlier run.

    Args:
        experiment: The request.
        folder: The experiment's folder.
        folders: nnU-Net's folders.

    Raises:
        DataError: Split or plans cannot be read.
        OSError: A file cannot be written.
    """
    if (folder / DONE / "plan").exists():
        restore_inputs(experiment, folders, folder)
    experiment.save(ExperimentPaths(folder).request)
    if (folder / DONE / "plan").exists():
        save_split(experiment, folders, folder)
    for marker in stale_markers(experiment, folder, folders):
        log.info("%s runs again: its results, or a training that it uses, are missing", marker.relative_to(DONE))
        (folder / marker).unlink()
    for path in job_state.failed_jobs(folder):
        path.unlink()
    clamp_times(folder / marker for marker in markers.all_markers(experiment, markers.PRODUCTS))


def restore_inputs(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Restore split, dataset.json and reference segmentations that are missing from the preprocessed dataset.

    Args:
        experiment: The request; it has been planned.
        folders: nnU-Net's folders; what the raw one lacks stays missing.
        folder: The experiment's folder, which holds the split.

    Raises:
        DataError: The split cannot be read.
        OSError: A file cannot be written.
    """
    restore_split(experiment, folders, folder)
    raw, preprocessed = folders.raw / experiment.dataset, folders.preprocessed / experiment.dataset
    if preprocessed.is_dir() and (raw / "dataset.json").is_file():
        restore_description(experiment.dataset, folders)
    references = preprocessed / "gt_segmentations"
    for case in sorted(validation_cases(experiment, folders)):
        if any(references.glob(f"{case}.*")):
            continue
        for label in (raw / "labelsTr").glob(f"{case}.*"):
            log.warning("the reference of %s is missing; it is copied from %s", case, label)
            with atomic_path(references / label.name) as temporary:
                shutil.copy2(label, temporary)


def clamp_times(paths: Iterable[Path]) -> None:
    """Set modification times in the future to now.

    Snakemake repeats a job whose input is newer than its output: after a clock that ran ahead, every run would repeat
    everything that follows such a marker.
    """
    now = time.time()
    for path in paths:
        if path.exists() and path.stat().st_mtime > now:
            log.warning("%s has a modification time in the future; it is set to now", path)
            os.utime(path, (now, now))
