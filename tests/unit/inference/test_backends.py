"""OpenVINO computes what torch computes, or is not used."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from hippo_nnunet.errors import ConfigError, DependencyError, UpstreamError
from hippo_nnunet.inference import openvino_use
from hippo_nnunet.inference.backends import check_backend, choose_runs
from hippo_nnunet.inference.openvino_use import WORTH_VOXELS
from hippo_nnunet.networks.attention_unet import AttentionUNet
from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(not openvino_use.find_spec("openvino"), reason="OpenVINO is not installed")


def network_of(kind: type[nn.Module], dim: int, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    made = kind(
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 8, 8],
        conv_op=[nn.Conv2d, nn.Conv3d][dim - 2],
        kernel_sizes=[[3] * dim] * 3,
        strides=[[1] * dim, [2] * dim, [2] * dim],
        n_conv_per_stage=[1, 1, 1],
        num_classes=3,
        n_conv_per_stage_decoder=[1, 1],
        conv_bias=True,
        norm_op=[nn.InstanceNorm2d, nn.InstanceNorm3d][dim - 2],
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
        **({"embed_dim": 16} if kind is CLIPGuidedUNet else {}),
        **options,
    ).eval()
    if isinstance(made, CLIPGuidedUNet):
        made.set_text(nn.functional.normalize(torch.randn(3, 16), dim=1))
        nn.init.normal_(made.fusion.modulation.weight, std=0.1)  # else the guidance would not matter
    return made


def example(dim: int, count: int) -> torch.Tensor:
    return torch.randn(count, 1, *(8, 8, 12)[-dim:], generator=torch.Generator().manual_seed(count))


@needs_openvino
@torch.inference_mode()
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("kind", [PlainConvUNet, AttentionUNet])
def test_openvino_equals_torch(kind: type[nn.Module], dim: int) -> None:
    """Two folds, and batches of other sizes than the one that was traced."""
    folds = [network_of(kind, dim, seed) for seed in range(2)]
    runs = choose_runs("openvino", folds, CPU, None, example(dim, 2), None)
    for count in (1, 5):
        patches = example(dim, count)
        for run, network in zip(runs, folds, strict=True):
            torch.testing.assert_close(run(patches, None), network(patches), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(runs[0](patches, None), runs[1](patches, None), atol=1e-2)


@needs_openvino
@torch.inference_mode()
@pytest.mark.parametrize("dim", [2, 3])
def test_openvino_knows_guidance(dim: int) -> None:
    network = network_of(CLIPGuidedUNet, dim)
    guidance = nn.functional.normalize(torch.randn(5, 16), dim=1)
    (run,) = choose_runs("openvino", [network], CPU, None, example(dim, 2), guidance[:2])
    patches = example(dim, 5)
    torch.testing.assert_close(run(patches, guidance), network(patches, guidance), atol=1e-3, rtol=1e-4)
    assert (run(patches, guidance) - run(patches, -guidance)).abs().max() > 0.1
    network.use_image = False  # type: ignore[assignment]
    (blind,) = choose_runs("openvino", [network], CPU, None, example(dim, 2), None)
    torch.testing.assert_close(blind(patches, None), network(patches), atol=1e-3, rtol=1e-4)
    plain = network_of(CLIPGuidedUNet, dim, plain_head=True)
    (run,) = choose_runs("openvino", [plain], CPU, None, example(dim, 2), guidance[:2])
    torch.testing.assert_close(run(patches, guidance), plain(patches, guidance), atol=1e-3, rtol=1e-4)


@needs_openvino
@torch.inference_mode()
def test_a_backend_that_disagrees_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network, patches = network_of(PlainConvUNet, 2), example(2, 2)
    wrong = copy.deepcopy(network)
    nn.init.constant_(wrong.decoder.seg_layers[-1].bias, 0.5)
    monkeypatch.setattr(
        "hippo_nnunet.inference.openvino_backend.compile_network", lambda *_: lambda patches, _: wrong(patches)
    )
    with caplog.at_level(logging.WARNING):
        (run,) = choose_runs("auto", [network], CPU, None, patches, None)
    assert "OpenVINO is not used: its logits differ" in caplog.text
    torch.testing.assert_close(run(patches, None), network(patches))
    with pytest.raises(UpstreamError, match=r"logits differ from torch's by .*--backend torch"):
        choose_runs("openvino", [network], CPU, None, patches, None)


class Strange(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.entr(x.exp())


@needs_openvino
@torch.inference_mode()
def test_a_network_that_cannot_be_converted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (run,) = choose_runs("auto", [Strange()], CPU, None, example(2, 2), None)
    assert "cannot convert the network" in caplog.text
    assert run(example(2, 3), None).shape == (3, 1, 8, 12)


def test_auto_is_torch_where_converting_would_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(openvino_use, "find_spec", lambda name: tried.append(name))
    network, patches = network_of(PlainConvUNet, 2), example(2, 2)
    with torch.inference_mode():
        choose_runs("auto", [network], CPU, WORTH_VOXELS - 1, patches, None)
        assert not tried, "not even looked for"
        (run,) = choose_runs("auto", [network], CPU, WORTH_VOXELS, patches, None)
        assert tried == ["openvino"]
        torch.testing.assert_close(run(patches, None), network(patches))


def test_unavailable_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="unknown backend 'onnx': choose one of auto, torch, openvino"):
        check_backend("onnx", CPU)
    with pytest.raises(ConfigError, match="CPU only, but the device is cuda"):
        check_backend("openvino", torch.device("cuda"))
    monkeypatch.setattr(openvino_use, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"pip install 'openvino>=2025.0', or --backend torch"):
        check_backend("openvino", CPU)
    check_backend("auto", CPU)
