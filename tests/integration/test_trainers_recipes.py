"""Trainer classes: look-up, identity, recipes, and what nnU-Net must keep for them to work."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import hippo_nnunet.trainers as trainers
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.networks.attention_unet import AttentionUNet
from hippo_nnunet.nnunet import memory_cases
from hippo_nnunet.training.memory_data import MemoryLoader
from hippo_nnunet.training.step import EAGER, build

pytestmark = pytest.mark.slow


def test_classes_are_made_once_and_pickle_by_reference():
    made = trainers.AttentionUNetTrainer_flipRot_fast_seed3
    assert made is trainers.AttentionUNetTrainer_flipRot_fast_seed3
    assert pickle.loads(pickle.dumps(made)) is made
    assert made.__name__ == "AttentionUNetTrainer_flipRot_fast_seed3"
    assert made.recipe.seed == 3
    assert issubclass(made, trainers.AttentionUNetTrainer)
    assert trainers.UNetTrainer.recipe.words == {}


def test_foreign_names_are_not_answered_and_wrong_ones_explained():
    assert not hasattr(trainers, "nnUNetTrainer")
    assert not hasattr(trainers, "__wrapped__")
    with pytest.raises(ConfigError, match="Did you mean 'UNetTrainer_flip'"):
        _ = trainers.UNetTrainer_flp


def test_a_recipe_of_few_cases_trains_on_whole_subjects_and_validates_on_the_whole_fold(in_tiny, monkeypatch):
    whole, val = in_tiny.trainer("UNetTrainer_fast").do_split()
    subjects = dict.fromkeys(whole, "together") | {case: case for case in val}
    trainer = in_tiny.trainer("UNetTrainer_fast_1cases_seed1")
    assert trainer.do_split()[1] == val
    assert len(trainer.record.split["train"]) == 1
    assert {*trainer.record.split["train"]} < {*whole}
    monkeypatch.setattr("hippo_nnunet.trainers.resumable_trainer.stored_subjects", lambda folder: subjects)
    with pytest.raises(ConfigError, match=r"UNetTrainer_fast_1cases_seed1, fold 0: .* subjects stay whole"):
        trainer.do_split()
    several = in_tiny.trainer(f"UNetTrainer_fast_{len(whole)}cases")
    assert several.do_split()[0] == list(whole)


@pytest.mark.parametrize(
    ("hook", "parameters"),
    [
        ("__init__", ["self", "plans", "configuration", "fold", "dataset_json", "device"]),
        (
            "build_network_architecture",
            [
                "plans_manager",
                "configuration_manager",
                "num_input_channels",
                "num_output_channels",
                "enable_deep_supervision",
            ],
        ),
        ("train_step", ["self", "batch"]),
        ("on_train_epoch_end", ["self", "train_outputs"]),
        ("save_checkpoint", ["self", "filename"]),
        ("load_checkpoint", ["self", "filename_or_checkpoint"]),
        ("perform_actual_validation", ["self", "save_probabilities"]),
    ],
)
def test_the_hooks_that_we_override_have_not_changed_in_nnunet(hook, parameters):
    """Contract."""
    assert list(inspect.signature(getattr(nnUNetTrainer, hook)).parameters) == parameters
    assert list(inspect.signature(getattr(trainers.UNetTrainer, hook)).parameters) == parameters


def test_each_trainer_builds_its_network_from_any_plans(in_tiny):
    attention = in_tiny.trainer("AttentionUNetTrainer_fast")
    attention.initialize()
    assert isinstance(attention.network, AttentionUNet)
    plain = in_tiny.trainer("UNetTrainer_fast")
    planned = plain.configuration_manager.configuration["architecture"]
    planned["network_class_name"] = "hippo_nnunet.networks.attention_unet.AttentionUNet"
    plain.initialize()
    assert type(plain.network).__name__ == "PlainConvUNet"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_training_step_computes_in_the_precision_that_is_recorded(in_tiny, monkeypatch, precision):
    monkeypatch.setenv("HIPPO_PRECISION", precision)
    trainer = in_tiny.trainer("UNetTrainer_fast")
    trainer.initialize()
    seen = []
    monkeypatch.setattr(trainer, "loss", lambda output, _target: output[0].sum())
    convolution = next(m for m in trainer.network.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    trainer._forward_loss = build(trainer.network, trainer.loss, EAGER)
    shape = (2, trainer.num_input_channels, *trainer.configuration_manager.patch_size)
    trainer.train_step({"data": torch.randn(shape), "target": torch.zeros(1)})
    assert seen == [getattr(torch, precision)]
    assert trainer.record.precision == precision


def test_the_loss_of_a_step_survives_the_next_one(in_tiny):
    """A CUDA graph writes every step's loss to the same memory."""
    trainer = in_tiny.trainer("UNetTrainer_fast")
    trainer.initialize()
    memory, value = torch.zeros(()), iter((1.0, 2.0))

    class Graph(torch.autograd.Function):
        @staticmethod
        def forward(_context, weight):
            return memory.fill_(next(value))

        @staticmethod
        def backward(_context, gradient):
            return gradient * torch.ones_like(weight)

    weight = next(trainer.network.parameters())
    trainer._forward_loss = lambda _data, _target: Graph.apply(weight)
    batch = {"data": torch.zeros(1), "target": torch.zeros(1)}
    losses = [trainer.train_step(batch)["loss"] for _ in range(2)]
    assert [loss.item() for loss in losses] == [1.0, 2.0]
    assert all(output["loss"].data_ptr() != memory.data_ptr() for output in trainer.record.epoch_outputs)


def test_nnunet_compiles_nothing_beneath_our_step(in_tiny, monkeypatch):
    """Contract: nnU-Net asks `_do_i_compile` before it compiles the network and the Dice loss, on every device."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: compiled.append(module) or module)
    monkeypatch.setenv("nnUNet_compile", "t")
    for name, count in (("nnUNetTrainer", 2), ("UNetTrainer", 0), ("UNetTrainer_seed1", 0)):
        trainer = in_tiny.trainer(name)
        if name == "nnUNetTrainer":
            monkeypatch.setattr(trainer, "_do_i_compile", lambda: True)
        else:
            monkeypatch.setattr(trainer, "device", torch.device("cuda"))
            assert not trainer._do_i_compile()
            monkeypatch.setattr(trainer, "device", torch.device("cpu"))
        compiled.clear()
        trainer.initialize()
        assert len(compiled) == count


@pytest.mark.parametrize(("name", "measures"), [("UNetTrainer", True), ("UNetTrainer_seed1", False)])
def test_a_seeded_training_is_never_compiled(in_tiny, monkeypatch, name, measures):
    monkeypatch.setenv("nnUNet_compile", "t")
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function) or function)
    trainer = in_tiny.trainer(name)
    trainer.on_train_start()
    assert bool(compiled) == measures


def test_bare_trainers_keep_nnunets_recipe(in_tiny):
    ours, theirs = in_tiny.trainer("UNetTrainer"), in_tiny.trainer("nnUNetTrainer")
    for name in (
        "num_epochs",
        "num_iterations_per_epoch",
        "num_val_iterations_per_epoch",
        "initial_lr",
        "weight_decay",
    ):
        assert getattr(ours, name) == getattr(theirs, name)
    settings = [t.configure_rotation_dummyDA_mirroring_and_inital_patch_size() for t in (ours, theirs)]
    assert str(settings[0]) == str(settings[1])
    arguments = ((16, 16), (-0.2, 0.2), [[1.0, 1.0], [0.5, 0.5]], (0, 1), False)
    assert [type(t) for t in ours.get_training_transforms(*arguments).transforms] == [
        type(t) for t in theirs.get_training_transforms(*arguments).transforms
    ]


@pytest.mark.parametrize(
    ("words", "configuration", "mirrored"),
    [
        ("_fast", "2d", (1,)),
        ("_fast", "3d_fullres", None),
        ("_noMirror_fast", "2d", None),
        ("_mirrorLR_fast", "3d_fullres", (2,)),
        ("_nnunetAug_fast", "2d", (0, 1)),
        ("_nnunetAug_fast", "3d_fullres", (0, 1, 2)),
        ("", "3d_fullres", (0, 1, 2)),
        ("_noMirror", "3d_fullres", None),
        ("_mirrorLR", "3d_fullres", (2,)),
    ],
)
def test_prediction_mirrors_along_the_axes_of_the_training(in_tiny, words, configuration, mirrored):
    trainer = in_tiny.trainer(f"UNetTrainer{words}", configuration)
    *_, in_training = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert trainer.inference_allowed_mirroring_axes == mirrored
    assert tuple(in_training) == (mirrored or ())
    if trainer.augmentation is not None:
        assert trainer.augmentation.axes(int(configuration[0])) == (mirrored or ())


def test_nnunets_own_augmentation_with_the_short_schedule(in_tiny):
    """The settings and transforms are nnU-Net's, the optimiser and length those of `fast`."""
    ours, short = in_tiny.trainer("UNetTrainer_nnunetAug_fast"), in_tiny.trainer("UNetTrainer_fast")
    theirs = in_tiny.trainer("nnUNetTrainer")
    assert (ours.schedule.epochs, ours.initial_lr) == (short.schedule.epochs, short.initial_lr)
    assert ours.augmentation is None
    settings = [t.configure_rotation_dummyDA_mirroring_and_inital_patch_size() for t in (ours, theirs)]
    assert str(settings[0]) == str(settings[1])
    rotation, in_plane, _, mirror_axes = settings[0]
    arguments = ((16, 16), rotation, [[1.0, 1.0], [0.5, 0.5]], mirror_axes, in_plane)
    assert [type(t) for t in ours.get_training_transforms(*arguments).transforms] == [
        type(t) for t in theirs.get_training_transforms(*arguments).transforms
    ]


@pytest.mark.parametrize(
    ("word", "mirrored", "kinds"),
    [
        ("noAug", None, ["SpatialTransform"]),
        ("flip", (0, 1), ["SpatialTransform", "MirrorTransform"]),
        ("flipRot", (0, 1), ["SpatialTransform", "MirrorTransform"]),
        ("flipRotNoise", (0, 1), ["SpatialTransform", "RandomTransform", "MirrorTransform"]),
    ],
)
def test_an_augmentation_word_replaces_nnunets_augmentation_alone(in_tiny, word, mirrored, kinds):
    trainer = in_tiny.trainer(f"UNetTrainer_{word}")
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert trainer.inference_allowed_mirroring_axes == mirrored
    transforms = trainer.get_training_transforms(
        (16, 16),
        (-0.2, 0.2),
        [[1.0, 1.0], [0.5, 0.5]],
        mirrored,
        False,
        regions=[(1, 2), (2,)],
        foreground_labels=[1, 2],
    )
    tail = ["RemoveLabelTransform", "ConvertSegmentationToRegionsTransform", "DownsampleSegForDSTransform"]
    assert [type(t).__name__ for t in transforms.transforms] == kinds + tail
    out = transforms(image=torch.zeros(1, 20, 20), segmentation=torch.ones(1, 20, 20, dtype=torch.int16))
    assert out["image"].shape == (1, 16, 16)
    assert [tuple(t.shape) for t in out["segmentation"]] == [(2, 16, 16), (2, 8, 8)]


def test_fast_draws_from_memory_and_equal_seeds_give_equal_batches(in_tiny):
    batches = []
    for name in ("UNetTrainer_fast_seed5", "AttentionUNetTrainer_fast_seed5", "UNetTrainer_fast_seed6"):
        trainer = in_tiny.trainer(name)
        trainer.initialize()
        train, validation = trainer.get_dataloaders()
        assert isinstance(train, MemoryLoader)
        assert isinstance(validation, MemoryLoader)
        batches.append(next(train)["data"])
    assert torch.equal(batches[0], batches[1])  # variants see the same patches
    assert not torch.equal(batches[0], batches[2])


def test_data_that_does_not_fit_into_memory_uses_nnunets_loader(in_tiny, monkeypatch, capsys):
    monkeypatch.setattr(memory_cases, "free_memory", lambda: 1000)
    trainer = in_tiny.trainer("UNetTrainer_fast")
    trainer.initialize()
    train, _ = trainer.get_dataloaders()
    assert not isinstance(train, MemoryLoader)
    assert "not the one in memory" in capsys.readouterr().out
    assert next(train)["data"].shape[0] == trainer.batch_size


def test_a_seed_reaches_nnunets_own_loader(in_tiny, monkeypatch):
    monkeypatch.setattr(memory_cases, "free_memory", lambda: 1000)
    batches = []
    for _ in range(2):
        trainer = in_tiny.trainer("UNetTrainer_1epochs_1iters_seed4")
        trainer.initialize()
        train, _ = trainer.get_dataloaders()
        torch.manual_seed(0)
        batches.append(next(train)["keys"])
    assert np.array_equal(batches[0], batches[1])
