"""The data of the page's charts, JSON-able: rounded, None where undefined."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.pairing import Model, recipe_of
from hippo_nnunet.pages.report.content import Content
from hippo_nnunet.pages.report.notebook import MEASURED, MEASURED_DATASET
from hippo_nnunet.pages.report.style import marker, series

_LIMITS, _ENDS = ("bias", "lower", "upper"), ("", "_low", "_high")


def chart_data(content: Content) -> dict[str, Any]:
    """Return the data that report.js draws; None for a chart without data."""
    return {
        "models": [
            {"name": str(model), "series": series(k), "symbol": marker(k).plotly, "path": marker(k).path}
            for k, model in enumerate(_models(content))
        ],
        "cases": _cases(content),
        "notebook": _notebook(content),
        "curves": _curves(content),
        "volumes": _volumes(content),
        "sizes": _sizes(content),
        "metric": QUALITY[content.comparison.options.metric].heading,
    }


def _models(content: Content) -> list[Model]:
    """Return the models shown, and behind them those that were trained on subsets of the cases alone."""
    known = {(model.full_recipe, model.configuration) for model in content.models}
    names = content.comparison.curve[["variant", "configuration"]].drop_duplicates().itertuples(index=False)
    return [*content.models, *(Model(*name) for name in names if tuple(name) not in known)]


def _cases(content: Content) -> dict[str, Any] | None:
    dice = content.case_dice
    if not dice.notna().any(axis=None):
        return None
    counts = dice.notna().sum()
    return {
        "order": sorted(range(len(content.models)), key=lambda k: -int(counts.iloc[k])),
        "cases": [str(case) for case in dice.index.get_level_values("case")],
        "folds": [int(fold) for fold in dice.index.get_level_values("fold")],
        "values": [_rounded(dice[k]) for k in dice.columns],
        "means": _rounded(dice.mean()),
        "labels": {
            label: [_rounded(frame.reindex(dice.index)[k]) for k in dice.columns]
            for label, frame in content.label_dice.items()
        },
    }


def _notebook(content: Content) -> dict[str, Any] | None:
    if content.notebook is None:
        return None
    models = []
    for row in content.notebook.means.to_dict("records"):
        model: Model = row["model"]
        own = content.notebook.cases[content.notebook.cases["model"] == model]
        models.append(
            {
                "model": content.index(model),
                "cases": own["case"].tolist(),
                "dice": _rounded(own["dice"]),
                "score": _rounded(own["notebook_dice"]),
                "mean": _rounded([row["dice"], row["notebook_dice"]]),
            }
        )
    measured = MEASURED if content.dataset.endswith(MEASURED_DATASET) else ()
    return {"models": models, "measured": [list(point) for point in measured]}


def _curves(content: Content) -> list[dict[str, Any]]:
    return [
        {
            "model": content.index(fold.model),
            "configuration": fold.model.configuration,
            "name": f"{fold.variant} {fold.model.configuration}, fold {fold.fold}",
            "epochs": [epoch + 1 for epoch in fold.curves.epochs],
            "train_loss": _rounded(fold.curves.train_loss),
            "val_loss": _rounded(fold.curves.val_loss),
            "pseudo_dice": _rounded(fold.curves.pseudo_dice),
        }
        for fold in content.curves
    ]


def _volumes(content: Content) -> list[dict[str, Any]]:
    """Return, for each variant and configuration, the volumes of each label and their agreement."""
    found = []
    table = content.table.dropna(subset=["volume_mm3", "volume_ref_mm3"])
    agreement = {
        (a["variant"], a["configuration"], a["label"]): a for a in content.comparison.volumes.to_dict("records")
    }
    for (variant, configuration), rows in table.groupby(["variant", "configuration"], sort=False):
        labels = []
        for label, own in rows.groupby("label", sort=False):
            limits = agreement[variant, configuration, label]
            labels.append(
                {
                    "label": str(label),
                    "cases": own["case"].tolist(),
                    "mean": _rounded((own["volume_mm3"] + own["volume_ref_mm3"]) / 2, 1),
                    "difference": _rounded(own["volume_mm3"] - own["volume_ref_mm3"], 1),
                    **{name: _rounded((limits[f"{name}{end}_mm3"] for end in _ENDS), 1) for name in _LIMITS},
                }
            )
        model = Model(recipe_of(str(variant)), str(configuration))
        found.append({"model": content.index(model), "name": f"{variant} {configuration}", "labels": labels})
    return sorted(found, key=lambda entry: int(entry["model"]))


def _sizes(content: Content) -> dict[str, Any] | None:
    """Return the lines of the metric against the number of training cases; a number that is unknown has no point."""
    curve = content.comparison.curve
    if curve.empty:
        return None
    known = curve.dropna(subset=["cases"])
    lines = []
    models = [(model.full_recipe, model.configuration) for model in _models(content)]
    for (variant, configuration), rows in known.groupby(["variant", "configuration"], sort=False):
        lines.append(
            {
                "model": models.index((variant, configuration)),
                "name": f"{variant} {configuration}",
                "cases": _rounded(rows["cases"], 2),
                "trained": [f"{row['cases_min']:.0f}–{row['cases_max']:.0f}" for row in rows.to_dict("records")],
                **{name: _rounded(rows[name]) for name in ("mean", "low", "high")},
            }
        )
    whole = known.loc[known["size"].isna(), "cases"]
    ticks = {*known["size"].dropna().astype(int), *([round(whole.mean())] if len(whole) else [])}
    return {"lines": lines, "ticks": sorted(ticks)}


def _rounded(values: Iterable[float], decimals: int = 4) -> list[float | None]:
    return [round(float(value), decimals) if np.isfinite(value) else None for value in values]
