"""The options of nnU-Net's commands, through the program's own parser, as they reach the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hippo_nnunet.cli import main
from hippo_nnunet.nnunet.train_job import TrainJob
from hippo_nnunet.workflow.launch import Settings

DATASET = "Dataset004_Hippocampus"
MODEL = "UNetTrainer__nnUNetPlans__2d"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's folders with one dataset and one model."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / f"nnUNet_{name}"))
        (tmp_path / f"nnUNet_{name}" / DATASET).mkdir(parents=True)
    (tmp_path / "nnUNet_results" / DATASET / MODEL).mkdir()
    monkeypatch.setenv("nnUNet_extTrainer", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the commands would have done."""
    seen: list[tuple[Any, ...]] = []

    def record(result: Any) -> Any:
        return lambda *given: seen.append(given) or result

    monkeypatch.setattr("hippo_nnunet.nnunet.api.train_fold", record(Path("fold_0")))
    monkeypatch.setattr("hippo_nnunet.nnunet.api.plan_and_preprocess", record("Plans"))
    monkeypatch.setattr("hippo_nnunet.inference.predict.predict", record([]))
    monkeypatch.setattr("hippo_nnunet.workflow.main.perform", record([]))
    return seen


def program(command: str) -> Result:
    return CliRunner().invoke(main.app, command.split())


def did(calls: list[tuple[Any, ...]], command: str) -> tuple[Any, ...]:
    done = program(command)
    assert done.exit_code == 0, done.output
    return calls[-1]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("-d 4 -c 3d_fullres -f all -tr UNetTrainer -p nnUNetPlans -device cpu", {"fold": "all", "device": "cpu"}),
        ("-d 4 -c 3d_fullres -f 1 -tr UNetTrainer -p nnUNetPlans --val_best", {"fold": 1, "validate_best": True}),
        ("-d 4 -c 3d_fullres -f 1 -tr UNetTrainer -p nnUNetPlans -num_gpus 2", {"fold": 1, "num_gpus": 2}),
        (
            "-d 4 -c 3d_fullres -f 1 -p nnUNetPlans -tr=UNetTrainer --disable_checkpointing",
            {"fold": 1, "disable_checkpointing": True},
        ),
        (
            "-pretrained_weights w.pth -tr UNetTrainer -p nnUNetPlans -d 4 -c 3d_fullres -f 1",
            {"fold": 1, "pretrained_weights": Path("w.pth")},
        ),
    ],
)
def test_train(root: Path, calls: list[tuple[Any, ...]], command: str, expected: dict[str, Any]) -> None:
    job, validation_only = did(calls, f"train {command}")
    named = {"trainer": "UNetTrainer", "plans": "nnUNetPlans", "configuration": "3d_fullres", "device": "auto"}
    assert job == TrainJob(dataset="4", **{**named, **expected})
    assert not validation_only


def test_train_val(root: Path, calls: list[tuple[Any, ...]]) -> None:
    assert did(calls, "train -d 4 -c 2d -f 0 --val")[1] is True


@pytest.mark.parametrize(
    ("options", "trainer", "plans"),
    [
        ("", "AttentionUNetTrainer_fast", "CompactPlans"),
        ("--preset gpu", "AttentionUNetTrainer_40epochs", "nnUNetPlans"),
        ("--preset paper", "AttentionUNetTrainer", "nnUNetPlans"),
        ("--preset gpu -p Pad64Plans", "AttentionUNetTrainer_40epochs", "Pad64Plans"),
        ("-tr UNetTrainer_flip", "UNetTrainer_flip", "CompactPlans"),
    ],
)
def test_what_train_takes_by_the_preset(
    root: Path, calls: list[tuple[Any, ...]], options: str, trainer: str, plans: str
) -> None:
    job, _ = did(calls, f"train -d 4 -c 2d -f 0 {options}")
    assert (job.trainer, job.plans) == (trainer, plans)


def test_train_takes_the_preset_that_is_planned(root: Path, calls: list[tuple[Any, ...]]) -> None:
    (root / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json").touch()
    job, _ = did(calls, "train -d 4 -c 2d -f 0")
    assert (job.trainer, job.plans) == ("AttentionUNetTrainer_40epochs", "nnUNetPlans")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", ("4", "CompactPlanner", ["2d", "3d_fullres"], None)),
        ("-c 2d -pl AttentionUNetPlanner -np 2", ("4", "AttentionUNetPlanner", ["2d"], 2)),
        ("-c 2d 3d_lowres --preset gpu", ("4", "ExperimentPlanner", ["2d", "3d_lowres"], None)),
    ],
)
def test_plan(root: Path, calls: list[tuple[Any, ...]], options: str, expected: tuple[Any, ...]) -> None:
    assert did(calls, f"plan -d 4 {options}") == (*expected, False, "auto")


def test_plan_follows_the_device(root: Path, calls: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hippo_nnunet.nnunet.api.resolve_device", lambda device: "cuda")
    assert did(calls, "plan -d 4")[1] == "ExperimentPlanner"
    assert did(calls, "train -d 4 -c 2d -f 0")[0].plans == "nnUNetPlans"


@pytest.mark.parametrize("folds", ["-f 0 1 4", "-f 0,1,4", "--folds 0 1,4"])
def test_predict(root: Path, calls: list[tuple[Any, ...]], folds: str) -> None:
    options = f"-d 4 -c 2d -tr UNetTrainer -p nnUNetPlans {folds} -device cpu -chk best.pth --save_probabilities"
    inputs, output, models, taken = did(calls, f"predict -i in -o out {options} --disable_tta")
    assert (inputs, output, models) == ([Path("in")], Path("out"), (root / "nnUNet_results" / DATASET / MODEL,))
    assert (taken.folds, taken.device, taken.checkpoint) == ([0, 1, 4], "cpu", "best.pth")
    assert (taken.save_probabilities, taken.use_mirroring) == (True, False)


def test_predict_with_folders(root: Path, calls: list[tuple[Any, ...]]) -> None:
    inputs, _, models, taken = did(calls, "predict -i a -i b -o out -m one -m two.hippo -f all")
    assert (inputs, models, taken.folds) == ([Path("a"), Path("b")], (Path("one"), Path("two.hippo")), ["all"])


def test_run(root: Path, calls: list[tuple[Any, ...]]) -> None:
    request = did(calls, "run exp -d 4 -c 2d -f 0 -tr UNetTrainer -device cpu")[1]
    assert (request.dataset, request.configurations, request.folds, request.variants) == ("4", "2d", "0", "UNetTrainer")
    assert calls[-1][3] == Settings("cpu")
    assert did(calls, "run exp -d 4 --trust-checkpoint")[3].trust


def test_a_word_of_two_letters_is_one_option(root: Path, calls: list[tuple[Any, ...]]) -> None:
    done = program("train -d 4 -c 2d -f 0 -tx UNetTrainer")
    assert done.exit_code == 2
    assert "-t" in done.output
    assert calls == []
