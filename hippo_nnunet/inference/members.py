"""The trained models of a prediction: found, checked for compatibility, and loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hippo_nnunet.data.description import label_values
from hippo_nnunet.data.layout import ENDINGS
from hippo_nnunet.errors import ConfigError, DataError, HippoError, one_line
from hippo_nnunet.files import read_object
from hippo_nnunet.memory import is_out_of_memory, memory_error
from hippo_nnunet.models.model_file import FOLDER_REMEDY, open_model
from hippo_nnunet.nnunet.paths import EXT_VARIABLE, trainer_folders
from hippo_nnunet.threads import limit_threads

if TYPE_CHECKING:
    import torch

    from hippo_nnunet.inference.batched_predictor import BatchedPredictor


@dataclass(frozen=True)
class Member:
    """A model folder or model file whose weights are not loaded yet.

    Attributes:
        folder: nnU-Net's `{trainer}__{plans}__{configuration}`, or a file of `hippo-nnunet model export`.
        folds: The folds whose logits are averaged.
        checkpoint: File name in each fold's folder.
        dataset_json: Content of dataset.json.
        plans: Content of plans.json.
        trust: Load checkpoints and plans that could run code.
    """

    folder: Path
    folds: tuple[int | str, ...]
    checkpoint: str
    dataset_json: dict[str, Any]
    plans: dict[str, Any]
    trust: bool = False

    @property
    def channels(self) -> int:
        """Number of image channels."""
        return len(self.dataset_json.get("channel_names") or self.dataset_json["modality"])


def find_members(
    models: Sequence[Path], folds: Sequence[int | str] | None, checkpoint: str, trust: bool = False
) -> list[Member]:
    """Find the folds of models, and check that the models belong together; loads no network.

    Args:
        models: nnU-Net's model folders, or files of `hippo-nnunet model export`; several are an ensemble.
        folds: Folds of each model; None for every numbered fold with the checkpoint, or the fold `all` if only that one
            has it.
        checkpoint: File name in each fold's folder; ignored for model files.
        trust: Load checkpoints and plans of folders that could run code.

    Returns:
        The members, in the order given.

    Raises:
        ConfigError: No model, a repeated one, a missing folder, fold or checkpoint, or incompatible models.
        DataError: A model's dataset.json or plans.json cannot be read, or a model file is invalid.
    """
    check_repeated(models)
    members = []
    for model in models:
        if model.name.endswith(".onnx"):
            raise ConfigError(
                f"{model}: an ONNX file is read by 'predict' only, and together with ONNX files only: name the model "
                "folder or the .hippo file"
            )
        if model.is_file():
            shared = open_model(model)
            selected = _selected(
                model, set(map(str, shared.folds)), shared.folds if folds is None else folds, "weights"
            )
            members.append(Member(model, selected, checkpoint, shared.dataset_json, shared.plans))
            continue
        if not model.is_dir():
            raise ConfigError(
                f"model folder {model} is missing: name a folder like UNetTrainer__nnUNetPlans__2d, or a .hippo file"
            )
        dataset_json, plans = (read_object(model / name, FOLDER_REMEDY) for name in ("dataset.json", "plans.json"))
        _check_form(dataset_json, model / "dataset.json", {"labels": dict, "file_ending": str})
        if not isinstance(dataset_json.get("channel_names") or dataset_json.get("modality"), dict):
            raise DataError(f"{model / 'dataset.json'}: names no channel_names: {FOLDER_REMEDY}")
        try:
            label_values(dataset_json["labels"], any_name=True)
        except ValueError as error:
            raise DataError(f"{model / 'dataset.json'}: {error}: {FOLDER_REMEDY}") from error
        _check_form(plans, model / "plans.json", {"dataset_name": str, "image_reader_writer": str})
        found = (fold / checkpoint for fold in model.glob("fold_*"))
        trained = {path.parent.name.removeprefix("fold_") for path in found if checkpoint and path.is_file()}
        members.append(
            Member(model, _selected(model, trained, folds, checkpoint), checkpoint, dataset_json, plans, trust)
        )
    check_together(members)
    return members


def check_repeated(models: Sequence[Path]) -> None:
    """Refuse no models, or one that is named twice (ConfigError)."""
    if not models:
        raise ConfigError("no model to predict with: name a model folder such as UNetTrainer__nnUNetPlans__2d")
    repeated = sorted({str(model) for model in models if [m.resolve() for m in models].count(model.resolve()) > 1})
    if repeated:
        raise ConfigError(f"model {repeated[0]} is given twice: name each member of the ensemble once")


def check_together(members: Sequence[Member]) -> None:
    """Refuse models of different datasets, or of images that are not NIfTI (ConfigError)."""
    first = members[0]
    mine = _identity(first)
    for other in members[1:]:
        theirs = _identity(other)
        for what, value in mine.items():
            if theirs[what] != value:
                raise ConfigError(
                    f"{first.folder} and {other.folder} cannot predict together: {what} {value} and {theirs[what]}; "
                    "give models of one dataset"
                )
    ending = first.dataset_json["file_ending"]
    if ending not in ENDINGS:
        raise ConfigError(f"{first.folder} was trained on {ending} images; predict these with nnUNetv2_predict")


def load_member(member: Member, device: torch.device, use_mirroring: bool, backend: str = "auto") -> BatchedPredictor:
    """Load the weights of every fold of a model.

    The other arguments are those of `BatchedPredictor`.

    Raises:
        ConfigError: The trainer is not installed, or the model is the second stage of a cascade.
        DataError: A checkpoint cannot be read, could run code, or does not fit the plans.
        DependencyError: It does not fit into the memory.
    """
    from hippo_nnunet.inference.batched_predictor import BatchedPredictor
    from hippo_nnunet.inference.loading import load_model

    # lets nnU-Net find our trainers without `hippo-nnunet register`
    os.environ[EXT_VARIABLE] = trainer_folders(os.environ)
    limit_threads()
    predictor = BatchedPredictor(device, use_mirroring, backend)
    try:
        predictor.manual_initialization(**load_model(member.folder, member.folds, member.checkpoint, member.trust))
    except HippoError:
        raise
    except Exception as error:  # torch.load and nnU-Net raise various exceptions
        if is_out_of_memory(error):
            raise memory_error(str(member.folder)) from error
        reason = one_line(error)
        if "Could not find requested nnunet trainer" in reason:
            raise ConfigError(
                f"{member.folder}: its trainer is not installed here: add the trainer's folder to {EXT_VARIABLE}"
            ) from error
        raise DataError(
            f"{member.folder}: {member.checkpoint} of the folds {', '.join(map(str, member.folds))} cannot be loaded "
            f"({type(error).__name__}: {reason}): name other folds, or delete it and train it again"
        ) from error
    if predictor.configuration_manager.previous_stage_name is not None:
        raise ConfigError(
            f"{member.folder} is the second stage of a cascade: predict the first one, then use "
            "nnUNetv2_predict -prev_stage_predictions"
        )
    return predictor


def _selected(
    model: Path, trained: set[str], folds: Sequence[int | str] | None, checkpoint: str
) -> tuple[int | str, ...]:
    there = ", ".join(sorted(trained)) or "none"
    if folds is None:
        numbered = sorted(int(fold) for fold in trained if fold.isdecimal() and fold == str(int(fold)))
        if not numbered and "all" not in trained:
            raise ConfigError(f"{model}: no numbered fold has {checkpoint} (folds that have it: {there}): train it")
        return tuple(numbered) or ("all",)
    missing = [fold for fold in folds if str(fold) not in trained]
    if missing or not folds:
        named = model / f"fold_{missing[0]}" / checkpoint if missing else model
        raise ConfigError(f"{named}: no such checkpoint (folds that have it: {there}): name other folds, or train it")
    return tuple(dict.fromkeys(folds))


def _identity(member: Member) -> dict[str, Any]:
    description = member.dataset_json
    return {
        "dataset": member.plans["dataset_name"],
        "labels": list(description["labels"].items()),
        "regions_class_order": description.get("regions_class_order"),
        "number of channels": member.channels,
        "image reader": member.plans["image_reader_writer"],
    }


def _check_form(content: dict[str, Any], path: Path, entries: dict[str, type]) -> None:
    for name, kind in entries.items():
        if not isinstance(content.get(name), kind) or not content[name]:
            raise DataError(f"{path}: names no {name}: {FOLDER_REMEDY}")
