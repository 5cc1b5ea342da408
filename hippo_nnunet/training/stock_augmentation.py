"""nnU-Net's own augmentation of a whole batch: what is drawn for it, and how it is carried out.

The random choices are drawn on the host, so that each operation touches only the samples it was drawn for and a GPU is
never waited for; only the noise itself is drawn on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from hippo_nnunet.training.augmentation_spec import StockSpec
from hippo_nnunet.training.intensity import (
    add_noise,
    blur,
    brighten,
    change_contrast,
    change_gamma,
    lower_resolution,
)
from hippo_nnunet.training.spatial import centre_crop, mirror_rows, resample, rotation_and_scale
from hippo_nnunet.training.transfer import upload


class Chosen(NamedTuple):
    """What one operation does to a batch.

    Attributes:
        rows: int64 (n,), ascending: the samples, or for intensity operations `sample * channels + channel`.
        values: float32 (n,) or (n, dim), the operation's parameter for each of them.
    """

    rows: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class StockDraw:
    """The random choices for one batch, in the order in which they are carried out.

    Attributes:
        turned: Samples that are rotated or zoomed, int64 (n,).
        angles: Their angles in radians, (n, 1) in 2D and within slices, (n, 3) in 3D; 0 where only zoomed.
        scales: Their factors of the sampling grid, (n,); 1 where only rotated.
        noise: Standard deviations.
        blur: Standard deviations along each axis, in voxels.
        brightness: Factors.
        contrast: Factors.
        low_resolution: Factors of the number of voxels along each axis.
        inverted_gamma: Exponents.
        gamma: Exponents.
        mirrored: For each axis that may be mirrored, the samples that are.
    """

    turned: np.ndarray
    angles: np.ndarray
    scales: np.ndarray
    noise: Chosen
    blur: Chosen
    brightness: Chosen
    contrast: Chosen
    low_resolution: Chosen
    inverted_gamma: Chosen
    gamma: Chosen
    mirrored: dict[int, np.ndarray]


def draw_stock(
    spec: StockSpec, batch: int, channels: int, dim: int, in_plane: bool, rng: np.random.Generator
) -> StockDraw:
    """Draw the random choices for a batch.

    Args:
        spec: Probabilities and ranges.
        batch: Number of samples.
        channels: Channels of a sample.
        dim: Dimensions of the patch, 2 or 3.
        in_plane: Whether a 3D patch is rotated, zoomed and coarsened within its slices only.
        rng: Source of the numbers.
    """
    rotated, zoomed = rng.random(batch) < spec.p_rotation, rng.random(batch) < spec.p_scaling
    turned = np.flatnonzero(rotated | zoomed)
    angles = rng.uniform(*spec.rotation, (len(turned), 1 if dim == 2 or in_plane else 3)) * rotated[turned, None]
    scales = np.where(zoomed[turned], rng.uniform(*spec.scaling, len(turned)), 1)

    def rows(probability: float, of_channel: float = 1.0) -> np.ndarray:
        samples = rng.random((batch, 1)) < probability
        return np.flatnonzero(samples & (rng.random((batch, channels)) < of_channel))

    def factors(probability: float, bounds: tuple[float, float]) -> Chosen:
        chosen = rows(probability)
        return _chosen(chosen, _about_one(bounds, len(chosen), rng))

    noisy = rows(spec.p_noise)
    noise = _chosen(noisy, rng.uniform(*spec.noise_std, batch)[noisy // channels])
    blurred = rows(spec.p_blur, spec.p_blur_channel)
    smooth = _chosen(blurred, rng.uniform(*spec.blur_sigma, (len(blurred), dim)))
    brightness, contrast = factors(spec.p_brightness, spec.brightness), factors(spec.p_contrast, spec.contrast)
    coarse = rows(spec.p_low_resolution, spec.p_low_resolution_channel)
    resolution = np.tile(rng.uniform(*spec.low_resolution, (len(coarse), 1)), dim)
    if in_plane:
        resolution[:, 0] = 1
    return StockDraw(
        turned=turned,
        angles=angles,
        scales=scales,
        noise=noise,
        blur=smooth,
        brightness=brightness,
        contrast=contrast,
        low_resolution=_chosen(coarse, resolution),
        inverted_gamma=factors(spec.p_inverted_gamma, spec.gamma),
        gamma=factors(spec.p_gamma, spec.gamma),
        mirrored={axis: np.flatnonzero(rng.random(batch) < 0.5) for axis in spec.axes(dim)},
    )


def _chosen(rows: np.ndarray, values: np.ndarray) -> Chosen:
    return Chosen(rows, values.astype(np.float32))


def _about_one(bounds: tuple[float, float], count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw factors as batchgeneratorsv2's BGContrast does: below 1 as often as above."""
    low, high = bounds
    above = rng.uniform(max(low, 1), high, count)
    below = rng.uniform(min(low, 1), 1, count)
    return np.where((rng.random(count) < 0.5) & (low < 1), below, above)


def augment_stock(
    image: torch.Tensor,
    labels: torch.Tensor,
    patch_size: Sequence[int],
    draw: StockDraw,
    generator: torch.Generator,
    values: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a whole batch as nnU-Net does, and cut it to the final patch.

    Args:
        image: Float tensor (batch, channel, *sampled patch).
        labels: Integer tensor (batch, 1, *sampled patch); -1 marks what lies outside the image.
        patch_size: Final patch in voxels.
        draw: The random choices.
        generator: Source of the noise, on the device of `image`.
        values: Labels that may occur, ascending; None to look for them, for which a GPU must be waited for.

    Returns:
        Image (batch, channel, *patch) and labels (batch, 1, *patch), new tensors of the dtypes given.
    """
    device = image.device
    out, seg = (centre_crop(t, patch_size).clone(memory_format=torch.contiguous_format) for t in (image, labels))
    if len(draw.turned):
        rows = upload(draw.turned, device)
        matrices = upload(rotation_and_scale(draw.angles, draw.scales), device)
        turned = resample(image.index_select(0, rows), labels.index_select(0, rows), patch_size, matrices, values)
        out.index_copy_(0, rows, turned[0])
        seg.index_copy_(0, rows, turned[1])
    volumes = out.flatten(0, 1)

    def apply(chosen: Chosen, operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        if len(chosen.rows):
            rows, parameter = upload(chosen.rows, device), upload(chosen.values, device)
            volumes.index_copy_(0, rows, operation(volumes.index_select(0, rows), parameter))

    apply(draw.noise, lambda v, std: add_noise(v, std, generator))
    apply(draw.blur, blur)
    apply(draw.brightness, brighten)
    apply(draw.contrast, change_contrast)
    apply(_sizes(draw.low_resolution, patch_size), lower_resolution)
    apply(draw.inverted_gamma, lambda v, exponent: change_gamma(v, exponent, inverted=True))
    apply(draw.gamma, lambda v, exponent: change_gamma(v, exponent, inverted=False))
    for axis, mirrored in draw.mirrored.items():
        if len(mirrored):
            rows = upload(mirrored, device)
            mirror_rows(out, rows, axis)
            mirror_rows(seg, rows, axis)
    return out, seg


def _sizes(factors: Chosen, patch_size: Sequence[int]) -> Chosen:
    """Return numbers of voxels for factors of resolution, rounded as Python rounds."""
    return Chosen(factors.rows, np.rint(factors.values.astype(np.float64) * np.asarray(patch_size)).astype(np.float32))
