"""What of an experiment is gone or damaged, as far as that shows without computing anything; torch-free.

Paths and names only, but for the few small files of which the manifest keeps a hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import DONE, RELATIVE, ExperimentPaths
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import read_splits, stored_cases

HASHED = (RELATIVE.per_case, RELATIVE.summary, RELATIVE.choice)
"""Results whose hash the manifest keeps, relative to the experiment's folder."""


def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def is_manifest(folder: Path) -> bool:
    """Tell whether an experiment has a manifest that can be read."""
    return _manifest(folder) is not None


def changed(folder: Path) -> set[Path]:
    """Return those of HASHED that are there, but are not what the experiment's last run has written.

    Nothing is known without a manifest, with one of a version that kept no hashes, or with one that is older than the
    results.
    """
    written = [_age(folder / DONE / name) for name in ("ensemble", "evaluate", "manifest")]
    if written[-1] < max(written):
        return set()
    hashes = (_manifest(folder) or {}).get("sha256")
    known = hashes if isinstance(hashes, dict) else {}
    return {
        path
        for path in HASHED
        if path.as_posix() in known and (folder / path).is_file() and file_hash(folder / path) != known[path.as_posix()]
    }


def holds(folder: Path, cases: Iterable[str]) -> bool:
    """Tell whether a folder has a file of every case, of whatever ending."""
    names = [path.name for path in folder.glob("[!.]*")]
    return all(any(name.startswith(f"{case}.") for name in names) for case in cases)


def test_cases(experiment: Experiment, folders: NnunetFolders) -> set[str]:
    """Return the cases of the test images: their names without channel and ending."""
    images = (folders.raw / experiment.dataset / "imagesTs").glob("[!.]*")
    return {path.name.rpartition("_")[0] for path in images if path.is_file()}


def validation_cases(experiment: Experiment, folders: NnunetFolders) -> set[str]:
    """Return the cases of the split; none where there is no split yet.

    Raises:
        DataError: The split cannot be read.
    """
    return {case for split in read_splits(experiment.dataset, folders) or [] for case in split["val"]}


def lost_preparations(experiment: Experiment, folders: NnunetFolders) -> list[Path]:
    """Return the markers of the jobs that a training needs again, because plans or preprocessed cases are gone.

    With each comes what leads from it to the training: Snakemake makes nothing that no job which it does asks for.

    Args:
        experiment: What was asked; some of it is to be trained or validated.
        folders: nnU-Net's folders.

    Raises:
        DataError: Plans or split cannot be read.
    """
    folder = folders.preprocessed / experiment.dataset
    plans = folder / f"{experiment.plans}.json"
    lost = []
    if plans.is_file():
        planned_as = read_object(plans).get("configurations", {})
        identifiers = {c: planned_as.get(c, {}).get("data_identifier", c) for c in experiment.folds}
        cases = validation_cases(experiment, folders)
        lost = [
            DONE / "preprocess" / c
            for c, name in identifiers.items()
            if not (folder / name).is_dir() or not cases <= stored_cases(folder / name)
        ]
    else:
        lost = [DONE / "plan", *(DONE / "preprocess" / c for c in experiment.folds)]
    if lost and not (folders.raw / experiment.dataset / "dataset.json").is_file():
        lost = [DONE / "data", DONE / "plan", *lost]
    return list(dict.fromkeys(lost))


def _age(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _manifest(folder: Path) -> dict | None:
    try:
        content = json.loads(ExperimentPaths(folder).manifest.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
