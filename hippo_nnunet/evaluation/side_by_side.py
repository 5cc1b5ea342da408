"""Every model's own figures: mean and spread of every metric, per label, per fold and per seed; and their ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from hippo_nnunet.data.description import MEAN
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.fold_means import rank_shares
from hippo_nnunet.evaluation.metrics import METRICS, QUALITY
from hippo_nnunet.evaluation.pairing import ENSEMBLE, Model, rows_of, subset_size
from hippo_nnunet.evaluation.subjects import subject_names

Scores = Mapping[Model, pd.DataFrame]
"""Of each model a row for each (fold, case), a column for each label; repeats averaged; NaN where undefined."""


def scores_of(table: pd.DataFrame, models: Iterable[Model], metric: str) -> dict[Model, pd.DataFrame]:
    """Arrange one metric by model, case and label.

    Args:
        table: Checked table of per-case metrics: see `check_design`.
        models: Of `models_of`.
        metric: One of METRICS.
    """
    order = list(dict.fromkeys(table["label"]))
    return {
        model: table[rows_of(table, model)]
        .groupby(["fold", "case", "label"])[metric]
        .mean()
        .unstack("label")
        .reindex(columns=order)
        for model in models
    }


def full_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the models that were trained on all cases of a fold; every row where there is none.

    Args:
        table: Any with a column `variant`: of per-case metrics, or of `model_table`.
    """
    full = table["variant"].map(lambda variant: subset_size(str(variant)) is None).astype(bool)
    return table[full] if full.any() else table


def common_folds(scores: Scores) -> list[int]:
    """Return the folds that every model has."""
    folds = [set(frame.index.get_level_values("fold")) for frame in scores.values()]
    return sorted(set.intersection(*folds)) if folds else []


def model_table(table: pd.DataFrame, models: Sequence[Model], metric: str) -> pd.DataFrame:
    """Put the models side by side.

    Where configurations were trained on different folds, a model with more of them than all others have gets a second
    block of rows on the common folds, so that there are figures that can be compared.

    Args:
        table: Checked table of per-case metrics.
        models: Of `models_of`.
        metric: The metric whose spread between folds and seeds is given.

    Returns:
        A row for each model, set of folds and scope (MEAN, then the labels): `variant` (recipe), `configuration`,
        `repeats`, `folds` ("0,1,2"), `cases`, `scope`; each metric's mean and `<metric>_sd` between cases (as
        summary.json: the mean of the labels' means, and the deviation of a case's mean over labels); and for MEAN
        `<metric>_fold_sd` between the folds' means and `<metric>_seed_sd` between the means of the repeats.
    """
    by_metric = {name: scores_of(table, models, name) for name in METRICS}
    common = common_folds(by_metric[metric])
    rows = []
    for model in models:
        own = sorted(table.loc[rows_of(table, model), "fold"].unique())
        sets = [own] if own == common or not common else [own, common]
        for folds in sets:
            part = {name: _on_folds(scores[model], folds) for name, scores in by_metric.items()}
            measured = table[rows_of(table, model) & table["fold"].isin(folds)]
            named = {
                "variant": model.recipe,
                "configuration": model.configuration,
                "repeats": measured["variant"].nunique(),
                "folds": ",".join(map(str, folds)),
                "cases": measured["case"].nunique(),
            }
            rows += [{**named, **_figures(part, scope)} for scope in (MEAN, *part[metric].columns)]
            by_seed = measured.groupby(["variant", "label"])[metric].mean().groupby("variant").mean()
            by_fold = part[metric].mean(axis=1).groupby("fold").mean()
            spread = {f"{metric}_fold_sd": by_fold.std(ddof=1), f"{metric}_seed_sd": by_seed.std(ddof=1)}
            rows[-1 - len(part[metric].columns)].update(spread)
    return pd.DataFrame(rows)


def repeat_sd(table: pd.DataFrame, models: Iterable[Model], metric: str) -> tuple[float, int]:
    """Return the standard deviation of a recipe's mean between its repeats, and its degrees of freedom.

    The variance is pooled over the recipes; NaN and 0 where none was trained twice.
    """
    squares, freedom = 0.0, 0
    for model in models:
        means = table[rows_of(table, model)].groupby(["variant", "label"])[metric].mean().groupby("variant").mean()
        squares += float(((means - means.mean()) ** 2).sum())
        freedom += len(means) - 1
    return (float(np.sqrt(squares / freedom)), freedom) if freedom else (np.nan, 0)


def rank_table(
    scores: Scores, metric: str, n_resamples: int, subjects: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Tell how often each model takes each rank when subjects are resampled: see `rank_shares`.

    Args:
        scores: Of `scores_of`, for `metric`.
        metric: One of QUALITY.
        n_resamples: Number of resamples.
        subjects: Subject of each case: see `subject_names`.

    Returns:
        Rows for the models of each configuration and, where there are several, for all models on their common folds:
        `among`, `variant`, `configuration`, `rank`, `share`. Empty if nothing can be ranked.
    """
    sets: dict[str, list[Model]] = {}
    for model in scores:
        if model.recipe != ENSEMBLE:
            sets.setdefault(model.configuration, []).append(model)
    if len(sets) > 1:
        sets["all"] = list(scores)
    rows = []
    for name, models in sets.items():
        chosen = {model: scores[model] for model in models}
        folds = common_folds(chosen)
        columns = [_on_folds(frame, folds).mean(axis=1) for frame in chosen.values()]
        values = QUALITY[metric].sign * pd.concat(columns, axis=1, keys=range(len(models))).dropna()
        if len(models) < 2 or values.empty:
            continue
        folds, cases = (values.index.get_level_values(level) for level in ("fold", "case"))
        shares = rank_shares(values, folds.to_numpy(), n_resamples, subject_names(cases, subjects))
        rows += [
            {"among": name, "variant": m.recipe, "configuration": m.configuration, "rank": rank, "share": share}
            for position, m in enumerate(models)
            for rank, share in shares.loc[position].items()
        ]
    return pd.DataFrame(rows, columns=["among", "variant", "configuration", "rank", "share"])


def extreme_cases(table: pd.DataFrame, worst: int, best: int) -> pd.DataFrame:
    """Choose the worst and best cases of each model by the mean Dice of their labels.

    Args:
        table: Of `read_per_case`; the ensemble is left out, as no single model made its predictions, and so are models
            trained on fewer cases.
        worst: How many of the lowest.
        best: How many of the highest, none of which is among the worst.

    Returns:
        Columns variant, configuration, fold, case, dice and rank (`worst 1` first); cases without any Dice are left
        out.

    Raises:
        DataError: No case has a Dice.
    """
    own = full_rows(table[table["variant"] != ENSEMBLE])
    keys = ["variant", "configuration", "fold", "case"]
    means = own.groupby(keys, sort=False)["dice"].mean().dropna().reset_index()
    parts = []
    for _, model in means.groupby(["variant", "configuration"], sort=False):
        ordered = model.sort_values(["dice", "case"], ignore_index=True)
        low, rest = ordered.iloc[:worst], ordered.iloc[worst:]
        high = rest.tail(best).iloc[::-1]
        parts.append(low.assign(rank=[f"worst {n}" for n in range(1, len(low) + 1)]))
        parts.append(high.assign(rank=[f"best {n}" for n in range(1, len(high) + 1)]))
    if not parts:
        raise DataError("the metrics hold no Dice of any variant: nothing to explain; evaluate the experiment again")
    return pd.concat(parts, ignore_index=True)


def _on_folds(frame: pd.DataFrame, folds: Sequence[int]) -> pd.DataFrame:
    return frame[frame.index.get_level_values("fold").isin(folds)]


def _figures(part: Mapping[str, pd.DataFrame], scope: str) -> dict[str, object]:
    figures: dict[str, object] = {"scope": scope}
    for name, frame in part.items():
        values = frame.mean(axis=1) if scope == MEAN else frame[scope]
        figures[name] = float(frame.mean().mean() if scope == MEAN else values.mean())
        figures[f"{name}_sd"] = float(values.std(ddof=1)) if values.count() > 1 else np.nan
    return figures
