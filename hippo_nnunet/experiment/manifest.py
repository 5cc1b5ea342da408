"""`manifest.json`: what is needed to compare and repeat a result. It contains no path of the machine."""

from __future__ import annotations

import platform
import subprocess
from collections import Counter
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hippo_nnunet.data.subjects import NONE, read_subjects
from hippo_nnunet.errors import DataError
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.stale import HASHED, file_hash
from hippo_nnunet.files import read_json, read_object
from hippo_nnunet.nnunet.finished import SUMMARY
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.threads import cpu_count

PACKAGES = (
    "hippo_nnunet",
    "nnunetv2",
    "torch",
    "dynamic-network-architectures",
    "batchgeneratorsv2",
    "open_clip_torch",
    "numpy",
    "SimpleITK",
    "snakemake",
)
_OF_ENSEMBLE = ("members", "postprocessing", "naive_dice", "nested_dice", "nested_gain")


def build_manifest(experiment: Experiment, folder: Path, folders: NnunetFolders, device: str) -> dict[str, Any]:
    """Collect the manifest of an experiment.

    Args:
        experiment: The request.
        folder: The experiment's folder.
        folders: nnU-Net's folders.
        device: The device of the last run; each fold names its own.

    Returns:
        JSON-ready content.
    """
    preprocessed = folders.preprocessed / experiment.dataset
    choice = ExperimentPaths(folder).choice
    chosen = read_json(choice) if choice.is_file() else None
    return {
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "arguments": experiment.as_dict(),
        "device": device,
        "machine": {"system": platform.system(), "processor": cpu_model(), "cpus": cpu_count()},
        "python": platform.python_version(),
        "versions": {name: installed_version(name) for name in PACKAGES},
        "commit": git_commit(),
        "sha256": {
            "splits": file_hash(preprocessed / "splits_final.json"),
            "plans": file_hash(preprocessed / f"{experiment.plans}.json"),
            "fingerprint": file_hash(preprocessed / "dataset_fingerprint.json"),
            "subjects": file_hash(ExperimentPaths(folder).subjects),
            **{path.as_posix(): file_hash(folder / path) for path in HASHED},
        },
        "subjects": _subjects(experiment, folder),
        "folds": [_fold(experiment, cell, folders) for cell in experiment.cells()],
        "not_ensembled": [c for c in experiment.folds if c not in experiment.ensembled_configurations()],
        "ensemble": {key: chosen.get(key) for key in _OF_ENSEMBLE} if chosen is not None else None,
    }


def _subjects(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Say how cases were split, and how many subjects are known: None where every case counts as one."""
    table = ExperimentPaths(folder).subjects
    sizes = Counter(read_subjects(table).values()) if table.is_file() else {}
    return {
        "folds": "by case" if experiment.subjects == NONE or not sizes else "by subject",
        "number": len(sizes) or None,
        "of_several_cases": sum(size > 1 for size in sizes.values()) or None,
    }


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from; None for an installed package."""
    package = Path(__file__).parents[1]
    if not (package.parent / ".git").exists():
        return None
    command = ["git", "-C", str(package.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _fold(experiment: Experiment, cell: Any, folders: NnunetFolders) -> dict[str, Any]:
    named = {key: getattr(cell, key) for key in ("variant", "configuration", "fold", "trainer")}
    try:
        record = read_object(experiment.result_folder(cell, folders.results) / SUMMARY)
    except DataError:
        return {**named, "trained_seconds": None}
    if isinstance(split := record.pop("split", None), dict):
        record["split_sha256"] = split.get("sha256")
        record["training_cases"] = len(split.get("train", ()))
    return {**named, **record}


def installed_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name; what Python knows where Linux does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
