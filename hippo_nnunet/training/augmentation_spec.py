"""Augmentation recipes as data: which operations a patch undergoes, how often, and the size of the patch to cut for
them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Operation:
    """How often an operation is applied, and the range of its parameter.

    Attributes:
        p: Probability per sample.
        bounds: Range of the parameter, drawn uniformly.
        p_channel: Probability for each channel of a chosen sample.
        per_channel: Whether each channel draws its own parameter; otherwise all channels of a sample share one.
        balanced: Whether parameters below 1 are drawn as often as those above, whatever the range.
    """

    p: float = 0.0
    bounds: tuple[float, float] = (1.0, 1.0)
    p_channel: float = 1.0
    per_channel: bool = False
    balanced: bool = False


@dataclass(frozen=True)
class AugmentationSpec:
    """The operations on a patch, in this order, and their probabilities, which are 0 by default.

    Attributes:
        rotation: Angles in radians, about every axis in 3D.
        scaling: Zoom factor, one for all axes: above 1 magnifies, or shrinks with `scaling_of_grid`.
        scaling_of_grid: Whether the factor is that of the sampling grid, as in nnU-Net.
        p_mirror: Probability for each axis of `mirror_axes` on its own.
        mirror_axes: Spatial axes (of the patch: 0 and 1 in 2D, 0 to 2 in 3D) that may be mirrored; None for all.
        noise: Standard deviation of Gaussian noise, in units of the normalised image.
        blur: Standard deviation of a Gaussian blur in voxels, drawn for every axis independently.
        brightness: Factor of the intensities.
        contrast: Factor of the distance from the mean; the range is kept.
        low_resolution: Factor of the number of voxels, one for all axes.
        inverted_gamma: Exponent of a gamma curve on the negated image; mean and deviation are kept.
        gamma: Exponent of a gamma curve; mean and deviation are kept.
        sampled_patch: Patch to cut before rotating and zooming, in voxels; None to derive it from the ranges.
    """

    rotation: Operation = Operation()
    scaling: Operation = Operation()
    scaling_of_grid: bool = False
    p_mirror: float = 0.0
    mirror_axes: tuple[int, ...] | None = None
    noise: Operation = Operation()
    blur: Operation = Operation()
    brightness: Operation = Operation()
    contrast: Operation = Operation()
    low_resolution: Operation = Operation()
    inverted_gamma: Operation = Operation()
    gamma: Operation = Operation()
    sampled_patch: tuple[int, ...] | None = None

    def axes(self, dim: int) -> tuple[int, ...]:
        """Return the axes that mirroring may use in `dim` dimensions; empty without mirroring."""
        if self.p_mirror == 0:
            return ()
        return tuple(range(dim)) if self.mirror_axes is None else tuple(a for a in self.mirror_axes if a < dim)


def within_degrees(limit: float) -> tuple[float, float]:
    """Return the range from minus to plus an angle, in radians."""
    return -math.radians(limit), math.radians(limit)


def stock_spec(
    rotation: Sequence[float], initial_patch_size: Sequence[int], mirror_axes: Sequence[int] | None
) -> AugmentationSpec:
    """Return nnU-Net's own augmentation for a trainer's settings.

    Args:
        rotation: Range of the angles in radians.
        initial_patch_size: Patch that nnU-Net cuts before rotating and zooming, in voxels.
        mirror_axes: Axes that may be mirrored; None for none. All three, with whether a 3D patch is augmented slice by
            slice, are what `nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size` returns.

    Source: the numbers are those of `nnUNetTrainer.get_training_transforms`, in its order, but for mirroring, which
        comes last there.
    """
    low, high = (float(angle) for angle in rotation)
    return AugmentationSpec(
        rotation=Operation(0.2, (low, high)),
        scaling=Operation(0.2, (0.7, 1.4)),
        scaling_of_grid=True,
        p_mirror=0.5,
        mirror_axes=tuple(int(axis) for axis in mirror_axes or ()),
        noise=Operation(0.1, (0, 0.1)),
        blur=Operation(0.2, (0.5, 1.0), p_channel=0.5, per_channel=True),
        brightness=Operation(0.15, (0.75, 1.25), per_channel=True, balanced=True),
        contrast=Operation(0.15, (0.75, 1.25), per_channel=True, balanced=True),
        low_resolution=Operation(0.25, (0.5, 1), p_channel=0.5, per_channel=True),
        inverted_gamma=Operation(0.1, (0.7, 1.5), per_channel=True, balanced=True),
        gamma=Operation(0.3, (0.7, 1.5), per_channel=True, balanced=True),
        sampled_patch=tuple(int(n) for n in initial_patch_size),
    )


_ROTATED = AugmentationSpec(p_mirror=0.5, rotation=Operation(0.3, within_degrees(10)))

PUBLISHED: dict[str, AugmentationSpec] = {
    "noAug": AugmentationSpec(),
    "flip": AugmentationSpec(p_mirror=0.5),
    "flipRot": _ROTATED,
    "flipRotNoise": replace(_ROTATED, noise=Operation(0.3, (0.01, 0.01))),
}
"""The four experiments of the notebooks, by recipe word; `nnunetAug` is not among them, see `stock_spec`."""

SHORT_SCHEDULE = AugmentationSpec(
    rotation=Operation(0.5, within_degrees(20)),
    scaling=Operation(0.4, (0.8, 1.25)),
    p_mirror=0.5,
    noise=Operation(0.15, (0.0, 0.2)),
    brightness=Operation(0.15, (0.75, 1.25)),
    contrast=Operation(0.2, (0.7, 1.4)),
    gamma=Operation(0.3, (0.7, 1.5)),
)
"""Augmentation of `fast` without an augmentation word; the schedule decides about the axes to mirror. Source: ours."""


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
    if spec.sampled_patch is not None:
        return spec.sampled_patch
    if spec.rotation.p == 0 and spec.scaling.p == 0:
        return tuple(int(p) for p in patch_size)
    if in_plane:
        return (int(patch_size[0]), *sampled_patch_size(spec, patch_size[1:]))
    angle = min(max(map(abs, spec.rotation.bounds)), math.radians(45)) if spec.rotation.p else 0.0
    zoom_out = (spec.scaling.bounds[1] if spec.scaling_of_grid else 1 / spec.scaling.bounds[0]) if spec.scaling.p else 1
    sizes = [float(p) for p in patch_size]
    spread = [s * math.cos(angle) + math.sin(angle) * max([*sizes[:i], *sizes[i + 1 :]]) for i, s in enumerate(sizes)]
    cut = [math.ceil(max(a, b) * zoom_out) for a, b in zip(spread, sizes, strict=True)]
    # of the patch's parity: else both grids are half a voxel apart, and unchanged samples would be blurred
    return tuple(n + (n - int(p)) % 2 for n, p in zip(cut, patch_size, strict=True))
