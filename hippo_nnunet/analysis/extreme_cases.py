"""The cases that a model segments best and worst."""

from __future__ import annotations

import pandas as pd

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.pairing import ENSEMBLE


def extreme_cases(table: pd.DataFrame, worst: int, best: int) -> pd.DataFrame:
    """Choose the worst and best cases of each model by the mean Dice of their labels.

    Args:
        table: Of `read_per_case`; the ensemble is left out, as no single model made its predictions.
        worst: How many of the lowest.
        best: How many of the highest, none of which is among the worst.

    Returns:
        Columns variant, configuration, fold, case, dice and rank (`worst 1` first); cases without any Dice are left
        out.
    """
    own = table[table["variant"] != ENSEMBLE]
    keys = ["variant", "configuration", "fold", "case"]
    means = own.groupby(keys, sort=False)["dice"].mean().dropna().reset_index()
    parts = []
    for _, model in means.groupby(["variant", "configuration"], sort=False):
        ordered = model.sort_values(["dice", "case"], ignore_index=True)
        low, rest = ordered.iloc[:worst], ordered.iloc[worst:]
        high = rest.iloc[len(rest) - min(best, len(rest)) :].iloc[::-1]
        parts.append(low.assign(rank=[f"worst {n}" for n in range(1, len(low) + 1)]))
        parts.append(high.assign(rank=[f"best {n}" for n in range(1, len(high) + 1)]))
    if not parts:
        raise DataError("the metrics hold no Dice of any variant: nothing to explain; evaluate the experiment again")
    return pd.concat(parts, ignore_index=True)
