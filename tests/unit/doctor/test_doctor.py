"""Each check of `doctor`, in surroundings that are made up."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from typer.testing import CliRunner

from hippo_nnunet.cli import doctor as cli
from hippo_nnunet.doctor import installation as doctor
from hippo_nnunet.doctor import probe
from hippo_nnunet.doctor.installation import Finding, Surroundings, diagnose
from hippo_nnunet.doctor.probe import Probe
from hippo_nnunet.nnunet.registration import EXT_TRAINERS, Shim

TRAINER = "hippo_nnunet.trainers.AttentionUNetTrainer"
GPU_PROBE = Probe(
    trainer=TRAINER,
    planner="hippo_nnunet.planners.attention_unet_planner.AttentionUNetPlanner",
    accelerator="NVIDIA H200",
    cuda_build="13.0",
)


@pytest.fixture
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surroundings:
    """A machine where nothing is wrong."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50e9))
    environ = {"HOME": str(tmp_path)}
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        environ[f"nnUNet_{name}"] = str(tmp_path / name)
    registered = (Shim(tmp_path / "hippo_nnunet_trainers.py", "t"), Shim(tmp_path / "hippo_nnunet_planners.py", "p"))
    for shim in registered:
        shim.path.write_text(shim.text)
    return Surroundings(
        environ=environ,
        versions={"python": "3.12.1", "torch": "2.8.0+cu128", "nnunetv2": "2.8.1"},
        shims=registered,
        probe=GPU_PROBE,
        compiler="/usr/bin/cc",
        python_headers=True,
        memory_gb=16,
        cpus=8,
        packaged="hippocampus 1",
        packaged_problem="",
    )


def problems(surroundings: Surroundings) -> list[Finding]:
    found = [finding for finding in diagnose(surroundings) if finding.level != "ok"]
    assert all(finding.remedy for finding in found), "a problem without a remedy"
    return found


def only_problem(surroundings: Surroundings) -> Finding:
    found = problems(surroundings)
    assert len(found) == 1, found
    return found[0]


def with_environ(at: Surroundings, **changed: str) -> Surroundings:
    return replace(at, environ={**at.environ, **changed})


def test_a_damaged_packaged_model(healthy: Surroundings) -> None:
    found = only_problem(replace(healthy, packaged=None, packaged_problem="hippocampus.onnx: damaged"))
    assert found.level == "error"
    assert "damaged" in found.finding


def test_two_distributions_of_the_same_files(healthy: Surroundings) -> None:
    versions = {**healthy.versions, "hippo_nnunet": "0.1.0", "hippo-nnunet-predict": "0.1.0"}
    found = only_problem(replace(healthy, versions=versions))
    assert "both installed" in found.finding
    assert problems(replace(healthy, versions={**versions, "hippo_nnunet": None})) == []


def test_nothing_is_wrong(healthy: Surroundings) -> None:
    assert problems(healthy) == []


@pytest.mark.parametrize(
    ("name", "version", "remedy"),
    [
        ("python", "3.9.18", "Python 3.12"),
        ("python", "3.14.0", "Python 3.12"),
        ("torch", None, "pytorch.org"),
        ("torch", "2.3.1", "torch>=2.4"),
        ("torch", "2.9.1+cu130", "!=2.9.*"),
        ("nnunetv2", None, "nnunetv2>=2.8.1,<2.9"),
        ("nnunetv2", "2.8.0", "nnunetv2>=2.8.1,<2.9"),
        ("nnunetv2", "2.6.2", "nnunetv2>=2.8.1,<2.9"),
        ("nnunetv2", "2.9.0", "nnunetv2>=2.8.1,<2.9"),
        ("nnunetv2", "3.0", "nnunetv2>=2.8.1,<2.9"),
    ],
)
def test_wrong_version(healthy: Surroundings, name: str, version: str | None, remedy: str) -> None:
    finding = only_problem(replace(healthy, versions={**healthy.versions, name: version}))
    assert (finding.check, finding.level) == (name, "error")
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("name", "version"), [("nnunetv2", "2.8.2"), ("nnunetv2", "2.8.10"), ("torch", "2.10.0"), ("torch", "2.15.0a0")]
)
def test_right_version(healthy: Surroundings, name: str, version: str) -> None:
    assert problems(replace(healthy, versions={**healthy.versions, name: version})) == []


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
@pytest.mark.parametrize("value", ["", None])
def test_variable_is_missing(healthy: Surroundings, variable: str, value: str | None) -> None:
    environ = {k: v for k, v in healthy.environ.items() if k != variable}
    if value is not None:
        environ[variable] = value
    finding = only_problem(replace(healthy, environ=environ))
    assert (finding.check, finding.level) == (variable, "note")
    assert finding.finding.startswith("not set; needed for nnU-Net's own commands, ")
    assert "hippo-nnunet env --root" in finding.remedy


def test_folder_is_a_file(healthy: Surroundings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = only_problem(with_environ(healthy, nnUNet_results=str(tmp_path / "file")))
    assert (finding.check, finding.level) == ("nnUNet_results", "error")


def test_folder_is_missing(healthy: Surroundings, tmp_path: Path) -> None:
    finding = only_problem(with_environ(healthy, nnUNet_results=str(tmp_path / "to" / "come")))
    assert (finding.check, finding.level) == ("nnUNet_results", "warning")
    assert "mkdir -p" in finding.remedy


@pytest.mark.parametrize(("variable", "level"), [("nnUNet_raw", "warning"), ("nnUNet_results", "error")])
def test_folder_is_read_only(healthy: Surroundings, monkeypatch: pytest.MonkeyPatch, variable: str, level: str) -> None:
    locked = Path(healthy.environ[variable])
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == locked and mode & os.W_OK))
    finding = only_problem(healthy)
    assert (finding.check, finding.level) == (variable, level)


def test_folder_to_come_below_a_read_only_one(
    healthy: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path / "locked")
    finding = only_problem(with_environ(healthy, nnUNet_raw=str(tmp_path / "locked" / "x")))
    assert (finding.check, finding.level) == ("nnUNet_raw", "error")


@pytest.mark.parametrize(("free", "level"), [(1.9e9, "error"), (2.1e9, "ok")])
def test_disk(healthy: Surroundings, monkeypatch: pytest.MonkeyPatch, free: float, level: str) -> None:
    full = Path(healthy.environ["nnUNet_results"])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free if path == full else 50e9))
    (finding,) = doctor.check_disk(healthy)
    assert finding.level == level
    assert str(full) in finding.finding


def test_cache(healthy: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ok,) = doctor.check_cache(healthy)
    assert (ok.level, ok.finding) == ("ok", str(tmp_path / ".cache"))
    assert not (tmp_path / ".cache").exists()
    (tmp_path / "file").touch()
    for environ in ({"HOME": str(tmp_path / "file")}, {"XDG_CACHE_HOME": "/proc/none", "HOME": str(tmp_path)}):
        (found,) = doctor.check_cache(replace(healthy, environ=environ))
        assert found.level == "warning"
        assert "is not writable" in found.finding
        assert "export XDG_CACHE_HOME=" in found.remedy
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: (_ for _ in ()).throw(RuntimeError("unknown user"))))
    (found,) = doctor.check_cache(replace(healthy, environ={}))
    assert found.finding.startswith("unknown")


def test_not_registered(healthy: Surroundings) -> None:
    for shim in healthy.shims:
        shim.path.unlink()
    lost = replace(healthy, probe=replace(GPU_PROBE, trainer="", trainer_error="x", planner="", planner_error="x"))
    found = problems(lost)
    assert [f.check for f in found] == [
        "registration", "look-up of AttentionUNetTrainer", "look-up of AttentionUNetPlanner"
    ]  # fmt: skip
    assert {(f.level, f.remedy) for f in found} == {("error", "hippo-nnunet register")}


@pytest.mark.parametrize("external", [False, True])
def test_a_read_only_nnunet_is_no_dead_end(
    healthy: Surroundings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool
) -> None:
    for shim in healthy.shims:
        shim.path.unlink()
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == tmp_path and mode & os.W_OK))
    ill = replace(healthy, probe=replace(GPU_PROBE, trainer="", trainer_error="x", planner="", planner_error="x"))
    if external:
        ill = replace(with_environ(ill, nnUNet_extTrainer=str(EXT_TRAINERS)), probe=replace(ill.probe, trainer=TRAINER))
    found = problems(ill)
    assert {finding.level for finding in found} == {"warning"}
    assert len(found) == (2 if external else 3)
    assert all("hippo-nnunet env --root" in f.remedy and "plan -d ID -pl" in f.remedy for f in found)


def test_half_registered(healthy: Surroundings) -> None:
    healthy.shims[1].path.unlink()
    finding = only_problem(healthy)
    assert finding.level == "error"
    assert "hippo_nnunet_planners.py is absent" in finding.finding
    assert "hippo_nnunet_trainers.py" not in finding.finding


def test_a_strangers_file_in_the_shims_place(healthy: Surroundings) -> None:
    healthy.shims[0].path.write_text("something else")
    assert "is foreign" in only_problem(healthy).finding


def test_external_trainers_alone_are_a_limit_not_an_error(healthy: Surroundings) -> None:
    for shim in healthy.shims:
        shim.path.unlink()
    searched = os.pathsep.join(["/mine", str(EXT_TRAINERS)])
    at = replace(
        with_environ(healthy, nnUNet_extTrainer=searched), probe=replace(GPU_PROBE, planner="", planner_error="x")
    )
    assert [(f.check, f.level) for f in problems(at)] == [
        ("registration", "warning"), ("look-up of AttentionUNetPlanner", "warning")
    ]  # fmt: skip


def test_registered_but_broken(healthy: Surroundings) -> None:
    at = replace(healthy, probe=replace(GPU_PROBE, trainer="", trainer_error="ImportError: no module named blosc2"))
    finding = only_problem(at)
    assert finding.level == "error"
    assert "blosc2" in finding.finding
    assert finding.remedy != "hippo-nnunet register"


def test_another_class_of_that_name(healthy: Surroundings) -> None:
    other = "nnunetv2.training.nnUNetTrainer.variants.AttentionUNetTrainer"
    finding = only_problem(replace(healthy, probe=replace(GPU_PROBE, trainer=other)))
    assert finding.level == "error"
    assert other in finding.finding


def test_nnunet_cannot_be_imported(healthy: Surroundings) -> None:
    found = problems(replace(healthy, probe=Probe(crash="OSError: libcudart.so.13")))
    assert [f.level for f in found] == ["error", "error", "warning"]
    assert "libcudart" in found[0].finding


def test_no_gpu(healthy: Surroundings) -> None:
    for build, remedy in (("13.0", "nvidia-smi"), ("", "pytorch.org")):
        finding = only_problem(replace(healthy, probe=replace(GPU_PROBE, accelerator="", cuda_build=build)))
        assert (finding.check, finding.level) == ("GPU", "warning")
        assert remedy in finding.remedy
        assert "--device cpu" in finding.remedy


@pytest.mark.parametrize(
    ("compiler", "headers", "accelerator", "compile_setting", "level"),
    [
        (None, True, "NVIDIA H200", None, "error"),
        ("/usr/bin/cc", False, "NVIDIA H200", "True", "error"),
        (None, True, "NVIDIA H200", "f", "ok"),
        (None, True, "", None, "warning"),
        ("/usr/bin/cc", True, "NVIDIA H200", None, "ok"),
    ],
)
def test_compiler(
    healthy: Surroundings,
    compiler: str | None,
    headers: bool,
    accelerator: str,
    compile_setting: str | None,
    level: str,
) -> None:
    at = replace(healthy, compiler=compiler, python_headers=headers, probe=replace(GPU_PROBE, accelerator=accelerator))
    if compile_setting:
        at = with_environ(at, nnUNet_compile=compile_setting)
    (finding,) = doctor.check_compiler(at)
    assert finding.level == level
    assert level == "ok" or "nnUNet_compile=f" in finding.remedy


def test_little_memory_and_one_core(healthy: Surroundings) -> None:
    found = problems(replace(healthy, memory_gb=1.5, cpus=1))
    assert [(f.check, f.level) for f in found] == [("memory", "warning"), ("CPU", "warning")]


@pytest.mark.parametrize(
    ("code", "crash"),
    [("import sys; sys.exit('lost: libfoo.so')", "lost: libfoo.so"), ("import os; os._exit(9)", "exit code 9")],
)
def test_a_probe_that_dies_is_a_finding(monkeypatch: pytest.MonkeyPatch, code: str, crash: str) -> None:
    run = probe.subprocess.run
    monkeypatch.setattr(probe.subprocess, "run", lambda command, **rest: run([*command[:-1], code], **rest))
    assert probe.probe(os.environ).crash == crash


def test_a_probe_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    run = probe.subprocess.run
    hang = "import time; time.sleep(60)"
    monkeypatch.setattr(probe.subprocess, "run", lambda command, **rest: run([*command[:-1], hang], **rest))
    assert "no answer" in probe.probe(os.environ, timeout_s=0.1).crash


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    app = typer.Typer()
    app.command()(cli.doctor)

    def run(at: Surroundings, *arguments: str) -> object:
        monkeypatch.setattr(doctor, "survey", lambda root: at)
        return CliRunner().invoke(app, list(arguments))

    return run


def test_exit_codes_and_output(healthy: Surroundings, invoke: Callable[..., object]) -> None:
    assert invoke(healthy).exit_code == 0
    assert invoke(replace(healthy, cpus=1)).exit_code == 0
    fresh = invoke(replace(healthy, environ={}))
    assert fresh.exit_code == 0
    assert [line.split()[:2] for line in fresh.stdout.splitlines() if "not set" in line] == [
        ["note", "nnUNet_raw"], ["note", "nnUNet_preprocessed"], ["note", "nnUNet_results"]
    ]  # fmt: skip
    ill = replace(healthy, versions={**healthy.versions, "nnunetv2": "2.5"})
    done = invoke(ill)
    assert done.exit_code == 1
    assert "-> pip install 'nnunetv2>=2.8.1,<2.9'" in done.stdout
    done = invoke(ill, "--json")
    assert done.exit_code == 1
    assert [f["level"] for f in json.loads(done.stdout) if f["check"] == "nnunetv2"] == ["error"]
