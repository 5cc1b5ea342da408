"""The subset of a fold's cases that a recipe with `<N>cases` trains on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hippo_nnunet.data.subjects import write_subjects
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.nnunet.subset import stored_subjects, trained_split, training_subset

CASES = [f"case_{number:02d}" for number in range(40)]
PAIRS = {case: f"subject {number // 2}" for number, case in enumerate(CASES)}
SPLIT = {"train": CASES[:32], "val": CASES[32:]}


def drawn(trainer: str, fold: int = 0) -> list[str]:
    return trained_split(trainer, fold, SPLIT, PAIRS)["train"]


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers(0, 5))
def test_subsets_are_nested_hold_whole_subjects_and_as_many_cases_as_whole_subjects_allow(
    sizes: list[int], seed: int
) -> None:
    subjects = {f"c{s}_{c}": str(s) for s, size in enumerate(sizes) for c in range(size)}
    train, found = sorted(subjects), []
    for count in range(max(sizes), len(train) + 1):
        found.append(training_subset(train, count, str(seed), subjects))
        held = {subjects[case] for case in found[-1]}
        assert found[-1] == [case for case in train if subjects[case] in held]
        assert abs(len(found[-1]) - count) <= max(sizes) / 2
    assert all({*small} <= {*large} for small, large in pairwise(found))
    assert found[-1] == train


def test_a_subset_depends_on_seed_and_fold_and_on_nothing_else() -> None:
    base = drawn("UNetTrainer_fast_6cases")
    assert len(base) == 6
    assert drawn("AttentionUNetTrainer_flip_dice_6cases") == base
    assert drawn("UNetTrainer_fast_6cases_seed0") == base
    assert training_subset(CASES[:32][::-1], 6, "0 0", PAIRS) == base[::-1]
    assert drawn("UNetTrainer_fast_6cases_seed1") != base
    assert drawn("UNetTrainer_fast_6cases", fold=1) != base
    renamed = {case: f"new {subject}" for case, subject in PAIRS.items()}
    assert trained_split("UNetTrainer_fast_6cases", 0, SPLIT, renamed)["train"] == base


def test_every_case_has_the_same_chance_to_be_drawn() -> None:
    counts = dict.fromkeys(CASES[:32], 0)
    for seed in range(400):
        for case in training_subset(CASES[:32], 8, f"{seed} 0", PAIRS):
            counts[case] += 1
    assert all(60 <= count <= 140 for count in counts.values())  # 100 expected, standard deviation 8.7


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "UNetTrainer_fast", "UNetTrainer_wordOfLaterVersions"])
def test_other_trainers_have_the_whole_split(trainer: str) -> None:
    assert trained_split(trainer, 0, SPLIT, PAIRS) is SPLIT


def test_validation_cases_stay() -> None:
    assert trained_split("UNetTrainer_5cases", 0, SPLIT, {})["val"] == SPLIT["val"]
    assert len(trained_split("UNetTrainer_5cases", 0, SPLIT, {})["train"]) == 5


@pytest.mark.parametrize(
    ("trainer", "says"),
    [
        ("UNetTrainer_33cases", "UNetTrainer_33cases, fold 2: got 33 training cases, but there are 32; take fewer"),
        ("UNetTrainer_1cases", "the first that is drawn has 2; take at least 2"),
    ],
)
def test_a_subset_that_cannot_be_drawn_is_refused(trainer: str, says: str) -> None:
    with pytest.raises(ConfigError, match="got") as refusal:
        drawn(trainer, fold=2)
    assert says in str(refusal.value)


def test_subjects_are_stored_beside_the_splits(tmp_path: Path) -> None:
    assert stored_subjects(tmp_path) == {}
    write_subjects(PAIRS, tmp_path / "subjects.csv")
    assert stored_subjects(tmp_path) == PAIRS
