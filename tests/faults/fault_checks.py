"""What has to be true after every round."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import zipfile
from pathlib import Path

import yaml
from fault_world import DATASET, MODEL

RESULTS = Path("nnunet") / "nnUNet_results" / DATASET / MODEL


def trained(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the final checkpoints that are whole: fold to hash and time."""
    found = {}
    for path in sorted((folder / RESULTS).glob("fold_*/checkpoint_final.pth")):
        if zipfile.is_zipfile(path):
            found[path.parent.name] = (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
    return found


def kept(before: dict[str, tuple[str, int]], folder: Path, times: bool = True) -> list[str]:
    """Name the folds that were trained and have been trained again."""
    after = trained(folder)
    part = slice(None) if times else slice(1)
    return [fold for fold, value in before.items() if fold not in after or after[fold][part] != value[part]]


def same_results(folder: Path, whole: Path) -> list[str]:
    """Name what differs from the undisturbed experiment, bit by bit."""
    wanted = [Path("metrics") / "per_case.csv", Path("submission") / "Task04_Phantom.zip"]
    wanted += [path.relative_to(whole) for path in sorted((whole / "predictions").rglob("*.nii.gz"))]
    wanted += [path.relative_to(whole) for path in sorted((whole / "ensemble" / "out_of_fold").glob("*.nii.gz"))]
    wanted += [path.relative_to(whole) for path in sorted((whole / RESULTS).glob("fold_*/validation/*.nii.gz"))]
    return [
        str(path)
        for path in wanted
        if not (folder / path).is_file() or (folder / path).read_bytes() != (whole / path).read_bytes()
    ]


def broken_files(folder: Path) -> list[str]:
    """Name every file that cannot be read to its end."""
    broken = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(".") and ".snakemake" not in path.parts:
            try:
                _read(path)
            except Exception as error:  # each kind of file has its own
                broken.append(f"{path.relative_to(folder)}: {error!r}"[:200])
    return broken


def leftovers(folder: Path) -> list[str]:
    """Name the temporary files that killed processes have left."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and _is_temporary(path)]


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name[1:2].isdigit()


def _read(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix in (".yaml", ".yml"):
        yaml.safe_load(path.read_text())
    elif path.suffix in (".csv", ".tsv"):
        with path.open(newline="") as stream:
            widths = {len(row) for row in csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")}
        if len(widths) > 1:
            raise ValueError(f"rows of {sorted(widths)} fields")
    elif path.suffix == ".gz":
        with gzip.open(path) as stream:
            while stream.read(2**20):
                pass
    elif path.suffix in (".npz", ".zip", ".pth"):
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"{bad} is damaged")
