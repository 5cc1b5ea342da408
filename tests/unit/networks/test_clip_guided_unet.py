"""CLIPGuidedUNet: nnU-Net's U-Net at the start, guidance, text, and a frozen encoder that is no part of it."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures.abstract_arch import test_submodules_loadable as check_submodules
from network_plans import PLAIN, build_network, plan_kwargs
from torch import nn
from torch.nn import functional as F

from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.networks.cosine_head import MAX_SCALE, CosineHead, text_coordinates
from hippo_nnunet.networks.guidance import pool_slices, slicing_axis, spaced_slices

NETWORK = "hippo_nnunet.networks.clip_guided_unet.CLIPGuidedUNet"
DIM = 8
SHA, OTHER_SHA = "ab" * 32, "0c" * 32


def build(kwargs: dict[str, Any], network: str = NETWORK, deep_supervision: bool = True) -> Any:
    """Build as nnU-Net does, initialisation included."""
    if network == NETWORK:
        kwargs = {"embed_dim": DIM, **kwargs}
    return build_network(network, kwargs, deep_supervision)


CASES = {
    "2d": (plan_kwargs([[1, 1], [2, 2], [2, 2]], features_per_stage=[2, 4, 6]), (16, 8)),
    "3d": (plan_kwargs([[1, 1, 1], [1, 2, 2], [2, 2, 2]], features_per_stage=[2, 4, 6]), (4, 8, 12)),
}
each_case = pytest.mark.parametrize(("kwargs", "size"), CASES.values(), ids=CASES)


def texts() -> torch.Tensor:
    return unit(3, DIM)


def guidance(batch: int = 2) -> torch.Tensor:
    return unit(batch, DIM, seed=4)


def unit(rows: int, dim: int, seed: int = 3) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def ready(kwargs: dict[str, Any], text: torch.Tensor | None = None, **options: Any) -> CLIPGuidedUNet:
    """A network with texts, whose fusion is not the identity."""
    torch.manual_seed(0)
    net = build(kwargs, **options)
    net.set_text(texts() if text is None else text)
    nn.init.normal_(net.fusion.modulation.weight)
    return net


class FakeEncoder(nn.Module):
    """An encoder that is a module, as the real one may be; remembers the shapes it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(2, DIM)
        self.seen: list[torch.Size] = []

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        self.seen.append(slices.shape)
        moments = torch.stack((slices.mean((1, 2, 3)), slices.std((1, 2, 3))), 1)
        return F.normalize(self.project(moments), dim=1)


def as_list(outputs: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
    return [outputs] if isinstance(outputs, torch.Tensor) else outputs


def equal(a: torch.Tensor | list[torch.Tensor], b: torch.Tensor | list[torch.Tensor]) -> bool:
    return all(torch.equal(i, j) for i, j in zip(as_list(a), as_list(b), strict=True))


def saved_bytes(net: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    return len(buffer.getvalue())


class ConvHead(nn.Module):
    """nnU-Net's head, called as ours."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.conv(features)


@each_case
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_starts_as_the_plain_unet_below_its_heads(
    kwargs: dict[str, Any], size: tuple[int, ...], deep_supervision: bool
) -> None:
    plain = build(kwargs, PLAIN, deep_supervision)
    net = build(kwargs, deep_supervision=deep_supervision)
    body = {key: value for key, value in plain.state_dict().items() if ".seg_layers." not in key}
    missing, unexpected = net.load_state_dict(body, strict=False)
    assert unexpected == []
    own = ("fusion.", "decoder.seg_layers.", "logit_scale", "text_embeddings", "encoder_sha256", "slice_view")
    assert all(key.startswith(own) for key in missing)

    net.set_text(texts())
    x = torch.randn(2, 1, *size)
    shapes = [out.shape for out in as_list(plain(x))]
    assert [out.shape for out in as_list(net(x, guidance()))] == shapes
    net.decoder.seg_layers = nn.ModuleList(ConvHead(conv) for conv in plain.decoder.seg_layers)
    assert equal(net(x, guidance()), plain(x))
    nn.init.normal_(net.fusion.modulation.weight)
    assert not equal(net(x, guidance()), plain(x))


def test_guidance_modulates_each_sample_by_its_own_vector() -> None:
    kwargs, size = CASES["2d"]
    net = ready(kwargs, deep_supervision=False)
    x = torch.randn(2, 1, *size)
    both = net(x, guidance())
    swapped = net(x, guidance().flip(0))
    assert not torch.allclose(both, swapped)
    assert torch.allclose(net(x[1:], guidance()[1:]), both[1:], atol=1e-4)
    out = net.fusion(torch.ones(2, 6, 1, 1), guidance())
    hidden = F.leaky_relu(net.fusion.hidden(math.sqrt(DIM) * guidance()))
    gamma, beta = net.fusion.modulation(hidden).chunk(2, 1)
    assert torch.allclose(out[..., 0, 0], 1 + gamma + beta, atol=1e-5)


@each_case
def test_weights_load_strictly_with_and_without_deep_supervision(kwargs: dict[str, Any], size: tuple[int, ...]) -> None:
    trained = ready(kwargs)
    inference = build(kwargs, deep_supervision=False)
    inference.load_state_dict(trained.state_dict(), strict=True)
    x = torch.randn(1, 1, *size)
    assert torch.equal(trained(x, guidance(1))[0], inference(x, guidance(1)))  # and the texts have come with it
    trained.decoder.deep_supervision = False
    assert equal(trained(x, guidance(1)), inference(x, guidance(1)))


def test_guidance_is_passed_or_held_or_encoded_in_this_order() -> None:
    kwargs, size = CASES["2d"]
    net = ready(kwargs)
    encoder = FakeEncoder()
    x = torch.randn(2, 1, *size)
    with pytest.raises(ValueError, match="attach_encoder"):
        net(x)
    net.attach_encoder(encoder, SHA)
    encoded = net(x)
    with torch.no_grad():
        assert equal(encoded, net(x, encoder(x)))
    assert encoder.seen == [(2, 1, *size)] * 2
    other, third = guidance(), guidance().flip(0)
    with net.guided(other):
        assert equal(net(x), net(x, other))
        assert equal(net(x, third), net(x, third))
        assert not equal(net(x, third), net(x))
        with pytest.raises(RuntimeError), net.guided(third):
            assert equal(net(x), net(x, third))
            raise RuntimeError
        assert equal(net(x), net(x, other))
    assert equal(net(x), encoded)


def test_3d_encodes_spaced_slices_across_the_thinnest_axis() -> None:
    net = ready(CASES["3d"][0], deep_supervision=False)
    encoder = FakeEncoder()
    net.attach_encoder(encoder, SHA)
    x = torch.randn(2, 1, 8, 6, 12)  # slices across the second axis, of the middle of each of three parts
    by_hand = []
    with torch.no_grad():
        for sample in x:
            embeddings = encoder(torch.stack([sample[:, :, k] for k in (1, 3, 5)]))
            mean = embeddings.mean(0)
            by_hand.append(mean / mean.norm())
    del encoder.seen[:]
    x = x.movedim(3, 2)  # a size that the strides divide
    assert torch.allclose(net._encode(x), torch.stack(by_hand), atol=1e-6)
    x = torch.randn(2, 1, 4, 8, 12)
    assert equal(net(x), net(x, net._encode(x)))
    assert encoder.seen == [(6, 1, 8, 12)] * 3


def test_slices_and_pooling() -> None:
    assert [slicing_axis(shape) for shape in ((3, 4, 5), (5, 3, 4), (4, 5, 3), (4, 3, 3), (2, 2, 2))] == [0, 1, 2, 1, 0]
    assert spaced_slices(40, 3) == [6, 20, 33]
    assert spaced_slices(7, 1) == [3]
    assert spaced_slices(2, 3) == [0, 1]
    assert spaced_slices(3, 3) == [0, 1, 2]
    pooled = pool_slices(torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [-1.0, 0.0]]]))
    assert torch.allclose(pooled, torch.tensor([[math.sqrt(0.5)] * 2, [0.0, 0.0]]))


@each_case
def test_a_plain_head_is_the_unets_and_sees_no_text(kwargs: dict[str, Any], size: tuple[int, ...]) -> None:
    plain, net = build(kwargs, PLAIN), build({**kwargs, "plain_head": True})
    net.load_state_dict(plain.state_dict(), strict=False)
    net.set_text(texts())
    net.zero_cosines()
    x = torch.randn(2, 1, *size)
    assert equal(net(x, guidance()), plain(x))
    assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"encoder", "decoder", "fusion"}
    nn.init.normal_(net.fusion.modulation.weight)
    outputs = net(x, guidance())
    assert not equal(outputs, plain(x))
    net.set_text(unit(3, DIM, seed=9))
    assert equal(net(x, guidance()), outputs)
    own = net.fusion.compute_conv_feature_map_size(net.encoder(x)[-1].shape[2:])
    assert net.compute_conv_feature_map_size(size) == plain.compute_conv_feature_map_size(size) + own


def test_no_image_gives_zeros_and_asks_no_encoder() -> None:
    kwargs, size = CASES["2d"]
    net = ready(kwargs)
    x = torch.randn(2, 1, *size)
    net.use_image = False
    blind = net(x, guidance())
    assert equal(net(x), blind)
    net.use_image = True
    assert equal(net(x, torch.zeros(2, DIM)), blind)
    assert not equal(net(x, guidance()), blind)


def test_encoder_is_no_part_of_the_network() -> None:
    net = ready(CASES["2d"][0])
    names = [name for name, _ in net.named_parameters()]
    keys, modules, size = list(net.state_dict()), len(list(net.modules())), saved_bytes(net)
    encoder = FakeEncoder()
    net.attach_encoder(encoder, SHA)
    assert [name for name, _ in net.named_parameters()] == names
    assert list(net.state_dict()) == keys
    assert len(list(net.modules())) == modules
    assert saved_bytes(net) == size
    assert bytes(net.state_dict()["encoder_sha256"].tolist()).hex() == SHA
    assert net.double().half().float().encoder_sha256.dtype == torch.uint8
    assert next(encoder.parameters()).dtype == torch.float32  # what moves the network leaves the encoder alone


def test_copies_share_the_encoder_and_pickles_lack_it() -> None:
    kwargs, size = CASES["2d"]
    net = ready(kwargs)
    encoder = FakeEncoder()
    net.attach_encoder(encoder, SHA)
    x = torch.randn(2, 1, *size)
    twin = copy.deepcopy(net)
    calls = len(encoder.seen)
    assert equal(twin(x), net(x))
    assert len(encoder.seen) == calls + 2
    for copied in (pickle.loads(pickle.dumps(net)), _through_torch_save(net)):
        assert equal(copied(x, guidance()), net(x, guidance()))
        with pytest.raises(ValueError, match="attach_encoder"):
            copied(x)
    huge = FakeEncoder()
    huge.weights = nn.Parameter(torch.zeros(1000, 1000))
    net.attach_encoder(huge, SHA)
    assert len(pickle.dumps(net)) < 1_000_000


def _through_torch_save(net: CLIPGuidedUNet) -> CLIPGuidedUNet:
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def test_weights_of_another_encoder_are_refused_before_anything_is_loaded() -> None:
    kwargs = CASES["2d"][0]
    trained = ready(kwargs)
    trained.attach_encoder(FakeEncoder(), OTHER_SHA)
    net = ready(kwargs)
    net.attach_encoder(FakeEncoder(), SHA)
    nn.init.normal_(net.logit_scale)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for strict in (True, False):
        with pytest.raises(ValueError) as caught:
            net.load_state_dict(trained.state_dict(), strict=strict)
        message = str(caught.value)
        assert all(word in message for word in (SHA[:12], OTHER_SHA[:12], "mini", "HIPPO_CLIP_MODEL"))
        assert "\n" not in message
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    with pytest.raises(ValueError, match="were trained with"):
        trained.attach_encoder(FakeEncoder(), SHA)  # the other way round
    trained.attach_encoder(FakeEncoder(), OTHER_SHA.upper())


def test_a_network_without_encoder_takes_the_hash_of_its_checkpoint() -> None:
    kwargs = CASES["2d"][0]
    trained, net = ready(kwargs), build(kwargs)
    trained.attach_encoder(FakeEncoder(), SHA)
    net.load_state_dict(trained.state_dict())
    with pytest.raises(ValueError, match=OTHER_SHA[:12]):
        net.attach_encoder(FakeEncoder(), OTHER_SHA)
    net.attach_encoder(FakeEncoder(), SHA)


def test_a_checkpoint_without_hash_is_refused_only_where_an_encoder_is_attached() -> None:
    kwargs = CASES["2d"][0]
    planned = ready(kwargs).state_dict()
    build(kwargs).load_state_dict(planned)
    net = build(kwargs)
    net.attach_encoder(FakeEncoder(), SHA)
    with pytest.raises(ValueError, match="names no CLIP encoder"):
        net.load_state_dict(planned)


@pytest.mark.parametrize("sha", ["", "ab" * 31, "xy" * 32])
def test_what_is_no_hash_is_refused(sha: str) -> None:
    with pytest.raises(ValueError, match="64 hexadecimal"):
        build(CASES["2d"][0]).attach_encoder(FakeEncoder(), sha)


def test_text_is_checked() -> None:
    kwargs, size = CASES["2d"]
    net = build(kwargs)
    x = torch.randn(1, 1, *size)
    with pytest.raises(ValueError, match="set_text"):
        net(x, guidance(1))
    with pytest.raises(ValueError, match=r"\(3, 8\).*\(2, 8\)"):
        net.set_text(texts()[:2])
    with pytest.raises(ValueError, match="unit norm"):
        net.set_text(2 * texts())
    net.set_text(texts())
    before = net(x, guidance(1))
    with net.prompted(texts().roll(1, 0)):
        assert torch.allclose(net(x, guidance(1))[0], before[0].roll(1, 1), atol=1e-4)
    assert equal(net(x, guidance(1)), before)
    with pytest.raises(ValueError, match="unit norm"), net.prompted(2 * texts()):
        pass
    with pytest.raises(ValueError, match=r"\(1, 8\).*\(2, 8\)"):
        net(x, guidance(2))


def test_zero_cosines_make_all_classes_equal_until_the_text_is_learned() -> None:
    kwargs, size = CASES["2d"]
    net = ready(kwargs)
    x = torch.randn(2, 1, *size)
    net.zero_cosines()
    assert all(out.abs().max() < 1e-3 for out in net(x, guidance()))
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        sum(F.cross_entropy(out, (out[:, 0] * 0).long()) for out in net(x, guidance())).backward()
        optimizer.step()
    assert all(out[:, 0].mean() > out[:, 1:].mean() for out in net(x, guidance()))
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_gradient_reaches_every_new_parameter() -> None:
    kwargs, size = CASES["3d"]
    net = ready(kwargs)
    sum(out.square().mean() for out in net(torch.randn(2, 1, *size), guidance())).backward()
    for name, parameter in net.named_parameters():
        if name.startswith(("fusion", "decoder.seg_layers", "logit_scale")):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("start", [20.0, MAX_SCALE])
def test_temperature_learns_and_has_a_ceiling(start: float) -> None:
    net = build({**CASES["2d"][0], "initial_scale": start})
    assert net.temperature.item() == pytest.approx(start)
    optimizer = torch.optim.SGD([net.logit_scale], 0.02)

    def learn(sign: float) -> float:
        for _ in range(5):
            optimizer.zero_grad()
            (sign * net.temperature / start).backward()
            optimizer.step()
        return net.temperature.item()

    assert learn(1.0) < 0.95 * start
    low = learn(1.0)
    assert learn(-1.0) > low
    for _ in range(10):
        assert learn(-1.0) <= MAX_SCALE
    if start == MAX_SCALE:
        assert net.logit_scale.item() < math.log(MAX_SCALE) + 0.03  # not carried off above the ceiling
        assert learn(1.0) < 0.99 * MAX_SCALE  # and back at once


def test_similarity_maps_are_the_cosines_of_forward() -> None:
    kwargs, size = CASES["2d"]
    net = ready({**kwargs, "initial_scale": 25.0})
    x = torch.randn(2, 1, *size)
    maps = net.similarity_maps(x, guidance())
    assert maps.shape == (2, 3, *size)
    assert maps.abs().max() <= 1
    assert torch.allclose(25 * maps, net(x, guidance())[0], atol=1e-4)
    with net.guided(guidance()):
        assert torch.equal(net.similarity_maps(x), maps)


@each_case
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_feature_map_size_counts_projection_fusion_and_heads(
    kwargs: dict[str, Any], size: tuple[int, ...], deep_supervision: bool
) -> None:
    plain, net = build(kwargs, PLAIN, deep_supervision), ready(kwargs, deep_supervision=deep_supervision)
    norms = sum(math.prod(out.shape[2:]) for out in as_list(net(torch.zeros(1, 1, *size), guidance(1))))
    bottleneck = net.encoder(torch.zeros(1, 1, *size))[-1].numel()
    fusion = net.fusion.hidden.out_features + 2 * 6 + bottleneck
    expected = plain.compute_conv_feature_map_size(size) + norms + fusion
    assert net.compute_conv_feature_map_size(size) == expected


@pytest.mark.parametrize("embed_dim", [64, 512])
@pytest.mark.parametrize("features", [[32, 64, 128, 256], [16, 32, 64, 128]])
def test_checkpoint_is_hardly_larger_than_the_plain_unets(features: list[int], embed_dim: int) -> None:
    """nnU-Net's and the compact 2D plans for Task04, with the bundled encoder and with ViT-B-32."""
    kwargs = plan_kwargs([[1, 1], [2, 2], [2, 2], [2, 2]], features_per_stage=features)
    plain = saved_bytes(build(kwargs, PLAIN))
    assert saved_bytes(build({**kwargs, "embed_dim": embed_dim})) < 1.1 * plain


def test_text_that_was_not_trained_counts_by_its_part_in_the_heads_basis() -> None:
    """A head sees a text through its first coordinates; in the full space the same weights score it the same."""
    kwargs, size = CASES["2d"]
    net = ready({**kwargs, "embed_dim": 40}, text=unit(3, 40)).eval()
    head = net.decoder.seg_layers[-1]
    assert head.rows < 40
    other = unit(3, 40, seed=7)
    basis = text_coordinates(torch.eye(40), 40, net.text_embeddings)
    full = CosineHead(head.in_channels, 40)
    full.load_state_dict({"weight": basis[:, : head.rows] @ head.weight, "bias": basis[:, : head.rows] @ head.bias})
    seen: list[torch.Tensor] = []
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad(), net.prompted(other):
        maps = net.similarity_maps(torch.randn(2, 1, *size), unit(2, 40))
        torch.testing.assert_close(maps, full(seen[0], other, torch.ones(())), atol=1e-5, rtol=0)


def test_initialize_restores_the_start() -> None:
    net = ready(CASES["2d"][0])
    nn.init.zeros_(net.decoder.seg_layers[0].weight)
    net.apply(net.initialize)
    assert net.fusion.modulation.weight.abs().sum() == 0
    assert net.decoder.seg_layers[0].weight.abs().sum() > 0


def test_pretraining_keys_exist() -> None:
    check_submodules(build(CASES["2d"][0]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_blocks_per_stage": [1, 2, 2]}, ["n_blocks_per_stage", "CLIPGuidedUNetPlanner"]),
        ({"strides": [[1, 1], [2, 2]]}, ["strides", "3 entries", "got 2", "CLIPGuidedUNetPlanner"]),
        ({"embed_dim": 0}, ["embed_dim", "at least 1"]),
        ({"guidance_slices": 0}, ["guidance_slices", "at least 1"]),
        ({"initial_scale": 101.0}, ["initial_scale", "100", "101"]),
        ({"initial_scale": 0.0}, ["initial_scale", "above 0"]),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        build({**CASES["2d"][0], **changes})
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
