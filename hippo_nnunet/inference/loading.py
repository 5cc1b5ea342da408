"""A trained model's network and weights, as nnU-Net would load them, without importing trainers where possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from hippo_nnunet.inference.members import read_model_json
from hippo_nnunet.nnunet.network import ATTENTION, baseline_class, build_network
from hippo_nnunet.training.recipes import is_ours, parse

_NETWORKS: dict[str, Callable[[Any], str]] = {
    "UNetTrainer": baseline_class,
    "AttentionUNetTrainer": lambda configuration_manager: ATTENTION,
}
"""Base of a recipe to its network's class, where the plans say all else; importing the trainers takes a second."""


def load_model(folder: Path, folds: Sequence[int | str], checkpoint: str) -> dict[str, Any]:
    """Build a model's network, and load the weights of its folds.

    Args:
        folder: nnU-Net's `{trainer}__{plans}__{configuration}`.
        folds: At least one.
        checkpoint: File in each fold's folder.

    Returns:
        The arguments of `BatchedPredictor.manual_initialization`; the weights are read from the files when they are
        used, so optimizers' states never are.

    Raises:
        Exception: What nnU-Net, torch and our trainers raise where a file or the trainer is missing or wrong.
    """
    contents = [
        torch.load(folder / f"fold_{fold}" / checkpoint, map_location="cpu", weights_only=False, mmap=True)
        for fold in folds
    ]
    name = contents[0]["trainer_name"]
    if not is_ours(name):
        return _load_nnunets(folder, folds, checkpoint)
    dataset_json = read_model_json(folder / "dataset.json")
    plans = PlansManager(read_model_json(folder / "plans.json"))
    configuration = plans.get_configuration(contents[0]["init_args"]["configuration"])
    channels = determine_num_input_channels(plans, configuration, dataset_json)
    heads = plans.get_label_manager(dataset_json).num_segmentation_heads
    base = parse(name).base
    if base in _NETWORKS:
        network = build_network(_NETWORKS[base](configuration), configuration, channels, heads, False)
    else:
        trainer = getattr(import_module("hippo_nnunet.trainers"), name)
        network = trainer.build_network_architecture(plans, configuration, channels, heads, False)
    return {
        "network": network,
        "plans_manager": plans,
        "configuration_manager": configuration,
        "parameters": [content["network_weights"] for content in contents],
        "dataset_json": dataset_json,
        "trainer_name": name,
        "inference_allowed_mirroring_axes": contents[0].get("inference_allowed_mirroring_axes"),
    }


def _load_nnunets(folder: Path, folds: Sequence[int | str], checkpoint: str) -> dict[str, Any]:
    """Load a model of another trainer, which only nnU-Net can find."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    stock = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    stock.initialize_from_trained_model_folder(str(folder), tuple(folds), checkpoint)
    return {
        "network": stock.network,
        "plans_manager": stock.plans_manager,
        "configuration_manager": stock.configuration_manager,
        "parameters": stock.list_of_parameters,
        "dataset_json": stock.dataset_json,
        "trainer_name": stock.trainer_name,
        "inference_allowed_mirroring_axes": stock.allowed_mirroring_axes,
    }
