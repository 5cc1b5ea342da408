"""The in-memory loaders of real trainers: nnU-Net's own recipe, settings taken over, refusals."""

from __future__ import annotations

from copy import copy

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.nnunet import memory_cases
from hippo_nnunet.nnunet.loaders import memory_loaders
from hippo_nnunet.trainers.recipe_trainer import SEEDS_BETWEEN_FOLDS
from hippo_nnunet.training.augmentation_spec import PUBLISHED, AugmentationSpec, stock_spec


def made(dataset, name: str, configuration: str = "2d"):
    trainer = dataset.trainer(name, configuration)
    trainer.initialize()
    return trainer


@pytest.mark.parametrize(("configuration", "size"), [("2d", (16, 16)), ("3d_fullres", (16, 16, 16))])
def test_a_bare_recipe_gets_nnunets_augmentation(in_tiny, configuration, size):
    trainer = made(in_tiny, "UNetTrainer", configuration)
    rotation, _, initial, axes = nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size(trainer)
    trainer.inference_allowed_mirroring_axes = None
    train, validation = memory_loaders(trainer)
    assert train.augmentation == stock_spec(rotation, initial, axes)
    assert train.augmentation.rotation.bounds == rotation and train.augmentation.axes(len(size)) == axes
    assert train.augmentation.sampled_patch == tuple(int(n) for n in initial)
    assert validation.augmentation == AugmentationSpec()
    assert trainer.inference_allowed_mirroring_axes == axes
    for loader in (train, validation):
        batch = next(loader)
        assert batch["data"].shape == (trainer.batch_size, 1, *size)
        assert [t.shape[2:] for t in batch["target"]] == [
            tuple(round(n * s) for n, s in zip(size, scale, strict=True))
            for scale in trainer._get_deep_supervision_scales()
        ]
        assert batch["corners"].shape == (trainer.batch_size, 3)
    assert {c.key for c in train.bank.cases}.isdisjoint(c.key for c in validation.bank.cases)
    assert train.bank.cases[0].labels.dtype == torch.int8
    # without a seed no two trainings see the same batches
    other = memory_loaders(made(in_tiny, "UNetTrainer", configuration))[0]
    assert other.sampling.seed != train.sampling.seed


def test_recipes_with_an_augmentation_of_their_own_keep_it(in_tiny):
    trainer = made(in_tiny, "UNetTrainer_flipRot_seed2")
    loaders = [memory_loaders(trainer)[0] for _ in range(2)]
    assert loaders[0].augmentation == PUBLISHED["flipRot"]
    assert loaders[0].sampling.seed == (2, 0, 0)
    assert torch.equal(next(loaders[0])["data"], next(loaders[1])["data"])
    trainer.fold = 1
    assert memory_loaders(trainer)[0].sampling.seed == (2 + SEEDS_BETWEEN_FOLDS, 0, 0)
    trainer.augmentation = stock_spec((-0.3, 0.3), (22, 20), (1,))
    train, _ = memory_loaders(trainer)
    assert train.augmentation is trainer.augmentation
    assert next(train)["data"].shape == (trainer.batch_size, 1, 16, 16)


def test_foreground_and_intensities_are_those_of_nnunets_own_loader(in_tiny):
    trainer = made(in_tiny, "UNetTrainer_seed1")
    ours, _ = memory_loaders(trainer)
    theirs, _ = nnUNetTrainer.get_dataloaders(trainer)
    np.random.seed(0)
    torch.manual_seed(0)
    drawn = [[next(loader) for _ in range(30)] for loader in (ours, theirs)]
    targets = [torch.cat([b["target"][0] for b in batches]).flatten(1) for batches in drawn]
    images = [torch.cat([b["data"] for b in batches]).flatten(1) for batches in drawn]
    assert targets[0].dtype == targets[1].dtype and [len(t.unique()) for t in targets] == [3, 3]
    plain = round(trainer.batch_size * (1 - trainer.oversample_foreground_percent))
    oversampled = (torch.arange(len(targets[0])) % trainer.batch_size) >= plain
    for chosen in (oversampled, ~oversampled):
        for value in (1, 2):
            shares = [(t[chosen] == value).float().mean().item() for t in targets]
            assert shares[0] == pytest.approx(shares[1], rel=0.25)
    for moment in (torch.mean, torch.std):
        values = [moment(i, 1).mean().item() for i in images]
        assert values[0] == pytest.approx(values[1], abs=0.12)


def test_masked_normalisation_and_probabilistic_oversampling_are_taken_over(in_tiny):
    trainer = made(in_tiny, "UNetTrainer_seed1")
    trainer.configuration_manager.configuration["use_mask_for_norm"] = [True]
    trainer.probabilistic_oversampling = True
    train, validation = memory_loaders(trainer)
    assert train.sampling.probabilistic and validation.sampling.probabilistic
    assert (train.sampling.masked_channels, validation.sampling.masked_channels) == ((0,), ())


def test_what_does_not_fit_is_refused_in_one_line(in_tiny, monkeypatch, capsys):
    monkeypatch.setattr(memory_cases, "free_memory", lambda: 1000)
    trainer = made(in_tiny, "UNetTrainer")
    capsys.readouterr()
    assert memory_loaders(trainer) is None
    lines = [line for line in capsys.readouterr().out.splitlines() if "loader" in line]
    assert len(lines) == 1
    assert "Using nnU-Net's own data loader, not the one in memory: the cases need" in lines[0]


def test_a_short_schedule_is_not_resumed_with_the_other_loaders_augmentation(in_tiny, monkeypatch):
    trainer = made(in_tiny, "UNetTrainer_fast_1epochs_2iters")
    trainer.get_dataloaders()
    assert trainer.record.loader == "memory"
    trainer._resumed = copy(trainer.record)
    trainer.get_dataloaders()
    monkeypatch.setattr(memory_cases, "free_memory", lambda: 1000)
    with pytest.raises(ConfigError, match=r"begun with the data in memory.*would mix two augmentations"):
        trainer.get_dataloaders()
    word = made(in_tiny, "UNetTrainer_flip_fast_1epochs_2iters")  # the same with both
    word._resumed = copy(trainer._resumed)
    word.get_dataloaders()
    assert word.record.loader == "nnU-Net"
