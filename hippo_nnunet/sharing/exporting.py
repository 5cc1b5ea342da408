"""Export a trained model as one file without pickles."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.labels import named_labels
from hippo_nnunet.experiment.manifest import installed_version
from hippo_nnunet.files import read_json
from hippo_nnunet.inference.members import Member, find_members, load_member
from hippo_nnunet.models.container import as_json, check_target, write_container
from hippo_nnunet.models.model_file import (
    CARD,
    DATASET,
    MODEL,
    PER_CASE,
    PLANS,
    check_description,
    shared_of_dataset,
    weights_member,
)
from hippo_nnunet.nnunet.api import limit_processes
from hippo_nnunet.nnunet.finished import SUMMARY
from hippo_nnunet.nnunet.plans import configuration_of
from hippo_nnunet.sharing.card import model_card
from hippo_nnunet.sharing.example import make_inputs, pack_output, run_example
from hippo_nnunet.sharing.verifying import verify_model
from hippo_nnunet.training import recipes
from hippo_nnunet.training.schedule import schedule_for

if TYPE_CHECKING:
    from hippo_nnunet.inference.batched_predictor import BatchedPredictor

PACKAGES = (
    "hippo_nnunet", "nnunetv2", "torch", "dynamic-network-architectures", "open_clip_torch", "numpy", "SimpleITK",
)  # fmt: skip
_TRAINING_KEYS = ("trained_seconds", "seed", "device", "threads")


@dataclass(frozen=True)
class ExportOptions:
    """Options and additional content of an exported model.

    Attributes:
        folds: Folds to export; None for all that are trained.
        checkpoint: File in each fold's folder.
        experiment: Folder of the experiment whose per-case metrics to include; None for none.
        licence: Of the weights, such as `CC-BY-SA-4.0`.
        citation: What to cite.
        trust: Load a checkpoint that could run code.
        overwrite: Replace an existing file.
        half: Store the weights in half precision, which only an ONNX file can.
    """

    folds: Sequence[int | str] | None = None
    checkpoint: str = "checkpoint_final.pth"
    experiment: Path | None = None
    licence: str = ""
    citation: str = ""
    trust: bool = False
    overwrite: bool = False
    half: bool = False


def export_model(model: Path, output: Path, options: ExportOptions | None = None) -> Path:
    """Write a model to one file, which is verified before it replaces the target.

    The same model, options, machine and versions give the same bytes.

    Args:
        model: nnU-Net's model folder `{trainer}__{plans}__{configuration}`, of ours or of nnU-Net's own trainers.
        output: The file, ending in `.hippo`.
        options: What else goes in.

    Returns:
        The file.

    Raises:
        ConfigError: A model, fold or checkpoint that is not there, folds of different trainings, another ending, an
            experiment without this model, or half precision.
        DataError: The file exists, a checkpoint cannot be read or could run code, or the model is of a kind that
            another machine could not build: its own trainer or network class, or a cascade's second stage.
    """
    options = options or ExportOptions()
    if options.half:
        raise ConfigError("--half: only an ONNX file stores half precision; give --onnx too, or leave it out")
    check_target(output, options.overwrite)
    member = member_to_export(model, options)
    import torch

    predictor = load_member(member, torch.device("cpu"), use_mirroring=True, backend="torch")
    dataset_json = shared_of_dataset(member.dataset_json)
    description = describe_member(member, options)
    try:
        check_description(description, member.plans, dataset_json)
    except DataError as error:
        raise DataError(f"{model}: cannot be shared: {error}") from error
    members: dict[str, Callable[[], bytes]] = {
        CARD: lambda: model_card(description, dataset_json, member.plans).encode(),
        MODEL: partial(as_json, description),
        PLANS: partial(as_json, member.plans),
        DATASET: partial(as_json, dataset_json),
    }
    if options.experiment is not None:
        table = _per_case(options.experiment, str(description["trainer"]), str(description["configuration"]))
        members[PER_CASE] = lambda: table
    for name, content in _example(member, predictor).items():
        members[name] = partial(bytes, content)
    for fold in member.folds:
        members[weights_member(fold)] = partial(_weights, member, fold)

    def verified(path: Path) -> None:
        try:
            verify_model(path).check()
        except DataError as error:
            raise DataError(f"{output}: not written, it fails its own verification ({error}): report this") from error

    write_container(output, members, options.overwrite, verified)
    return output


def member_to_export(model: Path, options: ExportOptions) -> Member:
    """Return a model folder as what predicts, and limit nnU-Net's processes, which has to precede its import.

    Raises:
        ConfigError: A model, fold or checkpoint that is not there.
        DataError: See `find_members`.
    """
    if not model.is_dir():
        raise ConfigError(f"model folder {model} is missing: name a folder like UNetTrainer__nnUNetPlans__2d")
    (member,) = find_members([model], options.folds, options.checkpoint, options.trust)
    limit_processes()
    return member


def describe_member(member: Member, options: ExportOptions) -> dict[str, Any]:
    """Return the content of model.json, without paths and times."""
    from hippo_nnunet.nnunet.checkpoints import KEY

    contents = {fold: _content(member, fold) for fold in member.folds}
    identities = {
        (str(c["trainer_name"]), str(c["init_args"]["configuration"]), str(c.get("inference_allowed_mirroring_axes")))
        for c in contents.values()
    }
    if len(identities) > 1:
        raise ConfigError(
            f"{member.folder}: its folds are from different trainings {sorted(identities)}: select with --folds"
        )
    first = next(iter(contents.values()))
    trainer, configuration = str(first["trainer_name"]), str(first["init_args"]["configuration"])
    axes = first.get("inference_allowed_mirroring_axes")
    recipe = recipes.parse(trainer) if recipes.is_ours(trainer) else None
    clip = (first.get(KEY, {}).get("record") or {}).get("encoder")
    dim = len(configuration_of(member.plans, configuration)["patch_size"])
    return {
        "trainer": trainer,
        "words": recipe.words if recipe else {},
        "configuration": configuration,
        "folds": list(member.folds),
        "checkpoint": member.checkpoint,
        "mirroring_axes": None if axes is None else [int(axis) for axis in axes],
        "schedule": asdict(schedule_for(recipe, dim)) if recipe else None,
        "clip": clip,
        "training": _training(member),
        "metrics": _metrics(member),
        "licence": options.licence.strip(),
        "citation": options.citation.strip(),
        "versions": {package: found for package in PACKAGES if (found := installed_version(package))},
    }


def _content(member: Member, fold: int | str) -> dict[str, Any]:
    from hippo_nnunet.nnunet.trust import read_checkpoint

    return read_checkpoint(member.folder / f"fold_{fold}" / member.checkpoint, member.trust)


def _weights(member: Member, fold: int | str) -> bytes:
    from hippo_nnunet.models.tensors import pack

    try:
        return pack(_content(member, fold)["network_weights"])
    except DataError as error:
        raise DataError(f"{member.folder}, fold {fold}: cannot be shared: {error}") from error


def _example(member: Member, predictor: BatchedPredictor) -> dict[str, bytes]:
    """Return the example's members: its images and the model's output."""
    schemes = predictor.configuration_manager.normalization_schemes
    inputs = make_inputs(member.plans, member.channels, schemes)
    with tempfile.TemporaryDirectory(prefix="hippo-example-") as scratch:
        files = [Path(scratch) / Path(name).name for name in inputs]
        for file, content in zip(files, inputs.values(), strict=True):
            file.write_bytes(content)
        output = run_example(predictor, files, None)
    return {**inputs, **pack_output(output, member.plans)}


def _training(member: Member) -> dict[str, Any]:
    found = {}
    for fold in member.folds:
        summary = member.folder / f"fold_{fold}" / SUMMARY
        if summary.is_file():
            content = read_json(summary)
            found[str(fold)] = {key: content.get(key) for key in _TRAINING_KEYS}
    return found


def _metrics(member: Member) -> dict[str, Any]:
    """Read each fold's mean validation metrics from nnU-Net's summary."""
    labels, _ = named_labels(member.dataset_json)
    found = {}
    for fold in member.folds:
        path = member.folder / f"fold_{fold}" / "validation" / "summary.json"
        if not path.is_file():
            continue
        summary = read_json(path)
        try:
            found[str(fold)] = {
                "cases": len(summary["metric_per_case"]),
                "dice": {name: _finite(summary["mean"][str(label)]["Dice"]) for name, label in labels.items()},
                "mean_dice": _finite(summary["foreground_mean"]["Dice"]),
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not nnU-Net's summary ({error!r}): validate the fold again") from error
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _per_case(experiment: Path, trainer: str, configuration: str) -> bytes:
    """Return this model's rows of an experiment's per-case metrics as CSV."""
    from hippo_nnunet.evaluation.per_case import read_per_case
    from hippo_nnunet.experiment.experiment import Experiment
    from hippo_nnunet.experiment.paths import ExperimentPaths

    asked = Experiment.load(ExperimentPaths(experiment).request)
    variants = [variant for variant in asked.variants if asked.trainer(variant) == trainer]
    table = read_per_case(ExperimentPaths(experiment).per_case)
    rows = table[table["variant"].isin(variants) & (table["configuration"] == configuration)]
    if rows.empty:
        raise ConfigError(
            f"{experiment} has no metrics of {trainer} in {configuration}: name the experiment that trained it"
        )
    return str(rows.to_csv(index=False, lineterminator="\n")).encode()
