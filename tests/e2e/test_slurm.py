"""The same experiment as jobs of a real SLURM and on this machine alone: one job cancelled, the same results.

`pytest -m slurm tests/e2e/test_slurm.py --log-cli-level=INFO` also says how long the jobs waited and took.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from slurm_node import Slurm, SlurmUnavailableError, one_node, processes_of

from hippo_nnunet.data.synth import make_phantom
from hippo_nnunet.workflow import launch
from hippo_nnunet.workflow.preparation import PROFILES

pytest.importorskip("snakemake_executor_plugin_slurm", reason="pip install snakemake-executor-plugin-slurm")
pytestmark = [pytest.mark.slow, pytest.mark.slurm]

log = logging.getLogger(__name__)

DATASET = "Dataset004_Phantom"
RULES = re.findall(r"^rule (\w+):", launch.SNAKEFILE.read_text(), flags=re.MULTILINE)
OF_TEST_IMAGES = {"predict", "submission"}
PATIENCE_S = 5400.0
"""Seconds that a run may take on a machine that is busy with something else; a few minutes on one that is not."""
COLUMNS = {"id": "%i", "state": "%T", "comment": "%k", "gres": "%b", "submitted": "%V", "started": "%S", "ended": "%e"}


@dataclass(frozen=True)
class Job:
    """What SLURM remembers of a job."""

    number: int
    rule: str
    state: str
    request: str
    submitted: datetime
    started: datetime
    ended: datetime
    name: str

    @property
    def waited_s(self) -> float:
        return (self.started - self.submitted).total_seconds()

    @property
    def ran_s(self) -> float:
        return (self.ended - self.started).total_seconds()


@dataclass(frozen=True)
class Outcome:
    """Both runs, and what was left of SLURM afterwards."""

    local: Path
    cluster: Path
    local_s: float
    cluster_s: float
    jobs: list[Job]
    cancelled: int
    most_at_once: int
    processes: list[psutil.Process]
    slurm_folder: Path
    changed: set[str]


def profile(folder: Path, name: str, changes: dict[str, Any]) -> Path:
    """Write a copy of one of the package's profiles with other numbers, as a user would."""
    packaged = yaml.safe_load((PROFILES / name / "config.yaml").read_text())
    copy = folder / f"profile-{name}"
    copy.mkdir()
    (copy / "config.yaml").write_text(yaml.safe_dump({**packaged, **changes, "set-threads": dict.fromkeys(RULES, 1)}))
    return copy


def run_command(folder: Path, *options: object) -> list[str]:
    return [sys.executable, "-m", "hippo_nnunet.cli.main", "run", str(folder), *map(str, options)]


def prepare(folder: Path, splits: list[dict[str, list[str]]]) -> None:
    """Ask for two folds, to be quick."""
    preprocessed = folder / "nnunet" / "nnUNet_preprocessed" / DATASET
    preprocessed.mkdir(parents=True)
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """Return what the condition returns as soon as that is true; fails when the process ends before."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.poll() is None:
        if found := condition():
            return found
        time.sleep(0.2)
    return condition()


def queue(slurm: Slurm, *states: str) -> list[dict[str, str]]:
    """Return the jobs that SLURM knows of, in these states or in all."""
    form = "|".join(COLUMNS.values())
    lines = slurm.ask("squeue", "--noheader", f"--states={','.join(states) or 'all'}", f"--format={form}").splitlines()
    return [dict(zip(COLUMNS, line.split("|"), strict=True)) for line in lines]


def job(row: dict[str, str], slurm: Slurm) -> Job:
    details = slurm.ask("scontrol", "show", "job", row["id"])
    request = re.search(r"^ *TRES=(.*)$", details, flags=re.MULTILINE)
    rule, _, wildcards = row["comment"].removeprefix("rule_").partition("_wildcards_")
    return Job(
        int(row["id"]),
        rule,
        row["state"],
        f"{row['gres']} {request.group(1) if request else ''} {details}",
        *(datetime.fromisoformat(row[name]) for name in ("submitted", "started", "ended")),
        f"{rule}/{wildcards}".rstrip("/"),
    )


def traces() -> dict[str, int]:
    """Return SLURM's and munge's files in the system's folders, with the times of their last change."""
    found = {}
    for top in ("/etc", "/run", "/var/log", "/var/lib", "/var/spool"):
        for start in [*Path(top).glob("*slurm*"), *Path(top).glob("*munge*")]:
            for path in [start, *(start.rglob("*") if start.is_dir() else ())]:
                found[str(path)] = path.stat().st_mtime_ns
    return found


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Both runs. On the cluster, a training is cancelled as soon as it trains."""
    folder = tmp_path_factory.mktemp("slurm")
    task = make_phantom(folder, num_training=6, num_test=0, name="Task04_Phantom")
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (task / "labelsTr").glob("*.nii.gz"))
    splits = [{"train": cases[3:], "val": cases[:3]}, {"train": cases[:3], "val": cases[3:]}]
    local, cluster = folder / "local", folder / "cluster"
    prepare(local, splits)
    prepare(cluster, splits)
    asked = ["--task", task, "--variants", "UNet", "--epochs", 2, "--iterations", 10, "--device", "cpu", "--jobs", 2]
    quick = {"slurm-init-seconds-before-status-checks": 2, "slurm-status-command": "squeue", "latency-wait": 20}
    resources = yaml.safe_load((PROFILES / "slurm" / "config.yaml").read_text())["set-resources"]
    resources["train"]["gres"] = "shard:1"
    resources["evaluate"]["gpu"] = 1
    on_slurm = profile(folder, "slurm", {**quick, "set-resources": resources})
    before = traces()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    try:
        with one_node(shards=2) as slurm:
            started = time.monotonic()
            with (folder / "cluster.log").open("w") as output:
                command = run_command(cluster, *asked, "--profile", on_slurm)
                environment = {**environ, "PATH": slurm.environ["PATH"], "SLURM_CONF": slurm.environ["SLURM_CONF"]}
                running = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            cancelled, most = _cancel_one_training(slurm, cluster, running)
            running.wait(PATIENCE_S)
            cluster_s = time.monotonic() - started
            assert running.returncode == 0, (folder / "cluster.log").read_text() + _end(cluster)
            jobs = sorted((job(row, slurm) for row in queue(slurm)), key=lambda known: known.number)
    except SlurmUnavailableError as error:
        pytest.skip(str(error))
    after = {path for path, changed in traces().items() if before.get(path) != changed}
    started = time.monotonic()
    command = run_command(local, *asked, "--profile", profile(folder, "local", {}))
    alone = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert alone.returncode == 0, alone.stderr + _end(local)
    local_s = time.monotonic() - started
    left = processes_of(slurm.folder)
    return Outcome(local, cluster, local_s, cluster_s, jobs, cancelled, most, left, slurm.folder, after)


def _cancel_one_training(slurm: Slurm, folder: Path, process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Cancel the job of fold 0 while it trains; return its number, and how many trainings were seen at once."""
    most = 0

    def training() -> str:
        nonlocal most
        rows = [row for row in queue(slurm, "RUNNING") if row["comment"].startswith("rule_train_")]
        most = max(most, len(rows))
        path = folder / "logs" / "train" / "UNet" / "2d" / "fold_0.log"
        trains = path.is_file() and "Epoch 0" in path.read_text()
        numbers = [row["id"] for row in rows if row["comment"] == "rule_train_wildcards_UNet_2d_0"]
        return numbers[0] if trains and numbers else ""

    number = wait_for(training, process)
    assert number, "no training was seen\n" + _end(folder)
    slurm.ask("scancel", number)
    return int(number), most


def _end(folder: Path) -> str:
    """Return the end of every log, for a failure on a machine that one cannot look at."""
    return "\n".join(f"{path}:\n{path.read_text(errors='replace')[-2000:]}" for path in sorted(folder.rglob("*.log")))


def test_every_job_ran_under_slurm(outcome: Outcome) -> None:
    finished = [known for known in outcome.jobs if known.state == "COMPLETED"]
    expected = [*({*RULES} - OF_TEST_IMAGES - {"all"}), "train"]
    assert sorted(known.rule for known in finished) == sorted(expected)
    log.info("%d jobs, %.0f s as SLURM jobs, %.0f s locally", len(outcome.jobs), outcome.cluster_s, outcome.local_s)
    for known in outcome.jobs:
        times = f"waited {known.waited_s:.0f} s, ran {known.ran_s:.0f} s"
        log.info("%3d %-20s %-10s %s", known.number, known.name, known.state, times)
    later = [(known.ended, [j.submitted for j in outcome.jobs if j.submitted >= known.ended]) for known in finished]
    log.info(
        "a job waited %.0f s in the queue, cost %.1f s beside its work, and its end was noticed after %.0f s (medians)",
        statistics.median(known.waited_s for known in finished),
        statistics.median(known.ran_s - _worked_s(outcome.cluster, known) for known in finished),
        statistics.median((min(next_ones) - ended).total_seconds() for ended, next_ones in later if next_ones),
    )


def _worked_s(folder: Path, known: Job) -> float:
    """Return what the job itself took, without SLURM's and Snakemake's starts."""
    name = re.sub(r"(\w+)_(\w+)_(\d)$", r"\1/\2/fold_\3", known.name)
    with (folder / "benchmarks" / f"{name}.tsv").open(newline="") as rows:
        return float(next(csv.DictReader(rows, delimiter="\t"))["s"])


def test_the_cancelled_training_ran_again(outcome: Outcome) -> None:
    attempts = [known for known in outcome.jobs if known.name == "train/UNet_2d_0"]
    assert [known.state for known in attempts] == ["CANCELLED", "COMPLETED"]
    assert attempts[0].number == outcome.cancelled
    folds = json.loads((outcome.cluster / "manifest.json").read_text())["folds"]
    waited_s = (attempts[1].submitted - attempts[0].ended).total_seconds()
    resumed = sum(fold["resumed"] for fold in folds)
    log.info("submitted again %.0f s after scancel, %s from a checkpoint", waited_s, "on" if resumed else "not")
    assert len([known for known in outcome.jobs if known.name == "train/UNet_2d_1"]) == 1


def test_the_results_are_those_of_the_local_run(outcome: Outcome) -> None:
    for name in ("per_case.csv", "summary.json"):
        assert (outcome.cluster / "metrics" / name).read_bytes() == (outcome.local / "metrics" / name).read_bytes()
    assert "UNet,2d" in (outcome.local / "metrics" / "per_case.csv").read_text()


def test_two_folds_shared_the_one_gpu(outcome: Outcome) -> None:
    assert outcome.most_at_once == 2
    for known in outcome.jobs:
        assert ("shard:1" in known.request) == (known.rule == "train")
        assert ("gres/gpu=1" in known.request or "gpu:1" in known.request) == (known.rule == "evaluate")


def test_the_profiles_numbers_reached_slurm(outcome: Outcome) -> None:
    training = next(known for known in outcome.jobs if known.rule == "train")
    assert "TimeLimit=1-00:00:00" in training.request
    assert re.search(r"mem=16000M|mem=15.625G|MinMemoryNode=(16000M|15.625G)", training.request)
    again = next(known for known in outcome.jobs if known.name == "train/UNet_2d_0" and known.state == "COMPLETED")
    assert re.search(r"mem=32000M|mem=31.25G|MinMemoryNode=(32000M|31.25G)", again.request)


def test_nothing_is_left_of_slurm(outcome: Outcome) -> None:
    assert outcome.processes == []
    assert not outcome.slurm_folder.exists()
    assert outcome.changed == set()
