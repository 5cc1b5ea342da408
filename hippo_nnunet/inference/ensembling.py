"""Segmentations from the averaged probabilities of several models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.postprocessing import postprocess
from hippo_nnunet.evaluation.probabilities import load_probabilities
from hippo_nnunet.evaluation.selection import EnsembleChoice
from hippo_nnunet.files import atomic_path, read_object
from hippo_nnunet.inference.prediction_files import check_complete
from hippo_nnunet.models.model_file import FOLDER_REMEDY
from hippo_nnunet.nnunet.case_files import read_properties
from hippo_nnunet.nnunet.plans_check import check_reader
from hippo_nnunet.progress import tracked

MemberFiles = Mapping[str, Path]
"""Case to `<case>.npz` of one model, as from `probability_files` and `out_of_fold_files`."""


def average_probabilities(files: Sequence[Path]) -> np.ndarray:
    """Average the probabilities that several models give to one case.

    Args:
        files: One `<case>.npz` per model; at least one.

    Returns:
        float32 array of shape (c, z, y, x), bit-identical to nnU-Net's `average_probabilities`.

    Raises:
        DataError: A file is unreadable, or the shapes differ.
    """
    total = load_probabilities(files[0])
    for path in files[1:]:
        more = load_probabilities(path)
        if more.shape != total.shape:
            raise DataError(
                f"{path}: got probabilities of shape {more.shape}, {files[0]} has {total.shape}: "
                "predict the same image with models of one dataset"
            )
        total = total + more
    return total / len(files)


def write_ensemble(
    members: Sequence[MemberFiles],
    output: Path,
    model_folder: Path,
    postprocessing: str,
    cases: Sequence[str],
) -> None:
    """Average the members case by case and write the segmentations as nnU-Net does, over those that are there.

    Args:
        members: Probability files of each member, beside nnU-Net's `<case>.pkl`; at least one member.
        output: Target folder; also gets `dataset.json` and `plans.json`, so that nnU-Net's commands work on it.
        model_folder: Folder that holds `dataset.json` and `plans.json` of one member: labels, regions, file format.
        postprocessing: One of POSTPROCESSINGS.
        cases: The cases to write.

    Raises:
        DataError: Members lack a case or its properties, or a file is unreadable.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    for index, files in enumerate(members):
        missing = [case for case in cases if case not in files]
        if missing:
            raise DataError(
                f"member {index + 1} of {len(members)}: no probabilities for {len(missing)} of {len(cases)} cases "
                f"({', '.join(missing[:3])}): predict them with --save_probabilities"
            )
    dataset_json = read_object(model_folder / "dataset.json", FOLDER_REMEDY)
    content = read_object(model_folder / "plans.json", FOLDER_REMEDY)
    try:
        check_reader(content)
    except DataError as error:
        raise DataError(f"{model_folder / 'plans.json'}: {error}: {FOLDER_REMEDY}") from error
    plans = PlansManager(content)
    manager = plans.get_label_manager(dataset_json)
    writer = plans.image_reader_writer_class()
    ending = str(dataset_json["file_ending"])
    for case in tracked(cases, "writing", len(cases)):
        paths = [files[case] for files in members]
        probabilities = average_probabilities(paths)
        if probabilities.shape[0] != manager.num_segmentation_heads:
            raise DataError(
                f"{paths[0]}: got {probabilities.shape[0]} channels, {model_folder / 'dataset.json'} asks for "
                f"{manager.num_segmentation_heads}: give models of this dataset"
            )
        segmentation = np.asarray(manager.convert_probabilities_to_segmentation(probabilities))
        segmentation = postprocess(segmentation, postprocessing, manager)
        with atomic_path(output / f"{case}{ending}") as temporary:
            writer.write_seg(segmentation, str(temporary), _properties(paths[0]))
            check_complete(temporary)
    for name in ("dataset.json", "plans.json"):
        with atomic_path(output / name) as temporary:
            shutil.copyfile(model_folder / name, temporary)


def write_out_of_fold(
    choice: EnsembleChoice,
    members: Mapping[str, MemberFiles],
    folds: Mapping[str, int],
    output: Path,
    model_folder: Path,
) -> None:
    """Write the ensemble's out-of-fold segmentations, each case by the choice made without its fold.

    Thus the per-case metrics are not optimistic, and their mean Dice is the choice's `nested_dice`.

    Args:
        choice: Result of `choose_ensemble` with at least two folds.
        members: Out-of-fold probability files of each candidate.
        folds: The fold that validated each case.
        output: Target folder.
        model_folder: See `write_ensemble`.

    Raises:
        DataError: A fold has no choice, a chosen member is missing, or see `write_ensemble`.
    """
    by_fold = {entry.fold: entry for entry in choice.per_fold}
    unchosen = sorted({fold for fold in folds.values() if fold not in by_fold})
    if unchosen:
        raise DataError(f"no nested choice for the folds {unchosen}: it needs the predictions of at least two folds")
    missing = sorted({name for entry in choice.per_fold for name in entry.members} - set(members))
    if missing:
        raise DataError(f"no probabilities of the chosen member {missing[0]}: give those of every candidate")
    for fold, entry in sorted(by_fold.items()):
        cases = sorted(case for case, of in folds.items() if of == fold)
        files = [members[name] for name in entry.members]
        write_ensemble(files, output, model_folder, entry.postprocessing, cases)


def _properties(probabilities: Path) -> dict[str, Any]:
    """Read the geometry that nnU-Net pickled beside the probabilities."""
    path = probabilities.with_suffix(".pkl")
    try:
        return read_properties(path)
    except Exception as error:  # a damaged pickle raises various exceptions
        raise DataError(
            f"{path}: cannot be read ({error}): delete {probabilities}, then validate the fold again ('hippo-nnunet "
            "run' does by itself), or predict this case again with --save_probabilities"
        ) from error
