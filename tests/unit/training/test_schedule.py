"""The short schedule, and its exact continuation."""

from __future__ import annotations

import torch

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
