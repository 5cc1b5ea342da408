"""Which GPU a training uses, on machines with several GPUs and concurrent trainings."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, each as CUDA_VISIBLE_DEVICES names it: an index or a UUID."""
    import torch

    number = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (named or [str(index) for index in range(number)])[:number]


@contextmanager
def one_gpu(gpus: Sequence[str]) -> Iterator[None]:
    """Show this process only one of several GPUs while the block runs: the one with the fewest of our trainings.

    Each GPU has numbered seats, which are lock files of this user on this machine: a training takes the first free seat
    of any GPU before the second seat of one. The system frees the seat when the process ends, however it ends.

    Call it before CUDA is initialised in this process, which reads CUDA_VISIBLE_DEVICES only once.

    Args:
        gpus: See `visible_gpus`. With fewer than two nothing is changed.
    """
    if len(gpus) < 2:
        yield
        return
    gpu, seat = _free_seat(gpus)
    log.info("trains on GPU %s of %s", gpu, ", ".join(gpus))
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        seat.release()
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def _free_seat(gpus: Sequence[str]) -> tuple[str, FileLock]:
    folder = Path(tempfile.gettempdir()) / f"hippo_nnunet_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in count():
        for gpu in gpus:
            lock = FileLock(folder / f"gpu_{gpu.replace('/', '_')}_{number}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return gpu, lock
    raise AssertionError
