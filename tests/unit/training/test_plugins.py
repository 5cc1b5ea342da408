"""Trainers that other packages add; those that are wrong are left out or refused, with the entry point's name."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

import hippo_nnunet.trainers
from hippo_nnunet.errors import DependencyError
from hippo_nnunet.training import plugins
from hippo_nnunet.training.recipes import bases, is_ours


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """The entry points that packages declare; to be filled."""
    points: list[EntryPoint] = []
    monkeypatch.setattr(plugins, "entry_points", lambda group: [p for p in points if p.group == group])
    plugins.external_trainers.cache_clear()
    yield points
    plugins.external_trainers.cache_clear()


def test_names_that_are_no_base_and_second_ones_are_left_out(
    declared: list[EntryPoint], caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in [("Acme_Trainer", "a:A"), ("AcmeNet", "a:B"), ("AcmeTrainer", "a:C"), ("AcmeTrainer", "b:C")]:
        declared.append(EntryPoint(name, value, plugins.GROUP))
    with caplog.at_level(logging.WARNING):
        assert {name: point.value for name, point in plugins.external_trainers().items()} == {"AcmeTrainer": "a:C"}
    assert len(caplog.records) == 3
    assert "a:C has that name already" in caplog.text
    assert is_ours("AcmeTrainer_fast") and not is_ours("AcmeNet_fast")
    assert bases()["AcmeTrainer"] == "from a:C"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("no_such_package:T", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("json:T", "AttributeError"),
        ("json:JSONDecoder", "TypeError: it is no subclass of UNetTrainer"),
        ("json:dumps", "TypeError: it is no subclass of UNetTrainer"),
        ("nnunetv2.training.nnUNetTrainer.nnUNetTrainer:nnUNetTrainer", "TypeError: it is no subclass of UNetTrainer"),
    ],
)
def test_what_is_no_trainer_of_ours_is_refused(declared: list[EntryPoint], value: str, reason: str) -> None:
    """nnU-Net's trainer would take a name with `fast` or `seed1`, and ignore both."""
    declared.append(EntryPoint("AcmeTrainer", value, plugins.GROUP))
    with pytest.raises(DependencyError, match=f"trainer 'AcmeTrainer': the entry point '{value}' .*{reason}"):
        _ = hippo_nnunet.trainers.AcmeTrainer_fast_seed1


def test_a_subclass_takes_recipe_words(declared: list[EntryPoint], monkeypatch: pytest.MonkeyPatch) -> None:
    declared.append(EntryPoint("AcmeTrainer", "hippo_nnunet.trainers:AttentionUNetTrainer", plugins.GROUP))
    made = hippo_nnunet.trainers.AcmeTrainer_fast_seed1
    monkeypatch.delitem(vars(hippo_nnunet.trainers), "AcmeTrainer_fast_seed1")
    assert (made.recipe.fast, made.recipe.seed, made.__module__) == (True, 1, "hippo_nnunet.trainers")
