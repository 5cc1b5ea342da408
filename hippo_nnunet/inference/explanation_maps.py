"""Maps of a whole image by sliding windows: coefficients of attention gates, and cosine similarities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import nn

from hippo_nnunet.inference.batched_predictor import VOXELS_PER_BATCH, BatchedPredictor
from hippo_nnunet.inference.sliding_window import OpenImage, PreprocessedImage, check_finite
from hippo_nnunet.networks.attention_unet import AttentionUNet
from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet

Read = Callable[[Any, torch.Tensor, torch.Tensor | None], torch.Tensor]
"""Maps network, patches (batch, channel, *patch) and guidance to maps (batch, map, *patch)."""

_SHARE_OF_BATCH = 4
"""Factor by which batches are smaller than in prediction, since maps need memory as well."""


def read_attention(network: AttentionUNet, patches: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
    """Return the coefficients of every gate at the patches' resolution, highest resolution first, in [0, 1]."""
    size = patches.shape[2:]
    mode = "bilinear" if len(size) == 2 else "trilinear"
    maps = [m.float() for m in network.attention_maps(patches)]
    return torch.cat([m if m.shape[2:] == size else F.interpolate(m, size=size, mode=mode) for m in maps], dim=1)


def reader_of(network: nn.Module) -> Read | None:
    """Return the function that reads a network's maps; None without gates and text."""
    if isinstance(network, AttentionUNet):
        return read_attention
    return CLIPGuidedUNet.similarity_maps if isinstance(network, CLIPGuidedUNet) and not network.plain_head else None


@torch.inference_mode()
def image_maps(predictor: BatchedPredictor, image: PreprocessedImage, read: Read) -> torch.Tensor:
    """Compute maps of an image with the windows and Gaussian weights of a prediction, without mirroring.

    Args:
        predictor: A loaded model; its folds' maps are averaged.
        image: The preprocessed image.
        read: See `reader_of`.

    Returns:
        float32 (map, z, y, x) on the preprocessed grid, on the CPU. Each voxel is a weighted mean over patches, so
        ranges such as [0, 1] are preserved.
    """
    patch_size = tuple(int(n) for n in predictor.configuration_manager.patch_size)
    cpu = torch.device("cpu")
    weight = compute_gaussian(patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=cpu).float()
    voxels = predictor.seen(image)
    frame = OpenImage(voxels, patch_size, 0, weight)
    guide = predictor.guide
    rows = guide.patches(image, frame, predictor.device) if guide else [None] * len(frame.windows)
    size = max(1, VOXELS_PER_BATCH["cpu"] // _SHARE_OF_BATCH // prod(patch_size))
    opened: OpenImage | None = None
    for start in range(0, len(frame.windows), size):
        part = frame.windows[start : start + size]
        patches = torch.stack([frame.patch(window) for window in part]).to(predictor.device)
        given = [row for row in rows[start : start + size] if row is not None]
        guidance = torch.stack(given).to(predictor.device) if given else guide.live(patches) if guide else None
        maps = torch.stack([read(network, patches, guidance) for network in predictor.networks]).mean(dim=0)
        opened = opened or OpenImage(voxels, patch_size, maps.shape[1], weight)
        for window, of_patch in zip(part, maps, strict=True):
            opened.add(window, of_patch)
    assert opened is not None
    return check_finite(opened.logits())


def on_image_grid(
    maps: torch.Tensor, predictor: BatchedPredictor, properties: Mapping[str, Any], lowest: float, highest: float
) -> npt.NDArray[np.float32]:
    """Resample maps to the image's grid with the plans' resampling of probabilities.

    Args:
        maps: float32 (map, z, y, x), as `image_maps` returns them.
        predictor: The model that preprocessed the image.
        properties: nnU-Net's of the image.
        lowest: Smallest possible value of a map, to clip the splines.
        highest: Largest possible value.

    Returns:
        float32 (map, z, y, x) in the axis order of nnU-Net's reader; 0 outside nnU-Net's crop.
    """
    plans, configuration = predictor.plans_manager, predictor.configuration_manager
    shape = properties["shape_after_cropping_and_before_resampling"]
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    own = configuration.spacing
    current = own if len(own) == len(shape) else [spacing[0], *own]
    resampled = np.asarray(configuration.resampling_fn_probabilities(maps, shape, current, spacing), dtype=np.float32)
    full = np.zeros((len(maps), *properties["shape_before_cropping"]), dtype=np.float32)
    box = (slice(None), *(slice(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]))
    full[box] = np.clip(resampled, lowest, highest)
    return full.transpose([0, *(axis + 1 for axis in plans.transpose_backward)])


def in_file_order(array: npt.NDArray[Any], properties: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Undo the reorientation of nnU-Net's reorienting readers; others keep the file's order.

    Args:
        array: (z, y, x) in the axis order of nnU-Net's reader.
        properties: nnU-Net's of the image.

    Returns:
        (z, y, x) of the file.
    """
    stuff = properties.get("nibabel_stuff", {})
    if "reoriented_affine" not in stuff:
        return array
    there, here = (nib.io_orientation(stuff[name]) for name in ("original_affine", "reoriented_affine"))
    turned: npt.NDArray[Any] = nib.apply_orientation(array.T, nib.orientations.ornt_transform(here, there))
    return turned.T
