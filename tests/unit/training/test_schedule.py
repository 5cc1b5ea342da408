"""The short schedule, and its exact continuation."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch

from hippo_nnunet.nnunet.finished import schedule_difference
from hippo_nnunet.training.one_cycle import one_cycle
from hippo_nnunet.training.recipes import parse
from hippo_nnunet.training.schedule import FAST, STOCK, schedule_for


def test_length_words_change_the_length_alone():
    assert schedule_for(parse("UNetTrainer"), 2) == STOCK
    assert schedule_for(parse("UNetTrainer_fast"), 3) == FAST[3]
    changed = schedule_for(parse("UNetTrainer_fast_7epochs_3iters"), 2)
    assert (changed.epochs, changed.iterations) == (7, 3)
    assert changed.max_lr == FAST[2].max_lr
    assert schedule_for(parse("UNetTrainer_50epochs"), 2).iterations == STOCK.iterations


def test_mirroring_words_change_the_mirroring_alone():
    assert [FAST[dim].mirroring for dim in (2, 3)] == ["mirrorLR", "noMirror"]
    assert replace(schedule_for(parse("UNetTrainer_mirrorLR_fast"), 3), mirroring="noMirror") == FAST[3]
    assert replace(schedule_for(parse("UNetTrainer_noMirror"), 3), mirroring=None) == STOCK
    assert schedule_for(parse("UNetTrainer_flip_fast"), 3).mirroring is None, "the word decides"


@pytest.mark.parametrize(
    ("trainer", "difference"),
    [
        ("UNetTrainer", ""),
        ("UNetTrainer_flip_fast", ""),
        ("UNetTrainer_fast", "mirroring was mirrorLR, is now noMirror"),
    ],
)
def test_folds_from_before_mirroring_was_recorded_mirrored_left_to_right_if_they_were_fast(trainer, difference):
    current = asdict(schedule_for(parse(trainer), 3))
    stored = {key: value for key, value in current.items() if key != "mirroring"}
    assert schedule_difference(stored, current) == difference
    assert schedule_difference(stored, {**current, "mirroring": current["mirroring"] and "mirrorLR"}) == ""


def rates(steps: int, optimizer, cycle) -> list[float]:
    seen = []
    for _ in range(steps):
        optimizer.step()
        cycle.advance()
        seen.append(optimizer.param_groups[0]["lr"])
    return seen


def test_a_resumed_cycle_goes_on_exactly_and_ignores_nnunets_epoch_steps():
    schedule = schedule_for(parse("UNetTrainer_fast_4epochs_5iters"), 2)
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    optimizer, cycle = one_cycle(parameters, schedule)
    whole = rates(20, optimizer, cycle)
    assert max(whole) == schedule.max_lr
    assert whole[-1] < schedule.max_lr / 1000

    optimizer, cycle = one_cycle(parameters, schedule)
    begun = rates(7, optimizer, cycle)
    kept, kept_optimizer = cycle.state_dict(), optimizer.state_dict()
    optimizer, cycle = one_cycle(parameters, schedule)
    optimizer.load_state_dict(kept_optimizer)
    cycle.load_state_dict(kept)
    cycle.step(1)  # nnU-Net's call at the start of an epoch
    assert begun + rates(13, optimizer, cycle) == whole
