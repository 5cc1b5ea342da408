"""The comparison of an experiment's models: better, worse, equivalent, or cannot tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd

from hippo_nnunet.data.description import MEAN
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.evaluation.comparison_notes import (
    empty_labels,
    general_notes,
    restriction,
    subject_notes,
    subset_notes,
)
from hippo_nnunet.evaluation.fold_means import corrected_test, detectable_retrained, verdict_retrained
from hippo_nnunet.evaluation.learning_curve import learning_curve
from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.mixed_model import mixed_result, repeated_differences
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import SUBSETS, Model, models_of, pairs_of
from hippo_nnunet.evaluation.per_case import score_empty
from hippo_nnunet.evaluation.side_by_side import model_table, rank_table, repeat_sd, scores_of
from hippo_nnunet.evaluation.statistics import (
    ALPHA,
    RESAMPLES,
    detectable_difference,
    holm,
    paired_result,
    smallest_margin,
    verdict,
)
from hippo_nnunet.evaluation.subjects import subject_names
from hippo_nnunet.evaluation.volumetry import agreement_table
from hippo_nnunet.progress import tracked

ROPE = {"dice": 0.005, "nsd_1mm": 0.005}
"""Region of practical equivalence where none is given and no repeats tell; distances in mm have no customary one."""
REPEATABILITY = 1.96 * math.sqrt(2)
"""Standard deviations between repeats within which 95 % of the differences between two repeats lie."""
MIN_FREEDOM = 2
"""Fewer degrees of freedom between repeats do not tell a margin: three repeats of one recipe have two."""

PUBLISHED = "published"


@dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
        metric: One of QUALITY.
        rope: Half-width of the region of practical equivalence, in the metric's unit; None: what two trainings of one
            recipe differ by, where the table has repeats enough, else ROPE's.
        baseline: See `pairs_of`.
        number_of_folds: Folds of the split, of which some may not be trained; None: as many as the table has.
        n_resamples: Number of resamples of the bootstraps.
    """

    metric: str = "dice"
    rope: float | None = None
    baseline: str | None = None
    number_of_folds: int | None = None
    n_resamples: int = RESAMPLES

    def __post_init__(self) -> None:
        """Refuse what cannot be compared."""
        if self.metric not in QUALITY:
            raise ConfigError(f"metric '{self.metric}' cannot be compared; take {', '.join(QUALITY)}")
        if self.rope is not None and not 0 < self.rope < float("inf"):
            raise ConfigError(f"--rope {self.rope}: got a region without width or end, expected more than 0")

    @property
    def margin(self) -> float:
        """Half-width of the region of practical equivalence."""
        return ROPE[self.metric] if self.rope is None else self.rope


@dataclass(frozen=True)
class Comparison:
    """What a comparison found; the tables are described in docs/statistics.md.

    Attributes:
        options: How it was compared.
        models: See `model_table`.
        pairs: A row for each pair and scope: `comparison.csv`.
        ranks: See `rank_table`.
        notes: What a reader has to know: what was left out, and what these figures cannot say.
        volumes: Agreement of volumes, a row for each variant (seeds apart), configuration and label: see
            `agreement_table`.
        curve: The metric against the number of training cases: see `learning_curve`; empty if all models were trained
            on all cases of a fold.
    """

    options: Options
    models: pd.DataFrame
    pairs: pd.DataFrame
    ranks: pd.DataFrame
    notes: tuple[Note, ...]
    volumes: pd.DataFrame = field(default_factory=pd.DataFrame)
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)


def compare(
    table: pd.DataFrame,
    options: Options | None = None,
    published: Mapping[str, pd.DataFrame] | None = None,
    subjects: Mapping[str, str] | None = None,
) -> Comparison:
    """Compare every model of a table of per-case metrics.

    Args:
        table: Of `read_per_case`, or checked by `check_design`.
        options: How to compare; the defaults where None.
        published: Per-case results of others by method: see `read_published`.
        subjects: Subject of each case, the unit of intervals, tests and ranks; None: every case is one.

    Raises:
        ConfigError: The baseline is not in the table, published Dice is to be compared in another metric, or distances
            in mm have no margin.
    """
    options = options or Options()
    if published and options.metric != "dice":
        raise ConfigError(f"the published results are Dice: they cannot be compared in {options.metric}")
    notes = [*empty_labels(table), *subject_notes(table, subjects)]
    table = score_empty(table)
    models = models_of(table)
    full = [model for model in models if model.size is None]
    options, margin_note = _with_margin(options, table, full)
    scores = scores_of(table, models, options.metric)
    number_of_folds = options.number_of_folds or table["fold"].nunique()
    rows: list[dict[str, object]] = []
    for pair in tracked(pairs_of(models, options.baseline), "comparing"):
        one, other = scores[pair.one], scores[pair.other]
        if not len(one.index.intersection(other.index)):
            notes.append(
                Note(NoteKind.LEFT_OUT, f"{pair.one} and {pair.other} have no fold in common and are not compared.")
            )
            continue
        notes += restriction(pair.one, one, pair.other, other)
        difference = QUALITY[options.metric].sign * (one - other).loc[one.index.intersection(other.index)]
        named = _names(pair.kind, pair.one, pair.other)
        repeated = repeated_differences(table, pair.one, pair.other, options.metric, subjects)
        mixed = mixed_result(repeated)
        folds = 0 if pair.kind in SUBSETS else number_of_folds  # their folds share few training cases
        of_mean, *of_labels = _pair_rows(named, difference, options, folds, notes, subjects)
        of_mean |= {
            "difference_mixed": mixed.mean,
            "low_mixed": mixed.low,
            "high_mixed": mixed.high,
            "p_mixed": mixed.p,
            "training_sd": mixed.training_sd,
        }
        rows += [of_mean, *of_labels]
    if published:
        text = (
            "Published models, and those of other experiments, are compared case by case, not fold by fold: their "
            "splits may be others."
        )
        notes.append(Note(NoteKind.PUBLISHED, text))
    for method, theirs in (published or {}).items():
        for model in full or models:
            ours, cases = scores[model], scores[model].index.get_level_values("case")
            known = cases.isin(theirs.index)
            difference = ours[known] - theirs.loc[cases[known], list(ours.columns)].to_numpy()
            if not known.all():
                text = f"{method} has no result for {(~known).sum()} of {model}'s cases: compared on the others."
                notes.append(Note(NoteKind.LEFT_OUT, text))
            named = _names(PUBLISHED, model, Model(method, ""))
            rows += _pair_rows(named, difference, options, 0, notes, subjects)
    pairs = _with_verdicts(pd.DataFrame(rows), options) if rows else pd.DataFrame()
    if rows:
        notes.append(margin_note)
    side_by_side = model_table(table, models, options.metric)
    notes += general_notes(side_by_side, pairs)
    ranked = {model: scores[model] for model in full}  # fewer training cases are no rival
    ranks = rank_table(ranked, options.metric, options.n_resamples, subjects)
    volumes = agreement_table(table.dropna(subset=["volume_mm3", "volume_ref_mm3"]), subjects)
    curve = learning_curve(table, models, options.metric, subjects, options.n_resamples)
    notes += subset_notes(curve)
    return Comparison(options, side_by_side, pairs, ranks, tuple(dict.fromkeys(notes)), volumes, curve)


def _names(kind: str, one: Model, other: Model) -> dict[str, object]:
    return {
        "kind": kind,
        "variant": one.recipe,
        "configuration": one.configuration,
        "against": other.recipe,
        "against_configuration": other.configuration,
    }


def _pair_rows(
    named: dict[str, object],
    difference: pd.DataFrame,
    options: Options,
    number_of_folds: int,
    notes: list[Note],
    subjects: Mapping[str, str] | None,
) -> list[dict[str, object]]:
    """Describe the differences over all labels and for each; `number_of_folds` 0: no test of means over folds."""
    rows = []
    labels = list(difference.columns) if difference.shape[1] > 1 else []
    for scope in (MEAN, *labels):
        values = difference.mean(axis=1, skipna=False) if scope == MEAN else difference[scope]
        defined = values.dropna()
        if len(defined) < len(values):
            text = (
                f"{named['variant']} {named['configuration']} against {named['against']}, {scope}: "
                f"{len(values) - len(defined)} cases have no published result and no difference."
            )
            notes.append(Note(NoteKind.LEFT_OUT, text))
        folds = defined.index.get_level_values("fold").to_numpy()
        result = paired_result(
            defined.to_numpy(),
            options.margin,
            folds,
            options.n_resamples,
            subject_names(defined.index.get_level_values("case"), subjects),
        )
        over_folds = corrected_test(defined.groupby("fold").mean().to_numpy(), number_of_folds)
        rows.append(
            {
                **named,
                "metric": options.metric,
                "scope": scope,
                "rope": options.margin,
                "alpha": ALPHA,
                "result": result,
                "over_folds": over_folds,
                "number_of_folds": number_of_folds,
                "difference": result.mean,
                **asdict(result),
                "folds": ",".join(map(str, sorted(set(folds)))),
                "fold_sd": over_folds.sd,
                "low_retrained": over_folds.low,
                "high_retrained": over_folds.high,
                "p_retrained": over_folds.p,
            }
        )
    return rows


def _with_verdicts(rows: pd.DataFrame, options: Options) -> pd.DataFrame:
    """Correct each family's p-values, and add verdicts: the columns PAIR_COLUMNS."""
    rows["family"] = rows["kind"] + np.where(rows["scope"] == MEAN, "", ", labels")
    p_values = rows.groupby("family")["p_wilcoxon"]
    rows["p_holm"] = p_values.transform(lambda values: holm(list(values)))
    sizes = p_values.transform("count").clip(lower=1)
    rows["detectable"] = [
        detectable_difference(result.subject_sd, result.subjects, int(size))
        for result, size in zip(rows["result"], sizes, strict=True)
    ]
    retrained = rows.groupby("family")["p_retrained"]
    rows["p_retrained_holm"] = retrained.transform(lambda values: holm(list(values)))
    rows["verdict_retrained"] = [
        verdict_retrained(over_folds, p_holm, options.margin, result.subjects)
        for over_folds, p_holm, result in zip(rows["over_folds"], rows["p_retrained_holm"], rows["result"], strict=True)
    ]
    rows["detectable_retrained"] = [
        detectable_retrained(over_folds, number, int(size))
        for over_folds, number, size in zip(
            rows["over_folds"], rows["number_of_folds"], retrained.transform("count").clip(lower=1), strict=True
        )
    ]
    rows["rope_to_pass"] = [smallest_margin(result) for result in rows["result"]]
    rows["verdict"] = [
        verdict(result, p_holm, options.margin) for result, p_holm in zip(rows["result"], rows["p_holm"], strict=True)
    ]
    return rows.reindex(columns=list(PAIR_COLUMNS))


PAIR_COLUMNS = (
    *("kind", "variant", "configuration", "against", "against_configuration", "metric", "scope", "folds", "n"),
    "subjects",
    *("difference", "low", "high", "verdict", "rope", "alpha", "detectable", "sd", "family", "p_wilcoxon", "p_holm"),
    *("p_equivalence", "low_equivalence", "high_equivalence", "rope_to_pass", "rank_biserial", "cohens_dz"),
    *("fold_sd", "low_retrained", "high_retrained", "p_retrained", "p_retrained_holm", "verdict_retrained"),
    "detectable_retrained",
    *("difference_mixed", "low_mixed", "high_mixed", "p_mixed", "training_sd"),
)
"""The columns of `metrics/comparison.csv`."""


def _with_margin(options: Options, table: pd.DataFrame, models: Sequence[Model]) -> tuple[Options, Note]:
    """Choose the margin where none is given, and say why it is this one.

    Source:
        Coefficient of repeatability: Bland and Altman 1999 (doi:10.1177/096228029900800204).
    """
    unit = QUALITY[options.metric].after_number
    if options.rope is not None:
        return options, Note(NoteKind.MARGIN, f"Margin of equivalence: {options.rope:g} {unit}, as given by --rope.")
    sd, freedom = repeat_sd(table, models, options.metric)
    if freedom >= MIN_FREEDOM and sd > 0:
        margin = float(f"{REPEATABILITY * sd:.2g}")
        text = (
            f"Margin of equivalence: {margin:g} {unit}, within which two trainings of one recipe lie in 95 % of all "
            f"pairs, as estimated (standard deviation between repeats {sd:.2g}, {freedom} degrees of freedom)."
        )
        return replace(options, rope=margin), Note(NoteKind.MARGIN, text)
    if options.metric not in ROPE:
        raise ConfigError(
            f"{options.metric} has no customary region of equivalence, and no recipe has three repeats (run --seeds "
            "3), which would give one: state yours with --rope, in mm"
        )
    text = (
        f"Margin of equivalence: {options.margin:g} {unit}, a convention; with three repeats of a recipe (run "
        "--seeds 3) it is what trainings differ by, and --rope sets it. rope_to_pass in comparison.csv is the smallest "
        "that would pass."
    )
    return options, Note(NoteKind.MARGIN, text)
