"""The choice of an ensemble and its postprocessing on out-of-fold predictions, and its expected Dice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.candidates import Candidate, OutOfFoldDice, Subset
from hippo_nnunet.evaluation.gain import Gain, gain_between, label_means, mean_score
from hippo_nnunet.evaluation.pairing import recipe_of
from hippo_nnunet.evaluation.postprocessing import POSTPROCESSINGS
from hippo_nnunet.evaluation.subjects import subject_names
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
    """The chosen ensemble; the defaults mean not known.

    Attributes:
        members: Names of the chosen members, in the order in which they are averaged.
        postprocessing: One of POSTPROCESSINGS.
        per_fold: The choices behind nested_dice.
        naive_dice: Foreground Dice of the choice on the cases that it was chosen on: optimistic.
        nested_dice: Foreground Dice when each fold is scored with the choice made on the other folds: the Dice to
            expect from this procedure on new cases. None with fewer than two folds.
        nested_gain: What ensembling adds to the single model that is best on the other folds, with the postprocessing
            that was chosen for the ensemble.
        candidates: Every candidate that was tried, best first.
        gain: nested_gain with its interval; None with fewer than two folds.
        seed_gains: The control, where a recipe was trained with several seeds: what the average of two repeats gains on
            their mean, for every pair, without any choice. Averaging different recipes is worth more than training one
            of them twice only where `gain` is larger.
    """

    members: tuple[str, ...]
    postprocessing: str
    per_fold: tuple[FoldChoice, ...]
    naive_dice: float | None = None
    nested_dice: float | None = None
    nested_gain: float | None = None
    candidates: tuple[CandidateScore, ...] = ()
    gain: Gain | None = None
    seed_gains: tuple[Gain, ...] = ()

    def to_json(self, path: Path) -> None:
        """Write the choice atomically."""
        write_json(path, asdict(self))

    @classmethod
    def from_json(cls, path: Path) -> EnsembleChoice:
        """Read members, postprocessing and the choices by fold of what `to_json` wrote.

        Raises:
            DataError: The file is missing or does not hold a choice.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            members = tuple(content["members"])
            if not members or not all(Path(name).name == name for name in members):
                raise ValueError(f"its members {members} are not names of folders")
            per_fold = (FoldChoice(**{**entry, "members": tuple(entry["members"])}) for entry in content["per_fold"])
            return cls(members, content["postprocessing"], tuple(per_fold))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}: not a choice of an ensemble ({error}): delete it and choose again") from error


def choose_ensemble(
    members: Mapping[str, Mapping[str, Path]],
    references: Path,
    dataset_json: Mapping[str, Any],
    folds: Mapping[str, int],
    subjects: Mapping[str, str] | None = None,
) -> EnsembleChoice:
    """Choose members and postprocessing together, by mean foreground Dice of out-of-fold predictions.

    A postprocessing may be chosen for an ensemble if it gains and no label loses. The best ensemble of each size must
    gain on the best smaller one; equal scores go to the earlier members. The mean foreground Dice
    is nnU-Net's: mean over cases for each label, undefined ones left out, then over labels.

    Args:
        members: Name of each member, and its out-of-fold probability file for each case: see `out_of_fold_files`.
        references: Folder of reference segmentations.
        dataset_json: Content of nnU-Net's dataset.json.
        folds: The fold that validated each case.
        subjects: The subject of each case, the unit of the intervals; None: every case is one.

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
    clusters = np.unique(subject_names(dice.cases, subjects), return_inverse=True)[1]

    chosen = (_best_candidates if len(dice.names) <= MAX_EXHAUSTIVE else _grown_candidates)(dice, views)
    singles = [_best_single(dice, view, name) for view, (_, name) in zip(views[1:], chosen[1:], strict=True)]
    rows, single_rows = (_out_of_fold_rows(dice, some, views[1:]) for some in (chosen[1:], singles))
    gain = gain_between(rows, single_rows, clusters) if nested else None
    subset, postprocessing = chosen[0]
    per_fold = tuple(
        FoldChoice(
            fold, _names(dice, candidate[0]), candidate[1], mean_score(dice[candidate][~view]), int((~view).sum())
        )
        for fold, candidate, view in zip(nested, chosen[1:], views[1:], strict=True)
    )
    return EnsembleChoice(
        members=_names(dice, subset),
        postprocessing=postprocessing,
        per_fold=per_fold,
        naive_dice=mean_score(dice[chosen[0]]),
        nested_dice=mean_score(rows),
        nested_gain=gain.dice if gain else None,
        candidates=_candidate_scores(dice),
        gain=gain,
        seed_gains=_seed_gains(dice, postprocessing, clusters),
    )


def _best_candidates(dice: OutOfFoldDice, views: Sequence[np.ndarray]) -> list[Candidate]:
    """Choose for each view (mask of the cases that may be looked at) among all subsets, in one pass over the files."""
    members = range(len(dice.names))
    sizes = [list(combinations(members, size)) for size in range(1, len(members) + 1)]
    _compute(dice, chain.from_iterable(sizes))
    chosen = []
    for view in views:
        best, best_score = _best_of(dice, sizes[0], view)
        for subsets in sizes[1:]:
            larger, score = _best_of(dice, subsets, view)
            if score > best_score:
                best, best_score = larger, score
        chosen.append(best)
    return chosen


def _grown_candidates(dice: OutOfFoldDice, views: Sequence[np.ndarray]) -> list[Candidate]:
    """Add the best member while it gains; all views in step, so that each size costs one pass over the files."""
    chosen: list[tuple[Candidate, float]] = [(((), POSTPROCESSINGS[0]), -np.inf)] * len(views)
    growing, members = set(range(len(views))), range(len(dice.names))
    for size in range(len(members)):
        options: dict[int, list[Subset]] = {
            view: [tuple(sorted((*chosen[view][0][0], m))) for m in members if m not in chosen[view][0][0]]
            for view in growing
        }
        _compute(dice, chain.from_iterable(options.values()))
        for index, subsets in options.items():
            best, score = _best_of(dice, subsets, views[index])
            if size == 0 or score > chosen[index][1]:
                chosen[index] = best, score
            else:
                growing.discard(index)
        if not growing:
            break
    return [candidate for candidate, _ in chosen]


def _compute(dice: OutOfFoldDice, subsets: Iterable[Subset]) -> None:
    dice.compute((subset, name) for subset in subsets for name in POSTPROCESSINGS)


def _best_of(dice: OutOfFoldDice, subsets: Sequence[Subset], view: np.ndarray) -> tuple[Candidate, float]:
    """Return the best subset with its best postprocessing, and their score; the first of equal ones."""
    candidates = [(subset, _best_postprocessing(dice, subset, view)) for subset in subsets]
    scores = [_comparable(dice[candidate][view]) for candidate in candidates]
    best = int(np.argmax(scores))
    return candidates[best], scores[best]


def _best_postprocessing(dice: OutOfFoldDice, subset: Subset, view: np.ndarray) -> str:
    """Take a postprocessing only if the mean gains and no label loses (nnU-Net's rule)."""
    before = label_means(dice[subset, "none"][view])
    best, best_score = "none", _comparable(dice[subset, "none"][view])
    for name in POSTPROCESSINGS[1:]:
        harmless = not np.any(label_means(dice[subset, name][view]) < before)
        score = _comparable(dice[subset, name][view])
        if harmless and score > best_score:
            best, best_score = name, score
    return best


def _best_single(dice: OutOfFoldDice, view: np.ndarray, postprocessing: str) -> Candidate:
    """Return the best single model with a postprocessing; the first of equal ones."""
    singles = [((member,), postprocessing) for member in range(len(dice.names))]
    return singles[int(np.argmax([_comparable(dice[single][view]) for single in singles]))]


def _comparable(table: np.ndarray) -> float:
    score = mean_score(table)
    return -np.inf if score is None else score


def _out_of_fold_rows(dice: OutOfFoldDice, chosen: Sequence[Candidate], views: Sequence[np.ndarray]) -> np.ndarray:
    """Return the Dice of every case with the candidate that was chosen without its fold; NaN without folds."""
    rows = np.full((len(dice.cases), len(dice.labels)), np.nan)
    for candidate, view in zip(chosen, views, strict=True):
        rows[~view] = dice[candidate][~view]
    return rows


def _seed_gains(dice: OutOfFoldDice, postprocessing: str, clusters: np.ndarray) -> tuple[Gain, ...]:
    """Return what two repeats of one recipe gain on their mean, for every pair of them."""
    recipes: dict[str, list[int]] = {}
    for member, name in enumerate(dice.names):
        recipes.setdefault(recipe_of(name), []).append(member)
    pairs = [pair for repeats in recipes.values() for pair in combinations(repeats, 2)]
    dice.compute((pair, postprocessing) for pair in pairs)
    gains = []
    for pair in pairs:
        single = np.mean([dice[(member,), postprocessing] for member in pair], axis=0)
        gains.append(replace(gain_between(dice[pair, postprocessing], single, clusters), members=_names(dice, pair)))
    return tuple(gains)


def _names(dice: OutOfFoldDice, subset: Subset) -> tuple[str, ...]:
    return tuple(dice.names[member] for member in subset)


def _candidate_scores(dice: OutOfFoldDice) -> tuple[CandidateScore, ...]:
    scores = []
    for (subset, name), table in dice.items():
        means = (None if np.isnan(mean) else float(mean) for mean in label_means(table))
        labels = dict(zip(dice.labels, means, strict=True))
        scores.append(CandidateScore(_names(dice, subset), name, mean_score(table), labels))
    return tuple(sorted(scores, key=lambda s: (-np.inf if s.dice is None else s.dice, -len(s.members)), reverse=True))
