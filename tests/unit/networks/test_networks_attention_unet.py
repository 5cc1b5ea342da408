"""AttentionUNet: the same contract as nnU-Net's PlainConvUNet, plus gates."""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.abstract_arch import test_submodules_loadable as check_submodules
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from hypothesis import given, settings
from hypothesis import strategies as st
from network_plans import PLAIN, build_network, plan_kwargs
from torch import nn

from hippo_nnunet.networks.attention_unet import AttentionUNet

NETWORK = "hippo_nnunet.networks.attention_unet.AttentionUNet"


def build(kwargs: dict[str, Any], deep_supervision: bool = True) -> Any:
    return build_network(NETWORK, kwargs, deep_supervision)


def build_plain(kwargs: dict[str, Any], deep_supervision: bool = True) -> Any:
    return build_network(PLAIN, kwargs, deep_supervision)


def open_gates(net: AttentionUNet) -> None:
    """Set every coefficient to exactly 1: sigmoid(100) is 1 in single precision."""
    for gate in net.decoder.gates:
        nn.init.zeros_(gate.psi.weight)
        nn.init.constant_(gate.psi.bias, 100.0)


CASES = {
    "2d": (plan_kwargs([[1, 1], [2, 2], [2, 2]]), (16, 8)),
    "2d-anisotropic": (plan_kwargs([[1, 1], [2, 1], [2, 2]], [[3, 1], [3, 3], [3, 3]]), (12, 6)),
    "3d": (plan_kwargs([[1, 1, 1], [2, 2, 2], [2, 2, 2]]), (8, 8, 8)),
    "3d-anisotropic": (plan_kwargs([[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 3, 3], [3, 3, 3], [3, 3, 3]]), (4, 8, 12)),
    "2d-strided-stem": (plan_kwargs([[2, 2], [2, 2], [2, 2]], n_conv_per_stage_decoder=1), (16, 16)),
}
each_case = pytest.mark.parametrize(("kwargs", "size"), CASES.values(), ids=CASES)


def outputs_equal(a: torch.Tensor | list[torch.Tensor], b: torch.Tensor | list[torch.Tensor]) -> bool:
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return len(a) == len(b) and all(torch.equal(i, j) for i, j in zip(a, b, strict=True))


@each_case
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_open_gates_compute_exactly_the_plain_unet(
    kwargs: dict[str, Any], size: tuple[int, ...], deep_supervision: bool
) -> None:
    torch.manual_seed(0)
    plain = build_plain(kwargs, deep_supervision=deep_supervision)
    net = build(kwargs, deep_supervision=deep_supervision)
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert missing and all(key.startswith("decoder.gates.") for key in missing)

    x = torch.randn(2, 1, *size)
    expected = plain(x)
    assert not outputs_equal(net(x), expected)
    open_gates(net)
    assert outputs_equal(net(x), expected)
    assert all(torch.equal(m, torch.ones_like(m)) for m in net.attention_maps(x))


def test_closed_gates_cut_the_skips_off() -> None:
    kwargs, size = CASES["2d"]
    net = build(kwargs, deep_supervision=False)
    for gate in net.decoder.gates:
        nn.init.zeros_(gate.psi.weight)
        nn.init.constant_(gate.psi.bias, -200.0)
    skips = net.encoder(torch.randn(1, 1, *size))
    other = [torch.randn_like(skip) for skip in skips[:-1]] + skips[-1:]
    assert torch.equal(net.decoder(skips), net.decoder(other))


@each_case
def test_weights_load_strictly_with_and_without_deep_supervision(kwargs: dict[str, Any], size: tuple[int, ...]) -> None:
    trained = build(kwargs, deep_supervision=True).eval()
    inference = build(kwargs, deep_supervision=False).eval()
    inference.load_state_dict(trained.state_dict(), strict=True)
    x = torch.randn(1, 1, *size)
    assert outputs_equal(trained(x)[0], inference(x))
    trained.decoder.deep_supervision = False
    assert outputs_equal(trained(x), inference(x))


@each_case
def test_attention_maps(kwargs: dict[str, Any], size: tuple[int, ...]) -> None:
    net = build(kwargs, deep_supervision=True)
    x = torch.randn(2, 1, *size)
    skips = net.encoder(x)
    before = net(x)
    maps = net.attention_maps(x)
    assert [m.shape for m in maps] == [(2, 1, *skip.shape[2:]) for skip in skips[:-1]]
    assert all(m.min() >= 0 and m.max() <= 1 for m in maps)
    assert outputs_equal(net(x), before)
    net.decoder.deep_supervision = False
    assert outputs_equal(net.attention_maps(x), maps)


def test_attention_maps_are_what_forward_multiplies_with() -> None:
    kwargs, size = CASES["2d"]
    net = build(kwargs, deep_supervision=False)
    x = torch.randn(1, 1, *size)
    seen = []
    handles = [gate.register_forward_hook(lambda *call: seen.append(call[2][1])) for gate in net.decoder.gates]
    net(x)
    for handle in handles:
        handle.remove()
    assert outputs_equal(net.attention_maps(x), seen[::-1])


def test_gradient_reaches_every_parameter_of_the_gates() -> None:
    kwargs, size = CASES["3d-anisotropic"]
    net = build(kwargs)
    sum(out.square().mean() for out in net(torch.randn(2, 1, *size))).backward()
    for name, parameter in net.decoder.gates.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_initialize_opens_gates_and_follows_the_plain_unet_elsewhere() -> None:
    kwargs, _ = CASES["2d"]
    net = build(kwargs)
    for gate in net.decoder.gates:
        nn.init.constant_(gate.psi.bias, -5.0)
    net.apply(net.initialize)
    for gate in net.decoder.gates:
        assert torch.sigmoid(gate.psi.bias).item() == pytest.approx(1 / (1 + math.exp(-2)))
        assert gate.phi.bias.abs().sum() == 0  # PlainConvUNet's rule for every other convolution
    assert all(conv.bias.abs().sum() == 0 for conv in net.encoder.modules() if isinstance(conv, nn.Conv2d))


@each_case
def test_feature_map_size_is_the_plain_unets_plus_the_gates(kwargs: dict[str, Any], size: tuple[int, ...]) -> None:
    plain, net = build_plain(kwargs), build(kwargs)
    skips = net.encoder(torch.zeros(1, 1, *size))[:-1]
    gates = sum(
        (2 * gate.gate_features + 1) * math.prod(skip.shape[2:])
        for gate, skip in zip(net.decoder.gates, reversed(skips), strict=True)
    )
    assert net.compute_conv_feature_map_size(size) == plain.compute_conv_feature_map_size(size) + gates


def test_pretraining_keys_exist() -> None:
    check_submodules(build(CASES["2d"][0]))


def test_survives_pickle_and_torch_save() -> None:
    kwargs, size = CASES["2d"]
    net = build(kwargs).eval()
    x = torch.randn(1, 1, *size)
    assert outputs_equal(pickle.loads(pickle.dumps(net))(x), net(x))
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    assert outputs_equal(torch.load(buffer, weights_only=False)(x), net(x))


def test_a_gate_has_half_the_channels_of_its_skip() -> None:
    net = build(plan_kwargs([[1, 1], [2, 2], [2, 2]], features_per_stage=[1, 4, 6]))
    assert [gate.gate_features for gate in net.decoder.gates[::-1]] == [1, 2]
    net(torch.randn(1, 1, 16, 8))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strides": [[1, 1], [2, 2]]}, ["strides", "3 entries", "got 2"]),
        ({"n_conv_per_stage_decoder": [2, 2, 2]}, ["n_conv_per_stage_decoder", "2 entries", "got 3"]),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        build({**CASES["2d"][0], **changes})
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_residual_encoder_plans_are_refused_by_name() -> None:
    kwargs = dict(CASES["2d"][0])
    kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
    with pytest.raises(ValueError, match=r"n_blocks_per_stage.*AttentionUNetPlanner"):
        build(kwargs)


def test_missing_argument_is_named() -> None:
    kwargs = {key: value for key, value in CASES["2d"][0].items() if key != "n_conv_per_stage"}
    with pytest.raises(ValueError, match="n_conv_per_stage"):
        build(kwargs)


def test_accepts_positional_arguments_and_scalars_as_the_plain_unet() -> None:
    arguments = (1, 3, 4, nn.Conv2d, 3, 2, 1, 2, 1)
    torch.manual_seed(0)
    plain, net = PlainConvUNet(*arguments), AttentionUNet(*arguments)
    net.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 1, 16, 16)
    open_gates(net)
    assert torch.equal(net(x), plain(x))


@st.composite
def topologies(draw: st.DrawFn) -> tuple[dict[str, Any], list[int]]:
    """A random plan and an input size that its strides divide."""
    dim = draw(st.sampled_from([2, 3]))
    n_stages = draw(st.integers(2, 4))
    edge = st.lists(st.sampled_from([1, 2]), min_size=dim, max_size=dim)
    strides = [[1] * dim] + [draw(edge) for _ in range(n_stages - 1)]
    kernels = [draw(st.lists(st.sampled_from([1, 3]), min_size=dim, max_size=dim)) for _ in range(n_stages)]
    features = draw(st.lists(st.integers(1, 5), min_size=n_stages, max_size=n_stages))
    # Instance norm wants more than one position in the bottleneck
    size = [math.prod(stride[axis] for stride in strides) * draw(st.integers(2, 3)) for axis in range(dim)]
    blocks = draw(st.lists(st.integers(1, 2), min_size=n_stages, max_size=n_stages))
    return (
        plan_kwargs(strides, kernels, features_per_stage=features, n_conv_per_stage=blocks,
                    n_conv_per_stage_decoder=blocks[1:]),
        size,
    )  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(topologies())
def test_any_topology_follows_the_plain_unet(topology: tuple[dict[str, Any], list[int]]) -> None:
    kwargs, size = topology
    plain, net = build_plain(kwargs), build(kwargs)
    net.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 1, *size)
    assert [out.shape for out in net(x)] == [out.shape for out in plain(x)]
    assert len(net.attention_maps(x)) == kwargs["n_stages"] - 1
    open_gates(net)
    assert outputs_equal(net(x), plain(x))
