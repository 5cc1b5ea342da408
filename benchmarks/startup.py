"""Start-up times of the programs."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from benchmarks.document import Result
from benchmarks.processes import program, run_measured
from benchmarks.ratios import turns
from hippo_nnunet.errors import HippoError
from hippo_nnunet.processes import python_command

STOCK_HELP, OUR_HELP, OUR_LIST = "nnUNetv2_predict --help", "hippo-nnunet --help", "hippo-nnunet list"

_ASK = (
    "import sys\n"
    "from hippo_nnunet.cli.main import main\n"
    "sys.argv = ['hippo-nnunet', *sys.argv[1:]]\n"
    "try: main()\n"
    "except SystemExit as end: assert not end.code, end.code\n"
    "print('torch' in sys.modules)"
)


def benchmark_startup(repeats: int = 5) -> Result:
    """Time `--help` and `list`, in turns with nnU-Net's `--help`, and look whether they import torch.

    Args:
        repeats: Runs of each command, after one that is not counted.

    Raises:
        HippoError: A command failed.
    """
    commands = {name: [program(name.split()[0]), *name.split()[1:]] for name in (STOCK_HELP, OUR_HELP, OUR_LIST)}
    measures: dict[str, dict[str, list[float]]] = {name: {} for name in commands}
    with tempfile.TemporaryDirectory(prefix="hippo-benchmark-") as scratch:
        output = Path(scratch) / "output.log"
        for command in commands.values():
            run_measured(command, os.environ, output)
        for name, _ in turns(list(commands), repeats):
            run_measured(commands[name], os.environ, output).add_to(measures[name])
    checks = {f"{name} imports torch": imports_torch(*name.split()[1:]) for name in (OUR_HELP, OUR_LIST)}
    return Result("startup", {"repeats": repeats}, measures, checks)


def imports_torch(*arguments: str) -> bool:
    """Tell whether torch is loaded when our program has run with these arguments.

    Raises:
        HippoError: It failed.
    """
    done = subprocess.run(python_command("-c", _ASK, *arguments), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise HippoError(f"hippo-nnunet {' '.join(arguments)} failed: {last}")
    return done.stdout.splitlines()[-1] == "True"
