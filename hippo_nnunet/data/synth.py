"""Write the synthetic phantom dataset in the layout of the Medical Segmentation Decathlon (MSD)."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.nifti import nifti_bytes
from hippo_nnunet.data.phantom import make_case
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import read_object
from hippo_nnunet.outputs import staged

# Training ids count from 1 and test ids from here, so that adding training cases renames no test case.
_FIRST_TEST_ID = 901
_MOST_TEST = 99
_CONTENT = r"dataset\.json|(images|labels)T[rs]/[a-z0-9]+_\d{3}\.nii\.gz"
_REFERENCE = "hippo_nnunet"
_MOVE = "choose another folder, or move it away"


def make_phantom(
    target_dir: Path,
    num_training: int = 20,
    num_test: int = 5,
    seed: int = 0,
    overwrite: bool = False,
    name: str = "Task04_Phantom",
) -> Path:
    """Write a phantom dataset in the form of Task04_Hippocampus.

    With the same seed, case n has the same bytes for any number of cases.

    Args:
        target_dir: parent of the task folder.
        num_training: labelled cases, 1 to 900.
        num_test: images without label, 0 to 99.
        seed: chooses the cases; at least 0.
        overwrite: replace a phantom dataset of this name, but no folder with other files.
        name: the task folder's name, TaskXX_Name.

    Returns:
        The task folder: ``dataset.json``, ``imagesTr``, ``labelsTr``, ``imagesTs``; voxels of 1 mm, RAS+ axes.

    Raises:
        ConfigError: a number or the name is out of range.
        DataError: the folder exists and is not to be replaced, or it cannot be written.

    Source: ours; see ``phantom.make_case``.
    """
    if not 1 <= num_training < _FIRST_TEST_ID or not 0 <= num_test <= _MOST_TEST or seed < 0:
        got = f"{num_training} training cases, {num_test} test cases, seed {seed}"
        raise ConfigError(f"{got}: expected 1 to {_FIRST_TEST_ID - 1}, 0 to {_MOST_TEST}, and a seed of at least 0")
    match = re.fullmatch(r"Task\d\d_([A-Za-z0-9]+)", name)
    if not match:
        raise ConfigError(f"task folder name {name!r}: expected TaskXX_Name, such as Task04_Phantom")
    title = match[1]
    training = [f"{title.lower()}_{index + 1:03d}" for index in range(num_training)]
    test = [f"{title.lower()}_{index + _FIRST_TEST_ID:03d}" for index in range(num_test)]
    target = target_dir / name
    if overwrite and target.is_dir():
        _check_phantom(target)
    with staged(target, overwrite, _CONTENT) as folder:
        for part in ("imagesTr", "labelsTr", "imagesTs"):
            (folder / part).mkdir(parents=True)
        for part, ids in (("Tr", training), ("Ts", test)):
            for index, case_id in enumerate(ids):
                case = make_case(np.random.default_rng((seed, int(part == "Ts"), index)))
                _write(folder / f"images{part}" / f"{case_id}.nii.gz", case.image)
                if part == "Tr":
                    _write(folder / "labelsTr" / f"{case_id}.nii.gz", case.label)
        content = json.dumps(_description(title, seed, training, test), indent=1)
        (folder / "dataset.json").write_text(content, encoding="utf-8")
    return target


def _check_phantom(task: Path) -> None:
    """Refuse a folder whose dataset.json is not of `make_phantom`; one without is replaced if it holds nothing else."""
    description = task / "dataset.json"
    if description.exists() and read_object(description, _MOVE).get("reference") != _REFERENCE:
        raise DataError(f"{description} is of no synthetic dataset, so {task} is not replaced; {_MOVE}")


def _description(title: str, seed: int, training: list[str], test: list[str]) -> dict[str, Any]:
    return {
        "name": title,
        "description": f"Synthetic head-and-tail structures in the form of Task04_Hippocampus, seed {seed}",
        "reference": _REFERENCE,
        "licence": "CC0 1.0",
        "release": "1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": len(training),
        "numTest": len(test),
        "training": [{"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"} for case in training],
        "test": [f"./imagesTs/{case}.nii.gz" for case in test],
    }


def _write(path: Path, array: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> None:
    affine = np.eye(4)
    affine[:3, 3] = 1.0  # as in the real data
    # Without the time that a gzip header normally holds, equal images give equal files.
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
        stream.write(nifti_bytes(array, affine))
