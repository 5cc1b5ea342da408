"""The parts of the benchmarks that measure nothing by themselves: turns, ratios, memory, files, verdicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.agreement import compare_labels, compare_probabilities
from benchmarks.contention import mean_seconds
from benchmarks.document import OURS, STOCK, Result, markdown, read_document, write_document
from benchmarks.epochs_process import trainer_of_length
from benchmarks.memory import PeakMemory
from benchmarks.processes import module_command, run_measured
from benchmarks.ratios import ratio, turns
from benchmarks.time_to_dice import epochs_to
from hippo_nnunet.errors import ConfigError, DataError, HippoError

HOLD = "held = bytearray(b'x') * (100 << 20); print('ready', flush=True); import sys; sys.stdin.read()"
"""Takes 100 MiB until its input ends."""
START = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
FORK = "import os; held = bytearray(b'x') * (100 << 20); print('ready', flush=True) if os.fork() else 0; input()"


@given(repeats=st.integers(1, 9), sides=st.integers(1, 4))
def test_every_side_gets_every_repeat_and_a_linear_drift_cancels(repeats: int, sides: int) -> None:
    names = [f"side{i}" for i in range(sides)]
    order = list(turns(names, repeats))
    assert sorted(order) == sorted((name, repeat) for name in names for repeat in range(repeats))
    if repeats % 2 == 0:
        assert len({sum(place for place, (side, _) in enumerate(order) if side == name) for name in names}) == 1


def test_the_ratio_is_that_of_the_medians_and_its_spread_that_of_the_pairs() -> None:
    found = ratio([2.0, 4.0, 30.0], [10.0, 10.0, 20.0])
    assert found is not None
    assert (found.median, found.lowest, found.highest) == (0.4, 0.2, 1.5)


@pytest.mark.parametrize(("side", "reference"), [([], [1.0]), ([1.0], []), ([1.0], [0.0])])
def test_no_ratio_without_figures(side: list[float], reference: list[float]) -> None:
    assert ratio(side, reference) is None


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has said that it is ready, and ends when its input does."""
    process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.communicate("\n\n")


def sampled(process: subprocess.Popen[str], descendants: bool = True) -> PeakMemory:
    with PeakMemory(process.pid, 0.01, descendants) as memory:
        while not memory.samples:
            time.sleep(0.01)
    return memory


def test_memory_of_a_process_that_the_measured_one_starts_counts() -> None:
    with running("-c", START, HOLD) as process:
        assert 100 < sampled(process).rss_mib < 200
        assert sampled(process, descendants=False).rss_mib < 100


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells proportional memory")
def test_shared_pages_count_once_in_proportional_memory() -> None:
    with running("-c", FORK) as process:
        memory = sampled(process)
    assert memory.rss_mib > 200
    assert memory.pss_mib is not None
    assert 100 < memory.pss_mib < 150


def test_a_command_is_timed_and_its_memory_sampled(tmp_path: Path) -> None:
    run = run_measured(
        [sys.executable, "-c", "import time; time.sleep(0.2); print('done')"], os.environ, tmp_path / "log"
    )
    assert run.seconds > 0.2
    assert run.peak_rss_mib > 1
    assert (tmp_path / "log").read_text() == "done\n"


def test_a_module_of_the_benchmarks_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, environ = module_command("benchmarks.epochs_process", {**os.environ, "PYTHONPATH": "elsewhere"})
    run_measured([*command, "--help"], environ, tmp_path / "log")
    assert "benchmarks.epochs_process" in (tmp_path / "log").read_text()
    assert environ["PYTHONPATH"].endswith(f"{os.pathsep}elsewhere")


def test_a_command_that_fails_names_its_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print('the disk is full'); sys.exit(3)"]
    with pytest.raises(HippoError, match="exit code 3: the disk is full"):
        run_measured(command, os.environ, tmp_path / "log")


def test_the_length_of_a_training_stands_in_the_name_of_ours_alone() -> None:
    assert trainer_of_length("nnUNetTrainer", 2, 7) == "nnUNetTrainer"
    assert trainer_of_length("UNetTrainer", 2, 7) == "UNetTrainer_2epochs_7iters"
    assert trainer_of_length("UNetTrainer_flip_fast_seed1", 2, 7) == "UNetTrainer_flip_fast_2epochs_7iters_seed1"
    with pytest.raises(ConfigError):
        trainer_of_length("UNetTrainer_5epochs", 2, 7)


def test_a_curve_is_read_up_to_the_target(tmp_path: Path) -> None:
    curve = tmp_path / "curve.csv"
    curve.write_text("epoch,pseudo_dice\n1,0.80\n2,0.85\n3,0.86\n4,0.855\n5,0.87\n")
    assert epochs_to(curve, 0.86) == 3
    assert epochs_to(curve, 0.861) == 5
    with pytest.raises(DataError, match=r"never reaches 0\.9: its best is 0\.87"):
        epochs_to(curve, 0.9)
    curve.write_text("epoch,a,b\n1,2,3\n")
    with pytest.raises(DataError, match="expected a CSV"):
        epochs_to(curve, 0.9)


def write_labels(folder: Path, name: str, values: list[int]) -> None:
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.array(values, np.uint8).reshape(2, 2, -1), np.eye(4)), folder / name)


def test_agreement_is_over_all_voxels_of_all_cases(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_labels(one, "a.nii.gz", [0, 1, 2, 0])
    write_labels(two, "a.nii.gz", [0, 1, 1, 0])
    write_labels(one, "b.nii.gz", [0] * 12)
    write_labels(two, "b.nii.gz", [0] * 12)
    found = compare_labels(one, two, ".nii.gz")
    assert found == {
        "cases": 2,
        "equal_share": 15 / 16,
        "worst_case_equal_share": 0.75,
        "foreground_share": 2 / 16,
    }
    write_labels(two, "c.nii.gz", [0] * 12)
    with pytest.raises(DataError, match="hold 2 and 3 files"):
        compare_labels(one, two, ".nii.gz")


def test_the_largest_difference_of_probabilities(tmp_path: Path) -> None:
    for folder, last in (("one", 0.5), ("two", 0.2)):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "a.npz", probabilities=np.array([0.1, 0.1, 0.1, last], np.float32))
    found = compare_probabilities(tmp_path / "one", tmp_path / "two")
    assert found["largest_difference"] == pytest.approx(0.3)
    assert found["close_share"] == 0.75


RESULT = Result(
    "predict",
    {"configuration": "2d", "folds": [0], "backend": None},
    {STOCK: {"seconds": [10.0, 14.0], "peak_rss_mib": [2000.0, 2000.0]}, OURS: {"seconds": [4.0, 5.0]}},
    {"equal_share": 0.99999},
    ("a note",),
)


def test_a_document_comes_back_and_holds_the_ratios(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_document(file, {"cores": 2}, [RESULT])
    assert read_document(file) == ({"cores": 2}, [RESULT])
    content = json.loads(file.read_text())
    assert content["results"][0]["summary"][OURS]["seconds"] == {
        "median": 4.5,
        "least": 4.0,
        "relative_to_first": {"median": 0.375, "lowest": 5 / 14, "highest": 0.4},
    }
    with pytest.raises(DataError, match="--overwrite"):
        write_document(file, {}, [])
    write_document(file, {}, [], overwrite=True)
    assert read_document(file) == ({}, [])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 0}', '{"schema": 1, "machine": {}, "results": [{}]}'])
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError) as caught:
        read_document(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_a_section_shows_figures_units_and_what_was_not_measured(tmp_path: Path) -> None:
    text = markdown(RESULT)
    assert "| seconds | ours | 4.5 s | 4 s | 0.375 (0.357 to 0.400) |" in text
    assert "| peak rss mib | stock | 2000 MiB | 2000 MiB |  |" in text
    assert "backend" not in text
    assert "- equal share: 0.99999" in text
    assert "- a note" in text


def test_the_mean_of_a_window_counts_whole_units() -> None:
    now = 0.0

    def unit() -> None:
        nonlocal now
        now += 4.0

    assert mean_seconds(unit, 5.0, lambda: now) == 4.0
    assert now == 8.0
    mean_seconds(unit, 0.0, lambda: now)
    assert now == 12.0, "at least one"
