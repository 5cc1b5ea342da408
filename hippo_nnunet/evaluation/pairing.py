"""The models of an experiment, and the pairs that are compared. Imports no pandas."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.training.recipe_words import WORD_GROUPS

if TYPE_CHECKING:
    import pandas as pd

CONTROLS: dict[str, str] = {
    word: meaning
    for group in WORD_GROUPS
    if group.name in ("head", "textControl", "imageControl")
    for word, meaning in group.words.items()
}
"""Recipe words of a control (without the semantics of text or image), and what each replaces."""
HEADS = tuple(next(group for group in WORD_GROUPS if group.name == "head").words)
"""Those of them that a control of text or image may have in common with what it stands beside."""
ENSEMBLE = "ensemble"
"""The ensemble's name among the variants."""
BASELINE = "UNet"
"""The baseline where none is named and the experiment has it."""

SUBSETS = ("subset", "subset control")
"""Kinds of comparisons between models that were trained on equal numbers of cases, but not on all."""

_SEED = re.compile(r"seed\d+")
_CASES = re.compile(r"([1-9]\d*)cases")


@dataclass(frozen=True)
class Model:
    """A recipe in a configuration; repeats with other seeds are one model.

    Attributes:
        recipe: The variant's name without its seed word.
        configuration: nnU-Net's configuration.
    """

    recipe: str
    configuration: str

    @property
    def block(self) -> str:
        """The recipe without its control word: what a control stands beside."""
        return "_".join(word for word in self.recipe.split("_") if word not in CONTROLS)

    def counterpart(self, recipes: Collection[str]) -> str | None:
        """Return what a control stands beside: the recipe without control of text and image, or ``block``.

        Args:
            recipes: Those to choose from.
        """
        same_head = "_".join(word for word in self.recipe.split("_") if word not in CONTROLS or word in HEADS)
        return next((name for name in (same_head, self.block) if name != self.recipe and name in recipes), None)

    @property
    def is_control(self) -> bool:
        """Whether the recipe has a control word."""
        return self.block != self.recipe

    @property
    def size(self) -> int | None:
        """Number of training cases in the recipe's name; None for all of the fold's."""
        return subset_size(self.recipe)

    @property
    def full_recipe(self) -> str:
        """The recipe without its number of training cases."""
        return without_size(self.recipe)

    def __str__(self) -> str:
        """Name the model in words."""
        return f"{self.recipe} {self.configuration}"


@dataclass(frozen=True)
class Pair:
    """One comparison; a positive difference says that `one` is better.

    Attributes:
        kind: `variant`, `control`, `configuration` or `ensemble`, and for models that were trained on equal numbers of
            cases, but not on all, `subset` or `subset control`: the family that p-values are corrected in.
    """

    kind: str
    one: Model
    other: Model


def recipe_of(variant: str) -> str:
    """Return a variant's name without its seed word."""
    return "_".join(word for word in variant.split("_") if not _SEED.fullmatch(word))


def seed_of(variant: str) -> str:
    """Return the seed word of a variant; empty without one."""
    return next((word for word in variant.split("_") if _SEED.fullmatch(word)), "")


def subset_size(variant: str) -> int | None:
    """Return the number of training cases in a variant's name; None for all of the fold's."""
    found = next(filter(None, map(_CASES.fullmatch, variant.split("_"))), None)
    return int(found[1]) if found else None


def without_size(variant: str) -> str:
    """Return a variant's name without its number of training cases."""
    return "_".join(word for word in variant.split("_") if not _CASES.fullmatch(word))


def models_of(table: pd.DataFrame) -> list[Model]:
    """List the models: baseline first, each followed by its controls; else in the table's order.

    Those that were trained on fewer cases come last, each recipe's by their number.
    """
    found = dict.fromkeys(
        Model(recipe_of(str(variant)), str(configuration))
        for variant, configuration in table[["variant", "configuration"]].itertuples(index=False)
    )
    blocks = list(dict.fromkeys(without_size(model.block) for model in found))
    configurations = list(dict.fromkeys(model.configuration for model in found))

    def position(model: Model) -> tuple[bool, bool, int, int, bool, int]:
        order, block = configurations.index(model.configuration), blocks.index(without_size(model.block))
        size = model.size or 0
        return size > 0, model.recipe == ENSEMBLE, order, block, model.is_control, size

    return sorted(found, key=position)


def rows_of(table: pd.DataFrame, model: Model) -> pd.Series:
    """Return which rows of a table of per-case metrics belong to a model, with any seed."""
    repeats = [variant for variant in table["variant"].unique() if recipe_of(str(variant)) == model.recipe]
    return table["variant"].isin(repeats) & (table["configuration"] == model.configuration)


def pairs_of(models: Sequence[Model], baseline: str | None = None) -> list[Pair]:
    """Choose the comparisons.

    Within each configuration every recipe against the baseline, or every two recipes where there is none, and against
    the baseline's first configuration; every
    recipe against its controls; each recipe's other configurations against its first; the ensemble against
    every recipe. Models that were trained on fewer cases are only compared with others of the same number.

    Args:
        models: Of `models_of`.
        baseline: Name of a recipe; None: BASELINE where the experiment has it.

    Raises:
        ConfigError: No model has the baseline's name.
    """
    recipes = list(dict.fromkeys(model.full_recipe for model in models if model.recipe != ENSEMBLE))
    if baseline is not None and baseline not in recipes:
        raise ConfigError(f"--baseline '{baseline}' is not in this experiment; it has {', '.join(recipes)}")
    chosen = baseline or (BASELINE if BASELINE in recipes else None)
    singles = [model for model in models if model.recipe != ENSEMBLE]
    groups: dict[tuple[str, int | None], list[Model]] = {}
    for model in singles:
        groups.setdefault((model.configuration, model.size), []).append(model)
    pairs = [pair for group in groups.values() for pair in _within(group, chosen)]
    reference = next((m for m in singles if m.recipe == chosen), None)
    for (_, size), group in groups.items():
        if reference is not None and size is None and all(model.full_recipe != chosen for model in group):
            pairs += [Pair("variant", model, reference) for model in group if not model.is_control]
    firsts: dict[str, Model] = {}
    for model in singles:
        first = firsts.setdefault(model.recipe, model)
        if first != model and not model.is_control:
            pairs.append(Pair("configuration" if model.size is None else "subset", model, first))
    for ensemble in (model for model in models if model.recipe == ENSEMBLE):
        pairs += [Pair("ensemble", ensemble, m) for m in singles if not m.is_control and m.size is None]
    return pairs


def _within(group: Sequence[Model], baseline: str | None) -> list[Pair]:
    recipes = {model.recipe: model for model in group}
    reference = next((model for model in group if model.full_recipe == baseline), None)
    beside = {model: model.counterpart(recipes) for model in group if model != reference}
    controls = [model for model, name in beside.items() if name is not None]
    others = [model for model in group if model not in controls and model != reference]
    variant, control = ("variant", "control") if group[0].size is None else SUBSETS
    if reference is not None:
        pairs = [Pair(variant, model, reference) for model in others]
    else:
        pairs = [Pair(variant, one, other) for other, one in combinations(others, 2)]
    return pairs + [Pair(control, recipes[name], m) for m, name in beside.items() if name is not None]
