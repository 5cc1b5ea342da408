"""How the processes of a job end, and that no child process imports from the working folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hippo_nnunet.cli.main import run_program
from hippo_nnunet.processes import kill_all, python_command

FORKED = """
import os, signal
from hippo_nnunet.processes import end_with_workers
end_with_workers()
assert callable(signal.getsignal(signal.SIGTERM))
pid = os.fork()
if pid == 0:
    os._exit(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_child_that_has_ended_meanwhile_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        listed = psutil.Process(child.pid)
        child.communicate()
    kill_all([listed])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_worker_does_not_inherit_the_jobs_handler() -> None:
    """nnU-Net's forked pools send SIGTERM to idle workers and wait: a handler of Python's own can come too late."""
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)


SPAWNS = """
import multiprocessing, random, subprocess, sys
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(random.Random, (0,)).random() > 0
    from hippo_nnunet.processes import python_command
    subprocess.run(python_command("-m", "random"), check=True, stdout=subprocess.DEVNULL)
"""


@pytest.fixture
def foreign_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules that must not run, and the file that they would write."""
    written = tmp_path / "written"
    folder = tmp_path / "task"
    folder.mkdir()
    for name in ("random", "multiprocessing", "pickle", "nibabel", "SimpleITK", "snakemake", "yaml"):
        (folder / f"{name}.py").write_text(f"open({str(written)!r}, 'a').write({name!r})\nraise SystemExit(9)\n")
    monkeypatch.chdir(folder)
    return written


def test_a_child_process_imports_nothing_from_the_working_folder(foreign_modules: Path) -> None:
    done = subprocess.run(python_command("-c", SPAWNS), check=False, capture_output=True, text=True, timeout=60)
    assert not foreign_modules.exists(), foreign_modules.read_text()
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no safe path")
def test_worker_processes_of_a_command_import_nothing_from_the_working_folder(
    foreign_modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that nnU-Net and torch start as well: multiprocessing's command line has `-c`."""
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    run_program(lambda: None)  # type: ignore[arg-type]
    command = [sys.executable, "-c", "from multiprocessing.spawn import spawn_main; import random"]
    subprocess.run(command, check=True, timeout=60)
    assert not foreign_modules.exists(), foreign_modules.read_text()


@pytest.mark.parametrize("option", ["-c", "-m"])
def test_python_3_10_leaves_the_working_folder_out_of_code(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    command = python_command(option, "print('' in __import__('sys').path)", "more")
    assert command[-1] == "more"
    assert "-P" not in command
    if option == "-c":
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"


def test_no_other_module_starts_python_by_itself() -> None:
    root = Path(__file__).parents[2]
    sources = [
        p for folder in ("hippo_nnunet", "benchmarks", "trainers", "planners") for p in (root / folder).rglob("*")
    ]
    starting = {
        str(path.relative_to(root))
        for path in sources
        if (path.suffix == ".py" or path.name == "Snakefile")
        and any(text in path.read_text() for text in ("[sys.executable", "quote(sys.executable"))
    }
    assert starting == {"hippo_nnunet/processes.py"}
