"""Presets: the plans and recipe words that variants share, and the trainer of a variant."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.evaluation.pairing import recipe_of, subset_size
from hippo_nnunet.training import recipes


@dataclass(frozen=True)
class Preset:
    """Plans and recipe that every variant of an experiment shares.

    Attributes:
        planner: Class name of the experiment planner.
        plans: Name of the plans that it writes.
        words: Recipe words that every trainer gets, unless the variant has a word of the same group.
        seeds: Trainings of each recipe, where `run --seeds` does not say.
    """

    planner: str
    plans: str
    words: tuple[str, ...]
    seeds: int = 1


PRESETS: dict[str, Preset] = {
    "laptop": Preset("CompactPlanner", "CompactPlans", ("fast",)),
    "overnight": Preset("CompactPlanner", "CompactPlans", ("fast",), seeds=3),
    "pad64": Preset("CompactPad64Planner", "CompactPad64Plans", ("fast",)),
    "gpu": Preset("ExperimentPlanner", "nnUNetPlans", ("40epochs",)),
    "standard": Preset("ExperimentPlanner", "nnUNetPlans", ("50epochs",)),
    "paper": Preset("ExperimentPlanner", "nnUNetPlans", ()),
}

AUTO = "auto"
"""Chooses between `laptop` and `gpu`; experiments record which of them."""


def preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ConfigError: There is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset '{name}' is unknown; take {AUTO}, {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_for_device(device: str) -> str:
    """Return the preset that `auto` selects: `gpu` on CUDA, else `laptop`."""
    return "gpu" if device == "cuda" else "laptop"


def preset_for_training(device: str, preprocessed: Path) -> str:
    """Return the preset that `auto` selects for training a single fold.

    Args:
        device: `cpu`, `cuda` or `mps`.
        preprocessed: The dataset's folder in `nnUNet_preprocessed`.

    Returns:
        `laptop` or `gpu`: the one whose plans exist; if both or neither exist, the one for the device.
    """
    planned = [name for name in ("laptop", "gpu") if (preprocessed / f"{PRESETS[name].plans}.json").is_file()]
    return planned[0] if len(planned) == 1 else preset_for_device(device)


def canonical_variant(variant: str) -> str:
    """Put a variant's words into the recipes' order: `UNet_fast_flip` becomes `UNet_flip_fast`.

    The name of a trainer is accepted for its variant: `UNetTrainer_flip` for `UNet_flip`. An unknown base is left for
    `trainer_name` to refuse.

    Raises:
        ConfigError: Words that recipes refuse.
    """
    base, *words = variant.split("_")
    trainer = f"{base.removesuffix('Trainer')}Trainer"
    if trainer not in recipes.bases():
        return variant
    return recipes.compose(trainer, words).replace("Trainer", "", 1)


def with_repeats(variants: Iterable[str], seeds: int) -> tuple[str, ...]:
    """Add repeats with other seeds to variants.

    Args:
        variants: Canonical names.
        seeds: Trainings of each recipe; 1 adds nothing.

    Returns:
        Every variant, each without a seed word followed by its repeats `_seed1` to `_seed<seeds - 1>`, or, where these
        are its teachers', the next ones.

    Raises:
        ConfigError: `seeds` below 1.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds {seeds}: at least 1 is needed")
    repeated = []
    for variant in variants:
        repeated.append(variant)
        if recipe_of(variant) == variant:
            taken = recipes.TEACHERS if "taught" in variant.split("_") else ()
            numbers = (number for number in count(1) if number not in taken)
            repeated += [f"{variant}_seed{number}" for number in islice(numbers, seeds - 1)]
    return tuple(dict.fromkeys(repeated))


def with_subsets(variants: Iterable[str], sizes: Iterable[int | None]) -> tuple[str, ...]:
    """Replace variants by trainings on numbers of cases.

    Args:
        variants: Canonical names; one with a word `<N>cases` stays as it is.
        sizes: Numbers of training cases; None for the variant itself, which trains on all cases of a fold.
    """
    found: list[str] = []
    for variant in variants:
        if subset_size(variant) is not None:
            found.append(variant)
        else:
            found += [canonical_variant(f"{variant}_{size}cases") if size else variant for size in sizes]
    return tuple(dict.fromkeys(found))


def trainer_name(variant: str, preset_name: str, epochs: int | None = None, iterations: int | None = None) -> str:
    """Return the trainer of a variant under a preset.

    Args:
        variant: A base without `Trainer`, and recipe words: `AttentionUNet_flip`.
        preset_name: One of `PRESETS`.
        epochs: Overrides the preset's number of epochs.
        iterations: Overrides the preset's iterations per epoch.

    Returns:
        For example `AttentionUNetTrainer_flip_fast`. A word of the variant wins over the preset's of the same group.

    Raises:
        ConfigError: Unknown variant or preset, a number below 1, or words that recipes refuse.
    """
    base, *words = variant.split("_")
    known = {name.removesuffix("Trainer"): name for name in recipes.bases()}
    if base not in known:
        nearest = recipes.suggest("_".join([f"{base}Trainer", *words])).replace("Trainer", "", 1)
        raise ConfigError(
            f"variant '{variant}': unknown base '{base}'; the bases are {', '.join(known)}. Did you mean '{nearest}'?"
        )
    for what, number in (("epochs", epochs), ("iterations", iterations)):
        if number is not None and number < 1:
            raise ConfigError(f"--{what} {number}: at least 1 is needed")
    lengths = [f"{epochs}epochs"] if epochs else []
    lengths += [f"{iterations}iters"] if iterations else []
    own = recipes.parse("_".join([known[base], *words]))
    common = recipes.parse(recipes.compose(known[base], preset(preset_name).words))
    asked = recipes.parse(recipes.compose(known[base], lengths))
    return recipes.Recipe(own.base, {**common.words, **asked.words, **own.words}).name
