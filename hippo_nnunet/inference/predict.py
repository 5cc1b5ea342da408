"""Images in, segmentations out: one model, several folds, or an ensemble of models."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.postprocessing import POSTPROCESSINGS, postprocess
from hippo_nnunet.inference.cases import InputCase, check_images, find_cases
from hippo_nnunet.inference.members import find_members, load_member
from hippo_nnunet.nnunet.api import limit_processes, resolve_device
from hippo_nnunet.nnunet.paths import folder_problem

if TYPE_CHECKING:
    from hippo_nnunet.inference.batched_predictor import BatchedPredictor


def predict(
    inputs: Path | Sequence[Path],
    output: Path,
    models: Sequence[Path],
    folds: Sequence[int | str] | None = None,
    device: str = "auto",
    checkpoint: str = "checkpoint_final.pth",
    overwrite: bool = False,
    save_probabilities: bool = False,
    use_mirroring: bool = True,
    postprocessing: str | None = None,
    show_progress: bool = False,
) -> list[Path]:
    """Segment images, case by case, in this process.

    The logits of a model's folds are averaged, then the probabilities of the models, with equal weights: what
    `nnUNetv2_predict --save_probabilities` and `nnUNetv2_ensemble` give, but for rounding (sums are kept in single
    precision). Every name and every image is checked before a network runs.

    Args:
        inputs: Folders or files: see `find_cases`. 3D NIfTI images; arrays are (z, y, x) inside.
        output: Folder that gets `<case>` + the dataset's file ending, on the grid of the image, and a dataset.json and
            plans.json, so that nnU-Net's commands work on it.
        models: nnU-Net's model folders `{trainer}__{plans}__{configuration}`.
        folds: Folds of each model; None for all that are trained.
        device: `auto`, `cpu`, `cuda` or `mps`.
        checkpoint: File name in each fold's folder.
        overwrite: Replace segmentations that are there.
        save_probabilities: Also write `<case>.npz` (float32, (c, z, y, x)) and nnU-Net's `<case>.pkl`.
        use_mirroring: Average over mirrored images, along the axes that the training allowed.
        postprocessing: One of POSTPROCESSINGS; None is `none`.
        show_progress: Show a progress bar on stderr.

    Returns:
        The segmentations written, sorted by case.

    Raises:
        ConfigError: A model, fold, checkpoint, device or postprocessing that is not there, or models that do not
            belong together.
        DataError: An image that cannot be right, a target that exists, or a folder that cannot be written to.
        DependencyError: The device is not there.
    """
    if postprocessing is not None and postprocessing not in POSTPROCESSINGS:
        raise ConfigError(f"unknown postprocessing '{postprocessing}': choose one of {', '.join(POSTPROCESSINGS)}")
    members = find_members(models, folds, checkpoint)
    cases = find_cases(inputs, members[0].channels)
    descriptions = {"dataset.json": members[0].dataset_json, "plans.json": members[0].plans}
    ending = members[0].dataset_json["file_ending"]
    _refuse_clash(cases, output, [ending, ".npz", ".pkl"] if save_probabilities else [ending], descriptions, overwrite)
    console = Console(stderr=True)
    for case in track(cases, "checking", console=console, transient=True, disable=not show_progress):
        check_images(case)
    limit_processes()
    import torch

    where = torch.device(resolve_device(device))
    predictors = [load_member(member, where, use_mirroring) for member in members]
    problem = folder_problem(output)
    if problem:
        raise DataError(f"{output}: cannot write there ({problem}): choose another folder or mend its permissions")
    for name, content in descriptions.items():
        with _whole(output / name) as path:
            path.write_text(json.dumps(content, indent=4))
    written = []
    for case in track(cases, "predicting", console=console, disable=not show_progress):
        probabilities, properties = _probabilities(case, predictors)
        _write(output / case.case, ending, probabilities, properties, predictors[0], postprocessing, save_probabilities)
        written.append(output / f"{case.case}{ending}")
    return written


def _refuse_clash(
    cases: Sequence[InputCase],
    output: Path,
    endings: Sequence[str],
    descriptions: dict[str, dict[str, Any]],
    overwrite: bool,
) -> None:
    """Refuse an output folder in which something would be lost or mixed up."""
    if output.resolve() in {file.parent.resolve() for case in cases for file in case.files}:
        raise DataError(f"{output} is the folder of the images: choose another one for the segmentations")
    if overwrite:
        return
    remedy = "choose another folder, or give --overwrite"
    for case in cases:
        for ending in endings:
            if (output / f"{case.case}{ending}").exists():
                raise DataError(f"{output / f'{case.case}{ending}'} exists already: {remedy}")
    for name, content in descriptions.items():
        if (output / name).exists() and not _says(output / name, content):
            raise DataError(f"{output / name} is there and belongs to something else than this model: {remedy}")


def _says(path: Path, content: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(path.read_text()) == content)
    except (OSError, ValueError):
        return False


def _probabilities(case: InputCase, predictors: Sequence[BatchedPredictor]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the models' mean probabilities, (c, z, y, x) on the grid of the image, and nnU-Net's geometry."""
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from torch import from_numpy, get_num_threads

    total: np.ndarray | None = None
    geometry: dict[str, Any] = {}
    for predictor in predictors:
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        data, _, properties = configuration.preprocessor_class(verbose=False).run_case(
            [str(file) for file in case.files], None, plans, configuration, predictor.dataset_json
        )
        _, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
            predictor.predict_logits_from_preprocessed_data(from_numpy(data)).cpu(),
            plans,
            configuration,
            predictor.label_manager,
            properties,
            return_probabilities=True,
            num_threads_torch=get_num_threads(),
        )
        if not np.isfinite(probabilities).all():
            raise DataError(
                f"case {case.case}: {predictor.trainer_name} gives probabilities that are no numbers: its weights or "
                f"{case.files[0]} hold extreme values; look at both"
            )
        total = probabilities if total is None else total + probabilities
        geometry = geometry or properties
    assert total is not None
    return total / len(predictors), geometry


def _write(
    target: Path,
    ending: str,
    probabilities: np.ndarray,
    properties: dict[str, Any],
    predictor: BatchedPredictor,
    postprocessing: str | None,
    save_probabilities: bool,
) -> None:
    """Write a case's files; the segmentation last."""
    manager = predictor.label_manager
    segmentation = np.asarray(manager.convert_probabilities_to_segmentation(probabilities))
    segmentation = postprocess(segmentation, postprocessing or "none", manager)
    if save_probabilities:
        with _whole(target.with_name(f"{target.name}.npz")) as path:
            np.savez_compressed(path, probabilities=probabilities)
        with _whole(target.with_name(f"{target.name}.pkl")) as path:
            path.write_bytes(pickle.dumps(properties))
    with _whole(target.with_name(f"{target.name}{ending}")) as path:
        predictor.plans_manager.image_reader_writer_class().write_seg(segmentation, str(path), properties)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside the target, which becomes the target if the block ends well."""
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield temporary
        temporary.replace(target)
    except (OSError, RuntimeError) as error:  # SimpleITK raises RuntimeError
        raise DataError(f"{target}: could not be written ({error}): make room, or choose another folder") from error
    finally:
        temporary.unlink(missing_ok=True)
