"""AttentionUNet under torch.compile and mixed precision, as nnU-Net's trainer uses it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from hippo_nnunet.networks.attention_unet import AttentionUNet


@pytest.fixture
def network() -> Iterator[AttentionUNet]:
    torch.manual_seed(0)
    yield AttentionUNet(
        1, 3, [2, 4, 6], nn.Conv2d, 3, [1, 2, 2], 1, 3, 1,
        norm_op=nn.InstanceNorm2d, nonlin=nn.LeakyReLU, deep_supervision=True,
    )  # fmt: skip
    torch.compiler.reset()


def test_compiles_as_one_graph(network: AttentionUNet) -> None:
    x = torch.randn(2, 1, 16, 8)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    for ours, expected in zip(compiled(x), network(x), strict=True):
        torch.testing.assert_close(ours, expected)
    network.decoder.deep_supervision = False  # what nnU-Net does before validation
    torch.testing.assert_close(compiled(x), network(x))
    assert [m.shape for m in compiled.attention_maps(x)] == [(2, 1, 16, 8), (2, 1, 8, 4)]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_mixed_precision_step(network: AttentionUNet, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    network.to(device)
    x = torch.randn(2, 1, 16, 8, device=device)
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    with torch.autocast(device, dtype=dtype):
        low = network(x)
        loss = sum(out.float().square().mean() for out in low)
    loss.backward()
    assert [out.dtype for out in low] == [dtype] * len(low)
    torch.testing.assert_close(low[0].float(), network(x)[0], atol=0.1, rtol=0.1)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.decoder.gates.parameters())
