"""Patches of many images in one batch give each image what it would get alone, and what nnU-Net would give it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn

from hippo_nnunet import threads
from hippo_nnunet.errors import DataError
from hippo_nnunet.inference import batched_predictor
from hippo_nnunet.inference.batched_predictor import BatchedPredictor
from hippo_nnunet.inference.overlap import in_background
from hippo_nnunet.inference.sliding_window import OpenImage, PreprocessedImage
from hippo_nnunet.inference.windows import windows
from hippo_nnunet.networks.guidance import SliceView
from hippo_nnunet.threads import AdaptiveThreads

CPU = torch.device("cpu")
HEADS = 2


class Plans:
    def get_label_manager(self, dataset_json: dict) -> Any:
        return SimpleNamespace(num_segmentation_heads=HEADS)


def predictor_of(
    networks: list[nn.Module],
    patch_size: tuple[int, ...],
    axes: tuple[int, ...] | None = None,
    trainer_name: str = "UNetTrainer",
) -> BatchedPredictor:
    made = BatchedPredictor(CPU, backend="torch")
    configuration: Any = SimpleNamespace(patch_size=list(patch_size))
    made.manual_initialization(networks[0], Plans(), configuration, None, {}, trainer_name, axes)  # type: ignore[arg-type]
    made.networks = networks
    return made


def conv(patch_size: tuple[int, ...], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    flat = len(patch_size) == 2
    return (nn.Conv2d if flat else nn.Conv3d)(1, HEADS, 3, padding=1).eval()


def images(count: int) -> list[PreprocessedImage]:
    """Images of different sizes, some smaller than the patch."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 5 + i, 6 + 3 * (i % 3), 9 + 2 * (i % 2)) for i in range(count)]
    return [PreprocessedImage(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("patch_size", [(8, 6), (4, 8, 6)])
@pytest.mark.parametrize("shape", [(9, 16, 13), (4, 8, 6), (5, 33, 7)])
def test_windows_are_nnunets(patch_size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    stock = nnUNetPredictor(device=CPU, allow_tqdm=False)
    stock.configuration_manager = SimpleNamespace(patch_size=patch_size)
    assert windows(shape, patch_size) == stock._internal_get_sliding_window_slicers(shape)


@pytest.mark.parametrize("patch_size", [(14, 8), (9, 8, 8)])
def test_an_image_is_put_together_again(patch_size: tuple[int, ...]) -> None:
    image = images(2)[1].voxels
    opened = OpenImage(image, patch_size, 1, torch.rand(patch_size) + 0.1)
    for window in opened.windows:
        assert opened.waiting
        opened.add(window, opened.patch(window))
    assert not opened.waiting
    torch.testing.assert_close(opened.logits(), image)
    below = [max(0, n - size) // 2 for n, size in zip((0, *patch_size)[-3:], image.shape[1:], strict=True)]
    assert opened.padding == below


@pytest.mark.parametrize("patch_size", [(8, 8), (4, 8, 8)])
@pytest.mark.parametrize("axes", [None, (0, 1)])
def test_a_batch_of_several_images(
    patch_size: tuple[int, ...], axes: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven patches a batch: batches cut through images, and images span batches."""
    monkeypatch.setitem(batched_predictor.VOXELS_PER_BATCH, "cpu", 7 * torch.Size(patch_size).numel())
    networks = [conv(patch_size, seed) for seed in range(3)]
    together = list(predictor_of(networks, patch_size, axes).predict_images(images(6)))
    assert len(together) == 6
    for image, logits in zip(images(6), together, strict=True):
        assert logits.shape == (HEADS, *image.voxels.shape[1:])
        folds = [nnunets_logits(network, patch_size, axes, image.voxels) for network in networks]
        torch.testing.assert_close(logits, torch.stack(folds).mean(0), atol=1e-5, rtol=1e-5)


def nnunets_logits(
    network: nn.Module, patch_size: tuple[int, ...], axes: tuple[int, ...] | None, image: torch.Tensor
) -> torch.Tensor:
    """What nnU-Net's predictor gives when it sums in single precision."""
    stock = nnUNetPredictor(device=CPU, allow_tqdm=False)
    stock.network, stock.allowed_mirroring_axes = network, axes
    stock.configuration_manager = SimpleNamespace(patch_size=patch_size)
    stock.label_manager = SimpleNamespace(num_segmentation_heads=HEADS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "half", torch.float32)
        return stock.predict_sliding_window_return_logits(image)


def test_mirroring_can_be_left_out() -> None:
    made = predictor_of([conv((8, 8), 0)], (8, 8), (0, 1))
    made.use_mirroring = False
    (image,) = images(1)
    plain = nnunets_logits(made.networks[0], (8, 8), None, image.voxels)
    torch.testing.assert_close(made.predict_image(image), plain, atol=1e-5, rtol=1e-5)


def test_images_are_taken_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(batched_predictor.VOXELS_PER_BATCH, "cpu", 64)
    taken = []

    def source() -> Iterator[PreprocessedImage]:
        for image in images(4):
            taken.append(image)
            yield image

    predicted = predictor_of([conv((8, 8), 0)], (8, 8)).predict_images(source())
    next(predicted)
    assert len(taken) == 1


class Crowded(nn.Conv2d):
    """A network that fails as on a GPU whose memory is too small."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError
        return super().forward(x)


def test_a_batch_that_does_not_fit_is_halved(caplog: pytest.LogCaptureFixture) -> None:
    network = Crowded(1, HEADS, 3, padding=1).eval()
    (image,) = images(1)
    logits = predictor_of([network], (8, 8)).predict_image(image)
    torch.testing.assert_close(logits, nnunets_logits(network, (8, 8), None, image.voxels), atol=1e-5, rtol=1e-5)
    assert "do not fit" in caplog.text


def test_memory_bounds_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    made = predictor_of([conv((8, 8), 0)], (8, 8))
    assert made._patches_per_batch() == batched_predictor.VOXELS_PER_BATCH["cpu"] // 64
    made.networks[0].compute_conv_feature_map_size = lambda size: 10**6  # type: ignore[assignment]
    monkeypatch.setattr(batched_predictor, "free_device_memory", lambda device: 5 * 10**7)
    assert made._patches_per_batch() == 5
    monkeypatch.setattr(batched_predictor, "free_device_memory", lambda device: 10**3)
    assert made._patches_per_batch() == 1


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_infinite_logits_and_nan_are_refused(value: float) -> None:
    network = conv((8, 8), 0)
    nn.init.constant_(network.bias, value)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="infinite numbers or NaN"):
        predictor_of([network], (8, 8)).predict_image(images(1)[0])


class Encoder:
    """Stands for CLIP: a slice's embedding points where its mean intensity says."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, slices: torch.Tensor) -> torch.Tensor:
        self.seen.append(slices)
        angle = slices.mean((1, 2, 3))
        return torch.stack((angle.cos(), angle.sin()), 1)


class Guided(nn.Module):
    """Has what the predictor needs of a CLIP-guided network; its logits are its guidance."""

    use_image, encoder_sha256 = True, torch.arange(32, dtype=torch.uint8)
    view = SliceView()
    stand_ins: torch.Tensor | None = None

    def __init__(self, encoder: Encoder, given: bool = True) -> None:
        super().__init__()
        self.image_encoder = SimpleNamespace(encode=encoder)
        self.use_image = given

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.image_encoder.encode(self.view.show(x))

    def forward(self, x: torch.Tensor, guidance: torch.Tensor | None = None) -> torch.Tensor:
        given = torch.zeros(len(x), HEADS) if guidance is None else guidance
        return given.reshape(len(x), HEADS, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]).clone()


def test_cached_guidance_is_each_slices_own_in_2d() -> None:
    encoder = Encoder()
    made = predictor_of([Guided(encoder), Guided(encoder)], (8, 8), (0, 1), "CLIPGuidedUNetTrainer_mini")
    some = images(3)
    for image, logits in zip(some, made.predict_images(some), strict=True):
        expected = Encoder()(image.voxels.movedim(1, 0))  # of the image without padding
        torch.testing.assert_close(logits, expected.T[:, :, None, None].expand_as(logits))
    assert [len(slices) for slices in encoder.seen] == [image.voxels.shape[1] for image in some]


def test_what_stands_in_for_guidance_follows_the_slice_in_the_image() -> None:
    encoder = Encoder()
    network = Guided(encoder)
    network.stand_ins = torch.ones(1)
    network.stand_in_embeddings = lambda slices: torch.arange(float(slices))[:, None].expand(-1, HEADS)  # type: ignore
    made = predictor_of([network], (8, 8), (0, 1), "CLIPGuidedUNetTrainer_positionImage_mini")
    some = images(2)
    for image, logits in zip(some, made.predict_images(some), strict=True):
        expected = torch.arange(float(image.voxels.shape[1]))
        torch.testing.assert_close(logits, expected[None, :, None, None].expand_as(logits))
    assert not encoder.seen


def test_cached_guidance_of_a_padded_3d_patch_is_of_its_part_of_the_image() -> None:
    from hippo_nnunet.networks.guidance import pool_slices, spaced_slices

    encoder, (image,) = Encoder(), images(1)
    made = predictor_of([Guided(encoder)], (8, 9, 12), None, "CLIPGuidedUNetTrainer")
    logits = made.predict_image(image)
    slices = Encoder()(image.voxels.movedim(1, 0))
    expected = pool_slices(slices[spaced_slices(5, 3)])  # 5 of the patch's 8 slices are the image's
    torch.testing.assert_close(logits, expected[:, None, None, None].expand_as(logits))


@pytest.mark.parametrize("directions", ["SAR", ""])
def test_an_image_is_shown_by_its_own_orientation_else_as_the_training_data(directions: str) -> None:
    encoder, (image,) = Encoder(), images(1)
    network = Guided(encoder)
    network.view = SliceView(True, False, True)
    made = predictor_of([network], (8, 8), None, "CLIPGuidedUNetTrainer")
    made.predict_image(dataclasses.replace(image, directions=directions))
    slices = image.voxels.movedim(1, 0)
    assert torch.equal(encoder.seen[0], slices.flip(-1, -2) if directions else network.view.show(slices))
    live = predictor_of([network], (8, 8), None, "CLIPGuidedUNetTrainer_live")
    patch = torch.randn(1, 1, 8, 8)
    live.predict_image(PreprocessedImage(patch, directions=directions))
    assert torch.equal(encoder.seen[-1], network.view.show(patch))


def test_models_share_embeddings() -> None:
    encoder, some = Encoder(), images(2)
    for _ in range(2):
        list(predictor_of([Guided(encoder)], (8, 8), None, "CLIPGuidedUNetTrainer").predict_images(some))
    assert len(encoder.seen) == 2


def test_live_guidance_is_of_what_the_network_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, (image,) = Encoder(), images(1)
    made = predictor_of([Guided(encoder), Guided(encoder)], (8, 16), (0,), "CLIPGuidedUNetTrainer_live")
    made.predict_image(image)
    *_, plain, mirrored = encoder.seen
    assert plain.shape[1:] == (1, 8, 16), "padded to the patch"
    torch.testing.assert_close(mirrored, plain.flip(2))


def test_a_network_deprived_of_the_image_encodes_nothing() -> None:
    encoder = Encoder()
    made = predictor_of([Guided(encoder, given=False)], (8, 8), None, "CLIPGuidedUNetTrainer_noImage")
    assert not made.predict_image(images(1)[0]).any()
    assert not encoder.seen


@pytest.mark.parametrize("ahead", [1, 3])
def test_work_in_the_background_is_in_order_and_bounded(ahead: int) -> None:
    started: list[int] = []
    threads = set()

    def work(item: int) -> int:
        threads.add(threading.get_ident())
        return item * item

    def items() -> Iterator[int]:
        for item in range(6):
            started.append(item)
            yield item

    results = in_background(work, items(), ahead)
    assert next(results) == 0
    assert len(started) == ahead + 1
    assert list(results) == [1, 4, 9, 16, 25]
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_an_error_in_the_background_comes_in_its_place() -> None:
    results = in_background(lambda item: 1 // item, [2, 1, 0, 1], 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_the_steps_of_a_large_model_are_not_slow_ones_of_a_small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ensemble's models share the number of threads; the load of the machine cannot be read here."""
    now = [0.0]

    class Slow(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            now[0] += self.seconds
            return super().forward(input)

    monkeypatch.setattr(threads, "usable_cpus", lambda: [0, 1])
    torch.set_num_threads(2)
    with AdaptiveThreads(CPU, read=lambda: None, clock=lambda: now[0]) as shared:
        predictors = []
        for seconds in (1.0, 10.0):
            network = Slow(1, HEADS, 3, padding=1)
            network.seconds = seconds
            predictors.append(predictor_of([network], (8, 8)))
            predictors[-1].threads = shared
        for _ in range(3):
            for predictor in predictors:
                predictor.predict_image(images(1)[0])
        assert shared.current == 2
