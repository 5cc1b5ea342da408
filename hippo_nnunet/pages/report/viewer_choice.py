"""Which models and cases a report's viewers show, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from hippo_nnunet.analysis.tables import counted
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.pairing import ENSEMBLE, Model, models_of, recipe_of


@dataclass(frozen=True)
class ViewedModel:
    """A model whose predictions can be shown.

    Attributes:
        variant: As in the table of metrics.
        configuration: nnU-Net's configuration, or those that the ensemble has members of.
        colour: Position among the models of the report; repeats of one recipe share it.
    """

    variant: str
    configuration: str
    colour: int

    @property
    def name(self) -> str:
        """The model in words."""
        return f"{self.variant} {self.configuration}"


def viewed_models(table: pd.DataFrame) -> tuple[ViewedModel, ...]:
    """List the models of a table in the report's order: see `models_of`."""
    order = models_of(table)
    found = table[["variant", "configuration"]].drop_duplicates().itertuples(index=False)
    models = [ViewedModel(v, c, order.index(Model(recipe_of(v), c))) for v, c in found]
    return tuple(sorted(models, key=lambda model: model.colour))


@dataclass(frozen=True)
class Reason:
    """Why a case is shown.

    Attributes:
        title: In a few words.
        figures: The figures behind it.
        rank: `worst`, `median` or `best`, by the mean Dice of the first model; empty for other reasons.
    """

    title: str
    figures: str
    rank: str = ""

    def __str__(self) -> str:
        """Return the title with its figures."""
        return f"{self.title} ({self.figures})"


def choose_cases(table: pd.DataFrame, models: Sequence[ViewedModel], count: int) -> dict[str, list[Reason]]:
    """Choose the worst, median and best case of the first model, then those on which the models differ most.

    The models that may differ are those of the first one's configuration, without the ensemble; where there is only
    one, those of all configurations.

    Args:
        table: Of `read_per_case`.
        models: Of `viewed_models`.
        count: Maximum number of cases.

    Returns:
        Case to reasons, in this order.

    Raises:
        DataError: The first model has no Dice.
    """
    first = models[0]
    if first.variant == ENSEMBLE:
        raise DataError("the metrics hold the ensemble only, no variant to choose cases by")
    own = table[(table["variant"] == first.variant) & (table["configuration"] == first.configuration)]
    ordered = own.groupby("case")["dice"].mean().dropna().reset_index().sort_values(["dice", "case"])
    if ordered.empty:
        raise DataError(f"the metrics hold no Dice of {first.name}; evaluate the experiment again")
    last = len(ordered) - 1
    places = [("lowest", "worst", 0), ("median", "median", last // 2), *([("highest", "best", last)] if last else [])]
    wanted = []
    for word, rank, place in places:
        case, dice = ordered[["case", "dice"]].iloc[place]
        figures = f"{dice:.3f}" if word == "median" else f"{dice:.3f}; {counted(len(ordered), 'case')}"
        wanted.append((case, Reason(f"{word} mean Dice of {first.name}", figures, rank)))
    chosen: dict[str, list[Reason]] = {}
    for case, reason in [*wanted, *_most_different(table, models)]:
        if len(chosen) == count:
            break
        chosen.setdefault(str(case), []).append(reason)
    return chosen


def _most_different(table: pd.DataFrame, models: Sequence[ViewedModel]) -> list[tuple[str, Reason]]:
    single = [model for model in models if model.variant != ENSEMBLE]
    group = [model for model in single if model.configuration == models[0].configuration]
    group = group if len(group) > 1 else single
    if len(group) < 2:
        return []
    means = table.groupby(["variant", "configuration", "case"])["dice"].mean()
    frame = pd.DataFrame({model.name: means[model.variant, model.configuration] for model in group}).dropna(thresh=2)
    spread = (frame.max(axis=1) - frame.min(axis=1)).sort_index().sort_values(ascending=False, kind="stable")
    spread = spread[spread > 0]
    found = []
    for rank, case in enumerate(spread.index, start=1):
        row = frame.loc[case]
        high, low = row.idxmax(), row.idxmin()
        title = f"difference between models, rank {rank} of {len(spread)}"
        found.append((case, Reason(title, f"{high} {row[high]:.3f}, {low} {row[low]:.3f}")))
    return found
