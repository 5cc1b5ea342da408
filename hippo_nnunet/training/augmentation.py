"""The engine that augments a whole batch as a spec says: our recipes and nnU-Net's own augmentation alike.

Random choices are drawn on the host, so that each operation touches only the samples it was drawn for, without
synchronising with a GPU; only the noise itself is drawn on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from hippo_nnunet.training.augmentation_spec import AugmentationSpec, Operation
from hippo_nnunet.training.intensity import add_noise, blur, brighten, change_contrast, change_gamma, lower_resolution
from hippo_nnunet.training.spatial import centre_crop, mirror_rows, resample, rotation_and_scale
from hippo_nnunet.training.transfer import upload


class BatchRandom:
    """The random numbers of one batch.

    Args:
        seed: Fixes them.
        device: Where the noise is drawn.

    Attributes:
        noise: The generator of the noise, on `device`; on a CPU the one of the choices.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self._host = torch.Generator().manual_seed(seed)
        on_host = torch.device(device).type == "cpu"
        self.noise = self._host if on_host else torch.Generator(device).manual_seed(seed)

    def uniform(self, bounds: tuple[float, float], *shape: int) -> torch.Tensor:
        """Draw uniformly from a range."""
        low, high = bounds
        return low + (high - low) * torch.rand(shape, generator=self._host)

    def balanced(self, bounds: tuple[float, float], *shape: int) -> torch.Tensor:
        """Draw factors as batchgeneratorsv2's BGContrast does: below 1 as often as above."""
        low, high = bounds
        above, below = self.uniform((max(low, 1), high), *shape), self.uniform((min(low, 1), 1), *shape)
        return torch.where(self.happens(0.5, *shape) & (low < 1), below, above)

    def happens(self, probability: float, *shape: int) -> torch.Tensor:
        """Draw booleans that are True with a probability."""
        return torch.rand(shape, generator=self._host) < probability


@dataclass(frozen=True)
class Geometry:
    """The drawn rotations, zooms and mirrorings of a batch.

    Attributes:
        moved: Samples that are rotated or zoomed, int64 (n,).
        angles: Their angles in radians, (n, 1) in 2D and within slices, (n, 3) in 3D; 0 where only zoomed.
        scales: Their factors of the sampling grid, (n,); 1 where only rotated.
        mirrored: For each axis that may be mirrored, the samples that are.
    """

    moved: torch.Tensor
    angles: torch.Tensor
    scales: torch.Tensor
    mirrored: dict[int, torch.Tensor]

    def matrices(self, batch: int, dim: int) -> torch.Tensor:
        """Return where the samples' voxels come from, both relative to the centre of the patch.

        Args:
            batch: Number of samples.
            dim: Dimensions of the patch, 2 or 3.

        Returns:
            float32 (batch, dim, dim): from a voxel of the augmented patch to one of the patch before.
        """
        result = torch.eye(dim).repeat(batch, 1, 1)
        turned = rotation_and_scale(self.angles, self.scales)
        first = dim - turned.shape[-1]
        result[self.moved, first:, first:] = turned
        for axis, rows in self.mirrored.items():
            result[rows, :, axis] *= -1
        return result


class Volumes(NamedTuple):
    """The volumes (one channel of one sample each) to which an intensity operation is applied.

    Attributes:
        rows: `sample * channels + channel`, int64 (n,), ascending.
        values: The operation's parameter for each of them, float32 (n,) or (n, axes).
    """

    rows: torch.Tensor
    values: torch.Tensor


def draw_geometry(spec: AugmentationSpec, batch: int, dim: int, in_plane: bool, random: BatchRandom) -> Geometry:
    """Draw what is rotated, zoomed and mirrored.

    Args:
        spec: The recipe.
        batch: Number of samples.
        dim: Dimensions of the patch, 2 or 3.
        in_plane: Whether a 3D patch is rotated and zoomed within its slices (the last two axes) only.
        random: Source of the numbers.
    """
    turns = 1 if dim == 2 or in_plane else 3
    scales, angles = torch.ones(batch), torch.zeros(batch, turns)
    zoomed = rotated = torch.zeros(batch, dtype=torch.bool)
    if spec.scaling.p:
        factor = random.uniform(spec.scaling.bounds, batch)
        zoomed = random.happens(spec.scaling.p, batch)
        scales = torch.where(zoomed, factor if spec.scaling_of_grid else 1 / factor, scales)
    if spec.rotation.p:
        rotated = random.happens(spec.rotation.p, batch)
        low, high = spec.rotation.bounds
        # the last axis first and the middle one reversed, so that the results of a seed of `fast` do not change
        drawn = [random.uniform(bounds, batch) for bounds in [(low, high), (high, low), (low, high)][:turns]]
        angles = torch.stack(drawn[::-1], dim=1) * rotated[:, None]
    moved = _indices(zoomed | rotated)
    mirrored = {axis: _indices(random.happens(spec.p_mirror, batch)) for axis in spec.axes(dim)}
    return Geometry(moved, angles[moved], scales[moved], mirrored)


def draw_volumes(operation: Operation, batch: int, channels: int, random: BatchRandom, *axes: int) -> Volumes:
    """Draw to which volumes an intensity operation is applied, and its parameters.

    Args:
        operation: Probabilities and range.
        batch: Number of samples.
        channels: Channels of a sample.
        random: Source of the numbers.
        *axes: The number of axes, for an operation with a parameter for each.
    """
    if operation.p == 0:
        return Volumes(torch.zeros(0, dtype=torch.int64), torch.zeros(0, *axes))
    draw = random.balanced if operation.balanced else random.uniform
    values = draw(operation.bounds, batch, channels if operation.per_channel else 1, *axes)
    chosen = random.happens(operation.p, batch, 1)
    if operation.p_channel < 1:
        chosen = chosen & random.happens(operation.p_channel, batch, channels)
    rows = _indices(chosen.expand(batch, channels).flatten())
    return Volumes(rows, values.expand(batch, channels, *axes).flatten(0, 1)[rows])


def augment_batch(
    image: torch.Tensor,
    labels: torch.Tensor,
    patch_size: Sequence[int],
    spec: AugmentationSpec,
    random: BatchRandom,
    in_plane: bool = False,
    values: Sequence[int] | None = None,
    drawn: Geometry | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a whole batch and cut it to the final patch.

    Args:
        image: Float tensor (batch, channel, *sampled patch).
        labels: Integer tensor (batch, 1, *sampled patch); -1 marks what lies outside the image.
        patch_size: Final patch in voxels.
        spec: The recipe.
        random: Source of the random numbers.
        in_plane: Whether a 3D patch is rotated, zoomed and coarsened within its slices (the last two axes) only.
        values: Labels that may occur, ascending; None to look for them, which synchronises with a GPU.
        drawn: What `draw_geometry` returned for this batch; None to draw it.

    Returns:
        Image (batch, channel, *patch) and labels (batch, 1, *patch), new tensors of the dtypes given.

    Source: the operations are nnU-Net's (batchgeneratorsv2).
    """
    device = image.device
    drawn = drawn or draw_geometry(spec, len(image), len(patch_size), in_plane, random)
    out, seg = (centre_crop(t, patch_size).clone(memory_format=torch.contiguous_format) for t in (image, labels))
    if len(drawn.moved):
        rows = upload(drawn.moved, device)
        matrices = upload(rotation_and_scale(drawn.angles, drawn.scales), device)
        moved = resample(image.index_select(0, rows), labels.index_select(0, rows), patch_size, matrices, values)
        out.index_copy_(0, rows, moved[0])
        seg.index_copy_(0, rows, moved[1])
    for axis, mirrored in drawn.mirrored.items():
        if len(mirrored):
            rows = upload(mirrored, device)
            mirror_rows(out, rows, axis)
            mirror_rows(seg, rows, axis)
    return _change_intensities(out, spec, random, in_plane), seg


def _change_intensities(
    image: torch.Tensor, spec: AugmentationSpec, random: BatchRandom, in_plane: bool
) -> torch.Tensor:
    """Apply the intensity operations to (batch, channel, *patch), which may be changed in place."""
    (batch, channels), size = image.shape[:2], image.shape[2:]
    volumes = image.flatten(0, 1)

    def draw(operation: Operation, *axes: int) -> Volumes:
        return draw_volumes(operation, batch, channels, random, *axes)

    def apply(chosen: Volumes, operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        if len(chosen.rows):
            rows, parameter = upload(chosen.rows, image.device), upload(chosen.values, image.device)
            volumes.index_copy_(0, rows, operation(volumes.index_select(0, rows), parameter))

    if spec.noise.p:
        noisy = draw(spec.noise)
        std = torch.zeros(len(volumes)).index_copy_(0, noisy.rows, noisy.values)
        # drawn for all volumes: what is drawn next does not depend on how many are noisy
        volumes = add_noise(volumes, upload(std, image.device), random.noise)
    apply(draw(spec.blur, len(size)), blur)
    apply(draw(spec.brightness), brighten)
    apply(draw(spec.contrast), change_contrast)
    coarse = draw(spec.low_resolution)
    sizes = (coarse.values.double()[:, None] * torch.tensor(size)).round().float()
    if in_plane:
        sizes[:, 0] = size[0]
    apply(Volumes(coarse.rows, sizes), lower_resolution)
    apply(draw(spec.inverted_gamma), lambda v, exponent: change_gamma(v, exponent, inverted=True))
    apply(draw(spec.gamma), lambda v, exponent: change_gamma(v, exponent, inverted=False))
    return volumes.unflatten(0, (batch, channels))


def _indices(chosen: torch.Tensor) -> torch.Tensor:
    return chosen.nonzero()[:, 0]
