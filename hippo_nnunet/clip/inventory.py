"""Which encoders are on this machine, and getting one there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.clip.models import CLIP_MODELS, EncoderChoice, chosen_encoder
from hippo_nnunet.clip.weights import cached_file, weights_file


@dataclass(frozen=True)
class InventoryRow:
    """One encoder.

    Args:
        model: Architecture.
        weights: Tag or file.
        chosen: Whether a recipe without `mini` would take it now.
        file: Its checkpoint; None where it has not been downloaded.
        size_bytes: Of the checkpoint; None likewise.
        sha256: Of the encoder, as checkpoints record it; None likewise.
        embed_dim: Length of an embedding; None where neither the table nor a checkpoint tells.
    """

    model: str
    weights: str
    chosen: bool
    file: str | None
    size_bytes: int | None
    sha256: str | None
    embed_dim: int | None


def fetch_encoder(model: str | None = None, weights: str | None = None) -> Path:
    """Get the weights of an encoder, and load them to be sure.

    Args:
        model: open_clip's model name; None for what the environment says.
        weights: open_clip's tag, or a file; None likewise.

    Returns:
        The checkpoint file.

    Raises:
        ConfigError: There is no such model, tag or file, or the file does not fit the model.
        DependencyError: The weights cannot be downloaded or do not load, or open_clip is missing.
    """
    from hippo_nnunet.clip.encoder import load_encoder

    asked = chosen_encoder(mini=False) if model is None or weights is None else EncoderChoice(model, weights)
    choice = EncoderChoice(model or asked.model, weights or asked.weights)
    path = weights_file(choice)
    load_encoder(choice)
    return path


def inventory() -> list[InventoryRow]:
    """Look up the known encoders and the one that the environment asks for.

    Returns:
        One row each. What is at hand is loaded strictly and hashed, which takes seconds for each.

    Raises:
        ConfigError: The environment asks for a model, tag or file that does not exist or does not load.
        DependencyError: A downloaded file does not load, or open_clip is missing.
    """
    chosen = chosen_encoder(mini=False)
    known = [model.choice for model in CLIP_MODELS]
    return [_row(choice, chosen) for choice in (known if chosen in known else [*known, chosen])]


def _row(choice: EncoderChoice, chosen: EncoderChoice) -> InventoryRow:
    from hippo_nnunet.clip.encoder import load_encoder

    file = cached_file(choice)
    if file is None:
        embed_dim = next((model.embed_dim for model in CLIP_MODELS if model.choice == choice), None)
        return InventoryRow(choice.model, choice.weights, choice == chosen, None, None, None, embed_dim)
    encoder = load_encoder(choice)
    size = file.stat().st_size
    return InventoryRow(
        choice.model, choice.weights, choice == chosen, str(file), size, encoder.sha256, encoder.embed_dim
    )
