"""The CLIP-guided trainer: its network, text, guidance and controls, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_dataset import TinyDataset

import hippo_nnunet.trainers as trainers
from hippo_nnunet.clip.encoder import load_encoder
from hippo_nnunet.clip.guidance_cache import CachedGuidance, guidance_axis, slice_embeddings
from hippo_nnunet.clip.models import MINI
from hippo_nnunet.clip.text import class_embeddings
from hippo_nnunet.errors import ConfigError, DataError, DependencyError
from hippo_nnunet.inference.batched_predictor import BatchedPredictor
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.inference.sliding_window import PreprocessedImage
from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.networks.guidance import PLACES, position_embeddings
from hippo_nnunet.nnunet.loaders import PositionedDataLoader
from hippo_nnunet.nnunet.network import ATTENTION, CLIP_GUIDED

pytestmark = pytest.mark.slow

GUIDED = "CLIPGuidedUNetTrainer_mini_fast_1epochs_2iters"


def ready(dataset: TinyDataset, name: str, configuration: str = "2d") -> Any:
    """Make a trainer and its loaders."""
    trainer = dataset.trainer(name, configuration)
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    return trainer


def arousing(network: CLIPGuidedUNet) -> CLIPGuidedUNet:
    """Move every parameter, so that the output depends on everything; it starts as a U-Net."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


class OneCase:
    """A preprocessed dataset of one case."""

    identifiers = ("case",)

    def __init__(self, folder: Path, image: np.ndarray) -> None:
        self.source_folder = str(folder)
        self.image = image
        folder.mkdir()
        (folder / "case.npz").touch()

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        return self.image, None, None, {}


@pytest.mark.parametrize(
    ("configuration", "shape", "corner"),
    [("2d", (6, 16, 16), [2, 0, 0]), ("3d_fullres", (16, 16, 8), [0, 0, 0])],
)
def test_cached_and_live_guidance_agree_where_a_patch_is_the_whole_slice(
    in_tiny: TinyDataset, tmp_path: Path, configuration: str, shape: tuple[int, ...], corner: list[int]
) -> None:
    trainer = in_tiny.trainer(GUIDED, configuration)
    trainer.initialize()
    network = arousing(trainer.network)
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    patch = torch.from_numpy(image[None, :, corner[0]] if configuration == "2d" else image[None])
    patch_size = patch.shape[2:]
    encoder = trainer.load_encoder()
    dataset: Any = OneCase(tmp_path / "Plans_any", image)
    axis = guidance_axis(patch_size)
    embeddings = slice_embeddings(dataset, encoder, axis, (1, 0, 2), torch.device("cpu"), lambda line: None)
    guidance = CachedGuidance(embeddings, patch_size)(["case"], torch.tensor([corner]))
    with torch.inference_mode():
        live, cached, other = network(patch), network(patch, guidance), network(patch, -guidance)
    torch.testing.assert_close(cached[0], live[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(other[0], live[0], atol=1e-2)


def test_a_cached_training_sees_the_embeddings_of_its_patches(in_tiny: TinyDataset) -> None:
    trainer = ready(in_tiny, GUIDED)
    batch = next(trainer.dataloader_train)
    seen: list[torch.Tensor] = []
    with trainer.batch_context(batch):
        handle = trainer.network.register_forward_hook(lambda *_: seen.append(trainer.network._held_guidance))
        trainer.network(batch["data"])
        handle.remove()
    images = {}
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder)
    for key in dataset.identifiers:
        images[key] = torch.from_numpy(dataset.load_case(key)[0][:])
    slices = [images[key][:, corner[0]] for key, corner in zip(batch["keys"], batch["corners"], strict=True)]
    # the files are LPS: a coronal slice is stored from inferior to superior, and shown the other way round
    expected = torch.cat([trainer.load_encoder().encode_image(s[None].flip(-2)) for s in slices])
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


def embeddings_of(trainer: Any) -> dict[str, torch.Tensor]:
    """The embeddings of every case's slices."""
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder)
    transpose, cpu = trainer.plans_manager.transpose_forward, torch.device("cpu")
    return slice_embeddings(dataset, trainer.load_encoder(), 0, transpose, cpu, lambda line: None)


def test_the_mean_image_is_that_of_the_folds_training_cases(in_tiny: TinyDataset) -> None:
    trainer = ready(in_tiny, GUIDED)
    training, validation = trainer.do_split()
    of_case = embeddings_of(trainer)
    expected = torch.cat([of_case[case] for case in training]).mean(0)
    torch.testing.assert_close(trainer.network.image_mean, expected, rtol=1e-4, atol=1e-5)
    everything = torch.cat(list(of_case.values())).mean(0)
    assert validation and not torch.allclose(trainer.network.image_mean, everything, rtol=1e-4, atol=1e-5)
    live = ready(in_tiny, "CLIPGuidedUNetTrainer_live_mini_fast")
    torch.testing.assert_close(live.network.image_mean, expected, rtol=1e-4, atol=1e-5)


def test_image_controls_replace_the_embedding_and_keep_its_place(in_tiny: TinyDataset) -> None:
    words = ("", "otherImage_", "positionImage_")
    own, other, place = (ready(in_tiny, f"CLIPGuidedUNetTrainer_{word}mini_fast") for word in words)
    training, validation = own.do_split()
    slices = embeddings_of(own)
    assert slices.keys() == {*training, *validation}
    for case, embeddings in slices.items():
        for number in range(len(embeddings)):
            corner = torch.tensor([[number, 0, 0]])
            relative = (number + 0.5) / len(embeddings)
            (given,) = other._cached_guidance([case], corner)
            near = [s[int(relative * len(s))] for c, s in slices.items() if c in training and c != case]
            assert any(torch.equal(given, row) for row in near)
            (given,) = place._cached_guidance([case], corner)
            table = position_embeddings(len(given), 0)
            assert torch.equal(given, table[int(relative * PLACES)])
    counts = [sum(p.numel() for p in trainer.network.parameters()) for trainer in (own, other, place)]
    assert counts == counts[:1] * 3
    image = PreprocessedImage(torch.randn(1, 5, 16, 16))
    for trainer in (other, place):
        network = arousing(trainer.network)
        predictor = BatchedPredictor.of_trainer(trainer)
        network.decoder.deep_supervision = False
        predicted = predictor.predict_image(image)
        assert not image.embeddings  # nothing was encoded
        network.stand_ins.copy_(-network.stand_ins)
        assert not torch.allclose(predictor.predict_image(image), predicted, atol=0.01)


def test_cached_guidance_goes_to_a_gpu_from_pinned_memory(
    in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A non-blocking copy from pageable memory waits for the GPU all the same."""
    trainer = ready(in_tiny, GUIDED)
    batch = next(trainer.dataloader_train)
    pinned: list[torch.Tensor] = []
    moved: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *_, **__: moved.append(tensor) or tensor)
    monkeypatch.setattr(trainer, "device", torch.device("cuda"))
    with trainer.batch_context(batch):
        assert len(pinned) == len(moved) == 1
        assert moved[0] is pinned[0]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("processes", ["0", "1"])
def test_nnunets_own_loader_says_where_its_patches_lie(
    in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch, configuration: str, processes: str
) -> None:
    """Contract, with nnU-Net's `get_bbox`, `generate_train_batch` and central crop."""
    monkeypatch.setenv("nnUNet_n_proc_DA", processes)
    monkeypatch.setattr("hippo_nnunet.trainers.recipe_trainer.memory_loaders", lambda trainer: None)
    trainer = in_tiny.trainer("CLIPGuidedUNetTrainer_noAug_mini_1epochs_2iters", configuration)
    # nnU-Net's own larger patch, of which a transform without rotation cuts the middle
    stock = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size
    monkeypatch.setattr(
        type(trainer), "configure_rotation_dummyDA_mirroring_and_inital_patch_size", lambda self: stock(self)
    )
    trainer.initialize()
    loaders = trainer.get_dataloaders()
    try:
        dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder)
        size = trainer.configuration_manager.patch_size
        for loader in loaders:
            made = loader.generator if processes == "1" else loader.data_loader
            assert type(made) is PositionedDataLoader
            batch = next(loader)
            assert batch["corners"].dtype == torch.int64
            for key, corner, patch in zip(batch["keys"], batch["corners"].tolist(), batch["data"], strict=True):
                box = [[c, c + s] for c, s in zip(corner, [1] * (3 - len(size)) + list(size), strict=True)]
                expected = crop_and_pad_nd(dataset.load_case(key)[0], box, 0).reshape(patch.shape)
                assert np.array_equal(patch.numpy(), expected)
        with trainer.batch_context(batch):
            trainer.network(batch["data"])
    finally:
        for loader in loaders:
            if processes == "1":
                loader._finish()


def test_cached_guidance_stays_at_one_address(in_tiny: TinyDataset) -> None:
    """torch.compile takes a module's tensors for static: CUDA graphs are captured again when one of them moves."""
    trainer = ready(in_tiny, GUIDED)
    addresses: list[list[int]] = []

    def backend(graph: Any, examples: list[torch.Tensor]) -> Any:
        static = [i for i, example in enumerate(examples) if hasattr(example, "_dynamo_static_input_type")]

        def run(*inputs: torch.Tensor) -> Any:
            addresses.append([inputs[i].data_ptr() for i in static])
            return graph(*inputs)

        return run

    compiled = torch.compile(lambda data: trainer.network(data), backend=backend)
    guidance, kept = [], []
    for _ in range(3):
        batch = next(trainer.dataloader_train)
        kept.append(trainer._cached_guidance(batch["keys"], batch["corners"]))  # takes the memory that is free now
        with trainer.batch_context(batch):
            compiled(batch["data"])
            guidance.append(trainer.network._held_guidance.clone())
    torch.compiler.reset()
    assert addresses[0]
    assert addresses == [addresses[0]] * 3
    for held, expected in zip(guidance, kept, strict=True):
        assert torch.equal(held, expected)


def test_controls_change_what_they_say_and_nothing_else(in_tiny: TinyDataset) -> None:
    names = ("mini", "randomText_mini", "rotatedText_mini", "shuffledText_mini", "noImage_mini")
    made = {name: ready(in_tiny, f"CLIPGuidedUNetTrainer_{name}_fast") for name in names}
    full = made["mini"]
    text = class_embeddings(load_encoder(MINI), full.dataset_json)
    shapes = {key: value.shape for key, value in full.network.state_dict().items()}
    batch = next(full.dataloader_train)
    for name, trainer in made.items():
        state = trainer.network.state_dict()
        assert {key: value.shape for key, value in state.items()} == shapes
        assert torch.equal(state["encoder_sha256"], full.network.state_dict()["encoder_sha256"])
        torch.testing.assert_close(trainer.network.text_embeddings.norm(dim=1), torch.ones(3))
        assert torch.equal(trainer.network.text_embeddings, text) == (name in ("mini", "noImage_mini"))
        assert trainer.network.use_image == (name != "noImage_mini")
        encoder = [key for key in state if key.startswith("encoder.")]
        assert all(torch.equal(state[key], full.network.state_dict()[key]) for key in encoder)
        if trainer is not full:
            assert torch.equal(next(trainer.dataloader_train)["data"], batch["data"])
    torch.testing.assert_close(made["shuffledText_mini"].network.text_embeddings, text.roll(1, 0))
    for name in ("randomText_mini", "rotatedText_mini"):
        theirs = made[name].network.text_embeddings
        torch.testing.assert_close(theirs @ theirs.T, text @ text.T)
    later = {name: type(t).class_text(full.dataset_json, {"anterior": ["tail"]}) for name, t in made.items()}
    cosines = later["mini"] @ text.T  # of a prompt given after the training
    torch.testing.assert_close(later["rotatedText_mini"] @ made["rotatedText_mini"].network.text_embeddings.T, cosines)
    torch.testing.assert_close(later["randomText_mini"], later["mini"])
    seeded = in_tiny.trainer("CLIPGuidedUNetTrainer_randomText_mini_fast_seed3")
    seeded.initialize()
    assert not torch.equal(seeded.network.text_embeddings, made["randomText_mini"].network.text_embeddings)
    blind = arousing(made["noImage_mini"].network)
    image = torch.randn(1, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(blind(image, full.network.text_embeddings[:1])[0], blind(image)[0])


def test_every_trainer_works_with_every_plan(in_tiny: TinyDataset) -> None:
    expected = {"UNetTrainer": "PlainConvUNet", "AttentionUNetTrainer": "AttentionUNet", GUIDED: "CLIPGuidedUNet"}
    for planned in (ATTENTION, CLIP_GUIDED):
        for name, built in expected.items():
            trainer = in_tiny.trainer(name)
            trainer.configuration_manager.configuration["architecture"]["network_class_name"] = planned
            trainer.initialize()
            assert type(trainer.network).__name__ == built


@pytest.fixture(scope="module")
def guided(tiny: TinyDataset) -> TinyDataset:
    """The dataset with GUIDED trained on fold 0."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny.environ.items():
            patch.setenv(name, value)
        tiny.trainer(GUIDED).run_training()
    return tiny


def test_the_encoder_is_on_record_and_not_in_the_checkpoint(guided: TinyDataset) -> None:
    fold = guided.model(GUIDED) / "fold_0"
    encoder = load_encoder(MINI)
    record = {"name": encoder.name, "sha256": encoder.sha256}
    assert json.loads((fold / "hippo_training.json").read_text())["encoder"] == record
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert checkpoint["hippo_nnunet"]["record"]["encoder"] == record
    assert bytes(checkpoint["network_weights"]["encoder_sha256"].tolist()).hex() == encoder.sha256
    assert checkpoint["network_weights"]["slice_view"].tolist() == [0, 1, 0]  # coronal slices of LPS files
    assert not any("visual" in key or "transformer" in key for key in checkpoint["network_weights"])
    assert (fold / "debug.json").stat().st_size < 30_000  # nnU-Net prints every attribute of the trainer into it


def test_another_encoder_is_refused(in_tiny: TinyDataset, guided: TinyDataset, tmp_path: Path) -> None:
    fold = guided.model(GUIDED) / "fold_0"
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    checkpoint["network_weights"]["encoder_sha256"][0] ^= 1
    other = tmp_path / fold.parent.name / "fold_0" / "checkpoint_final.pth"
    other.parent.mkdir(parents=True)
    torch.save(checkpoint, other)
    for name in ("plans.json", "dataset.json"):
        (other.parents[1] / name).write_text((fold.parent / name).read_text())
    ours = load_encoder(MINI).sha256[:8]
    with pytest.raises(ConfigError, match=f"checkpoint .*{ours}"):
        in_tiny.trainer(GUIDED).load_checkpoint(str(other))
    with pytest.raises(DataError, match=ours):
        predict(guided.images, tmp_path / "out", [other.parents[1]], PredictOptions(device="cpu"))


def test_text_comes_from_the_checkpoint_and_pretrained_weights_bring_none(
    in_tiny: TinyDataset, guided: TinyDataset, tmp_path: Path
) -> None:
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    path = tmp_path / "other_text.pth"
    checkpoint = torch.load(guided.model(GUIDED) / "fold_0" / "checkpoint_final.pth", weights_only=False)
    stored = checkpoint["network_weights"]["text_embeddings"] = checkpoint["network_weights"]["text_embeddings"].roll(1)
    torch.save(checkpoint, path)
    resumed = in_tiny.trainer(GUIDED)
    resumed.load_checkpoint(str(path))
    assert torch.equal(resumed.network.text_embeddings, stored)
    tuned = in_tiny.trainer("CLIPGuidedUNetTrainer_mini_fast_1epochs_1iters")
    tuned.initialize()
    load_pretrained_weights(tuned.network, str(path))
    tuned.on_train_start()
    assert torch.equal(tuned.network.text_embeddings, class_embeddings(load_encoder(MINI), tuned.dataset_json))


def test_the_users_prompts_are_trained_with_recorded_and_compared_when_resuming(
    in_tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"background": ["a photo of a dog"], "anterior": ["the head", "a front"], "posterior": ["the tail"]}
    file = tmp_path / "own.json"
    file.write_text(json.dumps(own))
    monkeypatch.setenv("HIPPO_CLIP_PROMPTS", str(file))
    trainer = in_tiny.trainer(GUIDED)
    trainer.initialize()
    encoder = load_encoder(MINI)
    assert torch.allclose(trainer.network.text_embeddings[0], encoder.encode_text(own["background"])[0], atol=1e-6)
    trainer.record.write_summary(tmp_path, trainer.device)
    assert json.loads((tmp_path / "hippo_training.json").read_text())["prompts"] == own
    trainer.current_epoch = 0
    trainer.save_checkpoint(str(tmp_path / "begun.pth"))
    resumed = in_tiny.trainer(GUIDED)
    resumed.load_checkpoint(str(tmp_path / "begun.pth"))
    assert resumed._resumed.prompts == own
    monkeypatch.delenv("HIPPO_CLIP_PROMPTS")
    resumed = in_tiny.trainer(GUIDED)
    resumed.load_checkpoint(str(tmp_path / "begun.pth"))
    with pytest.raises(ConfigError, match=r"trained with other prompts: those of 'background'.*HIPPO_CLIP_PROMPTS"):
        resumed.on_train_start()
    file.write_text(json.dumps({"anterior": ["a head"]}))
    monkeypatch.setenv("HIPPO_CLIP_PROMPTS", str(file))
    with pytest.raises(ConfigError, match="no prompts for the class 'background'"):
        in_tiny.trainer(GUIDED)
    in_tiny.trainer("CLIPGuidedUNetTrainer_plainHead_mini_fast_1epochs_2iters")  # has no text


@pytest.mark.parametrize(
    ("words", "warned"), [("mini_fast", True), ("noMirror_mini_fast", False), ("noAug_mini_fast", False)]
)
def test_prompts_that_say_a_side_are_warned_of_where_sides_are_mirrored(
    in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch, words: str, warned: bool
) -> None:
    trainer = in_tiny.trainer(f"CLIPGuidedUNetTrainer_{words}_1epochs_2iters")
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    trainer.record.prompts = {"anterior": ["the left head"], "posterior": ["a tail"]}
    lines: list[str] = []
    monkeypatch.setattr(trainer, "print_to_log_file", lines.append)
    trainer._warn_of_sides()
    assert [line for line in lines if "WARNING: the prompts of 'anterior' say left" in line] == lines
    assert len(lines) == warned


def test_missing_weights_are_named_before_anything_is_written(
    in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for variable in ("HIPPO_CLIP_MODEL", "HIPPO_CLIP_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(DependencyError, match=r"ViT-B-32/openai.*clip fetch.*HIPPO_CLIP_WEIGHTS.*mini"):
        in_tiny.trainer("CLIPGuidedUNetTrainer_fast")
    assert not in_tiny.model("CLIPGuidedUNetTrainer_fast").exists()


def test_the_network_is_built_by_class_and_instance(in_tiny: TinyDataset) -> None:
    """Contract: nnU-Net asks the class for inference, and the instance for training."""
    trainer = in_tiny.trainer("CLIPGuidedUNetTrainer_noImage_mini_fast")
    cls = trainers.CLIPGuidedUNetTrainer_noImage_mini_fast
    for caller in (trainer, cls):
        network = caller.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 3, False)
        assert isinstance(network, CLIPGuidedUNet)
        assert not network.use_image
        assert not network.decoder.deep_supervision


def test_clips_own_temperature_may_lie_above_the_limit_by_rounding(
    in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    openai = float(torch.tensor(4.6052).exp())
    assert openai > 100
    monkeypatch.setattr(load_encoder(MINI), "logit_scale", openai)
    trainer = in_tiny.trainer(GUIDED)
    trainer.initialize()
    assert trainer.network.temperature.item() == pytest.approx(100)
