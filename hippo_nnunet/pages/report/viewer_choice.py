"""Which models and cases a report's viewers show, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.pairing import ENSEMBLE, Model, models_of, recipe_of
from hippo_nnunet.evaluation.side_by_side import extreme_cases


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


def choose_cases(table: pd.DataFrame, models: Sequence[ViewedModel], count: int) -> dict[str, str]:
    """Choose the worst, median and best case of the first model, then those on which the models differ most.

    The models that may differ are those of the first one's configuration, without the ensemble; where there is only
    one, those of all configurations.

    Args:
        table: Of `read_per_case`.
        models: Of `viewed_models`.
        count: At most so many.

    Returns:
        Case to reason, in this order.

    Raises:
        DataError: The first model has no Dice.
    """
    first = models[0]
    if first.variant == ENSEMBLE:
        raise DataError("the metrics hold the ensemble only, no variant to choose cases by")
    own = table[(table["variant"] == first.variant) & (table["configuration"] == first.configuration)]
    of_cases = own.groupby("case")["dice"].mean().dropna()
    extremes = extreme_cases(own, 1, 1)
    words = {"worst": "lowest", "best": "highest"}
    wanted = [
        (case, f"{words[rank.split()[0]]} mean Dice of {first.name} ({dice:.3f}; {len(of_cases)} cases)")
        for case, dice, rank in extremes[["case", "dice", "rank"]].itertuples(index=False)
    ]
    ordered = of_cases.reset_index().sort_values(["dice", "case"], ignore_index=True)
    middle = ordered.iloc[(len(ordered) - 1) // 2]
    wanted.insert(1, (middle["case"], f"median mean Dice of {first.name} ({middle['dice']:.3f})"))
    reasons: dict[str, list[str]] = {}
    for case, reason in [*wanted, *_most_different(table, models)]:
        if len(reasons) == count:
            break
        reasons.setdefault(str(case), []).append(reason)
    return {case: "; ".join(given) for case, given in reasons.items()}


def _most_different(table: pd.DataFrame, models: Sequence[ViewedModel]) -> list[tuple[str, str]]:
    single = [model for model in models if model.variant != ENSEMBLE]
    group = [model for model in single if model.configuration == models[0].configuration]
    group = group if len(group) > 1 else single
    means = table.groupby(["variant", "configuration", "case"])["dice"].mean()
    columns = {model.name: means[model.variant, model.configuration] for model in group}
    frame = pd.DataFrame(columns).dropna(thresh=2)
    if len(group) < 2:
        return []
    spread = frame.max(axis=1) - frame.min(axis=1)
    frame, spread = frame[spread > 0], spread[spread > 0]
    order = pd.DataFrame({"case": frame.index, "spread": -spread.to_numpy()}).sort_values(["spread", "case"])
    found = []
    for rank, case in enumerate(order["case"], start=1):
        row = frame.loc[case]
        high, low = row.idxmax(), row.idxmin()
        rank_text = f"difference between models, rank {rank} of {len(order)}"
        found.append((case, f"{rank_text} ({high} {row[high]:.3f}, {low} {row[low]:.3f})"))
    return found
