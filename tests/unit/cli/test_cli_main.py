"""The program as a whole: commands, exit codes, and what it does not import."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hippo_nnunet import __version__
from hippo_nnunet.__main__ import main as start
from hippo_nnunet.cli import main
from hippo_nnunet.errors import ConfigError

COMMANDS = [
    "clip",
    "compare",
    "data",
    "doctor",
    "env",
    "explain",
    "explore",
    "model",
    "report",
    "register",
    "unregister",
    "list",
    "plan",
    "train",
    "run",
    "segment",
    "predict",
    "submit",
]


def program(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    return subprocess.run(
        [sys.executable, "-m", "hippo_nnunet.cli.main", *arguments],
        env={**environ, "COLUMNS": "120"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("where", ["argument", "folder", "nnUNet_raw"])
def test_names_that_are_not_utf8_are_refused(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / os.fsdecode(b"k\xf6pf")
    bad.mkdir()
    monkeypatch.setattr(sys, "argv", ["hippo-nnunet", "data", "check", str(bad if where == "argument" else tmp_path)])
    if where == "folder":
        monkeypatch.chdir(bad)
    if where == "nnUNet_raw":
        monkeypatch.setenv(where, str(bad))
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 1
    assert r"k\udcf6pf: not UTF-8, which SimpleITK cannot open: rename the file or folder" in capfd.readouterr().err


def test_a_user_without_a_name_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snakemake and torch fail without."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr(sys, "argv", ["hippo-nnunet", "--version"])
    with pytest.raises(SystemExit):
        main.main()
    assert getpass.getuser() == f"uid{os.getuid()}"


def test_ctrl_c_during_the_import_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupting:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "hippo_nnunet.cli.main":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "hippo_nnunet.cli.main")
    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    with pytest.raises(SystemExit) as end:
        start()
    assert end.value.code == 130
    assert capsys.readouterr().err == "Aborted!\n"


def imported_by(*arguments: str) -> set[str]:
    """Top-level modules that are loaded when a command is done."""
    code = (
        "import sys\n"
        "from hippo_nnunet.cli.main import main\n"
        f"sys.argv = ['hippo-nnunet', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


def test_help_names_every_command() -> None:
    done = program("--help")
    assert done.returncode == 0
    assert [command for command in COMMANDS if f" {command} " not in done.stdout] == []


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["list"], ["list", "--json"]])
def test_help_and_list_import_nothing_heavy(arguments: list[str]) -> None:
    heavy = {"torch", "numpy", "scipy", "pandas", "SimpleITK", "nibabel", "nnunetv2", "snakemake", "requests", "psutil"}
    assert imported_by(*arguments) & heavy == set()


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_run_without_a_gpu_leaves_torch_to_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    pytest.importorskip("snakemake")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "Task04_Phantom").mkdir()
    asked = (str(tmp_path / "exp"), "--task", str(tmp_path / "Task04_Phantom"), "-device", device)
    assert "torch" not in imported_by("run", *asked, "--dry-run")


def test_version() -> None:
    done = program("--version")
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_an_error_of_the_user_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = program("env", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: nnUNet_raw, nnUNet_preprocessed, nnUNet_results not set: pass --root DIR")
    assert len(done.stderr.splitlines()) == 1


def test_debug_raises_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["hippo-nnunet", "--debug", "env"])
    with pytest.raises(ConfigError, match="not set: pass --root DIR"):
        main.main()


def test_json_is_all_there_is_on_stdout() -> None:
    assert json.loads(program("list", "--json").stdout).keys() == {"trainers", "planners", "words", "clip_models"}


@pytest.mark.parametrize(
    ("module", "missing"), [("torch", True), ("hippo_nnunet.planners", True), ("hippo_nnunet.x", False)]
)
def test_a_package_that_is_not_installed_is_named(
    module: str, missing: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit):
        main.main()
    expected = f"needs {module}, which is not installed: install hippo_nnunet" if missing else "a bug in hippo_nnunet"
    assert expected in capsys.readouterr().err
