"""The texts of `experiments/prompt_swap.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.prompt_swap import PARAPHRASES, REGIONS
from hippo_nnunet.clip.prompts import training_prompts


def test_paraphrases_are_texts_that_no_training_has_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "scripts"))
    from mini_texts import captions

    asked = {text for texts in PARAPHRASES.values() for text in texts}
    assert PARAPHRASES.keys() <= REGIONS.keys()
    trained = training_prompts({"labels": REGIONS, "regions_class_order": [3, 1, 2]})
    assert not asked & {text for texts in trained.values() for text in texts}
    assert not asked & set(captions())
