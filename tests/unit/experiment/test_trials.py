"""The trials of a recipe's hyperparameters: what their file means, and what they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import trials
from experiments.trials import Trial
from experiments.trials_table import of_experiments, trials_table
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.evaluation.metrics import METRICS
from hippo_nnunet.experiment.paths import ExperimentPaths
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


def logged(
    name: str, gain: float, folds: tuple[int, ...] = (1, 2), seeds: tuple[int, ...] = (0,)
) -> list[dict[str, Any]]:
    """The log of a trial whose cases are `gain` above 0.88, with noise that depends on fold and case alone."""
    rows = []
    for fold in folds:
        noise = np.random.default_rng(fold).normal(0, 0.03, 30)
        cases = {f"case_{fold}_{i}": [0.89 + gain + e, 0.87 + gain + e] for i, e in enumerate(noise)}
        mean = float(np.mean(list(cases.values())))
        rows += [
            {"name": name, "fold": fold, "seed": seed, "last mean": mean, "s_train": 90.0, "cases": cases}
            for seed in seeds
        ]
    return rows


def test_trials_are_compared_on_the_folds_that_both_have() -> None:
    subjects = {f"case_{fold}_{i}": f"subject_{fold}_{i // 2}" for fold in (1, 2, 3) for i in range(30)}
    log = [
        *logged("plain", 0.0),
        *logged("better", 0.01, seeds=(0, 1)),
        *logged("elsewhere", 0.01, folds=(3,)),
        {"name": "failed", "fold": 1, "seed": 0, "error": "out of memory"},
    ]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in trials_table(log, "plain", subjects).splitlines()
    ]
    assert [row[0] for row in rows] == ["trial", "---", "plain", "better", "elsewhere"]
    assert rows[3][1:3] == ["1, 2", "4"]
    assert rows[3][4:] == ["+0.0100", "+0.0100 to +0.0100", "1.5"]
    assert rows[4][4] == "other folds"
    with pytest.raises(ConfigError, match="no trial is named 'worse'; there are plain, better, elsewhere"):
        trials_table(log, "worse", subjects)


def test_trials_are_compared_with_trainings_of_experiments(tmp_path: Path) -> None:
    subjects = {f"case_1_{i}": f"subject_{i // 2}" for i in range(30)}
    log = logged("better", 0.01, folds=(1,))
    for number, shift in enumerate((-0.004, 0.004)):  # of two trainings, the mean counts
        rows = [
            {"case": case, "fold": 1, "variant": f"UNet_seed{number}", "configuration": "2d", "label": label}
            | dict.fromkeys(METRICS, dice - 0.01 + shift)
            for case, labels in log[0]["cases"].items()
            for label, dice in zip(("Anterior", "Posterior"), labels, strict=True)
        ]
        path = ExperimentPaths(tmp_path / str(number)).per_case
        path.parent.mkdir(parents=True)
        pd.DataFrame(rows).to_csv(path, index=False)
    folders = [tmp_path / "0", tmp_path / "1"]
    table = trials_table(log, "UNet@2d", subjects, of_experiments(folders, "UNet@2d"))
    assert "| +0.0100 | +0.0100 to +0.0100 |" in table.splitlines()[-1]
    with pytest.raises(ConfigError, match="no training of UNet@3d_fullres"):
        of_experiments(folders, "UNet@3d_fullres")
