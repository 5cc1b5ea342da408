"""Which other case stands in for a case."""

from __future__ import annotations

import pytest

from hippo_nnunet.clip.stand_ins import other_cases
from hippo_nnunet.errors import ConfigError

CASES = [f"case_{number}" for number in range(12)]
SUBJECTS = {case: f"subject {number // 3}" for number, case in enumerate(CASES)}


def test_another_case_is_of_another_subject() -> None:
    chosen = other_cases(CASES, SUBJECTS, "0 0")
    assert chosen.keys() == set(CASES) and set(chosen.values()) <= set(CASES)
    assert all(SUBJECTS[case] != SUBJECTS[other] for case, other in chosen.items())
    assert len(set(chosen.values())) > len(CASES) / 2
    assert chosen == other_cases(CASES[::-1], SUBJECTS, "0 0")
    assert chosen != other_cases(CASES, SUBJECTS, "0 1")
    unknown = other_cases(CASES, {}, "0 0")
    assert all(case != other for case, other in unknown.items())
    assert sorted(unknown.values()) == sorted(CASES)


def test_one_subject_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 3 training cases of one subject, expected at least two"):
        other_cases(CASES[:3], SUBJECTS, "0 0")
