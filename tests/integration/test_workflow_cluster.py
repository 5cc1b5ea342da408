"""What Snakemake makes of the workflow for a cluster, without one: jobs, GPUs, and profiles of the user's own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.workflow import launch
from hippo_nnunet.workflow.launch import Settings

pytest.importorskip("snakemake", reason="run needs Snakemake, and Snakemake needs Python 3.11")

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
FIVE = (0, 1, 2, 3, 4)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    images = tmp_path / "{x}" / "Task04_Hippocampus" / "imagesTs"  # no wildcard of Snakemake
    images.mkdir(parents=True)
    (images / "hippocampus_002.nii.gz").touch()
    return images.parent


def test_the_pages_jobs_are_those_of_a_dry_run(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without a home folder, where Snakemake has its cache."""
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    variants = ("UNet", "AttentionUNet", "CLIPGuidedUNet_mini")
    asked = Experiment("Dataset004_Hippocampus", "laptop", variants, {"2d": FIVE, "3d_fullres": FIVE})
    folders = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    table = launch.dry_run(asked, tmp_path / "exp", folders, Settings("cpu", source=task))
    shown = PAGE.partition("<!-- jobs -->")[2].partition("<!-- /jobs -->")[0]
    assert shown.strip() == f"```text\n{table}\n```"


@pytest.mark.parametrize(("device", "gpus"), [("auto", 1), ("cpu", 0)])
def test_only_training_and_prediction_ask_for_a_gpu(task: Path, tmp_path: Path, device: str, gpus: int) -> None:
    """And what a user's own profile adds reaches every job."""
    folder = tmp_path / "exp"
    Experiment("Dataset004_Hippocampus", "laptop", ("UNet",), {"2d": (0,)}).save(ExperimentPaths(folder).request)
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.yaml").write_text("default-resources:\n  slurm_partition: fast\n")
    command = [*launch.snakemake_command(folder, Settings(device, source=task), ("predictions",)), "--dry-run"]
    environ = {**os.environ, "SNAKEMAKE_PROFILE": str(own)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    jobs = {part.split(":")[0]: part for part in (done.stdout + done.stderr).split("\nrule ")[1:]}
    asked = {name: "gpu=1" in text for name, text in jobs.items() if name != "all"}
    assert {name for name, wants in asked.items() if wants} == ({"train", "predict"} if gpus else set())
    assert all("slurm_partition=fast" in jobs[name] for name in asked)
