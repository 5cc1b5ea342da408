"""Console scripts in processes forked from one that has nnU-Net imported: the import alone takes six seconds of CPU."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import entry_points
from multiprocessing.context import SpawnContext
from multiprocessing.pool import ThreadPool
from pathlib import Path

LIMIT_S = 600
PYTHONPATH = os.environ.get("PYTHONPATH")
IMPORTED = (
    "nnunetv2.run.run_training",
    "nnunetv2.inference.predict_from_raw_data",
    "nnunetv2.evaluation.find_best_configuration",
    "nnunetv2.model_sharing.entry_points",
)


@cache
def _server() -> subprocess.Popen[str]:
    """Start the process that forks; it ends with this one, when its input does."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_script(program: str, options: Sequence[str], environ: dict[str, str]) -> tuple[int, str]:
    """Run a console script in a process of its own; returns the exit code and what it printed.

    Where `PYTHONPATH` is no longer what it was, the process is a fresh one.
    """
    if environ.get("PYTHONPATH") != PYTHONPATH:
        command = [str(Path(sys.executable).with_name(program)), *options]
        done = subprocess.run(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S
        )
        return done.returncode, done.stdout
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.NamedTemporaryFile(suffix=".log") as output:
        request = {"program": program, "options": list(options), "environ": environ, "output": output.name}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return code, Path(output.name).read_text(errors="replace")


def _serve() -> None:
    """Fork for each request, and run the script in the forked process. Its pools have threads, which need no import."""
    SpawnContext.Pool = lambda _, processes=None, *__, **___: ThreadPool(processes)  # type: ignore[method-assign]
    for name in IMPORTED:
        __import__(name)
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.alarm(LIMIT_S)
            output = os.open(request["output"], os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(output, stream)
            os.environ.clear()
            os.environ.update(request["environ"])
            sys.argv = [request["program"], *request["options"]]
            os._exit(_exit_code_of(scripts[request["program"]].load()))  # the interpreter's own end takes a second
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _exit_code_of(run: Callable[[], object]) -> int:
    """Run a function as the main program is run."""
    try:
        run()
        return 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    _serve()
