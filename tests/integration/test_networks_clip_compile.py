"""CLIPGuidedUNet under torch.compile and mixed precision, as nnU-Net's trainer uses it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.networks.dense_guidance import DenseCLIPGuidedUNet
from hippo_nnunet.networks.text_head import TextHeadCLIPGuidedUNet

pytestmark = pytest.mark.slow


@pytest.fixture
def network() -> Iterator[CLIPGuidedUNet]:
    torch.manual_seed(0)
    net = CLIPGuidedUNet(
        1, 3, [2, 4, 6], nn.Conv2d, 3, [1, 2, 2], 1, 3, 1,
        norm_op=nn.InstanceNorm2d, nonlin=nn.LeakyReLU, deep_supervision=True, embed_dim=8,
    )  # fmt: skip
    net.set_text(F.normalize(torch.randn(3, 8), dim=1))
    nn.init.normal_(net.fusion.modulation.weight, std=0.1)
    yield net
    torch.compiler.reset()


def step(network: nn.Module, x: torch.Tensor, guidance: torch.Tensor | None) -> list[torch.Tensor]:
    """Outputs of a training step, then every gradient."""
    network.zero_grad()
    outputs = network(x) if guidance is None else network(x, guidance)
    sum(out.float().square().mean() for out in outputs).backward()
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    return [*(out.detach() for out in outputs), *gradients]


def test_compiles_as_one_graph_with_its_backward_pass(network: CLIPGuidedUNet) -> None:
    x, guidance = torch.randn(2, 1, 16, 8), F.normalize(torch.randn(2, 8), dim=1)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(step(compiled, x, guidance), step(network, x, guidance))
    with network.guided(guidance):
        torch.testing.assert_close(step(compiled, x, None), step(network, x, None))
    network.decoder.deep_supervision = False  # what nnU-Net does before validation
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, guidance), network(x, guidance))


@pytest.mark.parametrize("design", [DenseCLIPGuidedUNet, TextHeadCLIPGuidedUNet])
def test_the_other_designs_compile_as_one_graph_too(design: type[CLIPGuidedUNet]) -> None:
    torch.manual_seed(0)
    net = design(
        1, 3, [2, 4, 6], nn.Conv2d, 3, [1, 2, 2], 1, 3, 1,
        norm_op=nn.InstanceNorm2d, nonlin=nn.LeakyReLU, deep_supervision=True, embed_dim=8,
    )  # fmt: skip
    net.set_text(F.normalize(torch.randn(3, 8), dim=1))
    x, guidance = torch.randn(2, 1, 16, 8), torch.randn(2, *net.guidance_shape((16, 8)))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with net.guided(guidance):
        torch.testing.assert_close(step(compiled, x, None), step(net, x, None), rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


def test_an_encoder_breaks_the_graph_and_works(network: CLIPGuidedUNet) -> None:
    def encode(slices: torch.Tensor) -> torch.Tensor:
        return F.normalize(slices.flatten(1)[:, :8], dim=1)

    network.attach_encoder(encode, "ab" * 32)
    x = torch.randn(2, 1, 16, 8)
    compiled = torch.compile(network, backend="aot_eager")
    torch.testing.assert_close(step(compiled, x, None), step(network, x, None))


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", torch.bfloat16), pytest.param("cuda", torch.float16, marks=pytest.mark.gpu)],
)
def test_mixed_precision_step(network: CLIPGuidedUNet, device: str, dtype: torch.dtype) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    network.to(device)
    x, guidance = torch.randn(2, 1, 16, 8, device=device), F.normalize(torch.randn(2, 8, device=device), dim=1)
    exact = network(x, guidance)[0]
    with torch.autocast(device, dtype=dtype):
        low = step(network, x, guidance)
    assert low[0].dtype == torch.float32
    assert all(value.isfinite().all() for value in low)
    assert (low[0] - exact).norm() < 0.1 * exact.norm()
