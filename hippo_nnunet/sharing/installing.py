"""Install a shared model in nnU-Net's results folder for nnU-Net's own commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hippo_nnunet.errors import DataError
from hippo_nnunet.models.model_file import CARD, open_model
from hippo_nnunet.nnunet.paths import folders_for
from hippo_nnunet.outputs import foreign_file, staged

CHECKPOINT = "checkpoint_final.pth"
_CONTENT = rf"dataset\.json|plans\.json|{re.escape(CARD)}|fold_(\d+|all)/{re.escape(CHECKPOINT)}"


def install_model(path: Path, root: Path | None = None, overwrite: bool = False) -> Path:
    """Check a model and install it atomically.

    Args:
        path: A file of `hippo-nnunet model export`.
        root: nnU-Net's root folder; None: its environment variables.
        overwrite: Replace an imported model of this name, but none that was trained here.

    Returns:
        The model's folder `{trainer}__{plans}__{configuration}` with dataset.json, plans.json, the model card, and for
        each fold a checkpoint for prediction, from which training cannot continue.

    Raises:
        ConfigError: nnU-Net's folders are unknown, or the installed CLIP encoder differs from the model's.
        DataError: The file is unsafe, damaged or invalid, or the model exists and is not to be replaced; nothing was
            written.
        DependencyError: The CLIP encoder is not installed.
    """
    model = open_model(path)
    folders = folders_for(root, {}) if root is not None else folders_for(None)
    target = folders.results / model.dataset / model.folder_name
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists already: give another --root, or --overwrite to replace it")
    if target.is_dir() and ((foreign := foreign_file(target, _CONTENT)) or not (target / CARD).is_file()):
        found = f"holds {foreign}" if foreign else f"has no {CARD}"
        raise DataError(f"{target} {found}, so it was trained, not imported, and is not replaced: give another --root")

    import torch

    from hippo_nnunet.inference.members import Member, load_member
    from hippo_nnunet.nnunet.checkpoints import save_tensors

    load_member(Member(path, model.folds, "", model.dataset_json, model.plans), torch.device("cpu"), True, "torch")
    with staged(target, overwrite, _CONTENT) as folder:
        folder.mkdir()
        (folder / "dataset.json").write_text(json.dumps(model.dataset_json, indent=4), encoding="utf-8")
        (folder / "plans.json").write_text(json.dumps(model.plans, indent=4), encoding="utf-8")
        (folder / CARD).write_bytes(model.container.read(CARD))
        for fold in model.folds:
            content = {
                "network_weights": model.weights(fold),
                "trainer_name": model.trainer,
                "inference_allowed_mirroring_axes": model.mirroring_axes,
                "init_args": {
                    "plans": model.plans,
                    "configuration": model.configuration,
                    "fold": fold,
                    "dataset_json": model.dataset_json,
                },
            }
            (folder / f"fold_{fold}").mkdir()
            save_tensors(content, folder / f"fold_{fold}" / CHECKPOINT)
    return target
