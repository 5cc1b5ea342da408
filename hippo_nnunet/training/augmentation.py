"""The engines that run an augmentation recipe, and the recipes themselves by name.

`augment_batch` augments a whole batch at once, for the in-memory loader; `build_transforms` turns a published recipe
into batchgeneratorsv2 transforms for nnU-Net's ordinary loader. nnU-Net's own augmentation is in `stock_augmentation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.training.augmentation_spec import (
    PUBLISHED,
    SHORT_SCHEDULE,
    AugmentationSpec,
    StockSpec,
    left_right_axes,
    sampled_patch_size,
    stock_spec,
)
from hippo_nnunet.training.spatial import present_labels
from hippo_nnunet.training.transfer import constant

__all__ = [
    "PUBLISHED",
    "SHORT_SCHEDULE",
    "AugmentationSpec",
    "StockSpec",
    "augment_batch",
    "build_transforms",
    "left_right_axes",
    "sampled_patch_size",
    "stock_spec",
]


def augment_batch(
    image: torch.Tensor,
    labels: torch.Tensor,
    patch_size: Sequence[int],
    spec: AugmentationSpec,
    generator: torch.Generator,
    in_plane: bool = False,
    values: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a whole batch and cut it to the final patch.

    Args:
        image: Float tensor (batch, channel, *sampled patch).
        labels: Integer tensor (batch, 1, *sampled patch); -1 marks what lies outside the image.
        patch_size: Final patch in voxels.
        spec: The recipe.
        generator: Source of every random number, on the device of `image`.
        in_plane: Whether a 3D patch is rotated and zoomed within its slices (the last two axes) only.
        values: Labels that may occur, ascending; None to look for them, for which a GPU must be waited for.

    Returns:
        Image (batch, channel, *patch) and labels (batch, 1, *patch), of the dtypes given.

    Source: the operations are nnU-Net's (batchgeneratorsv2), drawn per sample, computed per batch.
    """
    image, labels = _spatial(image, labels, patch_size, spec, generator, in_plane, values)
    return _intensity(image, spec, generator), labels


def _uniform(n: int, bounds: tuple[float, float], like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(n, generator=generator, device=like.device)


def _chosen(n: int, probability: float, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator, device=like.device) < probability


def _spatial(
    image: torch.Tensor,
    labels: torch.Tensor,
    patch_size: Sequence[int],
    spec: AugmentationSpec,
    generator: torch.Generator,
    in_plane: bool,
    values: Sequence[int] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, dim = image.shape[0], image.ndim - 2
    zoom = torch.ones(batch, device=image.device)
    if spec.p_scaling:
        drawn = _uniform(batch, spec.scaling, image, generator)
        zoom = torch.where(_chosen(batch, spec.p_scaling, image, generator), drawn, zoom)
    still = torch.ones_like(zoom)
    factors = [still, *[zoom] * (dim - 1)] if in_plane and dim == 3 else [zoom] * dim
    matrix = torch.diag_embed(1 / torch.stack(factors, dim=1))
    if spec.p_rotation:
        limit = math.radians(spec.rotation_deg)
        rotated = _chosen(batch, spec.p_rotation, image, generator)
        planes = [(0, 1)] if dim == 2 else [(1, 2)] if in_plane else [(0, 1), (0, 2), (1, 2)]
        for first, second in planes:
            angle = _uniform(batch, (-limit, limit), image, generator) * rotated
            matrix = matrix @ _plane_rotation(angle, dim, first, second)
    for axis in spec.axes(dim):
        sign = 1 - 2 * _chosen(batch, spec.p_mirror, image, generator).float()
        scale = torch.ones(batch, dim, device=image.device)
        scale[:, axis] = sign
        matrix = matrix * scale[:, None, :]
    if not (spec.p_rotation or spec.p_scaling):
        axes = spec.axes(dim)
        return _mirror_only(image, matrix, axes), _mirror_only(labels, matrix, axes)
    return _resample(image, labels, patch_size, matrix, present_labels(labels, values))


def _plane_rotation(angle: torch.Tensor, dim: int, first: int, second: int) -> torch.Tensor:
    rotation = torch.eye(dim, device=angle.device).repeat(len(angle), 1, 1)
    rotation[:, first, first] = rotation[:, second, second] = torch.cos(angle)
    rotation[:, first, second] = -torch.sin(angle)
    rotation[:, second, first] = torch.sin(angle)
    return rotation


def _mirror_only(tensor: torch.Tensor, matrix: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    for axis in axes:
        flipped = (matrix[:, axis, axis] < 0).view(-1, *[1] * (tensor.ndim - 1))
        tensor = torch.where(flipped, tensor.flip(axis + 2), tensor)
    return tensor


def _resample(
    image: torch.Tensor,
    labels: torch.Tensor,
    patch_size: Sequence[int],
    matrix: torch.Tensor,
    values: tuple[int, ...],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample image and labels at `matrix @ x`, x in voxels from the centre: linear, labels by the largest share."""
    sizes = constant(tuple(image.shape[2:]), torch.float32, image.device)
    axes = [torch.arange(n, device=image.device) - (n - 1) / 2 for n in patch_size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, len(patch_size))
    where = points @ matrix.transpose(1, 2)
    grid = (2 * where / sizes).flip(-1).view(image.shape[0], *patch_size, len(patch_size))
    # -1 (outside) shares the interpolation, so that the rim is decided as inside is
    shares = torch.cat([(labels == v) for v in values], dim=1).float()
    both = functional.grid_sample(
        torch.cat([image, shares], dim=1), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    channels = image.shape[1]
    share, index = both[:, channels:].max(dim=1, keepdim=True)
    table = constant(values, labels.dtype, labels.device)
    found = torch.where(share > 0, table[index], torch.full_like(index, -1).to(labels.dtype))
    return both[:, :channels], found


def _intensity(image: torch.Tensor, spec: AugmentationSpec, generator: torch.Generator) -> torch.Tensor:
    batch = image.shape[0]
    column = (batch, *[1] * (image.ndim - 1))
    axes = tuple(range(2, image.ndim))
    if spec.p_noise:
        std = _uniform(batch, spec.noise_std, image, generator) * _chosen(batch, spec.p_noise, image, generator)
        image = image + std.view(column) * torch.randn(image.shape, generator=generator, device=image.device)
    if spec.p_brightness:
        factor = _uniform(batch, spec.brightness, image, generator)
        factor = torch.where(_chosen(batch, spec.p_brightness, image, generator), factor, torch.ones_like(factor))
        image = image * factor.view(column)
    if spec.p_contrast:
        factor = _uniform(batch, spec.contrast, image, generator)
        factor = torch.where(_chosen(batch, spec.p_contrast, image, generator), factor, torch.ones_like(factor))
        mean, low, high = image.mean(axes, keepdim=True), image.amin(axes, keepdim=True), image.amax(axes, keepdim=True)
        image = ((image - mean) * factor.view(column) + mean).clamp(low, high)
    if spec.p_gamma:
        exponent = _uniform(batch, spec.gamma, image, generator).view(column)
        mean, std = image.mean(axes, keepdim=True), image.std(axes, keepdim=True)
        low = image.amin(axes, keepdim=True)
        extent = (image.amax(axes, keepdim=True) - low).clamp(min=1e-7)
        curved = ((image - low) / extent) ** exponent
        curved = (curved - curved.mean(axes, keepdim=True)) / curved.std(axes, keepdim=True).clamp(min=1e-7)
        chosen = _chosen(batch, spec.p_gamma, image, generator).view(column)
        image = torch.where(chosen, curved * std + mean, image)
    return image


def build_transforms(spec: AugmentationSpec, patch_size: Sequence[int], in_plane: bool = False) -> list:
    """Return batchgeneratorsv2 transforms for one of the published recipes.

    Args:
        spec: A recipe of mirroring, rotation and noise.
        patch_size: Final patch in voxels.
        in_plane: Whether a 3D patch is rotated within its slices only.

    Returns:
        Transforms in the order in which they run; the first one cuts the patch to its final size.

    Raises:
        ConfigError: The recipe asks for more than mirroring, rotation and noise.
    """
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    if spec.p_scaling or spec.p_brightness or spec.p_contrast or spec.p_gamma or spec.p_mirror not in (0, 0.5):
        raise ConfigError(f"{spec} cannot be built from batchgeneratorsv2: only mirroring, rotation and noise can")
    limit = math.radians(spec.rotation_deg)
    transforms: list = [
        SpatialTransform(
            tuple(patch_size[1:]) if in_plane else tuple(patch_size),
            patch_center_dist_from_border=0,
            random_crop=False,
            p_elastic_deform=0,
            p_rotation=spec.p_rotation,
            rotation=(-limit, limit),
            p_scaling=0,
            border_mode_seg="constant",
            padding_value_seg=-1,
        )
    ]
    if in_plane:
        transforms = [Convert3DTo2DTransform(), *transforms, Convert2DTo3DTransform()]
    if spec.p_noise:
        # despite its name, batchgeneratorsv2 uses the number drawn from noise_variance as a standard deviation
        noise = GaussianNoiseTransform(noise_variance=spec.noise_std, p_per_channel=1, synchronize_channels=True)
        transforms.append(RandomTransform(noise, apply_probability=spec.p_noise))
    if spec.axes(len(patch_size)):
        transforms.append(MirrorTransform(allowed_axes=spec.axes(len(patch_size))))
    return transforms
