"""An open model file: description, plans and weights. Imports torch only to read weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hippo_nnunet.data.description import description_findings, label_values
from hippo_nnunet.data.layout import AXIS_CODES, ENDINGS
from hippo_nnunet.errors import DataError, HippoError
from hippo_nnunet.models.container import Container, naming_file, open_container
from hippo_nnunet.nnunet.plans import configuration_of
from hippo_nnunet.nnunet.plans_check import check_plans
from hippo_nnunet.training.recipe_words import CLIP_BASE
from hippo_nnunet.training.recipes import is_ours, parse

if TYPE_CHECKING:
    import torch

MODEL, PLANS, DATASET, CARD = "model.json", "plans.json", "dataset.json", "README.md"
PER_CASE = "metrics/per_case.csv"
FOLDER_REMEDY = "give the folder of a model of nnU-Net"

DATASET_KEYS = (
    "name", "description", "reference", "licence", "license", "release", "tensorImageSize", "numTraining", "numTest",
    "channel_names", "modality", "labels", "regions_class_order", "file_ending", AXIS_CODES,
)  # fmt: skip
"""Entries of dataset.json that are shared; lists of cases and paths are not."""

_MOST_CHANNELS = 64
_CONFIGURATION_KEYS = (
    "patch_size",
    "spacing",
    "preprocessor_name",
    "normalization_schemes",
    "use_mask_for_norm",
    *(f"resampling_fn_{what}{part}" for what in ("data", "seg", "probabilities") for part in ("", "_kwargs")),
)
"""Entries of a configuration that prediction needs."""
_CT_PROPERTIES = ("mean", "std", "percentile_00_5", "percentile_99_5")


@dataclass(frozen=True)
class ModelFile:
    """A shared model with checked file and description; its weights are not read yet.

    Attributes:
        container: The file.
        trainer: Name of the trainer: one of our recipes, or a class of nnU-Net.
        configuration: Such as `2d`.
        folds: Folds with weights.
        mirroring_axes: Spatial axes to mirror at prediction; None for none.
        plans: Content of plans.json.
        dataset_json: The shared entries of dataset.json.
        description: Content of model.json, with metrics, licence, citation and versions.
    """

    container: Container
    trainer: str
    configuration: str
    folds: tuple[int | str, ...]
    mirroring_axes: tuple[int, ...] | None
    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    description: dict[str, Any]

    @property
    def path(self) -> Path:
        """The file."""
        return self.container.path

    @property
    def dataset(self) -> str:
        """nnU-Net's name of the dataset: `Dataset004_Hippocampus`."""
        return str(self.plans["dataset_name"])

    @property
    def folder_name(self) -> str:
        """nnU-Net's name of the model's folder."""
        return f"{self.trainer}__{self.plans['plans_name']}__{self.configuration}"

    def weights(self, fold: int | str) -> dict[str, torch.Tensor]:
        """Read the weights of a fold, on the CPU.

        Raises:
            DataError: They are not safetensors, or hold NaN or infinity.
        """
        from hippo_nnunet.models.tensors import unpack

        name = weights_member(fold)
        with naming_file(self.path, f"{name}: "):
            return unpack(self.container.read(name))


def weights_member(fold: int | str) -> str:
    """Return the name of a fold's weights in the file."""
    return f"weights/fold_{fold}.safetensors"


def open_model(path: Path) -> ModelFile:
    """Open a file of `hippo-nnunet model export` and check everything but its weights.

    Raises:
        DataError: The file is unsafe or damaged, or its description is invalid or names foreign code.
    """
    container = open_container(path)
    description, plans = container.read_json(MODEL), container.read_json(PLANS)
    dataset_json = shared_of_dataset(container.read_json(DATASET))
    with naming_file(path):
        check_description(description, plans, dataset_json)
        folds = tuple(description["folds"])
        for fold in folds:
            if weights_member(fold) not in container.members:
                raise DataError(f"has no weights of fold {fold}")
    axes = description.get("mirroring_axes")
    return ModelFile(
        container,
        description["trainer"],
        description["configuration"],
        folds,
        None if axes is None else tuple(axes),
        plans,
        dataset_json,
        description,
    )


def shared_of_dataset(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dataset.json without lists of cases and paths."""
    return {key: dataset_json[key] for key in DATASET_KEYS if key in dataset_json}


def check_description(
    description: Mapping[str, Any], plans: Mapping[str, Any], dataset_json: Mapping[str, Any]
) -> None:
    """Refuse a description that is incomplete, inconsistent, or names things unknown to nnU-Net and this package.

    Args:
        description: Content of model.json.
        plans: Content of plans.json.
        dataset_json: From `shared_of_dataset`.

    Raises:
        DataError: Names the entry; the caller adds the file.
    """
    trainer, configuration = description.get("trainer"), description.get("configuration")
    dataset, plans_name = plans.get("dataset_name"), plans.get("plans_name")
    for what, value, pattern in (
        ("trainer", trainer, r"[A-Za-z]\w*"),
        ("configuration", configuration, r"[A-Za-z0-9]\w*"),
        ("dataset_name", dataset, r"Dataset\d{3}_\w[\w-]*"),
        ("plans_name", plans_name, r"[A-Za-z]\w*"),
    ):
        if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII) or "__" in value or len(value) > 99:
            raise DataError(f"{what} is {str(value)[:100]!r}, which is no name that nnU-Net gives")
    if is_ours(str(trainer)):
        _check_recipe(str(trainer), description)
    try:
        check_plans(plans)
    except DataError as error:
        raise DataError(f"{PLANS}: {error}") from error
    if configuration not in plans["configurations"]:
        raise DataError(f"{PLANS} has no configuration {configuration!r}")
    folds = description.get("folds")
    if not isinstance(folds, list) or not folds or len(set(map(str, folds))) != len(folds):
        raise DataError(f"folds is {folds!r}, expected a list of folds")
    if not all(fold == "all" or (type(fold) is int and 0 <= fold < 100) for fold in folds):
        raise DataError(f"folds is {folds!r}, expected numbers from 0 to 99, or all")
    resolved = configuration_of(plans, str(configuration))
    axes, dimensions = description.get("mirroring_axes"), len(resolved.get("patch_size", ()))
    of_patch = list(range(dimensions))
    whole = isinstance(axes, list) and all(type(axis) is int and axis in of_patch for axis in axes)
    if axes is not None and not (whole and len(set(axes)) == len(axes)):
        raise DataError(f"mirroring_axes is {str(axes)[:60]}, expected some of {of_patch}, each once, or null")
    _check_preprocessing(plans, resolved, _check_dataset(dataset_json))


def _check_preprocessing(plans: Mapping[str, Any], configuration: Mapping[str, Any], channels: int) -> None:
    """Refuse a configuration without an entry that prediction needs, or with entries for other channels."""
    missing = [key for key in _CONFIGURATION_KEYS if key not in configuration]
    if missing:
        raise DataError(f"{PLANS}: the configuration has no {missing[0]}")
    schemes = configuration["normalization_schemes"]
    if len(schemes) != channels:
        raise DataError(f"{PLANS}: normalization_schemes has {len(schemes)} entries, and {DATASET} {channels} channels")
    entry = "foreground_intensity_properties_per_channel"
    intensities = plans.get(entry, plans.get("foreground_intensity_properties_by_modality"))  # the name of older plans
    for number, scheme in enumerate(schemes):
        known = intensities.get(str(number)) if isinstance(intensities, dict) else None
        needed = _CT_PROPERTIES if scheme == "CTNormalization" else ()
        if not isinstance(known, dict) or not all(type(known.get(key)) in (int, float) for key in needed):
            raise DataError(f"{PLANS}: {entry} lacks the numbers that {scheme} of channel {number} needs")


def _check_recipe(trainer: str, description: Mapping[str, Any]) -> None:
    try:
        recipe = parse(trainer)
    except HippoError as error:
        raise DataError(f"{error}; or it was made by another version of hippo_nnunet") from error
    clip = description.get("clip")
    if recipe.base == CLIP_BASE and not (
        isinstance(clip, dict)
        and isinstance(clip.get("name"), str)
        and re.fullmatch(r"[0-9a-f]{64}", str(clip.get("sha256")))
    ):
        raise DataError("clip does not give the name and SHA-256 of the encoder that the trainer needs")


def _check_dataset(dataset_json: Mapping[str, Any]) -> int:
    """Refuse a dataset.json that nnU-Net would refuse or misread; return the number of channels."""
    channels = dataset_json.get("channel_names") or dataset_json.get("modality")
    if not isinstance(channels, dict) or not 0 < len(channels) <= _MOST_CHANNELS:
        raise DataError(f"{DATASET}: channel_names is {str(channels)[:100]!r}, expected the image's channels")
    if dataset_json.get("file_ending") not in ENDINGS:
        raise DataError(
            f"{DATASET}: file_ending is {dataset_json.get('file_ending')!r}, expected {' or '.join(ENDINGS)}"
        )
    try:
        labels = label_values(dataset_json.get("labels"))
    except ValueError as error:
        raise DataError(f"{DATASET}: {error}") from error
    for finding in description_findings(Path(DATASET), {**dataset_json, "channel_names": channels}, labels):
        if finding.severity == "error":
            raise DataError(f"{DATASET}: {finding.message}")
    return len(channels)
