"""A check that raises, exits, crashes or hangs is a line of its own, and does not end the others."""

from __future__ import annotations

from pathlib import Path

import check_lines
import pytest

from hippo_nnunet.doctor.isolation import Outcome, run_checks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checks")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, Outcome]:
    found = run_checks(check_lines.checks, folder, folder / "log", {"HIPPO_CHECK": "given"})
    return {outcome.name: outcome for outcome in found}


@pytest.mark.parametrize(
    ("name", "result", "reason"),
    [
        ("first", "pass", "given"),
        ("wrong", "fail", "expected 1, got 2"),
        ("elsewhere", "not run", "needs a printer"),
        ("memory", "fail", "MemoryError: all gone"),
        ("exit", "fail", "SystemExit: 3"),
        ("crash", "fail", "its process ended with exit code 11; see the log"),
        ("hang", "fail", "not done within 1 s"),
        ("lacking", "not run", "needs CUDA"),
        ("after errors", "pass", "given"),
        ("after crash", "pass", "given"),
        ("after hang", "pass", "given"),
    ],
)
def test_each_outcome(outcomes: dict[str, Outcome], name: str, result: str, reason: str) -> None:
    assert (outcomes[name].result, outcomes[name].reason) == (result, reason)


def test_a_process_is_started_again_only_after_it_was_lost(outcomes: dict[str, Outcome], folder: Path) -> None:
    assert list(outcomes) == [check.name for check in check_lines.checks(folder)]
    assert len([path for path in folder.iterdir() if path.name.isdigit()]) == 3
    assert "MemoryError" in (folder / "log").read_text()
    assert outcomes["first"].peak_rss_mb


def test_groups_run_at_the_same_time_in_a_process_each(tmp_path: Path) -> None:
    found = {o.name: o for o in run_checks(check_lines.meeting, tmp_path, tmp_path / "log.txt", {}, 2)}
    assert {outcome.result for outcome in found.values()} == {"pass"}
    assert [name for name in found if not name.startswith("b")] == ["dataset", "a waits for b", "a again"]
    assert found["a waits for b"].reason == found["a again"].reason != found["b waits for a"].reason
    assert {path.name for path in tmp_path.glob("log*")} == {"log.txt", "log_2.txt"}


def test_what_needs_a_failed_check_is_not_run(tmp_path: Path) -> None:
    dataset, training = run_checks(check_lines.essential, tmp_path, tmp_path / "log", {})
    assert dataset.result == "fail"
    assert (training.result, training.reason) == ("not run", "'dataset' failed")
