"""Dense guidance and heads from text, trained: caches, checkpoints, model files, prediction, controls."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_dataset import TEST_CASES, TinyDataset

from hippo_nnunet.clip.guidance_cache import read_slices, slice_embeddings
from hippo_nnunet.clip.token_cache import PatchMaps
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.inference.batched_predictor import BatchedPredictor
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.inference.sliding_window import PreprocessedImage
from hippo_nnunet.networks.dense_guidance import DenseCLIPGuidedUNet
from hippo_nnunet.networks.text_head import TextHeadCLIPGuidedUNet
from hippo_nnunet.sharing.exporting import export_model

pytestmark = pytest.mark.slow


def ready(dataset: TinyDataset, words: str, configuration: str = "2d") -> Any:
    """Make a trainer and its loaders."""
    trainer = dataset.trainer(f"CLIPGuidedUNetTrainer_{words}_mini_fast_1epochs_2iters", configuration)
    trainer.initialize()
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    return trainer


def stirred(network: Any) -> Any:
    """Move every parameter, so that the output depends on everything; it starts as a U-Net."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


@pytest.mark.parametrize("words", ["dense", "textHead"])
@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_training_is_validated_shared_and_predicted(
    in_tiny: TinyDataset, tmp_path: Path, words: str, configuration: str
) -> None:
    name = f"CLIPGuidedUNetTrainer_{words}_mini_fast_1epochs_2iters"
    trainer = in_tiny.trainer(name, configuration)
    trainer.run_training()
    trainer.perform_actual_validation()
    model = in_tiny.model(name, configuration)
    assert len(list((model / "fold_0" / "validation").glob("*.nii.gz"))) == 2
    network = trainer.network
    assert isinstance(network, DenseCLIPGuidedUNet if words == "dense" else TextHeadCLIPGuidedUNet)
    assert network.image_mean.any()
    checkpoint = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)
    assert set(checkpoint["network_weights"]) == set(network.state_dict())
    shared = export_model(model, tmp_path / "model.hippo")
    options = PredictOptions([0], "cpu", backend="torch")
    for source, output in ((model, "folder"), (shared, "file")):
        predict(in_tiny.images, tmp_path / output, [source], options)
    for case in TEST_CASES:
        first, second = (np.asarray(nib.load(tmp_path / o / f"{case}.nii.gz").dataobj) for o in ("folder", "file"))
        assert np.array_equal(first, second)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_cached_and_live_maps_agree_where_a_patch_is_the_whole_image(in_tiny: TinyDataset, configuration: str) -> None:
    trainer = ready(in_tiny, "dense", configuration)
    network = trainer.network
    patch_size = trainer.configuration_manager.patch_size
    image = torch.randn(1, 1, *(3, *patch_size)[-3:], generator=torch.Generator().manual_seed(0))
    tokens = trainer.load_encoder().encode_patches(image[0].movedim(1, 0))
    maps = network.token_features(tokens)
    patches = PatchMaps(patch_size, network.guidance_shape(patch_size)[1:])
    flat = len(patch_size) == 2
    cached = patches([maps], [image.shape[2:]], torch.tensor([[1 if flat else 0, 0, 0]]))
    live = network.encode(image[:, :, 1] if flat else image)
    torch.testing.assert_close(cached, live, rtol=1e-3, atol=1e-3)


def test_a_cached_training_is_guided_by_its_own_cases(in_tiny: TinyDataset) -> None:
    trainer = ready(in_tiny, "noAug_dense")
    network = stirred(trainer.network)
    batch = next(trainer.dataloader_train)
    with trainer.batch_context(batch):
        held = network._held_guidance.clone()
        outputs = network(batch["data"])
    assert held.shape == (len(batch["keys"]), *network.guidance_shape(batch["data"].shape[2:]))
    torch.testing.assert_close(outputs[0], network(batch["data"], held)[0])
    given = trainer._slices()
    patches = PatchMaps(batch["data"].shape[2:], held.shape[2:])
    for key, corner, own in zip(batch["keys"], batch["corners"], held, strict=True):
        slices, view = read_slices(given["dataset"], key, given["axis"], given["transpose"], given["device"])
        tokens = view.restore(given["encoder"].encode_patches(slices))
        shape = given["dataset"].load_case(key)[0].shape[1:]
        expected = patches([network.token_features(tokens)], [shape], corner[None])
        torch.testing.assert_close(own, expected[0], atol=1e-2, rtol=1e-2)
    with trainer.batch_context(next(trainer.dataloader_train)):
        assert network._held_guidance.data_ptr() == trainer._guidance.data_ptr()


def test_a_steps_texts_are_the_same_after_a_resume_within_the_epoch(in_tiny: TinyDataset) -> None:
    trainer = ready(in_tiny, "textHead")
    batch = next(trainer.dataloader_train)
    trainer.network.train()
    trainer.current_epoch, trainer.record.epoch_outputs = 1, [{}]
    shown = []
    for iterations_left in (2, 1):
        trainer.num_iterations_per_epoch = iterations_left
        with trainer.batch_context(batch):
            shown.append(trainer.network.text_coordinates.clone())
    assert torch.equal(*shown)


def test_tokens_are_measured_along_the_datas_texts_whatever_pretrained_weights_brought(in_tiny: TinyDataset) -> None:
    trainer = in_tiny.trainer("CLIPGuidedUNetTrainer_dense_mini_fast_1epochs_2iters")
    trainer.initialize()
    trainer.network.set_text(trainer.network.text_embeddings.roll(1, 0).clone())
    trainer.get_dataloaders()
    assert torch.equal(trainer.network.text_embeddings, trainer.class_text(trainer.dataset_json))


def test_stored_tokens_belong_to_their_texts(in_tiny: TinyDataset) -> None:
    real, rotated = (ready(in_tiny, words) for words in ("dense", "dense_rotatedText"))
    stored = [
        slice_embeddings(**t._slices(), report=lambda line: None, directions=t.network.token_directions)
        for t in (real, rotated)
    ]
    for case, maps in stored[0].items():
        assert maps.dtype == torch.float16
        other = stored[1][case]
        assert torch.equal(maps[:, 3:], other[:, 3:])
        assert not torch.allclose(maps[:, :3].float(), other[:, :3].float(), atol=1e-2)
    folder = Path(real.preprocessed_dataset_folder)
    assert len(list(folder.with_name(f"{folder.name}_clip").glob("*_tokens*.safetensors"))) >= 2


@pytest.mark.parametrize("control", ["otherImage", "positionImage", "noImage"])
@pytest.mark.parametrize("design", ["dense", "textHead"])
def test_image_controls_keep_the_parameters_and_replace_the_guidance(
    in_tiny: TinyDataset, design: str, control: str
) -> None:
    plain, trainer = ready(in_tiny, f"noAug_{design}"), ready(in_tiny, f"noAug_{design}_{control}")
    sizes = [{name: p.shape for name, p in t.network.named_parameters()} for t in (plain, trainer)]
    assert sizes[0] == sizes[1]
    batch = next(trainer.dataloader_train)
    assert torch.equal(batch["data"], next(plain.dataloader_train)["data"])
    if control == "noImage":
        network = stirred(trainer.network)
        assert torch.equal(network(batch["data"])[0], network(batch["data"], torch.ones(1))[0])
        return
    with trainer.batch_context(batch), plain.batch_context(batch):
        held, own = trainer.network._held_guidance, plain.network._held_guidance
        assert held.shape == own.shape
        assert not torch.allclose(held, own, atol=1e-2)
        assert 0.2 < held.std() / own.std() < 5


@pytest.mark.parametrize("design", ["dense", "textHead"])
def test_controls_start_with_the_recipes_weights_and_batches(in_tiny: TinyDataset, design: str) -> None:
    plain = ready(in_tiny, design)
    batch, weights = next(plain.dataloader_train), dict(plain.network.named_parameters())
    for control in ("rotatedText", "randomText", "shuffledText", "otherImage", "positionImage", "noImage"):
        trainer = ready(in_tiny, f"{design}_{control}")
        assert torch.equal(next(trainer.dataloader_train)["data"], batch["data"])
        for name, parameter in trainer.network.named_parameters():
            in_the_texts_space = design == "dense" and name.startswith("decoder.seg_layers.")
            assert in_the_texts_space or torch.equal(parameter, weights[name]), f"{control}: {name}"


@pytest.mark.parametrize("design", ["dense", "textHead"])
def test_texts_and_their_controls_are_shown_at_the_same_scale(in_tiny: TinyDataset, design: str) -> None:
    for control in ("", "_rotatedText", "_positionImage"):
        trainer = ready(in_tiny, f"noAug_{design}{control}")
        network = trainer.network
        guidance = torch.stack([trainer._guiding[case][1] for case in trainer.do_split()[0]]).float()
        said = network.centred_guidance(guidance)[:, :3]
        if design == "textHead":
            agreement = network.centred_guidance(guidance) @ network.centred_text(network.text_embeddings).T
            said = agreement / network.agreement_deviation
        assert 0.4 < float(said.square().mean().sqrt()) < 2.5, control


@pytest.mark.parametrize("design", ["textHead", "dense"])
def test_other_images_are_chosen_anew_in_every_epoch(
    in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch, design: str
) -> None:
    monkeypatch.setattr(  # the tiny dataset's fold has two training cases
        "hippo_nnunet.trainers.clip_guided_unet_trainer.other_cases",
        lambda cases, subjects, seed: dict.fromkeys(cases, cases[int(seed.removeprefix("0 "))]),
    )
    trainer = ready(in_tiny, f"{design}_otherImage")
    batch = next(trainer.dataloader_train)
    seen = []
    for epoch in (0, 1, 0):
        trainer.current_epoch = epoch
        trainer._guide_by_other_cases()
        seen.append(trainer._cached_guidance.of_batch(batch))
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_a_cascade_refuses_what_only_our_validation_can_guide(
    in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = in_tiny.trainer("CLIPGuidedUNetTrainer_positionImage_mini_fast_1epochs_2iters")
    trainer.initialize()
    monkeypatch.setattr(trainer, "is_cascaded", True)
    with pytest.raises(ConfigError, match="'positionImage' cannot be validated in a cascade or on several GPUs"):
        trainer.on_train_start()


def test_other_prompts_are_refused_where_stored_maps_stand_in(in_tiny: TinyDataset, tmp_path: Path) -> None:
    name = "CLIPGuidedUNetTrainer_dense_otherImage_mini_fast_1epochs_1iters"
    in_tiny.trainer(name).run_training()
    options = PredictOptions([0], "cpu", backend="torch", prompts={"posterior": ["the tail"]})
    with pytest.raises(ConfigError, match=r"--prompt: .* maps of the training's texts alone"):
        predict(in_tiny.images, tmp_path / "out", [in_tiny.model(name)], options)
    predict(in_tiny.images, tmp_path / "out", [in_tiny.model(name)], PredictOptions([0], "cpu", backend="torch"))


def test_dense_needs_data_in_memory_or_live(in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hippo_nnunet.trainers.recipe_trainer.memory_loaders", lambda trainer: None)
    with pytest.raises(ConfigError, match=r"'dense' with stored tokens needs the data in memory.*'live'"):
        ready(in_tiny, "dense")
    trainer = ready(in_tiny, "dense_live")
    batch = next(trainer.dataloader_train)
    with trainer.batch_context(batch):
        assert trainer.network(batch["data"])[0].isfinite().all()


def test_heads_are_trained_with_another_prompt_in_each_step(in_tiny: TinyDataset) -> None:
    trainer = ready(in_tiny, "textHead")
    network, batch, seen = trainer.network, next(trainer.dataloader_train), []
    for step in (0, 1, 0):
        trainer.record.epoch_outputs[:] = [{}] * step
        network.train()
        with trainer.batch_context(batch):
            loss = network(batch["data"])[0].square().mean()
        seen.append(network.text_coordinates.clone())
        torch.testing.assert_close(seen[-1].norm(dim=1), torch.ones(len(seen[-1])))  # as in prediction
        loss.backward()  # the text must not have changed in between
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])
    network.eval()
    with trainer.batch_context(batch):
        assert torch.equal(network.text_coordinates, network.centred_text(network.text_embeddings))
    cosines = [(a * b).sum(1) for a, b in zip(seen, [network.text_coordinates] * 3, strict=True)]
    assert torch.stack(cosines).min() > 0


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_prediction_mirrors_maps_with_their_patches(in_tiny: TinyDataset, configuration: str) -> None:
    trainer = ready(in_tiny, "dense", configuration)
    network = stirred(trainer.network).eval()
    network.decoder.deep_supervision = False
    predictor = BatchedPredictor.of_trainer(trainer)
    size = trainer.configuration_manager.patch_size
    axes = predictor.allowed_mirroring_axes = tuple(range(len(size)))
    flat = len(size) == 2
    image = PreprocessedImage(torch.randn(1, *(1, *size)[-3:], generator=torch.Generator().manual_seed(0)))
    tokens = trainer.load_encoder().encode_patches(image.voxels.movedim(1, 0))
    with torch.inference_mode():
        (maps,) = PatchMaps(size, network.guidance_shape(size)[1:])(
            [network.token_features(tokens)], [image.voxels.shape[1:]], torch.zeros(1, 3, dtype=torch.int64)
        )
        x = image.voxels if flat else image.voxels[None]
        expected = []
        for number in range(len(axes) + 1):
            for chosen in combinations(axes, number):
                flips = [axis + 2 for axis in chosen]
                expected.append(network(x.flip(flips), maps[None].flip(flips)).flip(flips))
        found = predictor.predict_image(image)
    torch.testing.assert_close(found[:, 0] if flat else found, torch.stack(expected).mean(0)[0], rtol=1e-3, atol=1e-3)
