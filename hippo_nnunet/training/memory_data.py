"""The in-memory data pipeline: preprocessed cases held once as tensors, batches drawn and augmented as a whole.

No worker process, and no state but a step number: batch `s` of a seed is the same batch in every run on a device, so
that a resumed training sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from hippo_nnunet.training.augmentation import BatchRandom, augment_batch, draw_geometry
from hippo_nnunet.training.augmentation_spec import AugmentationSpec, sampled_patch_size
from hippo_nnunet.training.case_bank import CaseBank, MemoryCase
from hippo_nnunet.training.transfer import constant


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn and what the targets look like.

    Attributes:
        batch_size: Samples of a batch.
        patch_size: Final patch in voxels, two or three numbers; with two, slices along the first axis are drawn.
        foreground_share: The last `round(batch_size * foreground_share)` samples are centred on foreground, as in
            nnU-Net's loader.
        probabilistic: Whether each sample is centred on foreground with that probability instead, as nnU-Net's loader
            does for trainers with `probabilistic_oversampling`.
        annotated_key: Key of `MemoryCase.locations` under which nnU-Net keeps all annotated voxels of a dataset with
            an ignore label: its patches are drawn from these, and its foreground from the other keys.
        masked_channels: Channels set to 0 outside the image's nonzero region after augmentation: those whose
            normalisation uses that mask; of adjacent slices the middle one's.
        regions: Label tuples of region-based training, the ignore label last; None for plain labels.
        target_scales: Deep supervision's scale of each target and axis; None for a single target.
        slices: Adjacent slices of a 2D patch, an odd number, whose channels come in the order of `with_neighbours`; the
            intensities of each are augmented as those of a channel.
        in_plane: Whether a 3D patch is rotated and zoomed within its slices only, as for anisotropic data.
        seed: Seed of sampling and augmentation: any integers, for example the repeat's, the process's, the stream's.
    """

    batch_size: int
    patch_size: tuple[int, ...]
    foreground_share: float
    probabilistic: bool = False
    annotated_key: object | None = None
    masked_channels: tuple[int, ...] = ()
    regions: tuple[tuple[int, ...], ...] | None = None
    target_scales: tuple[tuple[float, ...], ...] | None = None
    slices: int = 1
    in_plane: bool = False
    seed: tuple[int, ...] = (0,)


class MemoryLoader(Iterator[dict]):
    """Draws batches from cases in memory, on the device where these are.

    Args:
        bank: The cases.
        sampling: What a batch looks like.
        augmentation: What is done to it.

    Attributes:
        step: Number of the next batch; set it to continue where a training stopped.
    """

    def __init__(self, bank: CaseBank, sampling: Sampling, augmentation: AugmentationSpec) -> None:
        self.bank = bank
        self.sampling = sampling
        self.augmentation = augmentation
        self.step = 0
        cut = sampled_patch_size(augmentation, sampling.patch_size, sampling.in_plane)
        self._cut = (sampling.slices, *cut) if len(cut) == 2 else cut
        self._final = (1, *sampling.patch_size) if len(cut) == 2 else sampling.patch_size
        # on the CPU, a thread would compete with the training for the cores
        self._prefetch = CudaPrefetcher(self._draw, bank.device) if bank.device.type == "cuda" else None

    def __next__(self) -> dict:
        """Return the next batch.

        Returns:
            `data`: float tensor (batch, channel, *patch); `target`: int16 tensor (batch, 1, *patch), or bool
            (batch, region, *patch), or a list of such, one for each scale; `keys`: the case of each sample; `corners`:
            int64 tensor (batch, 3) on the CPU, the lower corner of each final patch in voxels of its preprocessed
            case, before rotation, zoom and mirroring: negative where the patch overhangs, in 2D (slice, y, x);
            `matrices`: these three about the patch's centre, float32 tensor (batch, axes of the patch, the same) on
            the CPU, see `Geometry.matrices`.
        """
        step = self.step
        self.step += 1
        return self._draw(step) if self._prefetch is None else self._prefetch(step)

    def _draw(self, step: int) -> dict:
        sampling = self.sampling
        rng = np.random.default_rng([*sampling.seed, step])
        random = BatchRandom(int(rng.integers(2**63)), self.bank.device)
        plain = round(sampling.batch_size * (1 - sampling.foreground_share))
        chosen = rng.integers(len(self.bank.cases), size=sampling.batch_size)
        corners = np.empty((sampling.batch_size, 3), np.int64)
        for position, index in enumerate(chosen):
            foreground = rng.random() < sampling.foreground_share if sampling.probabilistic else position >= plain
            corners[position] = self._corner(self.bank.cases[index], foreground, rng)
        data, seg = self.bank.cut(chosen, corners, self._cut)
        if len(sampling.patch_size) == 2:
            data, seg = data.movedim(2, 1).flatten(1, 2), seg[:, :, sampling.slices // 2]
        size, in_plane = sampling.patch_size, sampling.in_plane
        geometry = draw_geometry(self.augmentation, len(data), len(size), in_plane, random)
        data, seg = augment_batch(data, seg, size, self.augmentation, random, in_plane, self.bank.values, geometry)
        if sampling.masked_channels:
            outside = seg[:, 0] < 0
            for channel in sampling.masked_channels:
                data[:, channel].masked_fill_(outside, 0)
        inner = [cut // 2 - final // 2 for cut, final in zip(self._cut, self._final, strict=True)]
        return {
            "data": data,
            "target": self._targets(seg.clamp(min=0)),
            "keys": [self.bank.cases[index].key for index in chosen],
            "corners": torch.from_numpy(corners + inner),
            "matrices": geometry.matrices(len(data), len(size)),
        }

    def _corner(self, case: MemoryCase, foreground: bool, rng: np.random.Generator) -> list[int]:
        """Draw the corner of a patch as nnU-Net's loader does; it may lie outside the image."""
        shape, lows, highs = case.labels.shape, [], []
        for size, cut, final in zip(shape, self._cut, self._final, strict=True):
            pad = max(cut - final, cut - size)
            lows.append(-pad // 2)
            highs.append(size + pad // 2 + pad % 2 - cut)
        voxels = self._voxels(case, foreground, rng)
        if voxels is None:
            return [int(rng.integers(low, high + 1)) for low, high in zip(lows, highs, strict=True)]
        voxel = voxels[rng.integers(len(voxels))]
        return [max(low, int(v) - cut // 2) for low, v, cut in zip(lows, voxel, self._cut, strict=True)]

    def _voxels(self, case: MemoryCase, foreground: bool, rng: np.random.Generator) -> np.ndarray | None:
        if not foreground:
            return case.locations.get(self.sampling.annotated_key)
        classes = list(case.locations)
        if len(classes) > 1 and self.sampling.annotated_key in classes:
            classes.remove(self.sampling.annotated_key)
        return case.locations[classes[rng.integers(len(classes))]] if classes else None

    def _targets(self, seg: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        if self.sampling.regions is None:
            seg = seg.to(torch.int16)
        else:
            regions = [torch.isin(seg, constant(r, seg.dtype, seg.device)) for r in self.sampling.regions]
            seg = torch.cat(regions, dim=1)
        if self.sampling.target_scales is None:
            return seg
        return [_shrink(seg, scale) for scale in self.sampling.target_scales]


def _shrink(seg: torch.Tensor, scale: tuple[float, ...]) -> torch.Tensor:
    """Shrink a target as nnU-Net's DownsampleSegForDSTransform does."""
    if all(s == 1 for s in scale):
        return seg
    size = [round(n * s) for n, s in zip(seg.shape[2:], scale, strict=True)]
    return torch.nn.functional.interpolate(seg.float(), size, mode="nearest-exact").to(seg.dtype)


class CudaPrefetcher:
    """Draws the next batch in a thread, on a separate stream.

    Args:
        draw: Makes the batch of a step, the same one whenever it is asked: a dictionary whose tensors, also those in
            lists, are on `device` or on the CPU. It must not wait for the GPU.
        device: A CUDA device.
    """

    def __init__(self, draw: Callable[[int], dict], device: torch.device) -> None:
        self._draw = draw
        self._device = device
        self._stream = torch.cuda.Stream(device)
        # what `draw` reads was written on the current stream
        self._stream.wait_stream(torch.cuda.current_stream(device))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[tuple[dict, torch.cuda.Event]]] | None = None

    def __call__(self, step: int) -> dict:
        """Return the batch of a step, ready for the current stream, and start the next step's."""
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
                # its memory belongs to the other stream: not to be reused before the current one is done with it
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
