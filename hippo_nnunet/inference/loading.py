"""Load a trained model's network and weights as nnU-Net does, if possible without importing trainers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from hippo_nnunet.errors import ConfigError, DataError, HippoError, one_line
from hippo_nnunet.files import read_object
from hippo_nnunet.memory import is_out_of_memory, memory_error
from hippo_nnunet.models.container import naming_file
from hippo_nnunet.models.model_file import FOLDER_REMEDY, ModelFile, open_model
from hippo_nnunet.nnunet.network import ATTENTION, baseline_class, build_network, clip_network, recipe_arguments
from hippo_nnunet.nnunet.plans_check import check_classes, check_file
from hippo_nnunet.nnunet.trust import read_checkpoint
from hippo_nnunet.training.neighbours import slices_of
from hippo_nnunet.training.recipe_words import CLIP_BASE
from hippo_nnunet.training.recipes import is_ours, parse

_NETWORKS: dict[str, Callable[[Any], str]] = {
    "UNetTrainer": baseline_class,
    "AttentionUNetTrainer": lambda configuration_manager: ATTENTION,
}
"""Bases whose network follows from its class and the plans: importing their trainers would take a second."""


def load_model(folder: Path, folds: Sequence[int | str], checkpoint: str, trust: bool = False) -> dict[str, Any]:
    """Build a model's network, and load the weights of its folds.

    Args:
        folder: nnU-Net's `{trainer}__{plans}__{configuration}`, or a file of `hippo-nnunet model export`.
        folds: At least one.
        checkpoint: File in each fold's folder.
        trust: Load checkpoints and plans that could run code; model files are never trusted.

    Returns:
        The arguments of `BatchedPredictor.manual_initialization`. A folder's weights are memory-mapped, so optimizer
        states are never read.

    Raises:
        DataError: Checkpoints or plans could run code, or a model file is invalid.
        Exception: What nnU-Net, torch and our trainers raise for a missing or invalid file or trainer.
    """
    if folder.is_file():
        return load_model_file(open_model(folder), folds)
    contents = [read_checkpoint(folder / f"fold_{fold}" / checkpoint, trust) for fold in folds]
    name, configuration = contents[0]["trainer_name"], contents[0]["init_args"]["configuration"]
    plans = read_object(folder / "plans.json", FOLDER_REMEDY)
    check_file(plans, folder / "plans.json", configuration, trust)
    return _assembled(
        _Frame(name, plans, configuration, read_object(folder / "dataset.json", FOLDER_REMEDY)),
        [content["network_weights"] for content in contents],
        contents[0].get("inference_allowed_mirroring_axes"),
    )


def load_model_file(model: ModelFile, folds: Sequence[int | str]) -> dict[str, Any]:
    """Like `load_model`, for an open model file.

    Raises:
        DataError: The weights do not fit the plans, or plans or trainer name code outside nnU-Net and this package.
        ConfigError: The installed CLIP encoder differs from the model's.
        DependencyError: The CLIP encoder is not installed.
    """
    parameters = [model.weights(fold) for fold in folds]
    with naming_file(model.path):
        try:
            check_classes(model.plans, model.configuration)
            frame = _Frame(model.trainer, model.plans, model.configuration, model.dataset_json, installed_only=True)
            for fold, weights in zip(folds, parameters, strict=True):
                _check_fit(frame, fold, weights)
        except ConfigError as error:
            raise DataError(str(error)) from error
        except HippoError:
            raise
        except Exception as error:  # whatever a network of forged arguments may raise
            if is_out_of_memory(error):
                raise memory_error(str(model.path)) from error
            reason = one_line(error)
            raise DataError(f"no network can be built from it ({type(error).__name__}: {reason})") from error
    return _assembled(frame, parameters, model.mirroring_axes)


class _Frame:
    """A model without weights; `installed_only` excludes trainers in the user's folders."""

    def __init__(
        self,
        trainer: str,
        plans: dict[str, Any],
        configuration: str,
        dataset_json: dict[str, Any],
        installed_only: bool = False,
    ) -> None:
        self.trainer, self.dataset_json, self.installed_only = trainer, dataset_json, installed_only
        self.plans_manager = PlansManager(plans)
        self.configuration_manager = self.plans_manager.get_configuration(configuration)
        self.channels = determine_num_input_channels(self.plans_manager, self.configuration_manager, dataset_json)
        self.heads = self.plans_manager.get_label_manager(dataset_json).num_segmentation_heads

    @property
    def base(self) -> str | None:
        """The recipe's base; None if the trainer is not ours."""
        return parse(self.trainer).base if is_ours(self.trainer) else None

    def network(self) -> nn.Module:
        """Build the network with untrained weights."""
        if self.base in _NETWORKS:
            return self.of_class(_NETWORKS[self.base](self.configuration_manager), {})
        if self.base is not None:
            trainer = getattr(import_module("hippo_nnunet.trainers"), self.trainer)
        else:
            trainer = _nnunets_trainer(self.trainer, self.installed_only)
        build = trainer.build_network_architecture
        plan: tuple[Any, ...] = (self.plans_manager, self.configuration_manager)
        if "plans_manager" not in inspect.signature(build).parameters:  # trainers for nnU-Net before 2.7
            manager = self.configuration_manager
            plan = (
                manager.network_arch_class_name,
                manager.network_arch_init_kwargs,
                manager.network_arch_init_kwargs_req_import,
            )
        made: nn.Module = build(*plan, self.channels, self.heads, enable_deep_supervision=False)
        return made

    def of_class(self, class_path: str, arguments: Mapping[str, Any]) -> nn.Module:
        """Build a network from its class, without its trainer."""
        slices = parse(self.trainer).slices
        return build_network(
            class_path, self.configuration_manager, self.channels, self.heads, False, arguments, slices
        )


def _assembled(frame: _Frame, parameters: list[Any], mirroring_axes: Sequence[int] | None) -> dict[str, Any]:
    return {
        "network": frame.network(),
        "plans_manager": frame.plans_manager,
        "configuration_manager": frame.configuration_manager,
        "parameters": parameters,
        "dataset_json": frame.dataset_json,
        "trainer_name": frame.trainer,
        "inference_allowed_mirroring_axes": mirroring_axes,
    }


def _nnunets_trainer(name: str, installed_only: bool) -> Any:
    """Find a trainer of nnU-Net, or unless `installed_only` of the user, by name."""
    if not installed_only:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        return recursive_find_trainer_class_by_name(name)
    import nnunetv2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    home = Path(nnunetv2.__path__[0]) / "training" / "nnUNetTrainer"
    found = recursive_find_python_class(str(home), name, "nnunetv2.training.nnUNetTrainer")
    is_trainer = isinstance(found, type) and issubclass(found, nnUNetTrainer)
    if not is_trainer or not found.__module__.startswith("nnunetv2."):
        raise DataError(f"trainer {name!r} is neither ours nor one of nnU-Net's own, so its network is unknown here")
    return found


def _check_fit(frame: _Frame, fold: int | str, weights: Mapping[str, torch.Tensor]) -> None:
    """Compare the weights' names, shapes and types with the network's, and try it on a patch, without allocating it."""
    with torch.device("meta"):
        if frame.base == CLIP_BASE:  # its trainer would attach an encoder
            embeddings = weights.get("text_embeddings")
            if embeddings is None or embeddings.dim() != 2:
                raise DataError(f"fold {fold} has no text_embeddings, which a CLIP-guided network needs")
            recipe = parse(frame.trainer)
            arguments = {**recipe_arguments(recipe), "embed_dim": int(embeddings.shape[1])}
            if recipe.design == "dense" and "stand_ins" in weights:
                arguments["token_grid"] = tuple(weights["stand_ins"].shape[3:])
            skeleton = frame.of_class(clip_network(recipe), arguments)
        else:
            skeleton = frame.network()
        patch = tuple(frame.configuration_manager.patch_size)
        if count := getattr(skeleton, "compute_conv_feature_map_size", None):
            count(patch)
        if frame.base != CLIP_BASE:  # its forward needs embeddings
            shape = tuple(skeleton(torch.empty(1, slices_of(skeleton) * frame.channels, *patch)).shape[1:])
            if shape != (frame.heads, *patch):
                raise DataError(f"the network of its plans gives {shape} for a patch, expected {(frame.heads, *patch)}")
    expected = {name: (tuple(t.shape), t.dtype) for name, t in skeleton.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            got, wanted = (_described(of.get(name)) for of in (found, expected))
            raise DataError(f"fold {fold}: weight {name[:100]} is {got}, and the network of its plans has {wanted}")


def _described(shape_and_type: tuple[tuple[int, ...], torch.dtype] | None) -> str:
    return "missing" if shape_and_type is None else f"{list(shape_and_type[0])} {shape_and_type[1]}"
