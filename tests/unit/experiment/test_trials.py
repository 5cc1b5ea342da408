"""The trials of a recipe's hyperparameters: what their file means, and what they change."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from experiments import trials
from experiments.trials import Trial
from hippo_nnunet.training.augmentation_spec import SHORT_SCHEDULE


def test_lists_of_folds_and_seeds_are_one_trial_each() -> None:
    found = trials.trials_of([{"name": "a", "fold": [1, 2], "seed": [0, 3], "features": [8, 16]}, {"name": "b"}])
    assert [(t.name, t.fold, t.seed) for t in found] == [
        *(("a", 1, 0), ("a", 2, 0), ("a", 1, 3), ("a", 2, 3)),
        ("b", 1, 0),
    ]
    assert found[0].features == (8, 16)
    with pytest.raises(TypeError, match="learning_rate"):
        trials.trials_of([{"name": "a", "learning_rate": 0.1}])


def test_strength_scales_the_augmentation_about_the_identity() -> None:
    assert trials.scaled(SHORT_SCHEDULE, 1.0) == SHORT_SCHEDULE
    none = trials.scaled(SHORT_SCHEDULE, 0.0)
    assert (none.rotation.bounds, none.scaling.bounds, none.noise.bounds) == ((0, 0), (1, 1), (0, 0))
    strong = trials.scaled(SHORT_SCHEDULE, 2.0)
    assert strong.scaling.bounds == pytest.approx((0.8**2, 1.25**2))
    assert strong.rotation.p == 0.8


def test_plans_get_the_network_of_the_trial() -> None:
    arguments: dict[str, Any] = {"kernel_sizes": [[3, 3, 3]] * 4, "strides": [[1] * 3, *[[2] * 3] * 3]}
    configuration = {"patch_size": [40, 56, 40], "batch_size": 8, "architecture": {"arch_kwargs": arguments}}
    plans = {"configurations": {"3d_fullres": configuration}}
    trial = Trial("a", features=(8, 16), batch=4, dropout=0.1)
    changed = trials.changed_plans(plans, trial)["configurations"]["3d_fullres"]
    made = changed["architecture"]["arch_kwargs"]
    assert (changed["batch_size"], made["n_stages"], made["features_per_stage"]) == (4, 2, [8, 16])
    assert (made["strides"], made["dropout_op"]) == ([[1] * 3, [2] * 3], "torch.nn.Dropout3d")
    assert configuration["batch_size"] == 8, "the plans given stay as they are"


def test_parts_of_a_batch_take_turns() -> None:
    batch = {"data": torch.arange(8.0)[:, None], "target": [torch.arange(8)[:, None], torch.arange(8)]}
    part = trials.part_of(batch, 1, 4)
    assert part["data"].flatten().tolist() == [1, 5]
    assert [scale.flatten().tolist() for scale in part["target"]] == [[1, 5], [1, 5]]


def test_a_student_learns_what_its_teachers_say() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self, *logits: float) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.tensor(logits))

        def forward(self, data: torch.Tensor) -> list[torch.Tensor]:
            return [data * self.logits[None, :, None, None]]

    student, data = Fixed(0.0, 0.0), torch.ones(2, 1, 4, 4)
    learn = trials.taught_loss(student, [Fixed(9.0, 0.0), Fixed(0.0, 9.0)], lambda *_: torch.tensor(5.0), 0.25)
    torch.testing.assert_close(learn(data, None), 0.75 * torch.tensor(5.0) + 0.25 * torch.log(torch.tensor(2.0)))
    learn(data, None).backward()
    torch.testing.assert_close(student.logits.grad, torch.zeros(2))  # it agrees with the mean of both
    trials.taught_loss(student, [Fixed(9.0, 0.0)], lambda *_: torch.tensor(5.0), 1.0, True)(data, None).backward()
    assert student.logits.grad is not None and student.logits.grad[0] < 0 < student.logits.grad[1]
