"""The in-memory data pipeline: the preprocessed cases held once as tensors, batches drawn and augmented whole.

No worker process, and no state but a step number: batch `s` of a seed is the same batch in every run on a device, so
that a resumed training sees what an undisturbed one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hippo_nnunet.training.augmentation import AugmentationSpec, augment_batch, sampled_patch_size


@dataclass(frozen=True)
class MemoryCase:
    """One preprocessed case.

    Attributes:
        key: Case identifier.
        image: Float tensor (channel, z, y, x), normalised by nnU-Net's preprocessing.
        labels: int16 tensor (z, y, x); -1 outside the image's nonzero region.
        locations: For each label (or region, or the tuple of all annotated labels) that nnU-Net sampled, voxel
            indices (n, 3); classes without a voxel are left out.
    """

    key: str
    image: torch.Tensor
    labels: torch.Tensor
    locations: dict[object, np.ndarray]


@dataclass(frozen=True)
class Sampling:
    """How patches are drawn and what the targets look like.

    Attributes:
        batch_size: Samples of a batch.
        patch_size: Final patch in voxels, two or three numbers; with two, slices along the first axis are drawn.
        foreground_share: The last `round(batch_size * foreground_share)` samples are centred on foreground, as in
            nnU-Net's loader.
        annotated_key: Key of `MemoryCase.locations` under which nnU-Net keeps all annotated voxels of a dataset with
            an ignore label: its patches are drawn from these, and its foreground from the other keys.
        regions: Label tuples of region-based training, the ignore label last; None for plain labels.
        target_scales: Deep supervision's scale of each target and axis; None for a single target.
        in_plane: Whether a 3D patch is rotated and zoomed within its slices only, as for anisotropic data.
        seed: Seed of sampling and augmentation: any integers, for example the repeat's, the process's, the stream's.
    """

    batch_size: int
    patch_size: tuple[int, ...]
    foreground_share: float
    annotated_key: object | None = None
    regions: tuple[tuple[int, ...], ...] | None = None
    target_scales: tuple[tuple[float, ...], ...] | None = None
    in_plane: bool = False
    seed: tuple[int, ...] = (0,)


class MemoryLoader(Iterator[dict]):
    """Draws batches from cases in memory.

    Args:
        cases: The cases, on the device where batches are wanted.
        sampling: What a batch looks like.
        augmentation: What is done to it.

    Attributes:
        step: Number of the next batch; set it to continue where a training stopped.
    """

    def __init__(self, cases: Sequence[MemoryCase], sampling: Sampling, augmentation: AugmentationSpec) -> None:
        self.cases = list(cases)
        self.sampling = sampling
        self.augmentation = augmentation
        self.step = 0
        cut = sampled_patch_size(augmentation, sampling.patch_size, sampling.in_plane)
        self._cut = (1, *cut) if len(cut) == 2 else cut
        self._final = (1, *sampling.patch_size) if len(cut) == 2 else sampling.patch_size

    def __next__(self) -> dict:
        """Return the next batch.

        Returns:
            `data`: float tensor (batch, channel, *patch); `target`: int16 tensor (batch, 1, *patch), or bool
            (batch, region, *patch), or a list of such, one for each scale; `keys`: the case of each sample.
        """
        sampling = self.sampling
        rng = np.random.default_rng([*sampling.seed, self.step])
        device = self.cases[0].image.device
        generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
        self.step += 1
        plain = round(sampling.batch_size * (1 - sampling.foreground_share))
        chosen = rng.integers(len(self.cases), size=sampling.batch_size)
        image, labels, keys = [], [], []
        for position, index in enumerate(chosen):
            case = self.cases[index]
            corner = self._corner(case, position >= plain, rng)
            image.append(_cut(case.image, corner, self._cut, 0))
            labels.append(_cut(case.labels[None], corner, self._cut, -1))
            keys.append(case.key)
        data, seg = torch.stack(image), torch.stack(labels)
        if len(sampling.patch_size) == 2:
            data, seg = data[:, :, 0], seg[:, :, 0]
        data, seg = augment_batch(data, seg, sampling.patch_size, self.augmentation, generator, sampling.in_plane)
        return {"data": data, "target": self._targets(seg.clamp(min=0)), "keys": keys}

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
        if self.sampling.regions is not None:
            regions = [torch.isin(seg, torch.tensor(r, device=seg.device)) for r in self.sampling.regions]
            seg = torch.cat(regions, dim=1)
        if self.sampling.target_scales is None:
            return seg
        return [_shrink(seg, scale) for scale in self.sampling.target_scales]


def _cut(volume: torch.Tensor, corner: Sequence[int], size: Sequence[int], fill: int) -> torch.Tensor:
    """Cut a patch from (channel, z, y, x), filling what lies outside."""
    out = volume.new_full((volume.shape[0], *size), fill)
    source, target = [slice(None)], [slice(None)]
    for low, length, extent in zip(corner, size, volume.shape[1:], strict=True):
        first, last = max(low, 0), min(low + length, extent)
        source.append(slice(first, max(last, first)))
        target.append(slice(first - low, max(last, first) - low))
    out[tuple(target)] = volume[tuple(source)]
    return out


def _shrink(seg: torch.Tensor, scale: Sequence[float]) -> torch.Tensor:
    """Shrink a target as nnU-Net's DownsampleSegForDSTransform does."""
    if all(s == 1 for s in scale):
        return seg
    size = [round(n * s) for n, s in zip(seg.shape[2:], scale, strict=True)]
    return torch.nn.functional.interpolate(seg.float(), size, mode="nearest-exact").to(seg.dtype)
