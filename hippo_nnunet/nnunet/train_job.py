"""The request to train one fold."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.errors import ConfigError, DataError, one_line
from hippo_nnunet.training.precision_choice import requested_precision


@dataclass(frozen=True)
class TrainJob:
    """One fold to train and validate.

    Attributes:
        dataset: Id or full name.
        configuration: Such as `2d`.
        fold: Index from 0, or `all`.
        trainer: Class name: one of our recipes, nnU-Net's own, or one in `nnUNet_extTrainer`.
        plans: Plans name.
        device: `auto`, `cpu`, `cuda` or `mps`; `auto` is CUDA where there is a device, else the CPU.
        npz: Save the validation's softmax, which ensembling needs.
        threads: CPU threads of torch; None for all. Ignored on CUDA, where more than one does not help.
        num_gpus: Above 1: nnU-Net's distributed training.
        pretrained_weights: Checkpoint to start from; not with a training that is resumed.
        trust_checkpoint: Use plans and checkpoints even if they could run code.
        validate_best: Validate `checkpoint_best` instead of `checkpoint_final`.
        disable_checkpointing: Write no checkpoints; such a training cannot be resumed.
    """

    dataset: str
    configuration: str
    fold: int | str
    trainer: str = "nnUNetTrainer"
    plans: str = "nnUNetPlans"
    device: str = "auto"
    npz: bool = True
    threads: int | None = None
    num_gpus: int = 1
    pretrained_weights: Path | None = None
    trust_checkpoint: bool = False
    validate_best: bool = False
    disable_checkpointing: bool = False

    def check(self) -> None:
        """Refuse what nnU-Net would detect only after it has set up the training, or not at all.

        Raises:
            ConfigError: Contradictory options, an invalid precision, or missing pretrained weights.
            DataError: The pretrained weights are not a checkpoint, or could run code and are not trusted.
        """
        if self.validate_best and self.disable_checkpointing:
            raise ConfigError(
                "--validate-best needs a checkpoint, and --disable-checkpointing writes none: leave one out"
            )
        requested_precision()
        if self.pretrained_weights is not None:
            _check_weights(self.pretrained_weights, self.trust_checkpoint)


def _check_weights(path: Path, trust: bool) -> None:
    """Refuse pretrained weights that are no checkpoint, or that run code when nnU-Net loads them."""
    if not path.is_file():
        raise ConfigError(f"--pretrained-weights {path}: no such file; name a checkpoint of nnU-Net")
    try:
        with zipfile.ZipFile(path) as archive:
            shared = "MANIFEST.json" in archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"--pretrained-weights {path}: cannot be read; name a checkpoint of nnU-Net") from error
    if shared:
        raise DataError(
            f"--pretrained-weights {path}: is a shared model; import it (hippo-nnunet model import {path}), and name "
            "the checkpoint_final.pth that this writes"
        )
    if trust:
        return
    from hippo_nnunet.nnunet.trust import read_checkpoint

    try:
        weights = read_checkpoint(path).get("network_weights")
    except DataError:
        raise
    except Exception as error:  # torch.load raises various exceptions for other archives and damaged files
        reason = one_line(error)
        raise DataError(
            f"--pretrained-weights {path}: is no checkpoint ({reason}); name a checkpoint of nnU-Net"
        ) from error
    if not isinstance(weights, Mapping) or not weights:
        raise DataError(f"--pretrained-weights {path}: holds no network_weights; name a checkpoint of nnU-Net")
