"""The loss words, with labels, regions and the ignore label."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch.nn import functional

from hippo_nnunet.training.losses import BinaryFocalLoss, FocalLoss, apply_loss_word

DICE = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}


def label_loss(ignore=None):
    return DC_and_CE_loss(dict(DICE), {}, ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)


def region_loss(ignore=False):
    dice = DICE | {"do_bg": True}
    return DC_and_BCE_loss({}, dice, use_ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def target() -> torch.Tensor:
    return torch.randint(0, 3, (2, 1, 5, 4), generator=torch.Generator().manual_seed(1)).float()


def test_focal_loss_by_hand():
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.3, 0.7]]))[..., None]
    target = torch.tensor([[0], [0]])
    expected = (0.2**2 * -torch.log(torch.tensor(0.8)) + 0.7**2 * -torch.log(torch.tensor(0.3))) / 2
    assert FocalLoss()(logits, target) == pytest.approx(expected.item(), rel=1e-5)
    binary = torch.logit(torch.tensor([[0.8], [0.3]]))
    assert BinaryFocalLoss("mean")(binary, torch.ones(2, 1)) == pytest.approx(expected.item(), rel=1e-5)


def test_without_focusing_it_is_cross_entropy(logits, target):
    expected = functional.cross_entropy(logits, target[:, 0].long())
    assert FocalLoss(gamma=0)(logits, target[:, 0]) == pytest.approx(expected.item(), rel=1e-5)


def test_dice_and_ce_are_the_two_parts_of_nnunets_loss(logits, target):
    whole, dice, entropy = label_loss(), label_loss(), label_loss()
    dice = apply_loss_word(dice, "dice", False, None)
    entropy = apply_loss_word(entropy, "ce", False, None)
    total = dice(logits, target) + entropy(logits, target)
    assert total.item() == pytest.approx(whole(logits, target).item(), rel=1e-6)
    assert entropy(logits, target).item() == pytest.approx(
        functional.cross_entropy(logits, target[:, 0].long()).item(), rel=1e-6
    )
    assert dice(logits, target) < 0


@pytest.mark.parametrize("word", [None, "dice", "ce", "diceFocal"])
def test_voxels_with_the_ignore_label_do_not_count(word, logits, target):
    loss = label_loss(ignore=3)
    loss = apply_loss_word(loss, word, False, 3)
    target = target.clone()
    target[0, 0, :2] = 3
    changed = logits.clone()
    changed[0, :, :2] += 5
    assert loss(logits, target).item() == pytest.approx(loss(changed, target).item(), rel=1e-5)
    changed[1] += torch.randn(3, 5, 4)
    assert loss(logits, target).item() != pytest.approx(loss(changed, target).item(), rel=1e-5)


@pytest.mark.parametrize("word", [None, "dice", "ce", "diceFocal"])
def test_regions_with_and_without_ignore(word, logits, target):
    regions = torch.cat([target > 0, target > 1, target == 2], 1)
    plain = region_loss()
    plain = apply_loss_word(plain, word, True, None)
    assert torch.isfinite(plain(logits, regions))
    loss = region_loss(ignore=True)
    loss = apply_loss_word(loss, word, True, 3)
    ignored = torch.zeros(2, 1, 5, 4, dtype=torch.bool)
    ignored[0, 0, :2] = True
    full = torch.cat([regions, ignored], 1)
    changed = logits.clone()
    changed[0, :, :2] += 5
    assert loss(logits, full).item() == pytest.approx(loss(changed, full).item(), rel=1e-4)


def test_the_word_reaches_the_loss_inside_deep_supervision(logits, target):
    wrapped = DeepSupervisionWrapper(label_loss(), [1.0])
    wrapped = apply_loss_word(wrapped, "diceFocal", False, None)
    assert isinstance(wrapped.loss.ce, FocalLoss)
    assert torch.isfinite(wrapped([logits], [target]))


def test_all_voxels_ignored_gives_zero_not_nan():
    assert FocalLoss(ignore_index=3)(torch.randn(1, 3, 4), torch.full((1, 4), 3)) == 0


def test_cross_entropy_without_annotated_voxels_can_be_trained_on(logits):
    loss = apply_loss_word(label_loss(ignore=3), "ce", False, 3)
    logits.requires_grad_()
    value = loss(logits, torch.full((2, 1, 5, 4), 3.0))
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
