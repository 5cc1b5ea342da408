"""The texts of `experiments/prompt_swap.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.prompt_swap import PARAPHRASES, REGIONS, means_table
from hippo_nnunet.clip.prompts import training_prompts


def test_means_of_what_calls_found() -> None:
    rows = [
        {"trainer": "A", "split_cases": 5, "prompt": "trained", "region": "hippocampus", "case": "x", "dice": 0.9},
        *(
            {"trainer": "A", "split_cases": 5, "prompt": p, "region": "anterior", "case": c, "dice": d, "other": 0.1}
            for p, c, d in (("trained", "x", 0.8), ("trained", "y", 0.6), ("paraphrase", "x", 0.5))
        ),
    ]
    rows.append({**rows[1], "trainer": "A_seed1", "dice": 0.1})
    assert means_table(rows).splitlines() == [
        "| recipe | split_cases | prompt | trainings | hippocampus | anterior | the other part |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| A | 5 | trained | 2 | 0.900 | 0.400 (0.100 to 0.700) | 0.100 (0.100 to 0.100) |",
        "| A | 5 | paraphrase | 1 |  | 0.500 | 0.100 |",
    ]


def test_paraphrases_are_texts_that_no_training_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "scripts"))
    from mini_texts import captions

    asked = {text for texts in PARAPHRASES.values() for text in texts}
    assert PARAPHRASES.keys() <= REGIONS.keys()
    trained = training_prompts({"labels": REGIONS, "regions_class_order": [3, 1, 2]})
    assert not asked & {text for texts in trained.values() for text in texts}
    assert not asked & set(captions())
