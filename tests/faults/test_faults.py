"""A few rounds of the faults; all of them by hand: `python tests/faults/rounds.py --rounds 200 --seed 0`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROUNDS = int(os.environ.get("HIPPO_FAULT_ROUNDS", "2"))

pytest.importorskip("snakemake", reason="run needs Snakemake, and Snakemake needs Python 3.11")
pytestmark = [pytest.mark.faults, pytest.mark.slow]


@pytest.mark.skipif(sys.platform != "linux", reason="signals and small disks as on Linux")
def test_every_round_recovers(tmp_path: Path) -> None:
    """Break the experiment at random; a process of its own, because it takes a mount namespace of its own.

    The first two rounds of seed 96 terminate a training, which has to resume, and damage a prediction.
    """
    program = Path(__file__).with_name("rounds.py")
    seed = os.environ.get("HIPPO_FAULT_SEED", "96")
    done = subprocess.run(
        [sys.executable, str(program), "--rounds", str(ROUNDS), "--seed", seed, "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
