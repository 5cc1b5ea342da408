"""AdamW with one cycle of the learning rate."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from hippo_nnunet.training.schedule import Schedule


class CycleSchedule(torch.optim.lr_scheduler.OneCycleLR):
    """One cycle of the learning rate, advanced after every iteration.

    nnU-Net calls `step(epoch)` once an epoch, which must not change it.

    Source: Smith and Topin 2017 (arXiv:1708.07120).
    """

    def step(self, epoch: int | None = None) -> None:
        """Ignore nnU-Net's call, which passes the epoch."""
        if epoch is None:
            super().step()

    def advance(self) -> None:
        """Step to the next iteration; at the end of the cycle, do nothing."""
        if self.last_epoch + 1 < self.total_steps:
            self.step()


def one_cycle(
    parameters: Iterable[torch.nn.Parameter], schedule: Schedule, fused: bool | None = None
) -> tuple[torch.optim.Optimizer, CycleSchedule]:
    """Return AdamW and its cycle. Source: hyperparameters ours, from trials on Task04."""
    optimizer = torch.optim.AdamW(parameters, lr=schedule.max_lr, weight_decay=schedule.weight_decay, fused=fused)
    cycle = CycleSchedule(
        optimizer,
        max_lr=schedule.max_lr,
        total_steps=schedule.epochs * schedule.iterations,
        pct_start=0.15,
        div_factor=10,
        final_div_factor=1000,
    )
    return optimizer, cycle
