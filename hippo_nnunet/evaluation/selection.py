"""The choice of an ensemble and its postprocessing on out-of-fold predictions, and its expected Dice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.candidates import Candidate, OutOfFoldDice, Subset
from hippo_nnunet.evaluation.postprocessing import POSTPROCESSINGS
from hippo_nnunet.files import write_json

MAX_EXHAUSTIVE = 6
"""Up to this many members, every subset is tried; with more, members are added greedily, each at most once."""


@dataclass(frozen=True)
class CandidateScore:
    """Out-of-fold Dice of one candidate on all cases: mean over cases for each label, and the mean of those."""

    members: tuple[str, ...]
    postprocessing: str
    dice: float | None
    labels: dict[str, float | None]


@dataclass(frozen=True)
class FoldChoice:
    """What was chosen without looking at a fold, and its Dice on that fold."""

    fold: int
    members: tuple[str, ...]
    postprocessing: str
    dice: float | None
    cases: int


@dataclass(frozen=True)
class EnsembleChoice:
    """The chosen ensemble.

    Attributes:
        members: Names of the chosen members, in the order in which they are averaged.
        postprocessing: One of POSTPROCESSINGS.
        naive_dice: Foreground Dice of the choice on the cases that it was chosen on: optimistic.
        nested_dice: Foreground Dice when each fold is scored with the choice made on the other folds: the Dice to
            expect from this procedure on new cases. None with fewer than two folds.
        nested_single_dice: The same when only single models may be chosen.
        nested_gain: What ensembling adds: nested_dice - nested_single_dice.
        best_single: Name of the best single model on all cases.
        margin: Dice that a larger ensemble had to gain over the best smaller one.
        per_fold: The choices behind nested_dice.
        candidates: Every candidate that was tried, best first.
    """

    members: tuple[str, ...]
    postprocessing: str
    naive_dice: float | None
    nested_dice: float | None
    nested_single_dice: float | None
    nested_gain: float | None
    best_single: str
    margin: float
    per_fold: tuple[FoldChoice, ...]
    candidates: tuple[CandidateScore, ...]

    def to_json(self, path: Path, overwrite: bool = False) -> None:
        """Write the choice atomically.

        Raises:
            DataError: The file exists and `overwrite` is False.
        """
        if path.exists() and not overwrite:
            raise DataError(f"{path} exists already: choose another name, or allow overwriting")
        write_json(path, asdict(self))

    @classmethod
    def from_json(cls, path: Path) -> EnsembleChoice:
        """Read what `to_json` wrote.

        Raises:
            DataError: The file is missing or does not hold a choice.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            content["members"] = tuple(content["members"])
            if not content["members"] or not all(Path(name).name == name for name in content["members"]):
                raise ValueError(f"its members {content['members']} are not names of folders")
            content["per_fold"] = tuple(
                FoldChoice(**{**entry, "members": tuple(entry["members"])}) for entry in content["per_fold"]
            )
            content["candidates"] = tuple(
                CandidateScore(**{**entry, "members": tuple(entry["members"])}) for entry in content["candidates"]
            )
            return cls(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: not a choice of an ensemble ({error}): delete it and choose again") from error


def choose_ensemble(
    members: Mapping[str, Mapping[str, Path]],
    references: Path,
    dataset_json: Mapping[str, Any],
    folds: Mapping[str, int],
    margin: float = 0.0,
) -> EnsembleChoice:
    """Choose members and postprocessing by mean foreground Dice of out-of-fold predictions.

    Members first, without postprocessing: the best ensemble of each size must gain more than `margin` over the best
    smaller one; equal scores go to the earlier members. Then a postprocessing, if it gains and no label loses. The
    mean foreground Dice is nnU-Net's: mean over cases for each label, undefined ones left out, then over labels.

    Args:
        members: Name of each member, and its out-of-fold probability file for each case: see `out_of_fold_files`.
        references: Folder of reference segmentations.
        dataset_json: Content of nnU-Net's dataset.json.
        folds: The fold that validated each case.
        margin: Dice, 0 to 1.

    Returns:
        The choice, its optimistic score, and the score of nested selection.

    Raises:
        DataError: Members do not cover the same cases, a case has no fold, or a file cannot be used.

    Source:
        Forward selection: Caruana et al. 2004 (without replacement). Postprocessing rule: nnU-Net's
        determine_postprocessing. Nested selection: Varma and Simon 2006.
    """
    dice = OutOfFoldDice(members, references, dataset_json)
    homeless = [case for case in dice.cases if case not in folds]
    if homeless:
        raise DataError(f"no fold for {len(homeless)} cases ({', '.join(homeless[:3])}): give the fold of every case")
    fold_of = np.array([folds[case] for case in dice.cases])
    fold_ids = sorted(set(fold_of.tolist()))
    nested = fold_ids if len(fold_ids) > 1 else []
    views = [np.ones(len(fold_of), dtype=bool), *(fold_of != fold for fold in nested)]

    chosen = _choose(dice, views, margin, max_size=len(dice.names))
    single = _choose(dice, views, margin, max_size=1)
    nested_dice = _nested_score(dice, chosen[1:], views[1:])
    nested_single = _nested_score(dice, single[1:], views[1:])
    subset, postprocessing = chosen[0]
    per_fold = tuple(
        FoldChoice(fold, _names(dice, candidate[0]), candidate[1], _score(dice[candidate][~view]), int((~view).sum()))
        for fold, candidate, view in zip(nested, chosen[1:], views[1:], strict=True)
    )
    return EnsembleChoice(
        members=_names(dice, subset),
        postprocessing=postprocessing,
        naive_dice=_score(dice[chosen[0]]),
        nested_dice=nested_dice,
        nested_single_dice=nested_single,
        nested_gain=None if nested_dice is None or nested_single is None else nested_dice - nested_single,
        best_single=dice.names[single[0][0][0]],
        margin=margin,
        per_fold=per_fold,
        candidates=_candidate_scores(dice),
    )


def _choose(dice: OutOfFoldDice, views: Sequence[np.ndarray], margin: float, max_size: int) -> list[Candidate]:
    """Choose a candidate for each view (mask of the cases that may be looked at)."""
    exhaustive = len(dice.names) <= MAX_EXHAUSTIVE
    subsets = (_best_subsets if exhaustive else _grown_subsets)(dice, views, margin, max_size)
    dice.compute((subset, name) for subset in subsets for name in POSTPROCESSINGS)
    return [(subset, _best_postprocessing(dice, subset, view)) for subset, view in zip(subsets, views, strict=True)]


def _best_subsets(dice: OutOfFoldDice, views: Sequence[np.ndarray], margin: float, max_size: int) -> list[Subset]:
    """Try every subset; all sizes in one pass over the files."""
    sizes = [list(combinations(range(len(dice.names)), size)) for size in range(1, max_size + 1)]
    dice.compute((subset, "none") for subsets in sizes for subset in subsets)
    chosen = []
    for view in views:
        score = _scorer(dice, view)
        best = max(sizes[0], key=score)
        for subsets in sizes[1:]:
            larger = max(subsets, key=score)
            if score(larger) > score(best) + margin:
                best = larger
        chosen.append(best)
    return chosen


def _grown_subsets(dice: OutOfFoldDice, views: Sequence[np.ndarray], margin: float, max_size: int) -> list[Subset]:
    """Add the best member while it gains; all views in step, so that each size costs one pass over the files."""
    chosen: list[Subset] = [()] * len(views)
    growing, members = set(range(len(views))), range(len(dice.names))
    for _ in range(max_size):
        options: dict[int, list[Subset]] = {
            view: [tuple(sorted((*chosen[view], m))) for m in members if m not in chosen[view]] for view in growing
        }
        dice.compute((subset, "none") for subsets in options.values() for subset in subsets)
        for index, subsets in options.items():
            score = _scorer(dice, views[index])
            best = max(subsets, key=score, default=())
            if best and (not chosen[index] or score(best) > score(chosen[index]) + margin):
                chosen[index] = best
            else:
                growing.discard(index)
    return chosen


def _best_postprocessing(dice: OutOfFoldDice, subset: Subset, view: np.ndarray) -> str:
    """Take a postprocessing only if the mean gains and no label loses (nnU-Net's rule)."""
    before = _label_means(dice[subset, "none"][view])
    score = _scorer(dice, view, subset)
    best = "none"
    for name in POSTPROCESSINGS[1:]:
        harmless = not np.any(_label_means(dice[subset, name][view]) < before)
        if harmless and score(name) > score(best):
            best = name
    return best


def _scorer(dice: OutOfFoldDice, view: np.ndarray, subset: Subset | None = None) -> Callable[[Any], float]:
    """Score of a subset without postprocessing or, with `subset` given, of a postprocessing of it; worst for NaN."""

    def score(option: Any) -> float:
        value = _score(dice[(option, "none") if subset is None else (subset, option)][view])
        return -np.inf if value is None else value

    return score


def _nested_score(dice: OutOfFoldDice, chosen: Sequence[Candidate], views: Sequence[np.ndarray]) -> float | None:
    """Score every case with the candidate that was chosen without its fold."""
    if not chosen:
        return None
    rows = [dice[candidate][~view] for candidate, view in zip(chosen, views, strict=True)]
    return _score(np.concatenate(rows))


def _label_means(table: np.ndarray) -> np.ndarray:
    """Mean over cases, NaN left out; NaN for a label that no case has."""
    defined = ~np.isnan(table)
    with np.errstate(invalid="ignore"):
        return np.where(defined, table, 0).sum(axis=0) / defined.sum(axis=0)


def _score(table: np.ndarray) -> float | None:
    means = _label_means(table)
    return float(means[~np.isnan(means)].mean()) if not np.isnan(means).all() else None


def _names(dice: OutOfFoldDice, subset: Subset) -> tuple[str, ...]:
    return tuple(dice.names[member] for member in subset)


def _candidate_scores(dice: OutOfFoldDice) -> tuple[CandidateScore, ...]:
    scores = []
    for (subset, name), table in dice.items():
        means = (None if np.isnan(mean) else float(mean) for mean in _label_means(table))
        labels = dict(zip(dice.labels, means, strict=True))
        scores.append(CandidateScore(_names(dice, subset), name, _score(table), labels))
    return tuple(sorted(scores, key=lambda s: (-np.inf if s.dice is None else s.dice, -len(s.members)), reverse=True))
