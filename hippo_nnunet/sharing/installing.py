"""A shared model put into nnU-Net's results folder, where nnU-Net's own commands find it."""

from __future__ import annotations

import json
from pathlib import Path

from hippo_nnunet.errors import DataError
from hippo_nnunet.files import staged
from hippo_nnunet.models.model_file import CARD, open_model
from hippo_nnunet.nnunet.paths import folders_for

CHECKPOINT = "checkpoint_final.pth"


def install_model(path: Path, root: Path | None = None, overwrite: bool = False) -> Path:
    """Install a model, whole or not at all; everything about it is checked first.

    Args:
        path: A file of `hippo-nnunet model export`.
        root: nnU-Net's root folder; None: its variables say where results lie.
        overwrite: Replace a model of this name that is there.

    Returns:
        The model's folder, `{trainer}__{plans}__{configuration}`: dataset.json, plans.json, the model card, and in
        each fold's folder a checkpoint with what prediction needs. Training cannot be continued from it.

    Raises:
        ConfigError: nnU-Net's folders are not known, or the encoder of a CLIP-guided model is another one here.
        DataError: The file is unsafe, damaged or wrong, or the model is there already; nothing was written.
        DependencyError: That encoder is not here.
    """
    model = open_model(path)
    folders = folders_for(root, {}) if root is not None else folders_for(None)
    target = folders.results / model.dataset / model.folder_name
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists already: give another --root, or --overwrite to replace it")

    import torch

    from hippo_nnunet.inference.members import Member, load_member

    load_member(Member(path, model.folds, "", model.dataset_json, model.plans), torch.device("cpu"), True, "torch")
    with staged(target, overwrite) as folder:
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
            torch.save(content, folder / f"fold_{fold}" / CHECKPOINT)
    return target
