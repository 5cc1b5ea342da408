"""Augmentation recipes as data: what is done to a patch, how often, and how large a patch must be cut for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


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


@dataclass(frozen=True)
class StockSpec:
    """nnU-Net's own training augmentation. Probabilities are per sample, those of channels per channel on top.

    The numbers are those of `nnUNetTrainer.get_training_transforms`, in its order. Ranges are uniform, except those of
    brightness, contrast and gamma: there, the part below 1 is drawn as often as the part above.

    Attributes:
        sampled_patch: Patch to cut before rotating and zooming, in voxels: nnU-Net's `initial_patch_size`.
        rotation: Range of the angles in radians, about every axis in 3D.
        mirror_axes: Spatial axes of the patch that may be mirrored, each with probability 0.5.
        p_rotation: Probability of a rotation.
        p_scaling: Probability of a change of size.
        scaling: Range of the factor of the sampling grid, one for all axes (above 1 shrinks what is seen).
        p_noise: Probability of Gaussian noise.
        noise_std: Range of the noise's standard deviation, one for all channels.
        p_blur: Probability of a Gaussian blur.
        p_blur_channel: Probability for each channel of a sample that is blurred.
        blur_sigma: Range of its standard deviation in voxels, drawn for every axis on its own.
        p_brightness: Probability of a multiplicative change of brightness.
        brightness: Range of the factor.
        p_contrast: Probability of a change of contrast about the mean, range kept.
        contrast: Range of the factor.
        p_low_resolution: Probability of a simulated low resolution.
        p_low_resolution_channel: Probability for each channel of such a sample.
        low_resolution: Range of the factor of the number of voxels, one for all axes.
        p_inverted_gamma: Probability of a gamma curve on the negated image, mean and deviation kept.
        p_gamma: Probability of a gamma curve, mean and deviation kept.
        gamma: Range of the exponent of both.
    """

    sampled_patch: tuple[int, ...]
    rotation: tuple[float, float]
    mirror_axes: tuple[int, ...]
    p_rotation: float = 0.2
    p_scaling: float = 0.2
    scaling: tuple[float, float] = (0.7, 1.4)
    p_noise: float = 0.1
    noise_std: tuple[float, float] = (0.0, 0.1)
    p_blur: float = 0.2
    p_blur_channel: float = 0.5
    blur_sigma: tuple[float, float] = (0.5, 1.0)
    p_brightness: float = 0.15
    brightness: tuple[float, float] = (0.75, 1.25)
    p_contrast: float = 0.15
    contrast: tuple[float, float] = (0.75, 1.25)
    p_low_resolution: float = 0.25
    p_low_resolution_channel: float = 0.5
    low_resolution: tuple[float, float] = (0.5, 1.0)
    p_inverted_gamma: float = 0.1
    p_gamma: float = 0.3
    gamma: tuple[float, float] = (0.7, 1.5)

    def axes(self, dim: int) -> tuple[int, ...]:
        """Return the axes that mirroring may use in `dim` dimensions."""
        return tuple(a for a in self.mirror_axes if a < dim)


def stock_spec(
    rotation: Sequence[float], initial_patch_size: Sequence[int], mirror_axes: Sequence[int] | None
) -> StockSpec:
    """Return nnU-Net's augmentation for a trainer's settings.

    Args:
        rotation: Range of the angles in radians.
        initial_patch_size: Patch that nnU-Net cuts before rotating and zooming, in voxels.
        mirror_axes: Axes that may be mirrored; None for none. All three, with whether a 3D patch is augmented slice by
            slice, are what `nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size` returns.
    """
    low, high = (float(angle) for angle in rotation)
    axes = tuple(int(axis) for axis in mirror_axes or ())
    return StockSpec(tuple(int(n) for n in initial_patch_size), (low, high), axes)


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


def sampled_patch_size(
    spec: AugmentationSpec | StockSpec, patch_size: Sequence[int], in_plane: bool = False
) -> tuple[int, ...]:
    """Return the patch to cut before rotating and zooming, so that little of the final patch lies outside it.

    Args:
        spec: The recipe.
        patch_size: Final patch, in voxels.
        in_plane: Whether a 3D patch is rotated and zoomed within its slices only.

    Returns:
        Size in voxels, at least `patch_size` along each axis.
    """
    if isinstance(spec, StockSpec):
        return spec.sampled_patch
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
