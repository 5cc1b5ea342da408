"""Augmentation recipes as data, and the two engines that run them.

`AugmentationSpec` says what is done and how often. `build_transforms` turns it into batchgeneratorsv2 transforms for
nnU-Net's ordinary data loader; `augment_batch` does the same to a whole batch at once, for the in-memory loader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from hippo_nnunet.errors import ConfigError


@dataclass(frozen=True)
class AugmentationSpec:
    """What is done to a patch, and how often. Probabilities are per sample.

    Attributes:
        p_mirror: Probability for each axis of `mirror_axes` on its own.
        mirror_axes: Spatial axes (of the patch: 0 and 1 in 2D, 0 to 2 in 3D) that may be mirrored; None for all.
        p_rotation: Probability of a rotation.
        rotation_deg: Angles are uniform in plus or minus this, about every axis in 3D.
        p_scaling: Probability of a zoom.
        scaling: Range of the zoom factor (above 1 magnifies).
        p_noise: Probability of Gaussian noise.
        noise_std: Range of the noise's standard deviation, in units of the normalised image.
        p_brightness: Probability of a multiplicative change of brightness.
        brightness: Range of the factor.
        p_contrast: Probability of a change of contrast about the mean, range kept.
        contrast: Range of the factor.
        p_gamma: Probability of a gamma curve, mean and deviation kept.
        gamma: Range of the exponent.
    """

    p_mirror: float = 0.0
    mirror_axes: tuple[int, ...] | None = None
    p_rotation: float = 0.0
    rotation_deg: float = 0.0
    p_scaling: float = 0.0
    scaling: tuple[float, float] = (1.0, 1.0)
    p_noise: float = 0.0
    noise_std: tuple[float, float] = (0.0, 0.0)
    p_brightness: float = 0.0
    brightness: tuple[float, float] = (1.0, 1.0)
    p_contrast: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)
    p_gamma: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)

    def axes(self, dim: int) -> tuple[int, ...]:
        """Return the axes that mirroring may use in `dim` dimensions; empty without mirroring."""
        if self.p_mirror == 0:
            return ()
        return tuple(range(dim)) if self.mirror_axes is None else tuple(a for a in self.mirror_axes if a < dim)


PUBLISHED: dict[str, AugmentationSpec] = {
    "noAug": AugmentationSpec(),
    "flip": AugmentationSpec(p_mirror=0.5),
    "flipRot": AugmentationSpec(p_mirror=0.5, p_rotation=0.3, rotation_deg=10),
    "flipRotNoise": AugmentationSpec(
        p_mirror=0.5, p_rotation=0.3, rotation_deg=10, p_noise=0.3, noise_std=(0.01, 0.01)
    ),
}
"""The four experiments of the notebooks, by recipe word."""

SHORT_SCHEDULE = AugmentationSpec(
    p_mirror=0.5,
    p_rotation=0.5,
    rotation_deg=20,
    p_scaling=0.4,
    scaling=(0.8, 1.25),
    p_noise=0.15,
    noise_std=(0.0, 0.2),
    p_brightness=0.15,
    brightness=(0.75, 1.25),
    p_contrast=0.2,
    contrast=(0.7, 1.4),
    p_gamma=0.3,
    gamma=(0.7, 1.5),
)
"""Augmentation of `fast` where no augmentation word stands; mirrored left to right alone (`left_right_axes`).

Source: ours. Mirrored along every axis, as nnU-Net does it, the hippocampus' head and tail are exchanged in half of the
samples; that cost Dice in trials on fold 0 of Task04.
"""


def left_right_axes(transpose_forward: Sequence[int], dim: int) -> tuple[int, ...]:
    """Return the patch axes along which mirroring exchanges left and right.

    Args:
        transpose_forward: The plan's order of the image axes, which nnU-Net's readers return as (z, y, x).
        dim: Dimensions of the patch, 2 or 3.

    Returns:
        One axis, or none where slices are cut across it. It holds for images stored with x from left to right or back,
        as axial scans usually are; other images are mirrored along their x all the same.
    """
    axis = list(transpose_forward).index(2) - (3 - dim)
    return (axis,) if axis >= 0 else ()


def sampled_patch_size(spec: AugmentationSpec, patch_size: Sequence[int], in_plane: bool = False) -> tuple[int, ...]:
    """Return the patch to cut before rotating and zooming, so that little of the final patch lies outside it.

    Args:
        spec: The recipe.
        patch_size: Final patch, in voxels.
        in_plane: Whether a 3D patch is rotated and zoomed within its slices only.

    Returns:
        Size in voxels, at least `patch_size` along each axis.
    """
    if spec.p_rotation == 0 and spec.p_scaling == 0:
        return tuple(int(p) for p in patch_size)
    if in_plane:
        return (int(patch_size[0]), *sampled_patch_size(spec, patch_size[1:]))
    angle = math.radians(min(spec.rotation_deg, 45)) if spec.p_rotation else 0.0
    zoom_out = 1 / spec.scaling[0] if spec.p_scaling else 1.0
    sizes = [float(p) for p in patch_size]
    spread = [s * math.cos(angle) + math.sin(angle) * max([*sizes[:i], *sizes[i + 1 :]]) for i, s in enumerate(sizes)]
    cut = [math.ceil(max(a, b) * zoom_out) for a, b in zip(spread, sizes, strict=True)]
    # of the patch's parity: else both grids lie half a voxel apart, and samples that are left alone would be blurred
    return tuple(n + (n - int(p)) % 2 for n, p in zip(cut, patch_size, strict=True))


def augment_batch(
    image: torch.Tensor,
    labels: torch.Tensor,
    patch_size: Sequence[int],
    spec: AugmentationSpec,
    generator: torch.Generator,
    in_plane: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a whole batch and cut it to the final patch.

    Args:
        image: Float tensor (batch, channel, *sampled patch).
        labels: Integer tensor (batch, 1, *sampled patch); -1 marks what lies outside the image.
        patch_size: Final patch in voxels.
        spec: The recipe.
        generator: Source of every random number, on the device of `image`.
        in_plane: Whether a 3D patch is rotated and zoomed within its slices (the last two axes) only.

    Returns:
        Image (batch, channel, *patch) and labels (batch, 1, *patch), of the dtypes given.

    Source: the operations are nnU-Net's (batchgeneratorsv2), drawn per sample, computed per batch.
    """
    image, labels = _spatial(image, labels, patch_size, spec, generator, in_plane)
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
        return _mirror_only(image, matrix, dim), _mirror_only(labels, matrix, dim)
    return _resample(image, labels, patch_size, matrix)


def _plane_rotation(angle: torch.Tensor, dim: int, first: int, second: int) -> torch.Tensor:
    rotation = torch.eye(dim, device=angle.device).repeat(len(angle), 1, 1)
    rotation[:, first, first] = rotation[:, second, second] = torch.cos(angle)
    rotation[:, first, second] = -torch.sin(angle)
    rotation[:, second, first] = torch.sin(angle)
    return rotation


def _mirror_only(tensor: torch.Tensor, matrix: torch.Tensor, dim: int) -> torch.Tensor:
    for axis in range(dim):
        flipped = (matrix[:, axis, axis] < 0).view(-1, *[1] * (tensor.ndim - 1))
        if flipped.any():
            tensor = torch.where(flipped, tensor.flip(axis + 2), tensor)
    return tensor


def _resample(
    image: torch.Tensor, labels: torch.Tensor, patch_size: Sequence[int], matrix: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sample image and labels at `matrix @ x`, x in voxels from the centre: linear, labels by the largest share."""
    sizes = torch.tensor(image.shape[2:], device=image.device, dtype=torch.float32)
    axes = [torch.arange(n, device=image.device) - (n - 1) / 2 for n in patch_size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(1, -1, len(patch_size))
    where = points @ matrix.transpose(1, 2)
    grid = (2 * where / sizes).flip(-1).view(image.shape[0], *patch_size, len(patch_size))
    values = torch.unique(labels)
    # -1 (outside) shares the interpolation, so that the rim is decided as inside is
    shares = torch.cat([(labels == v) for v in values], dim=1).float()
    both = functional.grid_sample(
        torch.cat([image, shares], dim=1), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    channels = image.shape[1]
    share, index = both[:, channels:].max(dim=1, keepdim=True)
    found = torch.where(share > 0, values[index], torch.full_like(index, -1).to(values.dtype))
    return both[:, :channels], found.to(labels.dtype)


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
