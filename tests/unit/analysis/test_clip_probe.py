"""The probe of an encoder: what embeddings and positions say, on folds that are kept apart."""

from __future__ import annotations

import numpy as np
import pytest

from hippo_nnunet.analysis.clip_probe import LabelProbe, Probe, ProbedSlices, explained_variance, judge, lines
from hippo_nnunet.errors import DataError

RNG = np.random.default_rng(0)
CASES, SLICES = 20, 15
FOLDS = np.repeat(np.arange(CASES) % 5, SLICES)
POSITIONS = np.tile(np.linspace(0, 1, SLICES), CASES)
NOISE = RNG.normal(size=(CASES * SLICES, 4))


def of_position() -> np.ndarray:
    return np.expm1(3 + np.cos(2 * np.pi * POSITIONS))


def of_image(embedding: np.ndarray) -> np.ndarray:
    return np.expm1(3 + embedding)


def test_each_predictor_is_told_what_it_knows() -> None:
    embeddings = np.column_stack([RNG.uniform(-1, 1, CASES * SLICES), NOISE])
    voxels = np.column_stack([of_position(), of_image(embeddings[:, 0]), np.zeros(len(FOLDS))])
    (placed, seen, absent), recall = judge(ProbedSlices(FOLDS, embeddings, POSITIONS, voxels), ["a", "b", "c"], None)
    assert placed.position == pytest.approx(1, abs=1e-6) and placed.both == pytest.approx(1, abs=1e-2)
    assert placed.embedding is not None and placed.embedding < 0.1
    assert seen.embedding == pytest.approx(1, abs=1e-6) and seen.position is not None and seen.position < 0.1
    assert (absent.embedding, absent.position, absent.both) == (0, 0, 0)
    assert recall is None and {row.recall for row in (placed, seen, absent)} == {None}


def test_an_embedding_that_only_recognises_the_case_says_nothing_of_other_cases() -> None:
    case = np.repeat(np.arange(CASES), SLICES)
    amounts = RNG.normal(size=CASES)[case][:, None]
    recognising = np.eye(CASES)[case] + 0.01 * RNG.normal(size=(len(case), CASES))
    mixed = np.tile(np.arange(5), CASES * SLICES // 5)
    assert explained_variance(recognising, amounts, mixed)[0] > 0.9
    assert explained_variance(recognising, amounts, FOLDS)[0] < 0.1


def test_recall_is_by_what_a_slice_mostly_shows() -> None:
    voxels = np.array([[9.0, 1], [1, 9], [2, 5], [0, 0], [3, 0]])
    found = ProbedSlices(np.array([0, 1, 0, 1, 0]), np.eye(5), np.linspace(0, 1, 5), voxels)
    table, recall = judge(found, ["a", "b"], np.array([0, 1, 0, 2, 1]))
    assert [(row.label, row.recall) for row in table] == [("a", 0.5), ("b", 0.5), ("background", 1.0)]
    assert recall == pytest.approx(2 / 3)
    assert table[-1].embedding is None


def test_one_fold_is_not_enough() -> None:
    with pytest.raises(DataError, match="one fold: draw more of them"):
        judge(ProbedSlices(np.zeros(3, int), np.eye(3), np.zeros(3), np.eye(3)), ["a", "b", "c"], None)


def test_the_table_fits_a_narrow_terminal() -> None:
    rows = [LabelProbe("left superior temporal gyrus and more", 0.5, 0.75, 0.8, None), LabelProbe("b", -1, 1, 1, 0.25)]
    rows.append(LabelProbe("background", None, None, None, 1.0))
    text = lines(Probe("mini/bundled", "ab" * 32, 64, "Dataset004_X", "CompactPlans", "2d", 7, 200, 5, rows, 0.625))
    assert max(map(len, text)) <= 80
    columns = next(line for line in text if line.startswith("left superior temporal g"))
    assert columns.split()[-4:] == ["0.50", "0.75", "0.80", "+0.05"]
    assert "a guess: recall 0.33" in text
