"""The packaged Snakemake profiles, and what the page about clusters says of them and of the cost."""

from __future__ import annotations

import json
import os
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.processes import USER_CACHE
from hippo_nnunet.progress import duration
from hippo_nnunet.workflow import estimate, launch
from hippo_nnunet.workflow.launch import Settings
from hippo_nnunet.workflow.preparation import PROFILES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "cluster.md").read_text()
SNAKEFILE = launch.SNAKEFILE.read_text()
FIVE = (0, 1, 2, 3, 4)
ASKED = Experiment(
    "Dataset004_Hippocampus",
    "laptop",
    ("UNet", "AttentionUNet", "CLIPGuidedUNet_mini"),
    {"2d": FIVE, "3d_fullres": FIVE},
)


def profile(name: str) -> dict[str, Any]:
    return yaml.safe_load((PROFILES / name / "config.yaml").read_text())


def rules() -> dict[str, str]:
    """Name and text of every rule that is a job."""
    parts = re.split(r"^rule (\w+):\n", SNAKEFILE, flags=re.MULTILINE)[1:]
    return {name: text for name, text in zip(parts[::2], parts[1::2], strict=True) if name != "all"}


def block(name: str) -> str:
    return PAGE.partition(f"<!-- {name} -->")[2].partition(f"<!-- /{name} -->")[0].strip()


def config_of(settings: Settings, folder: Path) -> dict[str, str]:
    """Return what the Snakefile is told."""
    words = launch.snakemake_command(folder, settings, ("predictions",))
    return dict(word.split("=", 1) for word in words[words.index("--config") + 1 :])


def test_every_job_on_a_cluster_asks_for_cpus_memory_and_time() -> None:
    slurm = profile("slurm")
    assert set(slurm["set-threads"]) == set(slurm["set-resources"]) == set(rules())
    assert all(set(asked) == {"mem_mb", "runtime"} for asked in slurm["set-resources"].values())


def test_the_pages_table_is_the_profile() -> None:
    slurm = profile("slurm")
    lines = ["| rule | CPUs | memory, GB | minutes | GPUs |", "|---|---|---|---|---|"]
    for rule, text in rules().items():
        asked = slurm["set-resources"][rule]
        memory = int(asked["mem_mb"].removeprefix("attempt * ")) // 1000
        gpus = int("gpu=GPUS" in text)
        lines.append(f"| {rule} | {slurm['set-threads'][rule]} | {memory} | {asked['runtime']} | {gpus} |")
    assert block("resources") == "\n".join(lines)


def test_both_profiles_tell_what_is_done_in_the_same_way() -> None:
    alike = ("rerun-triggers", "rerun-incomplete", "keep-going", "nolock", "scheduler")
    assert {key: profile("slurm")[key] for key in alike} == {key: profile("local")[key] for key in alike}


def test_a_cluster_is_not_asked_for_the_cpus_of_the_login_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "cpu_count", lambda: 128)
    cluster = config_of(Settings("auto", 30, "slurm"), tmp_path)
    assert (cluster["cores"], cluster["threads"]) == ("8", "8")
    here = config_of(Settings("cpu", 30, "local"), tmp_path)
    assert (here["cores"], here["threads"]) == ("128", "4")


def test_trainings_on_one_machine_share_its_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "cpu_count", lambda: 2)
    assert config_of(Settings("cpu", 1), tmp_path)["threads"] == "2"
    assert config_of(Settings("cpu", 4), tmp_path)["threads"] == "1"


def test_snakemakes_own_errors_are_shown() -> None:
    """Those of its jobs are in the jobs' own states."""
    traceback = (
        "Traceback (most recent call last):\n  File x\n\nFileNotFoundError: [Errno 2] No such file: '/proc/none'\n\n"
    )
    assert launch.snakemake_error(traceback) == "FileNotFoundError: [Errno 2] No such file: '/proc/none'"
    wildcard = (
        "Building DAG of jobs...\nWildcardError in rule data in file x, line 3:\nNo values for wildcard x.\n'x'\n"
    )
    assert launch.snakemake_error(wildcard).endswith("rule data in file x, line 3: No values for wildcard x.")
    job = "Error in rule train:\n    jobid: 3\nWorkflowError:\nAt least one job did not complete successfully.\n"
    assert launch.snakemake_error(job) == ""
    stopped = (
        "Will exit after finishing currently running jobs (scheduler).\nWorkflowError:\n" + launch.UNFINISHED + ".\n"
    )
    assert launch.snakemake_error(stopped) == launch.STOPPED
    assert launch.UNFINISHED in launch.snakemake_error(stopped.partition("\n")[2])
    assert launch.snakemake_error("Using workflow specific profile x\n") == ""


def test_snakemake_gets_a_cache_where_the_users_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert launch.snakemake_environment(tmp_path / "e") == dict(os.environ)
    own = {"XDG_CACHE_HOME": str(tmp_path / "e" / ".snakemake" / "cache")}
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert launch.snakemake_environment(tmp_path / "e") == {**os.environ, **own, USER_CACHE: ""}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    found = launch.snakemake_environment(tmp_path / "e")
    assert found == {**os.environ, **own, USER_CACHE: str(tmp_path / "file")}
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("unknown user"))))
    assert launch.snakemake_environment(tmp_path / "e") == {**os.environ, **own, USER_CACHE: ""}


def test_the_pages_cost_is_the_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "cpu_kind", lambda: "float32")
    folders = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    left = estimate.remaining_trainings(ASKED, ASKED.cells(), folders.results, "cpu")
    seconds = [item.seconds for item in left.values()]
    cpu_hours = f"{2 * sum(seconds) / 3600:.1f}"
    lines = ["| jobs at a time | wall-clock time | CPU hours |", "|---|---|---|"]
    for jobs in (1, 30):
        taken = estimate.wall_clock_seconds(seconds, jobs)
        lines.append(f"| {jobs} | {duration(taken)} | {cpu_hours} |")
    assert block("cost") == "\n".join(lines)


@pytest.mark.parametrize(
    ("trainer", "configuration", "experiment", "kind", "parallel"),
    [
        ("UNetTrainer_fast", "2d", "task04-laptop", "float32", 1),
        ("UNetTrainer_mirrorLR_fast_11epochs", "3d_fullres", "task04-laptop", "float32", 1),  # as long as it was then
        ("UNetTrainer_fast", "2d", "task04-three", "bfloat16", 1),
        ("UNetTrainer_fast", "2d", "task04-recipe", "bfloat16", 2),
        ("UNetTrainer_fast", "3d_fullres", "task04-recipe", "bfloat16", 2),
        ("UNetTrainer_7slices_fast_40epochs", "2d", "task04-best", "AMX", 2),
        ("UNetTrainer_fast", "3d_fullres", "task04-best", "AMX", 2),
    ],
)
def test_the_stated_time_is_about_what_was_measured(
    trainer: str, configuration: str, experiment: str, kind: str, parallel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "cpu_kind", lambda: kind)
    monkeypatch.setattr(estimate, "cpu_count", lambda: 2)
    folds = json.loads((ROOT / "results" / experiment / "manifest.json").read_text())["folds"]
    measured = [fold["trained_seconds"] for fold in folds if fold["configuration"] == configuration]
    stated = estimate.stated_seconds(trainer, configuration, "cpu", parallel)
    assert stated == pytest.approx(statistics.median(measured) + estimate.OVERHEAD_S, rel=0.25)


def test_jobs_of_a_cluster_do_not_share_this_machines_cores() -> None:
    assert (estimate.sharing(30, "local"), estimate.sharing(30, "slurm")) == (30, 1)


@pytest.mark.parametrize(("cores", "slower"), [(2, estimate.ONE_THREAD[2]), (4, 1.0)])
def test_trainings_that_share_the_cores_take_longer(cores: int, slower: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "cpu_count", lambda: cores)
    assert estimate.stated_seconds("UNetTrainer", "2d", "cpu", 2) == estimate.stated_seconds("UNetTrainer", "2d", "cpu")
    alone, shared = (estimate.stated_seconds("UNetTrainer_fast", "2d", "cpu", n) - estimate.OVERHEAD_S for n in (1, 2))
    assert shared == pytest.approx(slower * alone)


@pytest.mark.parametrize(
    ("variable", "flags", "kind"),
    [
        ("", "sse4_2 avx512_bf16 amx_bf16 amx_tile", "AMX"),
        ("", "avx512f avx512_bf16", "bfloat16"),
        ("", "avx2", "float32"),
        ("float32", "avx512_bf16 amx_bf16", "float32"),
    ],
)
def test_the_stated_time_follows_precision_and_processor(
    variable: str, flags: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIPPO_PRECISION", variable)
    monkeypatch.setattr(Path, "read_text", lambda _path: f"processor: 0\nflags: fpu {flags}\n")
    estimate.cpu_kind.cache_clear()
    try:
        assert estimate.cpu_kind() == kind
    finally:
        estimate.cpu_kind.cache_clear()
