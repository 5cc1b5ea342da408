"""Labels that leave open which part of a structure a voxel belongs to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.training.losses import apply_loss_word
from hippo_nnunet.training.partial_labels import with_partial_labels

LABELS = {"background": 0, "hippocampus": [1, 2, 3], "anterior": 1, "posterior": 2}
DESCRIPTION = {"labels": LABELS, "partial_labels": {"3": ["anterior", "posterior"]}}


def region_loss(ignore: bool = False) -> Any:
    dice = {"batch_dice": True, "do_bg": True, "smooth": 1e-5, "ddp": False}
    return DC_and_BCE_loss({}, dice, use_ignore_label=ignore, dice_class=MemoryEfficientSoftDiceLoss)


def targets(labels: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.isin(labels, torch.tensor(values)) for values in ([1, 2, 3], [1], [2])], 1)


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.randint(0, 4, (3, 1, 8, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("word", [None, "dice", "ce", "diceFocal"])
@pytest.mark.parametrize("ignore", [False, True])
def test_open_parts_have_no_gradient_and_everything_else_has(
    labels: torch.Tensor, word: str | None, ignore: bool
) -> None:
    loss = with_partial_labels(apply_loss_word(region_loss(ignore), word, True, 4 if ignore else None), DESCRIPTION)
    logits = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    target = targets(labels)
    if ignore:
        target = torch.cat((target, torch.zeros_like(target[:, :1])), 1)
    loss(logits, target).backward()
    open_parts = (labels == 3).expand(-1, 2, -1, -1)
    assert not logits.grad[:, 1:][open_parts].any()
    assert logits.grad[:, 1:][~open_parts].all()
    assert logits.grad[:, :1].all()


def test_without_open_voxels_it_is_the_loss_itself(labels: torch.Tensor) -> None:
    logits = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    target = targets(labels.clamp(max=2))
    expected = region_loss()(logits, target)
    torch.testing.assert_close(with_partial_labels(region_loss(), DESCRIPTION)(logits, target), expected)
    half = with_partial_labels(region_loss(), DESCRIPTION)(logits.bfloat16(), targets(labels))
    assert half.isfinite()


def test_deep_supervision_and_data_without_the_key() -> None:
    wrapped = DeepSupervisionWrapper(region_loss(), [1.0, 0.5])
    assert with_partial_labels(wrapped, {"labels": LABELS}) is wrapped
    assert isinstance(wrapped.loss, DC_and_BCE_loss)
    assert with_partial_labels(wrapped, DESCRIPTION) is wrapped
    assert not isinstance(wrapped.loss, DC_and_BCE_loss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"partial_labels": {"3": ["tail"]}}, r"names 'tail'; the regions are \['hippocampus', 'anterior', 'posterior"),
        ({"partial_labels": {"1": ["anterior"]}}, "label 1 must belong to a region, and to none of"),
        ({"partial_labels": {"9": ["anterior"]}}, "label 9 must belong to a region"),
        ({"labels": {"background": 0, "anterior": 1, "posterior": 2}}, "needs labels that overlap"),
        ({"labels": {**LABELS, "hippocampus": [1, 2, 3, 4]}}, "labels 3 and 4 belong to the same regions"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_partial_labels(region_loss(), DESCRIPTION | changes)
