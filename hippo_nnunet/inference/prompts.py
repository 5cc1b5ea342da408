"""Prediction with other text than that of the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from hippo_nnunet.clip.prompts import class_names
from hippo_nnunet.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from hippo_nnunet.inference.batched_predictor import BatchedPredictor
    from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet


@contextmanager
def other_prompts(predictor: BatchedPredictor, prompts: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Replace the networks' text of some classes within the block.

    Args:
        predictor: A CLIP-guided model whose networks OpenVINO has not converted outside the block.
        prompts: Descriptions by class name, in any case; several of a class are averaged.

    Raises:
        ConfigError: The model has no CLIP, or a class is unknown.
    """
    networks = clip_networks(predictor)
    texts = [changed_text(predictor, network, prompts) for network in networks]
    with ExitStack() as stack:
        for network, text in zip(networks, texts, strict=True):
            try:
                stack.enter_context(network.prompted(text))
            except ValueError as error:
                raise ConfigError(f"--prompt: {predictor.trainer_name}: {error}") from error
        yield


def clip_networks(predictor: BatchedPredictor) -> list[CLIPGuidedUNet]:
    """Return the networks of a CLIP-guided model.

    Raises:
        ConfigError: The model has no CLIP.
    """
    from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet

    networks = [network for network in predictor.networks if isinstance(network, CLIPGuidedUNet)]
    if not networks or not networks[0].uses_text:
        raise ConfigError(
            f"--prompt: {predictor.trainer_name} has no text to change; name a model of CLIPGuidedUNetTrainer without "
            "plainHead, or omit --prompt"
        )
    return networks


def changed_text(
    predictor: BatchedPredictor, network: CLIPGuidedUNet, prompts: Mapping[str, Sequence[str]]
) -> torch.Tensor:
    """Return the text embeddings of a network's heads, (head, embed_dim), those of some classes replaced.

    Raises:
        ConfigError: An unknown class, or an empty prompt.
    """
    trainer = getattr(import_module("hippo_nnunet.trainers"), predictor.trainer_name)
    embeddings = trainer.class_text(predictor.dataset_json, prompts)
    text = network.text_embeddings.clone()
    heads = prompted_heads(predictor, prompts)
    text[heads] = embeddings[heads].to(text)
    return text


def prompted_heads(predictor: BatchedPredictor, prompts: Mapping[str, Sequence[str]]) -> list[int]:
    """Return the heads of the classes that prompts name."""
    asked = {name.lower() for name in prompts}
    return [head for head, name in enumerate(class_names(predictor.dataset_json)) if name.lower() in asked]
