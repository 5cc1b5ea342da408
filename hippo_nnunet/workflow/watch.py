"""Shows how far a workflow is while Snakemake works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hippo_nnunet.experiment.paths import DONE

log = logging.getLogger(__name__)

POLL_S = 0.5
ASK_EVERY_S = 15.0
"""Seconds between two looks at the trainings that run."""
LINE_EVERY_S = 600.0
"""Seconds between two plain lines when no job ends."""


def watch(process: subprocess.Popen[bytes], markers: Sequence[Path], folder: Path, tell: Callable[[], str]) -> None:
    """Follow the markers until the process ends.

    Args:
        process: Snakemake.
        markers: The marker of every job, relative to the folder.
        folder: The experiment's folder.
        tell: Returns in words what runs and how long the rest will take.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    on_terminal = sys.stderr.isatty()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    seen = {marker for marker in markers if (folder / marker).exists()}
    with Progress(*columns, console=Console(stderr=True), disable=not on_terminal) as progress:
        task = progress.add_task("", total=len(markers), completed=len(seen))
        asked = lined = time.monotonic()
        progress.update(task, description=tell())
        while True:
            ended = process.poll() is not None
            new = [marker for marker in markers if marker not in seen and (folder / marker).exists()]
            seen.update(new)
            now = time.monotonic()
            for marker in new:
                log.info("done: %s (%d of %d)", marker.relative_to(DONE), len(seen), len(markers))
            if new or now - asked > ASK_EVERY_S:
                asked = now
                progress.update(task, completed=len(seen), description=tell())
            if not on_terminal and now - lined > LINE_EVERY_S:
                lined = now
                log.info("%d of %d jobs are done; %s", len(seen), len(markers), tell())
            if ended:
                return
            time.sleep(POLL_S)
