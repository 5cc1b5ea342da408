"""Batches drawn on a GPU while the one before is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch


class CudaPrefetcher:
    """Draws the batch after the one asked for in a thread, on a stream of its own.

    Args:
        draw: Makes the batch of a step, the same one whenever it is asked: a dictionary whose tensors, also those in
            lists, are on `device` or on the CPU. It must not wait for the GPU.
        device: A CUDA device.
    """

    def __init__(self, draw: Callable[[int], dict], device: torch.device) -> None:
        self._draw = draw
        self._device = device
        self._stream = torch.cuda.Stream(device)
        # what `draw` reads was written on the present stream
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[tuple[dict, torch.cuda.Event]]] | None = None

    def __call__(self, step: int) -> dict:
        """Return the batch of a step, ready for the present stream, and start the next step's."""
        if self._ahead is not None and self._ahead[0] == step:
            coming = self._ahead[1]
        else:
            coming = self._thread.submit(self._run, step)
        batch, drawn = coming.result()
        self._ahead = (step + 1, self._thread.submit(self._run, step + 1))
        present = torch.cuda.current_stream(self._device)
        present.wait_event(drawn)
        for tensor in _tensors(batch):
            if tensor.device.type == "cuda":
                # its memory belongs to the other stream: not to be used again before the present one is done with it
                tensor.record_stream(present)
        return batch

    def _run(self, step: int) -> tuple[dict, torch.cuda.Event]:
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            batch = self._draw(step)
            drawn = torch.cuda.Event()
            drawn.record(self._stream)
        return batch, drawn


def _tensors(batch: dict) -> Iterator[torch.Tensor]:
    for value in batch.values():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, torch.Tensor):
                yield entry
