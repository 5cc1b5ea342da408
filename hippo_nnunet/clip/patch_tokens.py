"""The tokens of an image's patches in CLIP's joint space with text, from every kind of image tower."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from hippo_nnunet.errors import ConfigError


def patch_tokens(tower: Any, images: torch.Tensor, name: str) -> torch.Tensor:
    """Embed the patches of images.

    A token is what the tower's embedding of an image would be if the pooling saw this token alone. In vision
    transformers every token of the last block attends to itself alone, which leaves the block's value projection.

    Args:
        tower: Image tower of an open_clip model: its own `VisionTransformer` and `ModifiedResNet`, or timm's networks.
        images: Prepared by the tower's preprocessing, float32, shape (n, 3, size, size).
        name: Encoder, for the message.

    Returns:
        float32, shape (n, embed_dim, rows, columns), unit length along the second axis. The first row is the image's.

    Raises:
        ConfigError: The tower has no map of features that its pooling sees.

    Source: Zhou et al. 2022, MaskCLIP, arXiv:2112.01071, section 3.2.
    """
    trunk = getattr(tower, "trunk", None)
    if trunk is not None:
        features = _timm_features(trunk, images)
        tokens = None if features is None else _one_by_one(tower, *features)
    elif hasattr(tower, "transformer"):
        tokens = _transformer_tokens(tower, images)
    elif hasattr(tower, "attnpool"):
        features = tower.forward_intermediates(images, indices=1, intermediates_only=True)["image_intermediates"][-1]
        pool = tower.attnpool
        tokens = pool.c_proj(pool.v_proj(features.movedim(1, -1)))
    else:
        tokens = None
    if tokens is None:
        raise ConfigError(
            f"CLIP model {name}: its image tower ({type(trunk or tower).__name__}) has no tokens or feature map in the "
            "space of its text, which the word 'dense' needs; choose a vision transformer such as ViT-B-16, or omit it"
        )
    return F.normalize(tokens.float(), dim=-1).movedim(-1, 1).contiguous()


def _transformer_tokens(tower: Any, images: torch.Tensor) -> torch.Tensor:
    """Return the projected tokens (n, rows, columns, embed_dim) of open_clip's vision transformer."""
    *earlier, last = tower.transformer.resblocks
    found = tower.forward_intermediates(
        images,
        indices=[max(len(earlier) - 1, 0)],
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    x = torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], dim=1)
    if earlier:
        x = last(x, attn_mask=_only_itself(x))
    if tower.attn_pool is not None:
        keys = tower.attn_pool.ln_k(x)
        queries = keys.new_zeros(*keys.shape[:2], tower.attn_pool.ln_q.normalized_shape[0])
        x = tower.attn_pool.attn(queries, keys, keys, attn_mask=_only_itself(x), need_weights=False)[0]
    tokens = tower.ln_post(x)[:, 1:]
    if tower.proj is not None:
        tokens = tokens @ tower.proj
    return tokens.unflatten(1, tuple(tower.grid_size))


def _timm_features(trunk: Any, images: torch.Tensor) -> tuple[torch.Tensor, int] | None:
    """Return what a timm network's pooling sees, as (n, rows, columns, channels), and its number of prefix tokens.

    None for a network without a square map.
    """
    prefix = int(getattr(trunk, "num_prefix_tokens", 0))
    blocks: Any = getattr(trunk, "blocks", ())
    if type(trunk).__name__ == "VisionTransformer" and len(blocks) > 1:
        found = trunk.forward_intermediates(
            images,
            indices=[len(blocks) - 2],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            return_prefix_tokens=True,
        )[0]
        x = torch.cat(found[::-1], dim=1) if isinstance(found, tuple) else found
        features = trunk.norm(blocks[-1](x, attn_mask=_only_itself(x)))
    else:
        features = trunk.forward_features(images)
    if features.dim() == 3:
        side = math.isqrt(features.shape[1] - prefix)
        if side**2 != features.shape[1] - prefix:
            return None
        return features[:, prefix:].unflatten(1, (side, side)), prefix
    if features.dim() == 4 and getattr(trunk, "output_fmt", "NCHW") != "NHWC":
        features = features.movedim(1, -1)
    return (features, -1) if features.dim() == 4 else None


def _one_by_one(tower: Any, features: torch.Tensor, prefix: int) -> torch.Tensor:
    """Pool and project each position of (n, rows, columns, channels) as if it were the whole image.

    Args:
        tower: open_clip's adapter of a timm network.
        features: What its pooling sees.
        prefix: Number of tokens before those of the patches; -1 for a convolutional network's map.
    """
    single = features.flatten(0, 2)
    if prefix < 0:
        channels_last = getattr(tower.trunk, "output_fmt", "NCHW") == "NHWC"
        alone = single[:, None, None] if channels_last else single[:, :, None, None]
    else:
        alone = single[:, None].expand(-1, 1 + prefix, -1)  # pooling takes the first token, or the others' mean
    tokens: torch.Tensor = tower.head(tower.trunk.forward_head(alone))
    return tokens.unflatten(0, features.shape[:3])


def _only_itself(tokens: torch.Tensor) -> torch.Tensor:
    """Return the mask with which each of (n, tokens, width) attends to itself alone."""
    count = tokens.shape[1]
    return tokens.new_full((count, count), -math.inf).fill_diagonal_(0)
