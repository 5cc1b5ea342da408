"""Turn a task of the Medical Segmentation Decathlon (MSD) into a dataset of nnUNet_raw."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from pathlib import Path

from hippo_nnunet.data.archive import open_dataset
from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.finding import Finding
from hippo_nnunet.data.layout import Dataset
from hippo_nnunet.data.subjects import TABLE
from hippo_nnunet.errors import ConfigError, DataError, UpstreamError
from hippo_nnunet.outputs import staged
from hippo_nnunet.processes import python_command, run_watched

logger = logging.getLogger(__name__)

_TASK = re.compile(r"Task(\d{1,3})_(.+)")
_CONVERTER = "from nnunetv2.dataset_conversion.convert_MSD_dataset import entry_point; entry_point()"
_DEFAULT_ID = 4
_CONTENT = r"dataset\.json|(imagesTr|labelsTr|imagesTs)/[^/]+\.nii\.gz"


def convert_msd(source: Path, raw_root: Path, dataset_id: int | None = None, overwrite: bool = False) -> Path:
    """Check an MSD task and write it as ``raw_root/DatasetXXX_Name``.

    nnU-Net's own converter asserts instead of explaining, requires one exact folder name, and leaves a partial dataset
    behind when it fails: it gets a checked task, and writes to a temporary folder.

    Args:
        source: the task's folder (``Task04_Hippocampus``) or an archive of it, such as the published ``.tar``.
        raw_root: the folder that ``nnUNet_raw`` names; created if missing.
        dataset_id: 1 to 999; None for the number in the task's folder name, else 4.
        overwrite: replace a dataset of the same id and name, but no folder with other files than a conversion's.

    Returns:
        The dataset's folder. Its dataset.json keeps name, licence, reference and all else but the list of files; a
        `subjects.csv` is copied.

    Raises:
        ConfigError: the id is out of range, or another dataset has it.
        DataError: the source is not an MSD task or has errors (nothing is written), or the target exists or is
            read-only.
        UpstreamError: nnU-Net's converter failed on checked data.

    Source: ``nnunetv2/dataset_conversion/convert_MSD_dataset.py``.
    """
    with open_dataset(source) as dataset:
        if dataset.form != "msd":
            raise DataError(f"{source}: is already in nnU-Net's form; copy the folder to {raw_root}")
        number, name = _number_and_name(dataset)
        if dataset_id is None:
            dataset_id = number
        target = raw_root / f"Dataset{dataset_id:03d}_{name}"
        _refuse_taken_id(target, dataset_id)
        subjects = dataset.folder / TABLE
        content = f"{_CONTENT}|{re.escape(TABLE)}" if subjects.is_file() else _CONTENT
        with staged(target, overwrite, content) as fresh:
            _refuse_errors(source, dataset.folder, check_dataset(dataset.folder))
            _run_converter(dataset, dataset_id, fresh)
            if subjects.is_file():
                shutil.copyfile(subjects, fresh / TABLE)
    logger.info("wrote %s: %d training and %d test cases", target, len(dataset.training), len(dataset.test))
    return target


def _number_and_name(dataset: Dataset) -> tuple[int, str]:
    match = _TASK.fullmatch(dataset.folder.name)
    name = match[2] if match else str(dataset.description.get("name", ""))
    plain = re.sub(r"[^A-Za-z0-9_-]+", "", name)
    if not plain:
        called = f"its name {name!r} has no letter or digit of ASCII" if name else "dataset.json has no name"
        raise DataError(f"{dataset.folder}: {called}; rename the folder to TaskXX_Name")
    return (int(match[1]) if match else _DEFAULT_ID), plain


def _refuse_taken_id(target: Path, dataset_id: int) -> None:
    if not 1 <= dataset_id <= 999:
        raise ConfigError(f"dataset id {dataset_id}: expected 1 to 999; pass another --dataset-id")
    others = [os.environ.get(variable) for variable in ("nnUNet_preprocessed", "nnUNet_results")]
    for root in (target.parent, *(Path(other) for other in others if other)):
        for other in sorted(root.glob(f"Dataset{dataset_id:03d}_*")):
            if other.name != target.name:
                message = f"dataset id {dataset_id} is taken by {other}, but nnU-Net needs one dataset for each id"
                raise ConfigError(f"{message}: use another --root, or data convert with another --dataset-id")


def _refuse_errors(source: Path, folder: Path, findings: list[Finding]) -> None:
    for finding in findings:
        if finding.severity == "warning":
            logger.warning("%s: %s", source, finding.describe(folder))
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        rest = f" (and {len(errors) - 1} more: see hippo-nnunet data check)" if len(errors) > 1 else ""
        raise DataError(f"{source}: {errors[0].describe(folder)}{rest}")


def _run_converter(dataset: Dataset, dataset_id: int, fresh: Path) -> None:
    # The converter splits the folder's name at every '_' and wants all three folders to exist.
    task = fresh.parent / f"Task{dataset_id:03d}_Source"
    task.mkdir()
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        if (dataset.folder / part).is_dir():
            (task / part).symlink_to(dataset.folder / part, target_is_directory=True)
        else:
            (task / part).mkdir()
    description = {"test": [], **dataset.description}  # the converter deletes the entry, also where there is none
    (task / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    output = fresh.parent / "output"
    output.mkdir()
    elsewhere = str(fresh.parent / "none")
    # In a child process, because the converter's spawned workers import the caller's main module again.
    code, errors = run_watched(
        python_command("-c", _CONVERTER, "-i", str(task), "-overwrite_id", str(dataset_id), "-np", "1"),
        env={**os.environ, "nnUNet_raw": str(output), "nnUNet_preprocessed": elsewhere, "nnUNet_results": elsewhere},
    )
    converted = output / f"Dataset{dataset_id:03d}_Source"
    wanted = {"imagesTr": dataset.training, "labelsTr": dataset.training, "imagesTs": dataset.test}
    complete = all(len(list((converted / part).glob("*.nii.gz"))) == len(cases) for part, cases in wanted.items())
    if code or not complete or not (converted / "dataset.json").is_file():
        reason = (errors.strip().splitlines() or ["files are missing from its output"])[-1]
        if "No space left" in reason:
            raise DataError(f"{fresh.parent.parent}: {reason}: make room, then try again")
        raise UpstreamError(f"{dataset.folder}: nnU-Net's MSD converter failed ({reason}); use nnunetv2 2.8.x")
    converted.rename(fresh)
