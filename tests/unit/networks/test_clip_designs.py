"""Dense guidance and heads from text: U-Nets at the start, tokens at their places, text whose meaning matters."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from network_plans import PLAIN, build_network, plan_kwargs
from torch.nn import functional as F

from hippo_nnunet.clip.preprocessing import _square
from hippo_nnunet.clip.text import control_embeddings
from hippo_nnunet.networks.guidance import SliceView
from hippo_nnunet.networks.text_head import TextHeadCLIPGuidedUNet, generated_logits
from hippo_nnunet.networks.token_maps import (
    cell_positions,
    moved_positions,
    sample_tokens,
    token_directions,
    token_features,
)

SEED = "hippo_nnunet.networks.clip_guided_unet.CLIPGuidedUNet"
DENSE = "hippo_nnunet.networks.dense_guidance.DenseCLIPGuidedUNet"
TEXT_HEAD = "hippo_nnunet.networks.text_head.TextHeadCLIPGuidedUNet"
DIM, SHA = 8, "ab" * 32
PLANS = {
    "2d": (plan_kwargs([[1, 1], [2, 2], [2, 2], [2, 2]]), (16, 24)),
    "3d": (plan_kwargs([[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]]), (4, 16, 24)),
}
each_plan = pytest.mark.parametrize(("kwargs", "size"), PLANS.values(), ids=PLANS)
each_design = pytest.mark.parametrize("design", [DENSE, TEXT_HEAD])


def unit(*shape: int, seed: int = 3) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, DIM, generator=torch.Generator().manual_seed(seed)), dim=-1)


def encoder_of(design: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Embeddings or 4x4 tokens that depend on the slice."""

    def encode(slices: torch.Tensor) -> torch.Tensor:
        cells = F.adaptive_avg_pool2d(slices, 4 if design == DENSE else 1)
        return F.normalize(torch.cat([(k + 1) * cells + 0.1 * k for k in range(DIM)], 1).sin(), dim=1).squeeze((2, 3))

    return encode


def ready(design: str, kwargs: dict[str, Any], moved: bool = True, **options: Any) -> Any:
    """A network with text and encoder; unless told otherwise, its parameters are not those of the start."""
    torch.manual_seed(0)
    net = build_network(design, {"embed_dim": DIM, **kwargs}, **options)
    net.set_text(unit(3))
    net.image_mean.copy_(0.1 * unit())
    net.attach_encoder(encoder_of(design), SHA)
    if moved:
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return net.eval()


def first(outputs: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


@each_plan
@each_design
def test_weights_load_strictly_and_hold_no_encoder(design: str, kwargs: dict[str, Any], size: tuple[int, ...]) -> None:
    trained = ready(design, kwargs)
    x = torch.randn(2, 1, *size)
    outputs = trained(x)
    assert [out.shape[2:] for out in outputs] == [out.shape[2:] for out in build_network(PLAIN, kwargs)(x)]
    assert all(out.shape[:2] == (2, 3) and out.isfinite().all() for out in outputs)
    inference = build_network(design, {"embed_dim": DIM, **kwargs}, deep_supervision=False)
    inference.load_state_dict(trained.state_dict(), strict=True)
    guidance = trained.encode(x)
    assert guidance.shape == (2, *trained.guidance_shape(size))
    assert torch.equal(inference(x, guidance), outputs[0])
    assert "image_encoder" not in " ".join(trained.state_dict())
    with pytest.raises(ValueError, match="attach_encoder"):
        inference(x)
    with pytest.raises(ValueError, match="needs guidance of shape"):
        inference(x, guidance[:1])
    counted = build_network(PLAIN, kwargs).compute_conv_feature_map_size(size)
    assert inference.compute_conv_feature_map_size(size) > counted


@each_plan
def test_dense_guidance_with_plain_heads_starts_as_the_plain_unet(
    kwargs: dict[str, Any], size: tuple[int, ...]
) -> None:
    plain = build_network(PLAIN, kwargs).eval()
    net = ready(DENSE, {**kwargs, "plain_head": True}, moved=False)
    missing, unexpected = net.load_state_dict(plain.state_dict(), strict=False)
    assert unexpected == []
    assert not any(key.startswith(("encoder.", "decoder.")) for key in missing)
    x = torch.randn(1, 1, *size)
    assert all(map(torch.equal, net(x), plain(x)))
    with torch.no_grad():
        net.text_share.fill_(0.5)
    maps = 0.5 * net.centred_guidance(net.encode(x))[:, :3]
    mode = "bilinear" if len(size) == 2 else "trilinear"
    for ours, theirs in zip(net(x)[:-1], plain(x)[:-1], strict=True):  # the last one is as coarse as the maps
        torch.testing.assert_close(ours - theirs, F.interpolate(maps, size=theirs.shape[2:], mode=mode))
    torch.testing.assert_close(net(x)[-1] - plain(x)[-1], maps)


@each_design
def test_without_image_nothing_of_it_is_seen(design: str) -> None:
    kwargs, size = PLANS["2d"]
    net = ready(design, kwargs, deep_supervision=False)
    x = torch.randn(2, 1, *size)
    seeing = net(x)
    net.use_image = False
    blind = net(x, net.encode(x))
    assert torch.equal(blind, net(x))
    assert not torch.allclose(blind, seeing)


@each_design
def test_other_text_gives_other_output_inside_the_block_only(design: str) -> None:
    kwargs, size = PLANS["2d"]
    net = ready(design, kwargs, deep_supervision=False)
    x = torch.randn(2, 1, *size)
    before = net(x)
    with net.prompted(unit(3, seed=9)):
        inside = net(x)
    assert not torch.allclose(inside, before, atol=1e-3)
    assert torch.equal(net(x), before)
    assert net.uses_text


def test_a_text_moves_with_its_head() -> None:
    """Generated heads depend on their own text alone, not on their place."""
    kwargs, size = PLANS["2d"]
    net = ready(TEXT_HEAD, kwargs, deep_supervision=False)
    x = torch.randn(2, 1, *size)
    before = net(x)
    with net.prompted(net.text_embeddings.roll(1, 0).clone()):
        rolled = net(x)
    torch.testing.assert_close(rolled, before.roll(1, 1))
    assert not torch.allclose(rolled, before, atol=1e-3)


def test_generated_convolutions_by_hand() -> None:
    heads, features = torch.randn(2, 3, 153), torch.randn(2, 8, 5, 4)
    logits = generated_logits(features, heads)
    for sample in range(2):
        for label in range(3):
            one, two, three, *biases = heads[sample, label].split([64, 64, 8, 8, 8, 1])
            x = features[sample : sample + 1]
            x = F.leaky_relu(F.conv2d(x, one.view(8, 8, 1, 1), biases[0]))
            x = F.leaky_relu(F.conv2d(x, two.view(8, 8, 1, 1), biases[1]))
            x = F.conv2d(x, three.view(1, 8, 1, 1), biases[2])
            torch.testing.assert_close(logits[sample, label], x[0, 0], rtol=1e-4, atol=1e-4)


def test_a_prompt_holds_inside_its_block_whatever_the_mode() -> None:
    net = ready(TEXT_HEAD, PLANS["2d"][0])
    own, other = net.text_coordinates.clone(), unit(3, seed=5)
    with net.prompted(other):
        net.eval()
        assert torch.equal(net.text_coordinates, net.centred_text(other))
    assert torch.equal(net.text_coordinates, own)


def test_texts_of_regions_are_centred_for_generated_heads() -> None:
    net = ready(TEXT_HEAD, PLANS["2d"][0])
    net.set_text(unit(3), exclusive=False)
    torch.testing.assert_close(net.text_mean, unit(3).mean(0))


def test_generated_heads_start_at_the_scale_of_a_plain_head() -> None:
    torch.manual_seed(0)
    net = ready(TEXT_HEAD, plan_kwargs([[1, 1], [2, 2]], features_per_stage=[32, 64]), moved=False)
    logits = first(net(torch.randn(4, 1, 32, 32)))
    assert 0.1 < logits.std() < 3


@each_plan
@each_design
def test_openvino_computes_the_same_for_any_batch(design: str, kwargs: dict[str, Any], size: tuple[int, ...]) -> None:
    backend = pytest.importorskip("hippo_nnunet.inference.openvino_backend")
    net = ready(design, kwargs, deep_supervision=False)
    x = torch.randn(3, 1, *size)
    with torch.inference_mode():
        guidance = net.encode(x)
        expected = net(x, guidance)
        found = backend.compile_network(net, x[:1], guidance[:1])(x, guidance)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# -- tokens at their places -----------------------------------------------------------------------------------------


def coordinate_maps(slices: int, side: int) -> torch.Tensor:
    """Tokens whose channels are their own slice, row and column, (slices, 3, side, side)."""
    axes = torch.meshgrid(torch.arange(slices), torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack(axes, dim=1).float()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_tokens_are_sampled_where_the_voxels_lie(axis: int) -> None:
    shape = [20, 30, 24]
    plane = [size for other, size in enumerate(shape) if other != axis]
    positions = torch.tensor([[[[3.0, 4.0, 5.0], [11.0, 20.0, 16.0]]], [[[0.0, 0.0, 0.0], [19.0, 29.0, 23.0]]]])
    sampled = sample_tokens(coordinate_maps(shape[axis], 6), plane, positions, axis)
    assert sampled.shape == (3, 2, 1, 2)
    others = [other for other in range(3) if other != axis]
    for place in ((0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)):
        voxel = positions[place]
        assert sampled[(0, *place)] == pytest.approx(float(voxel[axis]), abs=1e-3)
        for channel, (other, size) in enumerate(zip(others, plane, strict=True), 1):
            inside = (float(voxel[other]) + (max(plane) - size) // 2 + 0.5) / max(plane) * 6 - 0.5
            assert sampled[(channel, *place)] == pytest.approx(min(max(inside, 0), 5), abs=1e-3)
    flat = sample_tokens(coordinate_maps(shape[axis], 6), plane, positions[0], axis)
    assert flat[0].tolist() == [[pytest.approx(float(positions[0, 0, 0, axis]), abs=1e-5)] * 2]


@pytest.mark.parametrize("view", [SliceView(*turned) for turned in product((False, True), repeat=3)], ids=str)
def test_tokens_lie_where_they_were_shown_within_half_a_voxel(view: SliceView) -> None:
    """A token for every pixel: slices of 11 x 6 voxels get two or three voxels of padding before."""
    rows, columns = torch.meshgrid(torch.arange(11.0), torch.arange(6.0), indexing="ij")
    maps = view.restore(_square(view.show(torch.stack((rows, columns))[None])))
    positions = torch.tensor([[[0.0, 5.0, 1.0], [0.0, 5.0, 4.0]]])
    sampled = sample_tokens(maps, (11, 6), positions, 0)
    assert (sampled - positions[..., 1:].movedim(-1, 0)).abs().max() <= 0.5


def test_cells_lie_in_the_middle_of_their_voxels() -> None:
    positions = cell_positions((8, 12), (2, 3), None)
    assert positions[..., 0].tolist() == [[1.5] * 3, [5.5] * 3]
    assert positions[..., 1].tolist() == [[1.5, 5.5, 9.5]] * 2
    assert cell_positions((8, 12), (2, 3), 0)[:, 0, 0].tolist() == [2.0, 6.0]


def test_augmented_patches_are_traced_back() -> None:
    """Against the image itself: a ramp of coordinates, cut, turned by a right angle and mirrored."""
    ramp = torch.stack(torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij"))
    corner, size = (4, 7), (6, 6)
    patch = ramp[:, 4:10, 7:13].rot90(1, (1, 2)).flip(2)
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) @ torch.diag(torch.tensor([1.0, -1.0]))
    positions = cell_positions(size, size, None)
    moved = moved_positions(positions, size, torch.tensor([corner]), turn[None])
    torch.testing.assert_close(moved[0].movedim(-1, 0), patch)


@each_plan
def test_live_maps_are_those_of_the_whole_image_where_the_patch_is_the_image(
    kwargs: dict[str, Any], size: tuple[int, ...]
) -> None:
    net = ready(DENSE, kwargs)
    x = torch.randn(1, 1, *size)
    axis = 0
    slices = x[0].movedim(1, 0) if len(size) == 3 else x
    maps = net.token_features(net.image_encoder.encode(slices))
    positions = cell_positions(size, net.guidance_shape(size)[1:], axis if len(size) == 3 else None)
    if len(size) == 2:
        positions = F.pad(positions, (1, 0))
    torch.testing.assert_close(sample_tokens(maps, size[-2:], positions, axis), net.encode(x)[0])


def test_large_patches_have_maps_of_a_bounded_size() -> None:
    net = ready(DENSE, plan_kwargs([[1, 1], [2, 2], [2, 2], [2, 2]]), deep_supervision=False)
    assert net.guidance_shape((128, 104)) == (11, 32, 26)
    assert net.guidance_shape((520, 64)) == (11, 17, 2)
    x = torch.randn(1, 1, 160, 64)
    assert net.guidance_shape((160, 64)) == (11, 20, 8)
    assert net(x).shape == (1, 3, 160, 64)


def test_mirrored_patches_have_mirrored_maps() -> None:
    kwargs, size = PLANS["3d"]
    net = ready(DENSE, kwargs)
    x = torch.randn(1, 1, *size)
    for axes in ((3,), (4,), (3, 4)):
        torch.testing.assert_close(net.encode(x.flip(axes)), net.encode(x).flip(axes), atol=1e-5, rtol=1e-4)


def test_directions_are_the_texts_and_a_fixed_basis() -> None:
    directions = token_directions(unit(3))
    assert torch.equal(directions[:3], unit(3))
    torch.testing.assert_close(directions[3:] @ directions[3:].T, torch.eye(DIM), atol=1e-6, rtol=0)
    assert torch.equal(token_directions(unit(2, seed=5))[2:], directions[3:])
    wide = token_directions(F.normalize(torch.ones(2, 512), dim=1))
    assert len(wide) == 2 + 32
    tokens = unit(5, 2, 2).permute(0, 3, 1, 2)
    assert token_features(tokens, directions)[4, 1, 0, 1] == pytest.approx(
        DIM**0.5 * float(unit(3)[1] @ unit(5, 2, 2)[4, 0, 1]), abs=1e-5
    )


# -- meaning --------------------------------------------------------------------------------------------------------


def losses(net: Any, batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], rate: float) -> torch.Tensor:
    optimiser = torch.optim.SGD(net.train().parameters(), rate, momentum=0.9)
    values = []
    for x, guidance, target in batches:
        loss = F.cross_entropy(first(net(x, guidance)), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.detach())
    return torch.stack(values)


def started(design: str, text: torch.Tensor, images: torch.Tensor, **options: Any) -> Any:
    torch.manual_seed(0)
    kwargs = plan_kwargs([[1, 1], [2, 2], [2, 2]], features_per_stage=[4, 8, 8])
    net = build_network(design, {"embed_dim": DIM, **kwargs, **options}, deep_supervision=False)
    net.set_text(text)
    net.set_images(images)
    return net


@pytest.fixture(scope="module")
def rotation() -> torch.Tensor:
    """Return what `rotatedText` does to any text, as a matrix."""
    return control_embeddings(torch.eye(DIM), "rotatedText", 1)


def test_a_rotation_of_the_text_changes_nothing_in_the_first_design(rotation: torch.Tensor) -> None:
    """Its heads see the rotated texts' coordinates with other signs, which the start of their weights can absorb."""
    text = unit(3)
    batches = [batch_of_blobs(step, text) for step in range(20)]
    images = torch.cat([guidance for _, guidance, _ in batches])
    original, turned = (started(SEED, t, images) for t in (text, text @ rotation))
    signs = (original.text_coordinates * turned.text_coordinates).sum(0).sign()
    signs[signs == 0] = 1
    torch.testing.assert_close(turned.text_coordinates * signs, original.text_coordinates, atol=1e-5, rtol=0)
    original.start_heads()
    with torch.no_grad():
        for head, same in zip(turned.decoder.seg_layers, original.decoder.seg_layers, strict=True):
            head.weight.copy_(same.weight * signs[: head.rows, None])
            head.bias.copy_(same.bias * signs[: head.rows])
    plain, rotated = (losses(net, batches, 0.02) for net in (original, turned))
    assert (plain - rotated).abs().max() < 2e-4
    assert plain[-5:].mean() < 0.8 * plain[0]


def test_dense_guidance_learns_faster_from_text_that_means_what_the_tokens_show(rotation: torch.Tensor) -> None:
    text = unit(3)
    batches = [batch_of_cells(step, text) for step in range(40)]

    def train(design_text: torch.Tensor) -> torch.Tensor:
        net = started(DENSE, design_text, torch.cat([tokens for _, tokens, _ in batches]), plain_head=True)
        shown = [(x, net.token_features(tokens), target) for x, tokens, target in batches]
        return losses(net, shown, 0.02)

    plain, rotated, shuffled = train(text), train(text @ rotation), train(text.roll(1, 0))
    ends = [float(curve[-10:].mean()) for curve in (plain, rotated, shuffled)]
    assert ends[0] < 0.8 * min(ends[1:]), ends


@pytest.mark.parametrize("control", [None, "rotatedText"])
def test_what_texts_say_of_the_trainings_images_has_a_variance_of_one(control: str | None) -> None:
    """Random texts are as easy to learn from as the classes' own, along which images vary more."""
    text = unit(3)
    shown = control_embeddings(text, control, 1)
    tokens = F.normalize(0.3 * unit(40, 4, 4, seed=1) + text.roll(1, 0)[torch.arange(40) % 3][:, None, None], dim=-1)
    tokens = tokens.movedim(-1, 1)
    net = started(DENSE, shown, tokens)
    maps = net.centred_guidance(net.token_features(tokens))
    for part in (maps[:, :3], maps[:, 3:]):
        assert float(part.square().mean()) == pytest.approx(1, abs=1e-3)
    net.use_image = False
    assert torch.equal(net.centred_guidance(torch.zeros(1, *maps.shape[1:])), torch.zeros(1, *maps.shape[1:]))
    net = started(TEXT_HEAD, shown, tokens.mean((2, 3)))
    agreement = net.centred_guidance(tokens.mean((2, 3))) @ net.text_coordinates.T / net.agreement_deviation
    assert float(agreement.square().mean()) == pytest.approx(1, abs=1e-3)
    again = started(TEXT_HEAD, shown, torch.zeros(2, DIM))
    assert again.agreement_deviation == 1  # of images without agreement
    again.load_state_dict(net.state_dict())
    assert again.agreement_deviation == net.agreement_deviation != 1


def test_text_heads_use_that_text_and_image_share_a_space(rotation: torch.Tensor) -> None:
    """The start of the generator absorbs the rotation, so that without an image nothing is left of it."""
    text = unit(3)
    batches = [batch_of_blobs(step, text) for step in range(20)]
    images = torch.cat([guidance for _, guidance, _ in batches])

    def train(rotate: bool, with_image: bool) -> torch.Tensor:
        net = started(TEXT_HEAD, text @ rotation if rotate else text, images)
        assert isinstance(net, TextHeadCLIPGuidedUNet)
        net.use_image = with_image
        if rotate:
            with torch.no_grad():
                net.generator.embed.weight.copy_(net.generator.embed.weight @ rotation)
        return losses(net, batches, 0.02)

    assert (train(False, False) - train(True, False)).abs().max() < 2e-4
    assert (train(False, True) - train(True, True)).abs().max() > 2e-2


def batch_of_cells(step: int, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise whose labels only the tokens tell: near the text of their class, on a mean as CLIP's."""
    random = torch.Generator().manual_seed(step)
    cells = torch.randint(3, (6, 4, 4), generator=random)
    tokens = text[cells] + 0.3 * torch.randn(6, 4, 4, DIM, generator=random)
    cells = F.interpolate(cells[:, None].float(), scale_factor=4)[:, 0].long()
    maps = F.interpolate(F.normalize(tokens, dim=-1).permute(0, 3, 1, 2), scale_factor=2)
    return torch.randn(6, 1, 16, 16, generator=random), maps, cells


def batch_of_blobs(step: int, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A bright square whose class is told by the image's embedding."""
    random = torch.Generator().manual_seed(step)
    classes = torch.randint(1, 3, (6,), generator=random)
    target = torch.zeros(6, 16, 16, dtype=torch.long)
    target[:, 4:12, 4:12] = classes[:, None, None]
    x = (target > 0).float()[:, None] + 0.3 * torch.randn(6, 1, 16, 16, generator=random)
    return x, F.normalize(text[classes] + 0.1 * torch.randn(6, DIM, generator=random), dim=1), target
