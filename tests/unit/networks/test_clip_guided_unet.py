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

from hippo_nnunet.clip.text import control_embeddings
from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.networks.cosine_head import MAX_SCALE, CosineHead, text_coordinates
from hippo_nnunet.networks.guidance import (
    PLACES,
    pool_slices,
    position_embeddings,
    slicing_axis,
    spaced_slices,
)

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
    own = ("fusion.", "decoder.seg_layers.", "logit_scale", "text_", "image_mean", "encoder_sha256", "slice_view")
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


def test_a_shift_at_the_bottleneck_is_no_checkerboard() -> None:
    """A constant behind the last nonlinearity reaches the decoder as the period of its transposed convolution alone."""
    kwargs = plan_kwargs([[1, 1], [2, 2], [2, 2]], features_per_stage=[16, 16, 16])
    net = ready(kwargs)
    nn.init.zeros_(net.fusion.modulation.weight)
    x = 5 * F.avg_pool2d(torch.randn(4, 1, 64, 64), 5, 1, 2)

    shift = 0.3 * torch.randn(16, generator=torch.Generator().manual_seed(5))

    def features() -> torch.Tensor:
        seen: list[torch.Tensor] = []
        hook = (
            net.decoder.stages[0].convs[0].norm.register_forward_hook(lambda *inputs: seen.append(inputs[-1].clone()))
        )
        with torch.no_grad():
            net(x, guidance(4))
        hook.remove()
        return seen[0]

    def share_of_period_2(change: torch.Tensor) -> float:
        cells = change.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return float(cells.mean((2, 4)).square().mean() / change.square().mean())

    unchanged = features()
    last = net.encoder.stages[-1][-1].convs[-1]
    hook = last.register_forward_hook(lambda *inputs: inputs[-1] + shift[:, None, None])
    before = share_of_period_2(features() - unchanged)
    hook.remove()
    with torch.no_grad():
        net.fusion.modulation.bias[16:] = shift
    now = share_of_period_2(features() - unchanged)
    assert before > 0.75
    assert now < 0.05


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
    by_other, by_third = net(x, other), net(x, third)
    assert not equal(by_other, by_third)
    assert not equal(by_other, encoded)
    with net.guided(other):
        assert equal(net(x), by_other)
        assert equal(net(x, third), by_third)
        with pytest.raises(RuntimeError, match="inside"), net.guided(third):
            assert equal(net(x), by_third)
            raise RuntimeError("inside")
        assert equal(net(x), by_other)
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
    net.start_heads()
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


def test_means_are_subtracted_from_texts_and_guidance() -> None:
    """Only what distinguishes classes, and images, counts."""
    kwargs, size = CASES["2d"]
    net = ready(kwargs)
    x = torch.randn(2, 1, *size)
    common = unit(1, DIM, seed=8)
    alike = F.normalize(texts() + 3 * common, dim=1)  # cosines of 0.9, as those of CLIP's texts
    net.set_text(alike)
    centred = F.normalize(alike - alike.mean(0), dim=1)
    torch.testing.assert_close(net.text_coordinates @ net.text_coordinates.T, centred @ centred.T)
    other = unit(3, DIM, seed=9)
    with net.prompted(other):  # by the training's mean
        moved = F.normalize(other - alike.mean(0), dim=1)
        torch.testing.assert_close(net.text_coordinates, text_coordinates(moved, net.text_coordinates.shape[1], alike))
    plain = net(x, guidance())
    net.set_images(0.5 * common)
    assert not equal(net(x, guidance()), plain)
    shifted = F.normalize(guidance() - 0.5 * common, dim=1)
    expected = net(x, guidance())
    net.set_images(torch.zeros(1, DIM))
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(net(x, shifted), expected, strict=True))
    net.use_image = False
    assert equal(net(x), net(x, guidance()))


@pytest.mark.parametrize("case", ["one class", "equal texts", "regions"])
def test_texts_of_which_nothing_would_remain_keep_their_mean(case: str) -> None:
    kwargs, size = CASES["2d"]
    text = {"one class": texts()[:1], "equal texts": texts()[:1].expand(3, -1), "regions": texts()}[case]
    net = build_network(NETWORK, {"embed_dim": DIM, **kwargs}, False, len(text))
    net.set_text(text, exclusive=case != "regions")
    assert not net.text_mean.any()
    assert net(torch.randn(1, 1, *size), guidance(1)).isfinite().all()


def test_a_rotation_of_the_texts_changes_no_training() -> None:
    """Why this design cannot show that the texts' meaning helps: only their cosines count."""
    kwargs, size = CASES["2d"]
    x, target = torch.randn(4, 1, *size), torch.randint(3, (4, *size))
    losses = []
    for control in (None, "rotatedText", "shuffledText"):
        torch.manual_seed(0)
        net = build({**kwargs, "embed_dim": 24}, deep_supervision=False)
        net.set_text(control_embeddings(F.normalize(unit(3, 24) + 0.4, dim=1), control, 0))
        net.start_heads()
        optimizer = torch.optim.AdamW(net.parameters(), 0.01)
        losses.append([])
        for _ in range(20):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x, unit(4, 24)), target)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    own, rotated, shuffled = map(torch.tensor, losses)
    assert own[-1] < own[0] - 0.02
    torch.testing.assert_close(rotated, own, atol=2e-3, rtol=0)
    assert (shuffled - own).abs().max() > 0.01


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


def test_stand_ins_depend_on_the_position_and_come_with_the_weights() -> None:
    kwargs, size = CASES["2d"]
    net = ready({**kwargs, "stand_ins": 2})
    net.attach_encoder(FakeEncoder(), SHA)
    images = [unit(40, DIM, seed=1), unit(8, DIM, seed=2), unit(9, DIM, seed=3)]
    net.set_stand_ins(images)
    assert torch.equal(net.stand_in_embeddings(2), images[0][[10, 30]])  # an even number: the first image
    assert torch.equal(net.stand_in_embeddings(3), images[1][[1, 4, 6]])
    assert torch.equal(net.stand_in_embeddings(400)[[0, -1]], images[0][[0, -1]])
    with pytest.raises(ValueError, match="predict with 'hippo-nnunet predict'"):
        net(torch.randn(1, 1, *size))  # of which neither the position is known
    loaded = build({**kwargs, "stand_ins": 2})
    loaded.load_state_dict(net.state_dict())
    assert torch.equal(loaded.stand_in_embeddings(5), net.stand_in_embeddings(5))
    counts = [sum(p.numel() for p in net.parameters()) for net in (loaded, build(kwargs))]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("dim", [2, 8, 512])
def test_positions_are_unit_vectors_that_tell_slices_apart(dim: int) -> None:
    positions = position_embeddings(dim, seed=1)
    assert positions.shape == (PLACES, dim)
    torch.testing.assert_close(positions.norm(dim=1), torch.ones(PLACES))
    cosines = positions @ positions.T
    assert (cosines - torch.eye(PLACES)).max() < 0.998
    assert (cosines.diagonal(1) > 0.8).all()  # neighbours are near each other
    other = position_embeddings(dim, seed=2)
    torch.testing.assert_close(other @ other.T, cosines)
    assert not torch.allclose(other, positions, atol=0.05)


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


@pytest.mark.parametrize("alike", [0.0, 3.0])
@pytest.mark.parametrize("scale", [14.0, 100.0])
def test_heads_start_as_convolutions_do_whatever_texts_and_temperature(alike: float, scale: float) -> None:
    """Features get a gradient from the first step: from zero, a short training did not learn every class."""
    kwargs = plan_kwargs([[1, 1], [2, 2], [2, 2]], features_per_stage=[16, 32, 32])
    plain = build(kwargs, PLAIN)
    net = ready({**kwargs, "embed_dim": 512, "initial_scale": scale}, F.normalize(unit(3, 512) + alike * unit(1, 512)))
    net.start_heads()
    x = torch.randn(4, 1, 32, 32)
    for ours, theirs in zip(net(x, unit(4, 512)), plain(x), strict=True):
        assert 0.5 < ours.std() / theirs.std() < 2
    sum(F.cross_entropy(out, (out[:, 0] * 0).long()) for out in net(x, unit(4, 512))).backward()
    sum(F.cross_entropy(out, (out[:, 0] * 0).long()) for out in plain(x)).backward()
    ours, theirs = (n.decoder.stages[-1].convs[-1].conv.weight.grad.norm() for n in (net, plain))
    assert 0.4 < ours / theirs < 2.5


def test_the_texts_are_learned() -> None:
    kwargs, size = CASES["2d"]
    net = ready(kwargs)
    x = torch.randn(2, 1, *size)
    net.start_heads()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for _ in range(6):
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
    outputs, heads = as_list(net(torch.zeros(1, 1, *size), guidance(1))), net.decoder.seg_layers[::-1]
    embeddings = sum(
        (head.rows + 1 + head.in_channels) * math.prod(o.shape[2:]) for o, head in zip(outputs, heads, strict=False)
    )
    bottleneck = net.encoder(torch.zeros(1, 1, *size))[-1].numel()
    fusion = net.fusion.hidden.out_features + 2 * 6 + bottleneck
    expected = plain.compute_conv_feature_map_size(size) + embeddings + fusion
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
        centred = F.normalize(other - net.text_mean, dim=1)
        torch.testing.assert_close(maps, full(seen[0], centred, torch.ones(())), atol=1e-5, rtol=0)


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
        ({"initial_scale": 101.0}, ["initial_scale", "100", "101"]),
        ({"initial_scale": 0.0}, ["initial_scale", "above 0"]),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        build({**CASES["2d"][0], **changes})
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)
