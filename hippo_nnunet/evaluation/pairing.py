"""Which models can stand side by side: the table of per-case metrics checked, and the pairs worth comparing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.metrics import METRICS
from hippo_nnunet.evaluation.tables import COLUMNS

CONTROLS = ("randomText", "shuffledText", "noImage")
"""Recipe words of a control: the same parameters without the semantics."""
ENSEMBLE = "ensemble"
BASELINE = "UNet"
"""The baseline where none is named and the experiment has it."""

_SEED = re.compile(r"seed\d+")


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

    @property
    def is_control(self) -> bool:
        """Whether the recipe has a control word."""
        return self.block != self.recipe

    def __str__(self) -> str:
        """Name the model in words."""
        return f"{self.recipe} {self.configuration}"


@dataclass(frozen=True)
class Pair:
    """One comparison; a positive difference says that `one` is better.

    Attributes:
        kind: `variant`, `control`, `configuration` or `ensemble`: the family that p-values are corrected in.
    """

    kind: str
    one: Model
    other: Model


def recipe_of(variant: str) -> str:
    """Return a variant's name without its seed word."""
    return "_".join(word for word in variant.split("_") if not _SEED.fullmatch(word))


def read_per_case(path: Path) -> pd.DataFrame:
    """Read and check a `metrics/per_case.csv`.

    Args:
        path: The file.

    Returns:
        Its rows, with the columns COLUMNS.

    Raises:
        DataError: Missing, empty or unreadable; or see `check_design`.
    """
    try:
        table = pd.read_csv(path, dtype={"case": str, "variant": str, "configuration": str, "label": str})
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing: the experiment has no metrics yet; finish it with hippo-nnunet run"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table ({error}): evaluate the experiment again") from error
    try:
        check_design(table)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return table.astype({"fold": int})


def check_design(table: pd.DataFrame) -> None:
    """Refuse a table whose models were not measured on the same cases in the same folds.

    Variants of one configuration have to share folds, cases and labels. Configurations may have other folds, but a
    case cannot lie in two folds, and a fold that two configurations share has the same cases in both.

    Raises:
        DataError: Names the variant, and the cases or labels.
    """
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f"lacks the columns {', '.join(missing)}; expected {', '.join(COLUMNS)}")
    if table.empty:
        raise DataError("holds no case: the experiment is empty; evaluate it again")
    _check_values(table)
    folds = table.groupby("case")["fold"].nunique()
    _refuse(folds.index[folds > 1], "in two folds: the models come from different splits")
    first_labels = set(table["label"])
    designs: dict[str, tuple[str, set[int]]] = {}
    contents: dict[int, tuple[str, set[str]]] = {}
    for (variant, configuration), rows in table.groupby(["variant", "configuration"], sort=False):
        name = f"{variant} {configuration}"
        lacking = first_labels - set(rows["label"])
        if lacking:
            raise DataError(f"{name} lacks the labels {_listed(lacking)} that others have: measure the same labels")
        cells = rows.groupby("case")["label"].nunique()
        _refuse(cells.index[cells < len(first_labels)], f"without a row for every label in {name}")
        own_folds = set(rows["fold"].astype(int))
        first, folds_there = designs.setdefault(str(configuration), (name, own_folds))
        if own_folds != folds_there:
            raise DataError(
                f"{name} has the folds {_listed(own_folds)}, {first} has {_listed(folds_there)}: variants are compared "
                "on identical folds; train the missing ones"
            )
        for fold in sorted(own_folds):
            cases = set(rows.loc[rows["fold"] == fold, "case"])
            first, cases_there = contents.setdefault(fold, (name, cases))
            _refuse(cases_there - cases, f"measured for {first}, but not for {name}, in fold {fold}")
            _refuse(cases - cases_there, f"measured for {name}, but not for {first}, in fold {fold}")


def _check_values(table: pd.DataFrame) -> None:
    for column in ("fold", *METRICS):
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise DataError(f"column {column} holds something else than numbers: evaluate the experiment again")
    unnamed = table[["case", "variant", "configuration", "label"]].isna().any(axis=1)
    _refuse(table.index[unnamed], "in rows without a name of the case, variant, configuration or label")
    infinite = np.isinf(table[list(METRICS)]).any(axis=1)
    _refuse(table.loc[infinite, "case"], "with an infinite metric")
    folds = table["fold"]
    counted = np.isfinite(folds) & (folds == folds.round()) & (folds >= 0)
    _refuse(table.loc[~counted, "case"], "without a fold from 0 on")
    repeated = table.duplicated(["variant", "configuration", "case", "label"])
    _refuse(table.loc[repeated, "case"], "with a label that stands twice for one variant and configuration")


def models_of(table: pd.DataFrame) -> list[Model]:
    """List the models: baseline first, each followed by its controls; else in the table's order."""
    found = dict.fromkeys(
        Model(recipe_of(str(variant)), str(configuration))
        for variant, configuration in table[["variant", "configuration"]].itertuples(index=False)
    )
    blocks = list(dict.fromkeys(model.block for model in found))
    configurations = list(dict.fromkeys(model.configuration for model in found))

    def position(model: Model) -> tuple[bool, int, int, bool]:
        order = configurations.index(model.configuration)
        return model.recipe == ENSEMBLE, order, blocks.index(model.block), model.is_control

    return sorted(found, key=position)


def pairs_of(models: Sequence[Model], baseline: str | None = None) -> list[Pair]:
    """Choose the comparisons.

    Within each configuration every recipe against the baseline, or every two recipes where there is none; every
    recipe against its controls; each recipe's other configurations against its first; the ensemble against
    every recipe.

    Args:
        models: Of `models_of`.
        baseline: Name of a recipe; None: BASELINE where the experiment has it.

    Raises:
        ConfigError: No model has the baseline's name.
    """
    recipes = list(dict.fromkeys(model.recipe for model in models if model.recipe != ENSEMBLE))
    if baseline is not None and baseline not in recipes:
        raise ConfigError(f"--baseline '{baseline}' is not in this experiment; it has {', '.join(recipes)}")
    chosen = baseline or (BASELINE if BASELINE in recipes else None)
    singles = [model for model in models if model.recipe != ENSEMBLE]
    groups: dict[str, list[Model]] = {}
    for model in singles:
        groups.setdefault(model.configuration, []).append(model)
    pairs = [pair for group in groups.values() for pair in _within(group, chosen)]
    first: dict[str, Model] = {}
    for model in singles:
        reference = first.setdefault(model.recipe, model)
        if reference != model and not model.is_control:
            pairs.append(Pair("configuration", model, reference))
    for ensemble in (model for model in models if model.recipe == ENSEMBLE):
        pairs += [Pair("ensemble", ensemble, model) for model in singles if not model.is_control]
    return pairs


def _within(group: Sequence[Model], baseline: str | None) -> list[Pair]:
    recipes = {model.recipe: model for model in group}
    controls = [m for m in group if m.is_control and m.block in recipes and m.recipe != baseline]
    full = [model for model in group if model not in controls]
    if baseline in recipes:
        pairs = [Pair("variant", model, recipes[baseline]) for model in full if model.recipe != baseline]
    else:
        pairs = [Pair("variant", one, other) for other, one in combinations(full, 2)]
    return pairs + [Pair("control", recipes[control.block], control) for control in controls]


def _refuse(cases: Iterable[object], what: str) -> None:
    names = sorted({str(case) for case in cases})
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataError(f"{len(names)} cases {what} ({shown}): evaluate every variant on the same cases")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))
