"""Tokens of an image's patches, from each kind of image tower, with random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hippo_nnunet.clip.encoder import load_encoder
from hippo_nnunet.clip.models import MINI
from hippo_nnunet.clip.patch_tokens import patch_tokens
from hippo_nnunet.errors import ConfigError

DIM = 16


def vision_transformer(**options: Any) -> Any:
    from open_clip.transformer import VisionTransformer

    return VisionTransformer(32, 8, width=24, layers=2, heads=2, mlp_ratio=2, output_dim=DIM, **options)


def timm_tower(name: str, **options: Any) -> Any:
    from open_clip.timm_model import TimmModel

    return TimmModel(name, DIM, **options)


def resnet() -> Any:
    from open_clip.modified_resnet import ModifiedResNet

    return ModifiedResNet([1, 1, 1, 1], DIM, heads=2, image_size=64, width=8)


TOWERS = {
    "open_clip": (vision_transformer, 32, 4),
    "open_clip, mean of the tokens": (lambda: vision_transformer(pool_type="avg"), 32, 4),
    "CoCa": (lambda: vision_transformer(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=2), 32, 4),
    "OpenAI's ResNet": (resnet, 64, 2),
    "BiomedCLIP": (lambda: timm_tower("test_vit", pool="", proj="linear"), 160, 10),
    "SigLIP": (lambda: timm_tower("test_vit4", pool="map", proj="none"), 160, 10),
    "timm's convolutions": (lambda: timm_tower("test_convnext", pool="", proj="linear"), 160, 5),
}
each_tower = pytest.mark.parametrize(("build", "size", "side"), TOWERS.values(), ids=TOWERS)


@each_tower
def test_a_changed_patch_changes_its_own_token_most(build: Any, size: int, side: int) -> None:
    torch.manual_seed(0)
    tower = build().eval()
    plain = 0.1 * torch.randn(1, 3, size, size)
    row, column, step = 0, side - 1, size // side
    changed = plain.clone()
    changed[:, :, row * step : (row + 1) * step, column * step : (column + 1) * step] += 3 * torch.randn(3, step, step)
    with torch.no_grad():
        tokens, other = (patch_tokens(tower, image, "any") for image in (plain, changed))
        embedding = tower(plain)
    assert tokens.shape == (1, embedding.shape[1], side, side)
    torch.testing.assert_close(tokens.norm(dim=1), torch.ones(1, side, side))
    differences = (tokens - other).norm(dim=1)[0]
    assert divmod(int(differences.argmax()), side) == (row, column)


def test_the_last_blocks_values_by_hand() -> None:
    torch.manual_seed(0)
    tower = vision_transformer().eval()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first, last = tower.transformer.resblocks
        x = tower.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat((tower.class_embedding.expand(2, 1, -1), x), 1) + tower.positional_embedding
        x = first(tower.ln_pre(x))
        values = F.linear(last.ln_1(x), last.attn.in_proj_weight[-24:], last.attn.in_proj_bias[-24:])
        x = x + last.attn.out_proj(values)
        x = tower.ln_post(x + last.mlp(last.ln_2(x)))[:, 1:] @ tower.proj
        expected = F.normalize(x, dim=-1).transpose(1, 2).reshape(2, DIM, 4, 4)
        torch.testing.assert_close(patch_tokens(tower, image, "any"), expected)


def test_a_pooling_that_sees_one_token_alone_embeds_it() -> None:
    """timm's networks: the tower's own pooling and projection, on a map of one position."""
    torch.manual_seed(0)
    tower = timm_tower("test_convnext", pool="", proj="linear").eval()
    image = torch.randn(1, 3, 32, 32)  # the network's stride
    with torch.no_grad():
        torch.testing.assert_close(
            patch_tokens(tower, image, "any")[..., 0, 0], F.normalize(tower(image), dim=-1), atol=1e-5, rtol=1e-4
        )


def test_a_tower_without_map_is_refused_by_name() -> None:
    tower = nn.Sequential(nn.Flatten(), nn.Linear(12, DIM))
    with pytest.raises(ConfigError, match=r"CLIP model odd/x: .*Sequential.* 'dense' .*ViT-B-16"):
        patch_tokens(tower, torch.randn(1, 3, 2, 2), "odd/x")


def test_the_bundled_encoder_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(MINI)
    slices = torch.randn(3, 1, 20, 30, generator=torch.Generator().manual_seed(0))
    tokens = encoder.encode_patches(slices)
    assert tokens.shape[:2] == (3, encoder.embed_dim)
    assert not tokens.requires_grad
    monkeypatch.setattr("hippo_nnunet.clip.encoder._CHUNK_BYTES", 1)
    torch.testing.assert_close(encoder.encode_patches(slices), tokens, atol=1e-5, rtol=1e-4)
