"""From prompts to one embedding for each class, and the controls that remove its meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from hippo_nnunet.clip.prompts import override_prompts, training_prompts
from hippo_nnunet.networks.guidance import orthonormal_rows

if TYPE_CHECKING:
    from hippo_nnunet.clip.encoder import CLIPEncoder


def class_embeddings(
    encoder: CLIPEncoder, dataset_json: Mapping[str, Any], overrides: Mapping[str, Sequence[str]] | None = None
) -> torch.Tensor:
    """Embed the classes of a dataset.

    Args:
        encoder: CLIP encoder.
        dataset_json: Content of nnU-Net's dataset.json.
        overrides: Prompts by class name that replace those of `class_prompts`; None for those of `training_prompts`.

    Returns:
        float32, shape (heads, embed_dim), unit length, on the CPU: of each class the mean of its prompts' embeddings.

    Raises:
        ConfigError: An override names no class, or is empty; or the user's file of prompts does not fit the dataset.

    Source: prompt ensembling, Radford et al. 2021, section 3.1.4 (averaged in embedding space).
    """
    each = prompt_embeddings(encoder, dataset_json, overrides)
    return F.normalize(torch.stack([of_class.mean(dim=0) for of_class in each]), dim=-1)


def prompt_embeddings(
    encoder: CLIPEncoder, dataset_json: Mapping[str, Any], overrides: Mapping[str, Sequence[str]] | None = None
) -> list[torch.Tensor]:
    """Return the unit embeddings of each class's prompts, (prompts, embed_dim); see `class_embeddings`."""
    prompts = override_prompts(dataset_json, overrides) if overrides else list(training_prompts(dataset_json).values())
    each = encoder.encode_text([prompt for of_class in prompts for prompt in of_class])
    return list(each.split([len(of_class) for of_class in prompts]))


def control_embeddings(embeddings: torch.Tensor, control: str | None, seed: int) -> torch.Tensor:
    """Return the embeddings that a control word puts in place of the classes' own.

    `rotatedText` and `randomText` keep all cosines between the classes, and `shuffledText` permutes them, so that a
    training with a control is as well conditioned as one without.

    Args:
        embeddings: Shape (heads, embed_dim), unit length.
        control: `rotatedText`: the same rotation of the whole space for every text. `randomText`: random vectors with
            the cosines of `embeddings`. `shuffledText`: each class has the embedding of the one before it (with a
            single head that is its own). None: no change.
        seed: Seed of the rotation, uniform among all of them, and of the random vectors.

    Returns:
        Same shape, type and device, unit length.
    """
    if control == "rotatedText":
        return (embeddings.double() @ orthonormal_rows(embeddings.shape[1], embeddings.shape[1], seed)).to(embeddings)
    if control == "randomText":
        values, vectors = torch.linalg.eigh((embeddings @ embeddings.T).double().cpu())
        rank = min(embeddings.shape)
        root = (vectors * values.clamp(min=0).sqrt())[:, -rank:]
        return F.normalize(root @ orthonormal_rows(rank, embeddings.shape[1], seed), dim=-1).to(embeddings)
    if control == "shuffledText":
        return embeddings.roll(1, dims=0)
    return embeddings


def control_prompts(prompts: Sequence[torch.Tensor], control: str | None, seed: int) -> list[torch.Tensor]:
    """Return what a control word puts in place of the single prompts of the classes; see `control_embeddings`.

    Args:
        prompts: Of `prompt_embeddings`.
        control: The recipe's.
        seed: Seed of the rotation.

    Returns:
        As many tensors of the same shapes; none for `randomText`, which has a vector for each class alone.
    """
    if control == "randomText":
        return []
    if control == "rotatedText":
        return [control_embeddings(of_class, control, seed) for of_class in prompts]
    return [*prompts[-1:], *prompts[:-1]] if control == "shuffledText" else list(prompts)
