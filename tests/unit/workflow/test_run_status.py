"""`run --status`: it tells the living from the dead, from here and from another machine, and changes nothing."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.errors import DataError
from hippo_nnunet.experiment import markers
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import DONE, STATE, ExperimentPaths
from hippo_nnunet.nnunet.training_log import read_progress
from hippo_nnunet.workflow import estimate, job_state, jobs, launch, status, status_text
from hippo_nnunet.workflow.status import read_status, tail

ASKED = Experiment("Dataset004_X", "laptop", ("UNet", "AttentionUNet"), {"2d": (0, 1), "3d_fullres": (0,)}, 2)
CELLS = {str(cell): cell for cell in ASKED.cells()}
EPOCHS = 16
STAMP = "2026-11-22 17:40:50.853575"


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment whose data is prepared; nothing is trained."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "my experiment ä"
    ASKED.save(ExperimentPaths(folder).request)
    for name in ("data", "plan", "preprocess/2d", "preprocess/3d_fullres"):
        mark(folder, DONE / name)
    (folder / "nnunet" / "nnUNet_raw" / ASKED.dataset).mkdir(parents=True)  # without test images
    preprocessed = folder / "nnunet" / "nnUNet_preprocessed" / ASKED.dataset
    for name in ("CompactPlans_2d", "CompactPlans_3d_fullres"):
        (preprocessed / name).mkdir(parents=True)
        (preprocessed / name / "a.pkl").write_bytes(b"x")
    plans = {"configurations": {name: {"data_identifier": f"CompactPlans_{name}"} for name in ASKED.folds}}
    (preprocessed / "CompactPlans.json").write_text(json.dumps(plans))
    (preprocessed / "dataset.json").write_text("{}")
    (preprocessed / "splits_final.json").write_text(json.dumps([{"train": ["b"], "val": ["a"]}]))
    return folder


def mark(folder: Path, marker: Path) -> None:
    (folder / marker).parent.mkdir(parents=True, exist_ok=True)
    (folder / marker).touch()


def fold_folder(folder: Path, cell: Cell) -> Path:
    path = ASKED.result_folder(cell, folder / "nnunet" / "nnUNet_results")
    path.mkdir(parents=True, exist_ok=True)
    return path


def finish(folder: Path, cell: Cell, seconds: float) -> None:
    fold = fold_folder(folder, cell)
    (fold / "validation").mkdir()
    (fold / "checkpoint_final.pth").touch()
    (fold / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": [{}]}))
    (fold / "validation" / "case.npz").touch()
    (fold / "hippo_training.json").write_text(json.dumps({"trained_seconds": seconds}))
    for name in ("plans.json", "dataset.json"):
        (fold.parent / name).write_text("{}")
    mark(folder, cell.marker)


def write_log(
    folder: Path, cell: Cell, first: int, seconds: list[float], more: str = "", name: str = "2026_11_2"
) -> None:
    """Write nnU-Net's log of epochs that took these seconds, and one that has begun."""
    lines = []
    for number, taken in enumerate([*seconds, None], start=first):
        lines += [f"{STAMP}: Epoch {number} ", f"{STAMP}: Current learning rate: 1"]
        lines += [f"{STAMP}: Epoch time: {taken} s"] * (taken is not None)
    log = fold_folder(folder, cell) / f"training_log_{name}_17_40_50.txt"
    log.write_text("\n".join([*lines, more]) + "\n")
    os.utime(log, (time.time(), time.time()))


def write_state(folder: Path, marker: Path, **changes: object) -> Path:
    """Write the state of a job that began a minute ago; by default one that this very process runs."""
    name = marker.relative_to(DONE).as_posix()
    path = job_state.state_file(folder, name)
    with job_state.recorded(folder, name, "a job", str):
        state = job_state.read(path)
        assert state is not None
    values = {**asdict(state), "started": time.time() - 60, "ended": None, **changes}
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("settings", [[], "x", {"parallel": "a"}])
def test_a_damaged_state_is_none(settings: object, tmp_path: Path) -> None:
    path = write_state(tmp_path, DONE / "data")
    assert job_state.read(path) is not None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": settings}))
    assert job_state.read(path) is None


def states(folder: Path) -> dict[str, str]:
    return {job.name: job.state for job in read_status(folder).jobs}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in [folder, *folder.rglob("*")]}


def text(found: status.Status) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    for part in status_text.describe(found):
        console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))
    return console.export_text()


def test_every_state_of_a_job_is_told_from_the_others(experiment: Path) -> None:
    done, running, killed, failed, waiting, _ = ASKED.cells()
    finish(experiment, done, 100)
    write_state(experiment, running.marker)
    write_log(experiment, running, 0, [10.0, 20.0])
    write_state(experiment, killed.marker, pid=2**22 + 1)
    write_state(experiment, failed.marker, ended=time.time(), failure="no space left")
    log = experiment / "logs" / failed.marker.relative_to(DONE).with_suffix(".log")
    log.parent.mkdir(parents=True)
    log.write_text("first\n\x1b[31m 1%\r 99%\rthe end\n\nOSError: no space\n")
    before = snapshot(experiment)

    found = read_status(experiment)
    name = {cell: str(cell.marker.relative_to(DONE)) for cell in ASKED.cells()}
    by_name = {job.name: job for job in found.jobs}
    expected = ["done", "running", "killed", "failed", "waiting"]
    assert [by_name[name[cell]].state for cell in (done, running, killed, failed, waiting)] == expected
    assert by_name["evaluate"].state == "waiting"
    assert by_name[name[failed]].tail == ("first", "the end", "OSError: no space")
    assert found.state == "running"
    shown = text(found)
    assert "epoch 3 of 16, 15 s each" in shown
    assert "no space left" in shown
    assert str(log) in shown
    assert "\x1b" not in shown
    assert f"{name[running]} epoch 3 of 16, 15 s each; about " in status_text.summary(found)
    content = json.loads(status_text.as_json(found))
    assert content["state"] == "running"
    assert {job["state"] for job in content["jobs"]} == {*expected}
    assert snapshot(experiment) == before


@pytest.mark.parametrize(
    ("changes", "age_s", "alive"),
    [
        ({}, 0, True),
        ({}, 9000, True),  # a process that lives here needs no fresh file
        ({"pid": 2**22 + 1}, 0, False),
        ({"command": ["another", "program"]}, 0, False),  # the number was given to somebody else
        ({"host": "elsewhere"}, 10, True),
        ({"host": "elsewhere", "pid": 2**22 + 1}, 10, True),
        ({"host": "elsewhere"}, 9000, False),
        ({"ended": 1.0}, 0, False),
    ],
)
def test_a_dead_process_is_not_running(experiment: Path, changes: dict, age_s: float, alive: bool) -> None:
    cell = ASKED.cells()[0]
    path = write_state(experiment, cell.marker, **changes)
    os.utime(path, (time.time() - age_s,) * 2)
    state = job_state.read(path)
    assert state is not None
    assert job_state.is_alive(path, state) is alive
    assert (states(experiment)[str(cell.marker.relative_to(DONE))] == "running") is alive


def test_before_a_start_and_after_the_end(experiment: Path, tmp_path: Path) -> None:
    assert read_status(tmp_path / "nowhere").state == "not started"
    assert not (tmp_path / "nowhere").exists()
    assert "not started" in text(read_status(tmp_path / "nowhere"))
    assert read_status(experiment).state == "stopped"
    assert f"go on: hippo-nnunet run '{experiment}'" in text(read_status(experiment))
    for cell in ASKED.cells():
        finish(experiment, cell, 100)
    files = (
        "ensemble/choice.json",
        "metrics/per_case.csv",
        "metrics/summary.json",
        "manifest.json",
        "report/index.html",
    )
    for name in files:
        (experiment / name).parent.mkdir(exist_ok=True)
        (experiment / name).write_text("{}")
    (experiment / "ensemble" / "out_of_fold").mkdir()
    (experiment / "ensemble" / "out_of_fold" / "a.nii.gz").touch()
    for marker in markers.all_markers(ASKED, ()):
        mark(experiment, marker)
    assert {name for name, state in states(experiment).items() if state != "done"} == set()
    assert (read_status(experiment).state, read_status(experiment).problem) == ("finished", None)
    (experiment / "manifest.json").unlink()
    assert read_status(experiment).state == "stopped", "a marker whose file is gone is no result"


def test_damaged_plans_are_named_and_the_rest_is_shown(experiment: Path) -> None:
    (experiment / "nnunet" / "nnUNet_preprocessed" / ASKED.dataset / "CompactPlans.json").write_text("{")
    (experiment / "nnunet" / "nnUNet_preprocessed" / ASKED.dataset / "splits_final.json").write_text("{")
    found = read_status(experiment)
    assert "splits_final.json" in (found.problem or "")
    assert "splits_final.json" in text(found)
    assert len(found.jobs) > 5


def test_half_written_and_foreign_states_do_no_harm(experiment: Path) -> None:
    path = job_state.state_file(experiment, ASKED.cells()[0].marker.relative_to(DONE).as_posix())
    path.parent.mkdir(parents=True)
    for content in ("", "{", "[1]", '{"job": 1}', "\xff"):
        path.write_text(content)
        assert set(states(experiment).values()) == {"done", "waiting"}


def test_time_left_comes_from_what_is_known(experiment: Path) -> None:
    def left(cell: str) -> estimate.Remaining:
        name = CELLS[cell].marker.relative_to(DONE).as_posix()
        return next(estimate.Remaining(j.left_s, j.left_from) for j in read_status(experiment).jobs if j.name == name)

    settings = {"device": "cpu", "parallel": 1, "products": [], "folders": None}
    write_state(experiment, DONE / "run", pid=2**22 + 1, settings=settings)
    stated = estimate.stated_seconds(CELLS["UNet 2d fold 0"].trainer, "2d", "cpu")
    assert (left("UNet 2d fold 0").source, left("UNet 2d fold 0").seconds) == ("stated", stated)

    write_state(experiment, CELLS["UNet 2d fold 0"].marker)
    write_log(experiment, CELLS["UNet 2d fold 0"], 0, [50.0, 10.0, 10.0, 10.0, 10.0, 10.0])
    running = left("UNet 2d fold 0")
    assert running.source == "running"
    assert running.seconds == pytest.approx(10 * 10.0 + estimate.OVERHEAD_S, abs=2)
    assert left("UNet 2d fold 1").source == "running"
    assert left("UNet 2d fold 1").seconds == pytest.approx(160 + estimate.OVERHEAD_S)
    ratio = (160 + estimate.OVERHEAD_S) / stated
    in_3d = estimate.stated_seconds(CELLS["UNet 3d_fullres fold 0"].trainer, "3d_fullres", "cpu")
    assert left("UNet 3d_fullres fold 0").source == "scaled"
    assert left("UNet 3d_fullres fold 0").seconds == pytest.approx(in_3d * ratio)

    finish(experiment, CELLS["UNet 2d fold 1"], 300)
    assert left("AttentionUNet 2d fold 1").source == "measured"
    assert left("AttentionUNet 2d fold 1").seconds == 300 + estimate.OVERHEAD_S
    write_log(experiment, CELLS["AttentionUNet 2d fold 0"], 0, [10.0] * 8)
    write_state(experiment, CELLS["AttentionUNet 2d fold 0"].marker, pid=2**22 + 1)
    assert left("AttentionUNet 2d fold 0").seconds == 150 + estimate.OVERHEAD_S, "half of it is in a checkpoint"

    (experiment / "benchmarks" / "predict").mkdir(parents=True)
    (experiment / "benchmarks" / "predict" / "UNet.tsv").write_text("s\th:m:s\n40.5\t0:00:40\n")
    sources = {job.name: job.left_from for job in read_status(experiment).jobs}
    assert sources["evaluate"] == "unknown"
    assert "not counted: ensemble, evaluate" in text(read_status(experiment))


def test_the_total_counts_trainings_side_by_side(experiment: Path) -> None:
    settings = {"device": "cpu", "parallel": 2, "products": ["predictions"], "folders": None}
    write_state(experiment, DONE / "run", settings=settings)
    found = read_status(experiment)
    each = [job.left_s for job in found.jobs if job.is_training]
    assert found.left_s == pytest.approx(max(sum(each) / 2, *each))
    assert "predict/UNet" in {job.name for job in found.jobs}
    assert found.state == "running"


def test_folders_of_the_last_run_are_found_again(experiment: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other"
    (experiment / "nnunet").rename(elsewhere)
    cell = ASKED.cells()[0]
    write_log_here = ASKED.result_folder(cell, elsewhere / "nnUNet_results")
    write_log_here.mkdir(parents=True)
    (write_log_here / "training_log_2026_1_2_03_04_05.txt").write_text(
        f"{STAMP}: Epoch 3 \n{STAMP}: Epoch time: 2.0 s\n"
    )
    assert all(job.training is None for job in read_status(experiment).jobs)
    folders = [str(elsewhere / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")]
    write_state(experiment, DONE / "run", pid=2**22 + 1, settings={"device": "cpu", "folders": folders})
    training = next(job.training for job in read_status(experiment).jobs if job.training)
    assert (training.epoch, training.epochs, training.epoch_seconds) == (4, EPOCHS, 2.0)
    assert any(job.training for job in read_status(experiment, elsewhere).jobs)


def test_the_newest_log_with_an_epoch_counts(experiment: Path) -> None:
    cell = ASKED.cells()[0]
    assert read_progress(fold_folder(experiment, cell), EPOCHS) is None
    write_log(experiment, cell, 0, [9.0] * 9, name="2026_9_30")
    write_log(experiment, cell, 9, [1.0, 2.0], name="2026_10_1")  # resumed; months have no leading zero
    (fold_folder(experiment, cell) / "training_log_2026_10_2_01_01_01.txt").write_text(f"{STAMP}: Using splits\n")
    found = read_progress(fold_folder(experiment, cell), EPOCHS)
    assert found is not None
    assert (found.epoch, found.epoch_seconds) == (11, 1.5)
    assert found.left_s() == pytest.approx(5 * 1.5, abs=1.5)
    write_log(experiment, cell, 15, [4.0], f"{STAMP}: Training done. ", name="2026_10_3")
    ended = read_progress(fold_folder(experiment, cell), EPOCHS)
    assert ended is not None
    assert ended.validating
    assert ended.left_s() == 0


def test_a_job_records_how_it_ended(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(experiment)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(experiment / "nnunet" / name))

    def fail() -> None:
        assert states(experiment)["ensemble"] == "running"
        raise DataError("case x:\n  no probabilities")

    assert jobs.run_job("ensemble", fail, "logs/ensemble.log") == 1
    assert jobs.run_job("evaluate", lambda: None, "logs/evaluate.log") == 0
    found = {job.name: job for job in read_status(experiment).jobs}
    assert found["ensemble"].message == "case x: no probabilities"
    assert found["ensemble"].host == socket.gethostname()
    assert read_status(experiment).state == "failed"
    assert str(launch.failure_of(experiment, [])).startswith("ensemble: case x: no p")
    for path in job_state.failed_jobs(experiment):
        path.unlink()
    assert states(experiment)["ensemble"] == "waiting"
    message = str(launch.failure_of(experiment, []))
    assert "ended without an error message" in message
    assert message.count("snakemake.log") == 1
    message = str(launch.failure_of(experiment, [], "FileNotFoundError: no /home"))
    assert message.startswith("Snakemake ended before its jobs: FileNotFoundError: no /home; see ")
    assert "run again" in message


def test_a_state_that_cannot_be_written_fails_no_job(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(experiment)
    (experiment / STATE).write_text("a file where the folder should be")
    assert jobs.run_job("ensemble", lambda: None, "logs/ensemble.log") == 0


def test_a_running_job_touches_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_state, "HEARTBEAT_S", 0.01)
    path = job_state.state_file(tmp_path, "a")
    with job_state.recorded(tmp_path, "a", "a job", str):
        os.utime(path, (0, 0))
        end = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_the_tail_of_a_log_is_text(tmp_path: Path) -> None:
    assert tail(tmp_path / "no.log") == ()
    (tmp_path / "a.log").write_bytes(b"x" * 50_000 + b"\n" + "\n".join(map(str, range(20))).encode() + b"\n\xff\n\n")
    assert tail(tmp_path / "a.log") == ("13", "14", "15", "16", "17", "18", "19", "�")


def test_the_command(experiment: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["run", str(experiment), "--status"])
    assert shown.exit_code == 0, shown.output
    assert "train/AttentionUNet/2d/fold_1" in shown.output
    content = json.loads(runner.invoke(app, ["run", str(experiment), "--status", "--json"]).output)
    assert content["state"] == "stopped"
    assert runner.invoke(app, ["run", str(experiment), "--json"]).exit_code == 2
    assert runner.invoke(app, ["run", str(experiment), "--status", "--variants", "UNet"]).exit_code == 2
