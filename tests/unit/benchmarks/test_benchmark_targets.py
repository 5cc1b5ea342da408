"""Which result speaks for which row of the README's table, and which does not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contention import ALONE_ADAPTIVE, ALONE_FIXED, BUSY_ADAPTIVE
from benchmarks.document import OURS, STOCK, Result, write_document
from benchmarks.head import head_result
from benchmarks.startup import OUR_HELP, OUR_LIST, STOCK_HELP
from benchmarks.targets import TARGETS, target_table

ROOT = Path(__file__).parents[3]
LAPTOP = {"cpu": "Some CPU", "cores": 2, "gpu": None}
CARD = {"cpu": "Some CPU", "cores": 16, "gpu": "NVIDIA H200"}


def sides(measure: str, stock: float, ours: float) -> dict[str, dict[str, list[float]]]:
    return {STOCK: {measure: [stock]}, OURS: {measure: [ours]}}


def predict(stock: float, ours: float, equal: float = 1.0, **settings: Any) -> Result:
    plain = {"trainer": "UNetTrainer_fast", "plans": "CompactPlans", "configuration": "2d", "folds": [0], "cases": 40}
    plain |= {"mirroring": True, "device": "cpu", **settings}
    return Result("predict", plain, sides("seconds", stock, ours), {"equal_share": equal})


def epochs(stock: float, ours: float, gain: float | None = 0.0, same: bool = True, **settings: Any) -> Result:
    plain = {"configuration": "2d", "plans": "nnUNetPlans", "ours": "UNetTrainer", "iterations": 250, "device": "cpu"}
    checks: dict[str, Any] = {"same_network": same, "batch_size": 366}
    checks |= {} if gain is None else {"validation_dice_gain": gain}
    return Result("train-epochs", {**plain, **settings}, sides("epoch_seconds", stock, ours), checks)


def steps(first: str, other: str, times: float) -> Result:
    figures = {first: {"seconds": [1.0]}, other: {"seconds": [times]}}
    return Result("train-step", {"plans": "CompactPlans", "configuration": "2d", "device": "cpu"}, figures)


def to_dice(seconds: float, **settings: Any) -> Result:
    plain = {"trainer": "UNetTrainer_fast", "configuration": "2d", "plans": "CompactPlans", "fold": 0, "device": "cpu"}
    plain |= {"target": 0.86, **settings}
    checks = {"dice": 0.861, "stock_extrapolated": True}
    return Result("time-to-dice", plain, sides("training_seconds", 7000, seconds), checks)


def head(seconds: float, mib: float, batch: int = 366) -> Result:
    """Our head's figures; the plain form takes 10 s and 500 MiB, nnU-Net's 0.5 s and 50 MiB."""
    figures = {"plain": (10.0, 500.0), OURS: (seconds, mib), "nnunet_1x1": (0.5, 50.0)}
    found: dict[str, Any] = {side: {"all_seconds": [s], "peak_mib": m} for side, (s, m) in figures.items()}
    settings = {"batch": batch, "size": [56, 40], "features": 32, "device": "cpu"}
    return head_result({"settings": settings, **found, "ratios": {}})


def startup(seconds: float, torch: bool = False) -> Result:
    figures = {STOCK_HELP: {"seconds": [5.0]}, OUR_HELP: {"seconds": [0.2]}, OUR_LIST: {"seconds": [seconds]}}
    return Result("startup", {}, figures, {f"{OUR_LIST} imports torch": torch})


def contention(alone: float, busy: float, same: bool = True, **settings: Any) -> Result:
    """Adaptive threads alone, and beside a busy process, in the time of a fixed number alone."""
    kinds = ("training", "validation", "prediction")
    times = {ALONE_FIXED: 1.0, ALONE_ADAPTIVE: alone, BUSY_ADAPTIVE: busy}
    figures = {side: {f"{kind}_seconds": [seconds] for kind in kinds} for side, seconds in times.items()}
    plain = {"trainer": "UNetTrainer_fast", "plans": "CompactPlans", "configuration": "2d", "device": "cpu"}
    return Result(
        "contention", {**plain, "busy_processes": 1, "compiled": False, **settings}, figures, {"same_batches": same}
    )


def experiment(minutes: float, variants: int = 3, cores: int = 2) -> Result:
    names = ["UNet", "AttentionUNet", "CLIPGuidedUNet_mini"][:variants]
    settings = {"preset": "laptop", "folds": {"2d": 5}, "variants": names, "cases": 220, "cores": cores}
    return Result("experiment", settings, {OURS: {"seconds": [60 * minutes]}})


def rows(result: Result, machine: dict[str, Any]) -> dict[int, bool]:
    """Number of each row that the result speaks for, and whether it is met."""
    verdicts = {number: target.judge(result, machine) for number, target in enumerate(TARGETS)}
    return {number: verdict.met for number, verdict in verdicts.items() if verdict is not None}


@pytest.mark.parametrize(
    ("result", "machine", "expected"),
    [
        (predict(50, 20), LAPTOP, {0: True}),
        (predict(50, 20.1), LAPTOP, {0: False}),
        (predict(50, 20, equal=0.9998), LAPTOP, {0: False}),
        (predict(50, 20, mirroring=False), LAPTOP, {}),
        (predict(50, 20, cases=39), LAPTOP, {}),
        (predict(16, 10, configuration="3d_fullres"), LAPTOP, {1: True}),
        (predict(27, 10, folds=[0, 1, 2, 3, 4]), LAPTOP, {2: True}),
        (predict(12, 6, cases=1), LAPTOP, {3: True}),
        (predict(14, 6.1, cases=1), LAPTOP, {3: False}),
        (predict(18, 1.5, cases=1, onnx=True), LAPTOP, {20: True}),
        (predict(17, 1.5, cases=1, onnx=True), LAPTOP, {20: False}),
        (predict(20, 1.6, cases=1, onnx=True), LAPTOP, {20: False}),
        (predict(99, 1, onnx=True), LAPTOP, {}),
        (predict(99, 10, folds=[0, 1, 2, 3, 4], onnx=True), LAPTOP, {21: True}),
        (predict(99, 10.1, folds=[0, 1, 2, 3, 4], onnx=True), LAPTOP, {21: False}),
        (predict(99, 9, equal=0.9998, folds=[0, 1, 2, 3, 4], onnx=True), LAPTOP, {21: False}),
        (predict(11, 6, cases=1), LAPTOP, {3: False}),
        (predict(80, 10, device="cuda"), CARD, {4: True}),
        (predict(80, 10, device="cuda", cases=2), CARD, {}),
        (predict(29, 10, device="cuda", configuration="3d_fullres"), CARD, {5: False}),
        (epochs(20, 10), LAPTOP, {6: True}),
        (epochs(20, 10, same=False), LAPTOP, {}),
        (steps("UNetTrainer_fast", "AttentionUNetTrainer_fast", 1.15), LAPTOP, {7: True}),
        (steps("UNetTrainer_fast", "AttentionUNetTrainer_fast", 1.2), LAPTOP, {7: False}),
        (steps("AttentionUNetTrainer_fast", "UNetTrainer_fast", 0.9), LAPTOP, {}),
        (to_dice(200), LAPTOP, {8: True, 9: True}),
        (to_dice(300), LAPTOP, {8: True, 9: False}),
        (to_dice(200), CARD, {8: True}),
        (to_dice(200, fold=1), LAPTOP, {}),
        (to_dice(200, target=0.85), LAPTOP, {}),
        (epochs(6, 2, configuration="3d_fullres", device="cuda"), CARD, {10: True}),
        (epochs(6, 2, gain=-0.01, configuration="3d_fullres", device="cuda"), CARD, {10: False}),
        (epochs(6, 2, gain=None, configuration="3d_fullres", device="cuda"), CARD, {}),
        (epochs(6, 2, iterations=2, device="cuda"), CARD, {}),
        (epochs(6, 2, device="cuda"), CARD, {11: True}),
        (epochs(6, 2, device="cuda"), CARD | {"gpu": "GeForce"}, {}),
        (steps("AttentionUNetTrainer_fast", "CLIPGuidedUNetTrainer_mini_fast", 1.25), LAPTOP, {13: True}),
        (steps("AttentionUNetTrainer_fast", "CLIPGuidedUNetTrainer_live_mini_fast", 1.2), LAPTOP, {}),
        (head(1.0, 60), LAPTOP, {14: True, 15: True}),
        (head(1.1, 101), LAPTOP, {14: False, 15: False}),
        (head(1.0, 60, batch=8), LAPTOP, {}),
        (startup(0.4), LAPTOP, {16: True}),
        (startup(0.6), LAPTOP, {16: False}),
        (startup(0.4, torch=True), LAPTOP, {16: False}),
        (experiment(89), LAPTOP, {17: True}),
        (experiment(91), LAPTOP, {17: False}),
        (experiment(60, variants=2), LAPTOP, {}),
        (experiment(60, cores=16), LAPTOP, {}),
        (contention(1.02, 1.7), LAPTOP, {18: True, 19: True}),
        (contention(1.04, 2.1), LAPTOP, {18: False, 19: False}),
        (contention(1.02, 1.7, same=False), LAPTOP, {18: False, 19: False}),
        (contention(1.02, 1.7, busy_processes=2), LAPTOP, {}),
    ],
)
def test_a_result_speaks_for_its_row_alone(result: Result, machine: dict[str, Any], expected: dict[int, bool]) -> None:
    assert rows(result, machine) == expected


def test_memory_is_compared_with_shared_pages_counted_once() -> None:
    result = epochs(20, 10)
    result.sides[STOCK] |= {"peak_rss_mib": [3000.0], "peak_pss_mib": [1000.0]}
    result.sides[OURS] |= {"peak_rss_mib": [1500.0], "peak_pss_mib": [1400.0]}
    assert rows(result, LAPTOP)[12] is False


def test_a_length_that_never_reaches_the_dice_is_a_miss() -> None:
    result = replace(to_dice(200), sides={STOCK: {"training_seconds": [7000.0]}, OURS: {}})
    assert rows(result, LAPTOP) == {9: False}


def test_the_table_has_every_row_and_the_last_result_counts() -> None:
    lines = target_table([(LAPTOP, [predict(50, 20)]), (LAPTOP, [predict(50, 25)])]).splitlines()
    assert len(lines) == 2 + len(TARGETS)
    assert "| 2.00 times (50 s against 25 s), labels equal in 100.0000 % | no |" in lines[2]
    assert all("| not measured |" in line for line in lines[3:])


def table(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "table", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_command_prints_the_table_of_files(tmp_path: Path) -> None:
    write_document(tmp_path / "a.json", LAPTOP, [predict(50, 20)])
    done = table(tmp_path / "a.json")
    assert (done.returncode, done.stdout.strip()) == (0, target_table([(LAPTOP, [predict(50, 20)])]))
    done = table(tmp_path / "b.json")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


def test_the_table_of_the_docs_is_what_was_measured() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    shown = page.partition("<!-- benchmarks -->")[2].partition("<!-- /benchmarks -->")[0]
    files = sorted((ROOT / "results" / "benchmarks").glob("*.json"))
    assert shown.strip() == table(*files).stdout.strip()
