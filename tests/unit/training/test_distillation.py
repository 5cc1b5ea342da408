"""Learning from other networks, besides the labels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hippo_nnunet.training.distillation import SHARE, Teachers
from hippo_nnunet.training.step import EAGER, StepMode, build


class Fixed(nn.Module):
    """The same logits for every pixel, with deep supervision as a list of outputs."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, data: torch.Tensor) -> list[torch.Tensor]:
        return [data * self.logits[None, :, None, None], data.new_zeros(1)]


def of_labels(*_: object) -> torch.Tensor:
    return torch.tensor(5.0)


@pytest.mark.parametrize("mode", [EAGER, StepMode("channels last", True)], ids=lambda mode: mode.name)
def test_a_student_learns_what_its_teachers_say(mode: StepMode) -> None:
    student, data = Fixed(0.0, 0.0), torch.ones(2, 1, 4, 4)
    teachers = Teachers([Fixed(9.0, 0.0), Fixed(0.0, 9.0)])
    loss = build(student, of_labels, mode, teachers=teachers)(data, None)
    torch.testing.assert_close(loss, (1 - SHARE) * torch.tensor(5.0) + SHARE * torch.log(torch.tensor(2.0)))
    loss.backward()
    torch.testing.assert_close(student.logits.grad, torch.zeros(2))  # it agrees with the mean of both
    build(student, of_labels, mode, teachers=Teachers([Fixed(9.0, 0.0)]))(data, None).backward()
    assert student.logits.grad is not None and student.logits.grad[0] < 0 < student.logits.grad[1]


def test_teachers_stay_as_they_are() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Dropout(0.5))
    teachers = Teachers([network])
    data = torch.randn(2, 1, 4, 4)
    found = teachers(data)
    assert not found.requires_grad
    assert not any(parameter.requires_grad for parameter in teachers.parameters())
    torch.testing.assert_close(found, teachers(data))  # no dropout
    torch.testing.assert_close(found.sum(1), torch.ones(2, 4, 4))
