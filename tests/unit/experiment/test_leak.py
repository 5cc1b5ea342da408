"""The worth of a subject's other case in training: recovered where it was planted, refused where it cannot be told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.leak import leak
from hippo_nnunet.errors import ConfigError

SUBJECTS = {f"case_{i:03}": f"subject_{i // 2}" for i in range(200)}


def table(by_subject: bool, worth: float = 0.0, everywhere: float = 0.0) -> pd.DataFrame:
    """Two trainings of 100 pairs; by case, every second pair is in two folds, and its cases gain `worth`."""
    rows: list[dict[str, Any]] = []
    for variant in ("UNet", "UNet_seed1"):
        noise = np.random.default_rng([len(variant), by_subject]).normal(0, 0.005, len(SUBJECTS))
        for i, case in enumerate(SUBJECTS):
            split = not by_subject and (i // 2) % 2 == 0
            fold = (i // 2 + (i % 2 if split else 0)) % 5
            dice = 0.85 + noise[i] + everywhere + worth * split
            rows += [
                {"case": case, "fold": fold, "variant": variant, "configuration": "2d", "label": label, "dice": dice}
                for label in ("a", "b")
            ]
    return pd.DataFrame(rows)


def test_a_planted_leak_is_found_beside_a_shift_of_every_case() -> None:
    found = leak(table(False, worth=0.02, everywhere=0.01), table(True), SUBJECTS)
    assert (found["cases"], found["cases_with_partner_in_training"], found["subjects"]) == (200, 100, 100)
    of_all: Any = found["all_cases"]
    of_partners: Any = found["partner_in_training"]
    assert of_all["estimate"] == pytest.approx(0.02, abs=0.0015)
    assert of_partners["estimate"] == pytest.approx(0.02, abs=0.003)
    assert of_partners["low"] < 0.02 < of_partners["high"]
    assert of_partners["high"] - of_partners["low"] < 0.01
    assert len(found["trainings"]) == 2  # type: ignore[arg-type]


def test_no_leak_is_not_found() -> None:
    found: Any = leak(table(False, everywhere=0.01), table(True), SUBJECTS)["partner_in_training"]
    assert found["low"] < 0 < found["high"]


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="its folds are by case"):
        leak(table(True), table(False), SUBJECTS)
    fewer = table(True)
    with pytest.raises(ConfigError, match="differ in cases"):
        leak(table(False), fewer[fewer["case"] != "case_003"], SUBJECTS)
    with pytest.raises(ConfigError, match="in common"):
        leak(table(False), table(True).assign(variant="Other"), SUBJECTS)


def test_only_what_both_have_is_compared() -> None:
    one = table(True)
    one = one[one["variant"] == "UNet"]
    assert len(leak(table(False), one, SUBJECTS)["trainings"]) == 1  # type: ignore[arg-type]
