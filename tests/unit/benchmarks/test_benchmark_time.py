"""`time-to-dice` and `experiment`: what they try, read, and conclude; nothing is trained here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import time_to_dice
from benchmarks.document import OURS, STOCK, Result, write_document
from benchmarks.experiment import benchmark_experiment
from benchmarks.processes import Run
from benchmarks.time_to_dice import DiceJob, benchmark_time_to_dice
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.training.recipes import parse

DATASET = "Dataset004_H"


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trainings give a Dice of 0.8 plus a hundredth an epoch; seed 1 half a hundredth less. Returns their names."""
    names: list[str] = []

    def train(command: Sequence[str], environ: Mapping[str, str], output: Path) -> Run:
        name = command[command.index("--trainer") + 1]
        names.append(name)
        recipe = parse(name)
        folder = Path(environ["nnUNet_results"]) / DATASET / f"{name}__CompactPlans__2d" / "fold_0"
        (folder / "validation").mkdir(parents=True)
        dice = 0.8 + 0.01 * (recipe.epochs or 0) - 0.005 * (recipe.seed or 0)
        (folder / "validation" / "summary.json").write_text(json.dumps({"foreground_mean": {"Dice": dice}}))
        seconds = {"iterations": 100, "seed": recipe.seed or 0, "trained_seconds": 10.0 * (recipe.epochs or 0)}
        (folder / "hippo_training.json").write_text(json.dumps(seconds))
        return Run(200.0, 1.0, None)

    plans = {"configurations": {"2d": {"batch_size": 32}}, "plans_name": "CompactPlans", "dataset_name": DATASET}
    monkeypatch.setattr(time_to_dice, "run_measured", train)
    monkeypatch.setattr(time_to_dice, "trainable", lambda *_: (DATASET, plans))
    monkeypatch.setenv("nnUNet_raw", "raw")
    monkeypatch.setenv("nnUNet_preprocessed", "preprocessed")
    return names


def test_the_first_length_that_reaches_the_dice_ends_the_search(trained: list[str]) -> None:
    result = benchmark_time_to_dice(DiceJob("4", (4, 6, 8), 0.86, device="cpu"))
    assert trained == ["UNetTrainer_fast_4epochs", "UNetTrainer_fast_6epochs"]
    assert result.sides == {OURS: {"training_seconds": [60.0], "process_seconds": [200.0]}}
    assert result.checks["reached"]
    assert [trial["dice"] for trial in result.checks["trials"]] == pytest.approx([0.84, 0.86])


def test_with_repeats_the_median_of_the_seeds_has_to_reach_it(trained: list[str]) -> None:
    job = DiceJob("4", (6, 8), 0.86, trainer="UNetTrainer_flip_fast", device="cpu", repeats=2)
    result = benchmark_time_to_dice(job)
    assert trained[2:] == ["UNetTrainer_flip_fast_8epochs_seed0", "UNetTrainer_flip_fast_8epochs_seed1"]
    assert result.sides[OURS]["training_seconds"] == [80.0, 80.0]


def test_a_dice_out_of_reach_leaves_no_figure(trained: list[str]) -> None:
    result = benchmark_time_to_dice(DiceJob("4", (1, 2), 0.99, device="cpu"))
    assert (len(trained), result.sides, result.checks["reached"]) == (2, {OURS: {}}, False)


def test_stock_is_extrapolated_from_its_epochs_and_says_so(trained: list[str], tmp_path: Path) -> None:
    settings = {"iterations": 10, "plans": "nnUNetPlans", "configuration": "3d_fullres", "device": "cpu"}
    measured = Result("train-epochs", settings, {STOCK: {"epoch_seconds": [4.0, 6.0]}, OURS: {"epoch_seconds": [1.0]}})
    write_document(tmp_path / "epochs.json", {}, [measured])
    (tmp_path / "curve.csv").write_text("epoch,dice\n1,0.8\n2,0.85\n3,0.87\n")
    job = DiceJob("4", (6,), 0.86, device="cpu", stock=tmp_path / "epochs.json", curve=tmp_path / "curve.csv")
    result = benchmark_time_to_dice(job)
    assert result.sides[STOCK] == {"training_seconds": [3 * 5.0 * 25]}
    assert result.reference == STOCK
    assert any("EXTRAPOLATED" in note and "3d_fullres" in note for note in result.notes)
    with pytest.raises(ConfigError, match="belong together"):
        benchmark_time_to_dice(DiceJob("4", (6,), stock=tmp_path / "epochs.json"))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """An experiment of two trainings whose jobs took 100, 200 and 5 seconds."""
    experiment = Experiment(DATASET, "laptop", ("UNet",), {"2d": (0, 1)}, number_of_folds=5)
    experiment.save(tmp_path / "experiment.yaml")
    times = {"data": 5, "train/UNet/2d/fold_0": 100, "train/UNet/2d/fold_1": 200}
    for job, seconds in times.items():
        file = tmp_path / "benchmarks" / f"{job}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"s\th:m:s\n{seconds}.0\t0:00:00\n")
    fold = {"variant": "UNet", "configuration": "2d", "trained_seconds": 90.0}
    folds = [{**fold, "fold": 0, "resumed": 0}, {**fold, "fold": 1, "resumed": 1}]
    manifest: dict[str, Any] = {"device": "cpu", "machine": {"cpus": 2}, "folds": folds}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "metrics").mkdir()
    summary = {"UNet": {"2d": {"cases": 88, "foreground_mean": {"dice": {"mean": 0.87}}}}}
    (tmp_path / "metrics" / "summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_an_experiments_jobs_are_added_up(finished: Path) -> None:
    result = benchmark_experiment(finished)
    assert result.sides == {OURS: {"seconds": [305.0]}}
    assert (result.checks["training_seconds"], result.checks["resumed_trainings"]) == (300.0, 1)
    assert (result.settings["folds"], result.settings["cases"], result.settings["cores"]) == ({"2d": 2}, 88, 2)


def test_an_unfinished_experiment_has_no_time(finished: Path) -> None:
    (finished / "benchmarks" / "train" / "UNet" / "2d" / "fold_1.tsv").unlink()
    with pytest.raises(DataError, match="1 trainings are there, 2 belong to it"):
        benchmark_experiment(finished)


def test_a_training_that_was_there_counts_what_it_took(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    for fold in manifest["folds"]:
        fold["resumed"] = 0
    manifest["folds"][1]["trained_seconds"] = 5000.0
    (finished / "manifest.json").write_text(json.dumps(manifest))
    result = benchmark_experiment(finished)
    assert result.checks["found_trainings"] == 1
    assert result.sides == {OURS: {"seconds": [305.0 - 200.0 + 5000.0]}}
