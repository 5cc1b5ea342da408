"""`hippo-nnunet run` from a Decathlon folder to a submission: interrupted, resumed, repeated, failed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from hippo_nnunet.data.synth import make_phantom

DATASET = "Dataset004_Phantom"
MODELS = [f"{base}Trainer_fast_2epochs_3iters__CompactPlans__2d" for base in ("UNet", "AttentionUNet")]

pytest.importorskip("snakemake", reason="run needs Snakemake, and Snakemake needs Python 3.11")
pytestmark = pytest.mark.slow


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "hippo_nnunet.cli.main", "run", str(folder / "exp"), *options]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    return {**kept, "nnUNet_def_n_proc": "1"}  # each worker imports torch


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *options), env=environment(), capture_output=True, text=True, timeout=900, check=False
    )


def processes_below(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(folder)):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float, of: subprocess.Popen | None = None) -> None:
    """Wait until the condition holds, and not longer than the process lives that shall make it so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and (of is None or of.poll() is None):
        if condition():
            return
        time.sleep(0.2)
    assert condition(), "waited in vain" if of is None else f"waited in vain; exit code {of.poll()}"


def what_happened(folder: Path) -> str:
    """Return the end of every log and the processes that still live, for a failure that cannot be repeated."""
    logs = [f"{log}:\n{log.read_text(errors='replace')[-2000:]}" for log in sorted(folder.rglob("*.log"))]
    alive = [f"{process.pid} {process.status()} {' '.join(process.cmdline())}" for process in processes_below(folder)]
    return "\n".join([*logs, *alive])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that was killed during its first training, and resumed to the end. Two folds, to be quick."""
    folder = tmp_path_factory.mktemp("run")
    task = make_phantom(folder, num_training=6, num_test=2, name="Task04_Phantom")
    cases = sorted(p.name.removesuffix(".nii.gz") for p in (task / "labelsTr").glob("*.nii.gz"))
    splits = [{"train": cases[3:], "val": cases[:3]}, {"train": cases[:3], "val": cases[3:]}]
    preprocessed = folder / "exp" / "nnunet" / "nnUNet_preprocessed" / DATASET
    preprocessed.mkdir(parents=True)
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))

    request = ("--task", str(task), "--epochs", "2", "--iterations", "3", "--device", "cpu")
    dry = run(folder, *request, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "expected time of training on cpu" in dry.stdout
    assert not (folder / "exp" / "experiment.yaml").exists()

    with (folder / "first.log").open("w") as output:
        first = subprocess.Popen(command(folder, *request), env=environment(), stdout=output, stderr=output)
    logs = folder / "exp" / "logs" / "train"
    try:
        wait_for(lambda: any("Epoch 0" in log.read_text() for log in logs.rglob("*.log")), 900, first)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{what_happened(folder)}") from None
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_for(lambda: not processes_below(folder / "exp"), 30)

    second = run(folder)
    assert second.returncode == 0, second.stderr
    assert "AttentionUNet" in second.stdout
    assert "Task04_Phantom.zip" in second.stdout
    return folder


def test_everything_lies_where_the_design_says(workspace: Path) -> None:
    experiment = workspace / "exp"
    table = pd.read_csv(experiment / "metrics" / "per_case.csv")
    assert set(table["variant"]) == {"UNet", "AttentionUNet", "ensemble"}
    assert len(table) == 3 * 6 * 2
    assert not table.duplicated(["variant", "case", "label"]).any()
    assert set(json.loads((experiment / "metrics" / "summary.json").read_text())) == set(table["variant"])
    choice = json.loads((experiment / "ensemble" / "choice.json").read_text())
    assert set(choice["members"]) <= set(MODELS)
    for name in ("UNet", "AttentionUNet", "ensemble"):
        assert len(list((experiment / "predictions" / name).glob("*.nii.gz"))) == 2
    page = (experiment / "report" / "index.html").read_text(encoding="utf-8")
    assert all(f'<section id="{name}"' in page for name in ("verdict", "curves", "slices", "surface", "limits"))
    with zipfile.ZipFile(experiment / "submission" / "Task04_Phantom.zip") as archive:
        assert len([n for n in archive.namelist() if n.startswith("Task04_Phantom/")]) == 2
    for model in MODELS:
        for fold in (0, 1):
            results = experiment / "nnunet" / "nnUNet_results" / DATASET / model / f"fold_{fold}"
            assert (results / "checkpoint_final.pth").is_file()
            assert len(list((results / "validation").glob("*.npz"))) == 3
    assert len(list((experiment / "benchmarks" / "train").rglob("*.tsv"))) == 4


def test_manifest_is_fit_to_be_published(workspace: Path) -> None:
    manifest = (workspace / "exp" / "manifest.json").read_text()
    asked = (workspace / "exp" / "experiment.yaml").read_text()
    assert str(workspace) not in manifest + asked
    assert all(fold["trained_seconds"] > 0 for fold in json.loads(manifest)["folds"])
    assert yaml.safe_load(asked)["folds"] == {"2d": [0, 1]}


def test_a_second_run_makes_only_what_is_missing(workspace: Path) -> None:
    experiment = workspace / "exp"
    kept = [*experiment.glob("nnunet/nnUNet_results/*/*/fold_*/*"), *experiment.glob("predictions/*/*")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    archive = experiment / "submission" / "Task04_Phantom.zip"
    content = archive.read_bytes()
    archive.unlink()
    again = run(workspace)
    assert again.returncode == 0, again.stderr
    assert "done: submission" in again.stderr
    assert "done: train" not in again.stderr
    assert archive.read_bytes() == content
    assert {path: path.stat().st_mtime_ns for path in kept} == before


def test_a_longer_request_adds_trainings_and_what_follows_from_them(workspace: Path) -> None:
    longer = run(workspace, "--configurations", "2d,3d_fullres", "--dry-run")
    assert longer.returncode == 0, longer.stderr
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", longer.stdout, re.MULTILINE))
    again = {"ensemble": 1, "evaluate": 1, "predict": 3, "submission": 1, "manifest": 1, "report": 1}
    assert jobs == {
        name: str(count) for name, count in {"preprocess": 1, "train": 4, **again, "all": 1, "total": 14}.items()
    }


def test_a_failing_job_says_why(workspace: Path, tmp_path: Path) -> None:
    experiment = workspace / "exp"
    lost = [*(experiment / "nnunet" / "nnUNet_raw").rglob("dataset.json")]
    lost.append(experiment / "submission" / "Task04_Phantom.zip")
    for number, path in enumerate(lost):
        shutil.move(path, tmp_path / str(number))
    try:
        failed = run(workspace)
    finally:
        for number, path in enumerate(lost):
            shutil.move(tmp_path / str(number), path)
    assert failed.returncode == 1
    assert "error: submission: " in failed.stderr
    assert "dataset.json" in failed.stderr.splitlines()[-1]
    assert "submission.log" in failed.stderr.splitlines()[-1]


def test_data_that_is_gone_is_asked_for(workspace: Path, tmp_path: Path) -> None:
    raw = tmp_path / "exp" / "nnunet" / "nnUNet_raw" / DATASET
    raw.mkdir(parents=True)
    shutil.copy2(workspace / "exp" / "experiment.yaml", tmp_path / "exp")
    failed = run(tmp_path, "--device", "cpu")
    assert failed.returncode == 1
    assert f"error: data: {raw} has no dataset.json: delete {raw}, then run again with --task" in failed.stderr
