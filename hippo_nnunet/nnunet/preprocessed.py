"""nnU-Net's preprocessed data of a dataset, found and checked without torch.

nnU-Net itself trusts that the folders fit together, and fails late or trains on the wrong data.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hippo_nnunet.data.resampling import resampling_problem
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.plans import configuration_of, read_plans
from hippo_nnunet.nnunet.splits import check_split_cases, read_splits

DATASET_NAME = re.compile(r"Dataset\d{3}_[^/\\\s]+")
"""nnU-Net's names of datasets, which become part of paths."""

_CONFIGURATION_KEYS = (
    "data_identifier",
    "preprocessor_name",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_data_kwargs",
    "resampling_fn_seg",
    "resampling_fn_seg_kwargs",
)
_PLANS_KEYS = ("transpose_forward", "image_reader_writer", "foreground_intensity_properties_per_channel")


def dataset_name(dataset: int | str, folders: NnunetFolders) -> str:
    """Return the full name of a dataset given by id or name, looked up in the raw and the preprocessed folder.

    Args:
        dataset: `4`, `"4"`, `"004"` or `"Dataset004_Hippocampus"`.
        folders: nnU-Net's folders.

    Raises:
        ConfigError: Not an id or a name, no such dataset, or several with one id.
    """
    text = str(dataset)
    number = re.fullmatch(r"[0-9]{1,9}", text)
    if not number and not DATASET_NAME.fullmatch(text):
        raise ConfigError(f"dataset '{text}' is neither an id (4) nor a name (Dataset004_Hippocampus)")
    pattern = f"Dataset{int(text):03d}_*" if number else "Dataset*"
    there = {p.name for root in folders.of_datasets for p in root.glob(pattern) if p.is_dir()}
    found = sorted(name for name in there if DATASET_NAME.fullmatch(name) and (number or name == text))
    if not found:
        raise ConfigError(
            f"dataset '{text}' is not in {folders.of_datasets[0]}; convert it first: hippo-nnunet data convert SOURCE, "
            "or check nnUNet_raw"
        )
    if len(found) > 1:
        raise ConfigError(f"dataset id {text} is ambiguous: {', '.join(found)}; rename or remove all but one")
    return found[0]


def signature(plans: dict[str, Any], configuration: str) -> str:
    """Hash the parts of the plans that determine the preprocessed data (not patch, batch or network)."""
    parts = configuration_of(plans, configuration)
    relevant = [{k: parts.get(k) for k in _CONFIGURATION_KEYS}, {k: plans.get(k) for k in _PLANS_KEYS}]
    return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def data_folder(plans: dict[str, Any], configuration: str, folders: NnunetFolders) -> Path:
    """Return the folder of the configuration's preprocessed cases, which need not exist.

    Raises:
        ConfigError: The plans hold no such configuration.
        DataError: The configuration has no data_identifier.
    """
    identifier = configuration_of(plans, configuration).get("data_identifier")
    if not isinstance(identifier, str):
        raise DataError(
            f"configuration '{configuration}' of {plans['plans_name']} of {plans['dataset_name']} has no "
            "data_identifier; correct the plans, or plan again"
        )
    return folders.preprocessed / plans["dataset_name"] / identifier


def signature_file(folder: Path) -> Path:
    """Return the file beside a folder of preprocessed cases that records the signature of their plans."""
    return folder.with_name(f"{folder.name}.plan.sha256")


def stored_cases(folder: Path) -> set[str]:
    """Return the complete cases of a preprocessed folder: those with a properties file, which nnU-Net writes last."""
    return {p.stem for p in folder.glob("*.pkl") if p.stat().st_size > 0}


def raw_cases(dataset: str, folders: NnunetFolders) -> set[str]:
    """Return the identifiers of the labelled cases in nnU-Net's raw folder.

    Raises:
        DataError: dataset.json is missing or has no file_ending.
    """
    folder = folders.raw / dataset
    description = read_object(folder / "dataset.json")
    if isinstance(description.get("dataset"), dict):
        return set(description["dataset"])
    ending = description.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise DataError(
            f"{folder / 'dataset.json'} names no file_ending such as .nii.gz; see 'hippo-nnunet data check {folder}'"
        )
    return {p.name.removesuffix(ending) for p in (folder / "labelsTr").glob(f"[!.]*{ending}")}


def first_channels(raw: Path, cases: Iterable[str], ending: str) -> dict[str, Path]:
    """Name the file of each case's first channel; it may be missing.

    Source: nnunetv2.utilities.utils.get_filenames_of_train_images_and_targets, which lists every case of a dataset,
    with a pool of processes.
    """
    listed = read_object(raw / "dataset.json").get("dataset")
    if listed is None:
        return {case: raw / "imagesTr" / f"{case}_0000{ending}" for case in cases}
    return {case: raw / os.path.expandvars(listed[case]["images"][0]) for case in cases if case in listed}


def check_sizes(
    dataset: str, plans: dict[str, Any], configurations: Iterable[str], cases: Iterable[str], folders: NnunetFolders
) -> None:
    """Refuse to preprocess a case of which nothing would be left, or which would not fit into the free memory.

    Args:
        dataset: Full name; it is planned.
        plans: Its plans.
        configurations: Names of configurations to preprocess.
        cases: Labelled cases of the raw dataset.
        folders: nnU-Net's folders.

    Raises:
        DataError: Names the image, its voxel size and the resulting shape.
    """
    file = folders.preprocessed / dataset / "dataset_fingerprint.json"
    fingerprint, description = read_object(file), read_object(folders.raw / dataset / "dataset.json")
    shapes, spacings = fingerprint.get("shapes_after_crop", ()), fingerprint.get("spacings", ())
    names = sorted(cases)  # as nnU-Net lists them
    if "dataset" in description or not len(names) == len(shapes) == len(spacings):
        return
    images = first_channels(folders.raw / dataset, names, description["file_ending"])
    for configuration in configurations:
        planned = configuration_of(plans, configuration)["spacing"]
        for path, shape, spacing in zip(images.values(), shapes, spacings, strict=True):
            target = [spacing[axis] for axis in plans["transpose_forward"][: 3 - len(planned)]] + planned
            target_mm = [target[axis] for axis in plans["transpose_backward"]]
            maps = len(description["channel_names"]) + 1
            problem = resampling_problem(shape[::-1], spacing[::-1], target_mm[::-1], maps, f"{configuration}'s")
            if problem:
                raise DataError(
                    f"{path}: {problem}: correct the voxel size if it is wrong, or take the case out of the dataset; "
                    f"then delete {file} to plan again"
                )


def _known_cases(dataset: str, folders: NnunetFolders) -> set[str]:
    """Return the cases of the raw dataset or, without it, those whose references are kept; empty if there are none."""
    if folders.raw_folder is not None and (folders.raw / dataset / "dataset.json").is_file():
        return raw_cases(dataset, folders)
    references = (folders.preprocessed / dataset / "gt_segmentations").glob("[!.]*.nii*")
    return {path.name[: path.name.rindex(".nii")] for path in references}


def check_preprocessed(dataset: str, plans_name: str, configuration: str, folders: NnunetFolders) -> dict[str, Any]:
    """Refuse to train on preprocessed data that is missing, incomplete or made with other plans.

    Returns:
        The plans.

    Raises:
        ConfigError: No such dataset, plans or configuration, or the data does not fit the plans.
        DataError: A file cannot be read, or the splits name a case that the dataset does not have.
    """
    plans = read_plans(dataset, plans_name, folders)
    folder = data_folder(plans, configuration, folders)
    remedy = (
        f"preprocess it: hippo-nnunet plan --dataset {int(dataset[7:10])} --planner PLANNER "
        f"--configurations {configuration}"
    )
    if not folder.is_dir():
        raise ConfigError(
            f"{folder} is missing: {dataset} is not preprocessed for {plans_name} {configuration}; {remedy}"
        )
    record = signature_file(folder)
    if record.is_file() and record.read_text().strip() != signature(plans, configuration):
        raise ConfigError(
            f"{folder} was preprocessed with other plans than {plans_name}.json (spacing, normalisation or "
            f"resampling differ), or is incomplete; {remedy}"
        )
    splits = read_splits(dataset, folders) or []
    if cases := _known_cases(dataset, folders):
        check_split_cases(dataset, cases, folders)
    wanted = {case for split in splits for case in (*split["train"], *split["val"])}
    missing = sorted(wanted - stored_cases(folder))
    if missing:
        raise ConfigError(
            f"{folder}: {len(missing)} of {len(wanted)} cases are missing, first '{missing[0]}'; {remedy}"
        )
    return plans
