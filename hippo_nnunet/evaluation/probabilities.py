"""Probability files as nnU-Net writes them with `--npz` and `--save_probabilities`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from hippo_nnunet.errors import DataError


def probability_files(folder: Path) -> dict[str, Path]:
    """List the probability files in a folder by case.

    Args:
        folder: A validation folder or a folder of predictions.

    Returns:
        Case to `<case>.npz`, sorted by case.

    Raises:
        DataError: No such folder, or no such file in it.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.npz"))} if folder.is_dir() else {}
    if not files:
        raise DataError(
            f"{folder}: no probabilities (<case>.npz): validate with nnUNetv2_train ... --val --npz, "
            "or predict with --save_probabilities"
        )
    return files


def out_of_fold_files(model_folder: Path, folds: Iterable[int]) -> tuple[dict[str, Path], dict[str, int]]:
    """List the out-of-fold probability files of a trained model.

    Args:
        model_folder: nnU-Net's `<trainer>__<plans>__<configuration>`.
        folds: Folds to look in, `fold_<k>/validation`.

    Returns:
        Case to `<case>.npz`, and case to the fold that validated it.

    Raises:
        DataError: A fold has no probabilities, or a case was validated in two folds.
    """
    files: dict[str, Path] = {}
    fold_of: dict[str, int] = {}
    for fold in folds:
        for case, path in probability_files(model_folder / f"fold_{fold}" / "validation").items():
            if case in files:
                raise DataError(
                    f"{path}: case {case} was validated in fold {fold_of[case]} already: the folds come from "
                    "different splits; train them with one splits_final.json"
                )
            files[case], fold_of[case] = path, fold
    return files, fold_of


def load_probabilities(path: Path, expected: tuple[int, ...] | None = None) -> np.ndarray:
    """Read one probability file.

    Args:
        path: `<case>.npz`.
        expected: Shape that it has to have: channels, and that of the case's reference.

    Returns:
        float32 array of shape (c, z, y, x): softmax over the labels, or with regions one sigmoid for each.

    Raises:
        DataError: The file is truncated, holds no `probabilities`, or they have another shape.
    """
    try:
        with np.load(path) as content:
            probabilities = np.asarray(content["probabilities"], dtype=np.float32)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: no readable array 'probabilities' ({error}): delete it, then validate the fold or predict this "
            "case again; 'hippo-nnunet run' does by itself"
        ) from error
    if expected is not None and probabilities.shape != expected:
        raise DataError(
            f"{path}: got probabilities of shape {probabilities.shape}, expected {expected} (channels and the "
            "reference's shape): validate this model again on this dataset"
        )
    return probabilities
