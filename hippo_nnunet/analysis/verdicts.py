"""What a comparison says in words: the headline, the sentence of each pair, and what forbids a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from hippo_nnunet.analysis.fold_records import FoldRecords
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.evaluation.comparison import Comparison
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import Model, recipe_of
from hippo_nnunet.evaluation.per_case import score_empty
from hippo_nnunet.evaluation.statistics import CANNOT_TELL, EQUIVALENT
from hippo_nnunet.evaluation.wording import is_slight, sentence, shown_verdict

NOT_JUDGED = "not judged"
"""In the place of a verdict where a network never found a label: its training failed, which is no result about it."""
FEWEST_ITERATIONS = 1000
"""A training with fewer iterations is too short to judge. The shortest schedule of this package has 1,100."""
FAILURE_DICE = 0.5
"""A label of a case counts as failed below this Dice."""
_SAME_GAIN = 5e-4
"""Gains in Dice that differ by less are told as one."""
WARNINGS = (NoteKind.LABEL_NOT_FOUND, NoteKind.SHORT_TRAINING)
"""Notes that a reader has to see before any figure."""

_PER_LABEL = ["variant", "configuration", "label"]
_DISTANCES = ("hd95_mm", "assd_mm")


def labels_never_found(table: pd.DataFrame) -> dict[Model, list[str]]:
    """List the labels that a model found in none of the cases that have them.

    Args:
        table: Of `read_per_case`.

    Returns:
        Model to labels; a model with several seeds is listed if one of its trainings never found the label.
    """
    has_label = table[table["dice"].notna() & ~(table["volume_ref_mm3"] == 0)]
    highest = has_label.groupby(_PER_LABEL, sort=False)["dice"].max()
    found: dict[Model, list[str]] = {}
    for variant, configuration, label in highest.index[highest == 0]:
        labels = found.setdefault(Model(recipe_of(str(variant)), str(configuration)), [])
        labels += [] if label in labels else [label]
    return found


def judge(comparison: Comparison, table: pd.DataFrame, records: FoldRecords) -> Comparison:
    """Withhold verdicts about networks that never found a label, warn of them and of very short trainings.

    The distances of such a label are withheld too: they are image diagonals. `models` gets `dice_p05`, `dice_worst`
    and `failures`, the cases with Dice below FAILURE_DICE.

    Args:
        comparison: Of `compare`; its pairs get the verdict NOT_JUDGED over all labels and for the label.
        table: Of `read_per_case`.
        records: Of `fold_records`.
    """
    lost = labels_never_found(table)
    notes = [*_not_found_notes(lost), *_short_training_notes(records), *comparison.notes]
    pairs, models = comparison.pairs.copy(), _with_tail(comparison.models, score_empty(table))
    for model, labels in lost.items():
        scopes = [MEAN, *labels]
        rows = _recipe_rows(models, model) & models["scope"].isin(scopes)
        models.loc[rows, [f"{name}{end}" for name in _DISTANCES for end in ("", "_sd")]] = np.nan
        if pairs.empty:
            continue
        against = (pairs["against"] == model.recipe) & (pairs["against_configuration"] == model.configuration)
        withheld = (_recipe_rows(pairs, model) | against) & pairs["scope"].isin(scopes)
        pairs.loc[withheld, ["verdict", "verdict_retrained"]] = NOT_JUDGED
    return replace(comparison, models=models, pairs=pairs, notes=tuple(notes))


def verdict_sentence(row: Mapping[Any, Any]) -> str:
    """Describe one row of `Comparison.pairs` in one or two sentences."""
    if row["verdict"] != NOT_JUDGED:
        return sentence(row)
    names = f"{row['variant']} {row['configuration']} against {row['against']} {row['against_configuration']}".rstrip()
    label = "" if row["scope"] == MEAN else f", {row['scope']}"
    return f"{names}{label}: {NOT_JUDGED}, as one of them never found a label."


def headline(pairs: pd.DataFrame) -> str:
    """Say in one sentence what the comparison of networks has shown, in which configurations."""
    if pairs.empty:
        return "There is one model: nothing to compare it with."
    rows = pairs[(pairs["kind"] == "variant") & (pairs["scope"] == MEAN)]
    if rows.empty:
        rows = pairs[pairs["scope"] == MEAN]
    said: dict[str, list[str]] = {}
    for configuration, group in rows.groupby("configuration", sort=False):
        found: dict[tuple[str, str, str], list[str]] = {}
        for row in group.to_dict("records"):
            same = row["configuration"] == row["against_configuration"]
            against = str(row["against"]) if same else f"{row['against']} {row['against_configuration']}".rstrip()
            found.setdefault((row["verdict"], against, _within_margin(row)), []).append(str(row["variant"]))
        for key, names in found.items():
            said.setdefault(_phrase(*key, names), []).append(str(configuration))
    text = "; ".join(f"{phrase} ({', '.join(where)})" for phrase, where in said.items())
    return f"{text[0].upper()}{text[1:]}."


def _within_margin(row: Mapping[Any, Any]) -> str:
    """Say `slightly worse by 0.0036, within the margin of 0.005` where that is so, else nothing."""
    if not is_slight(row):
        return ""
    size = format(abs(row["difference"]), ".2f" if row["metric"].endswith("_mm") else ".4f")
    return f"{shown_verdict(row)} by {size}, within the margin of {row['rope']:g}"


def _phrase(verdict: str, against: str, within: str, names: Sequence[str]) -> str:
    """Say `A and B are equivalent to C`."""
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    are = "is" if len(names) == 1 else "are"
    if within:
        return f"{listed} {are} {within.replace(' by ', f' than {against} by ', 1)}"
    if verdict == EQUIVALENT:
        return f"{listed} {are} equivalent to {against}"
    if verdict == CANNOT_TELL:
        return f"these cases cannot tell whether {listed} {'differs' if len(names) == 1 else 'differ'} from {against}"
    if verdict == NOT_JUDGED:
        return f"{listed} cannot be judged against {against}: a label was never found"
    return f"{listed} {are} {verdict} than {against}"


def _recipe_rows(frame: pd.DataFrame, model: Model) -> pd.Series:
    return (frame["variant"] == model.recipe) & (frame["configuration"] == model.configuration)


def _with_tail(models: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Add the 5th percentile of Dice, its lowest value, and the number of failures to the rows of `model_table`.

    Repeats are averaged case by case. A case counts as a failure of MEAN if any of its labels failed.
    """
    recipes = table["variant"].map(recipe_of)
    tails = []
    for row in models.to_dict("records"):
        folds = [int(fold) for fold in str(row["folds"]).split(",")]
        own = (recipes == row["variant"]) & (table["configuration"] == row["configuration"]) & table["fold"].isin(folds)
        dice = table[own].groupby(["fold", "case", "label"])["dice"].mean().unstack("label")
        shown = dice if row["scope"] == MEAN else dice[[row["scope"]]]
        cases = shown.mean(axis=1).dropna()
        failures = int((shown < FAILURE_DICE).any(axis=1).sum())
        tails.append((cases.quantile(0.05), cases.min(), failures))
    return models.assign(**dict(zip(("dice_p05", "dice_worst", "failures"), zip(*tails, strict=True), strict=True)))


def _not_found_notes(lost: Mapping[Model, Sequence[str]]) -> list[Note]:
    return [
        Note(
            NoteKind.LABEL_NOT_FOUND,
            f"{model} never found {' or '.join(labels)}: its Dice is 0 in every case. Its training failed or was too "
            "short, so it gets no verdict and no distances.",
        )
        for model, labels in lost.items()
    ]


def _short_training_notes(records: FoldRecords) -> list[Note]:
    """Warn of trainings with fewer than FEWEST_ITERATIONS iterations, one note for each length."""
    short: dict[int, dict[str, None]] = {}
    everything = dict.fromkeys(f"{recipe_of(cell.variant)} {cell.configuration}" for cell in records)
    for cell, record in records.items():
        schedule = record.get("schedule") or {}
        epochs, iterations = schedule.get("epochs"), schedule.get("iterations")
        if isinstance(epochs, int) and isinstance(iterations, int) and epochs * iterations < FEWEST_ITERATIONS:
            short.setdefault(epochs * iterations, {})[f"{recipe_of(cell.variant)} {cell.configuration}"] = None
    return [
        Note(
            NoteKind.SHORT_TRAINING,
            f"{'All networks' if names == everything else ', '.join(names)}: trained for {count} iterations only, far "
            "too few to judge a network (nnU-Net's default is 250,000). Read the figures as a test of the pipeline.",
        )
        for count, names in short.items()
    ]


def ensemble_gain(choice: Mapping[str, Any] | None, pairs: pd.DataFrame) -> str:
    """Separate what averaging models gains from what postprocessing gains.

    Args:
        choice: Content of `ensemble/choice.json`; None without an ensemble.
        pairs: Of `Comparison`.

    Returns:
        One to three sentences; empty where the gain is not known, or another metric than Dice was compared.
    """
    gain = (choice or {}).get("nested_gain")
    if choice is None or gain is None or pairs.empty:
        return ""
    own = pairs[(pairs["kind"] == "ensemble") & (pairs["scope"] == MEAN) & (pairs["metric"] == "dice")]
    if own.empty:
        return ""
    best = own[own["n"] == own["n"].max()].nsmallest(1, "difference").iloc[0]
    text = (
        f"With the same postprocessing, the ensemble gains {gain:+.4f} Dice{_interval(choice.get('gain'))} over the "
        "best single model (nested selection)."
    )
    controls = choice.get("seed_gains") or ()
    if controls:
        largest = max(controls, key=lambda control: float(control["dice"]))
        text += f" Two trainings of one recipe gain up to {largest['dice']:+.4f}{_interval(largest)} over their mean."
    if best["difference"] - gain < _SAME_GAIN:
        return text
    return (
        f"{text} The rest of the {best['difference']:+.4f} over {best['against']} {best['against_configuration']} is "
        "the effect of postprocessing, which that model lacks in this comparison."
    )


def _interval(gain: Mapping[str, Any] | None) -> str:
    return f" (95% interval {gain['low']:+.4f} to {gain['high']:+.4f})" if gain and gain["low"] is not None else ""
