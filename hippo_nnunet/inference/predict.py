"""Images in, segmentations out: one model, several folds, or an ensemble of models."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from hippo_nnunet.data.cases import InputCase, check_images, find_cases
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.postprocessing import POSTPROCESSINGS, postprocess
from hippo_nnunet.evaluation.segmentation_shape import Segmentation
from hippo_nnunet.inference.members import find_members, load_member
from hippo_nnunet.inference.overlap import in_background
from hippo_nnunet.nnunet.api import limit_processes, resolve_device
from hippo_nnunet.nnunet.paths import folder_problem
from hippo_nnunet.progress import tracked

if TYPE_CHECKING:
    from torch import Tensor

    from hippo_nnunet.inference.batched_predictor import BatchedPredictor
    from hippo_nnunet.inference.sliding_window import PreprocessedImage

MOST_AHEAD = 8
"""Cases that are at most prepared before they are needed, and written after they are predicted."""


@dataclass(frozen=True)
class Prepared:
    """A case, preprocessed for every model; models whose plans preprocess alike share the image.

    Attributes:
        case: The case.
        images: One for each model.
        properties: nnU-Net's, which lead back to the grid of the image; one for each model.
    """

    case: InputCase
    images: list[PreprocessedImage]
    properties: list[dict[str, Any]]


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
    backend: str = "auto",
    trust_checkpoint: bool = False,
    observe: Callable[[Segmentation], None] | None = None,
) -> list[Path]:
    """Segment images in this process; while the networks compute, threads prepare the next cases and write the last.

    The logits of a model's folds are averaged, then the probabilities of the models, with equal weights: what
    `nnUNetv2_predict --save_probabilities` and `nnUNetv2_ensemble` give, but for rounding (sums are kept in single
    precision). Every name and every image is checked before a network runs.

    Args:
        inputs: Folders or files: see `find_cases`. 3D NIfTI images; arrays are (z, y, x) inside.
        output: Folder that gets `<case>` + the dataset's file ending, on the grid of the image, and a dataset.json and
            plans.json, so that nnU-Net's commands work on it.
        models: nnU-Net's model folders `{trainer}__{plans}__{configuration}`, or files of `hippo-nnunet model export`.
        folds: Folds of each model; None for all that are trained.
        device: `auto`, `cpu`, `cuda` or `mps`.
        checkpoint: File name in each fold's folder.
        overwrite: Replace segmentations that are there.
        save_probabilities: Also write `<case>.npz` (float32, (c, z, y, x)) and nnU-Net's `<case>.pkl`.
        use_mirroring: Average over mirrored images, along the axes that the training allowed.
        postprocessing: One of POSTPROCESSINGS; None is `none`.
        show_progress: Show progress on stderr.
        backend: `auto`, `torch` or `openvino`: see `hippo_nnunet.inference.backends.choose_runs`.
        trust_checkpoint: Load checkpoints and plans of folders that could run code.
        observe: Called with each case when it is written, in a thread, one case after the other.

    Returns:
        The segmentations written, sorted by case.

    Raises:
        ConfigError: A model, fold, checkpoint, device, backend or postprocessing that is not there, or models that do
            not belong together.
        DataError: An image that cannot be right, a target that exists, or a folder that cannot be written to.
        DependencyError: The device or the backend is not there.
        UpstreamError: The backend that was asked for cannot compute a network as torch does.
    """
    if postprocessing is not None and postprocessing not in POSTPROCESSINGS:
        raise ConfigError(f"unknown postprocessing '{postprocessing}': choose one of {', '.join(POSTPROCESSINGS)}")
    members = find_members(models, folds, checkpoint, trust_checkpoint)
    cases = find_cases(inputs, members[0].channels)
    descriptions = {"dataset.json": members[0].dataset_json, "plans.json": members[0].plans}
    ending = members[0].dataset_json["file_ending"]
    _refuse_clash(cases, output, [ending, ".npz", ".pkl"] if save_probabilities else [ending], descriptions, overwrite)
    voxels = [check_images(case) for case in tracked(cases, "checking", show=show_progress)]
    limit_processes()
    import torch

    from hippo_nnunet.inference.backends import check_backend

    where = torch.device(resolve_device(device))
    check_backend(backend, where)
    predictors = [load_member(member, where, use_mirroring, backend) for member in members]
    problem = folder_problem(output)
    if problem:
        raise DataError(
            f"{output}: cannot write there ({problem}): make room or mend its permissions, or choose another folder"
        )
    for name, content in descriptions.items():
        with _whole(output / name) as path:
            path.write_text(json.dumps(content, indent=4))

    def prepare(case: InputCase) -> Prepared:
        return _prepare(case, predictors)

    def finish(predicted: tuple[Prepared, tuple[Tensor, ...]]) -> Path:
        prepared, logits = predicted
        target = output / prepared.case.case
        probabilities, of_models = _probabilities(prepared, logits, predictors)
        geometry, manager = prepared.properties[0], predictors[0].label_manager
        unprocessed = np.asarray(manager.convert_probabilities_to_segmentation(probabilities))
        segmentation = postprocess(unprocessed, postprocessing or "none", manager)
        _write(target, ending, segmentation, probabilities if save_probabilities else None, geometry, predictors[0])
        if observe is not None:
            spacing, regions = geometry["spacing"], manager.has_regions
            case = prepared.case.case
            observe(Segmentation(case, segmentation, spacing, probabilities, unprocessed, of_models, regions))
        return target.with_name(f"{target.name}{ending}")

    ahead = _cases_ahead(max(voxels) * (members[0].channels + predictors[0].label_manager.num_segmentation_heads))
    for_cases, *for_models = tee(in_background(prepare, cases, ahead), 1 + len(predictors))

    def images(index: int) -> Iterator[PreprocessedImage]:
        return (prepared.images[index] for prepared in for_models[index])

    logits = [predictor.predict_images(images(i), sum(voxels)) for i, predictor in enumerate(predictors)]
    finished = in_background(finish, zip(for_cases, zip(*logits, strict=True), strict=True), ahead)
    return list(tracked(finished, "predicting", len(cases), show_progress))


def _cases_ahead(values: int) -> int:
    """Return how many cases, of so many numbers at most, may wait before and after the networks."""
    return max(1, min(MOST_AHEAD, psutil.virtual_memory().available // (16 * 4 * values)))


def _refuse_clash(
    cases: Sequence[InputCase],
    output: Path,
    endings: Sequence[str],
    descriptions: dict[str, dict[str, Any]],
    overwrite: bool,
) -> None:
    """Refuse an output folder in which something would be lost or mixed up."""
    try:
        dangling = output.is_symlink() and not output.exists()
        target = output.resolve()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{output}: cannot be found ({error}): choose another folder") from error
    if dangling:
        raise DataError(f"{output} is a link that leads nowhere: choose another folder")
    if target in {file.parent.resolve() for case in cases for file in case.files}:
        raise DataError(f"{output} is the folder of the images: choose another one for the segmentations")
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file: choose another folder for the segmentations")
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


def _prepare(case: InputCase, predictors: Sequence[BatchedPredictor]) -> Prepared:
    """Preprocess a case once for each way that the models want it preprocessed."""
    from torch import from_numpy

    from hippo_nnunet.inference.sliding_window import PreprocessedImage

    done: dict[str, tuple[PreprocessedImage, dict[str, Any]]] = {}
    keys = [_preprocessing(predictor) for predictor in predictors]
    for key, predictor in zip(keys, predictors, strict=True):
        if key not in done:
            plans, configuration = predictor.plans_manager, predictor.configuration_manager
            data, _, properties = configuration.preprocessor_class(verbose=False).run_case(
                [str(file) for file in case.files], None, plans, configuration, predictor.dataset_json
            )
            done[key] = PreprocessedImage(from_numpy(data)), properties
    return Prepared(case, [done[key][0] for key in keys], [done[key][1] for key in keys])


def _preprocessing(predictor: BatchedPredictor) -> str:
    """Return what decides how an image is preprocessed, comparable between models of one dataset."""
    plans = dict(predictor.plans_manager.plans)
    configuration = dict(predictor.configuration_manager.configuration)
    for content, other in (
        (plans, ("configurations", "plans_name", "experiment_planner_used")),
        (configuration, ("architecture", "batch_size", "batch_dice", "data_identifier")),
    ):
        for name in other:
            content.pop(name, None)
    return json.dumps([plans, configuration], sort_keys=True, default=str)


def _probabilities(
    prepared: Prepared, logits: Sequence[Tensor], predictors: Sequence[BatchedPredictor]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the models' mean probabilities, (c, z, y, x), and each one's labels, (z, y, x), on the image's grid."""
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from torch import get_num_threads

    total: np.ndarray | None = None
    segmentations: list[np.ndarray] = []
    for of_model, properties, predictor in zip(logits, prepared.properties, predictors, strict=True):
        segmentation, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
            of_model,
            predictor.plans_manager,
            predictor.configuration_manager,
            predictor.label_manager,
            properties,
            return_probabilities=True,
            num_threads_torch=get_num_threads(),
        )
        if not np.isfinite(probabilities).all():
            raise DataError(
                f"case {prepared.case.case}: {predictor.trainer_name} gives probabilities that are no numbers: its "
                f"weights or {prepared.case.files[0]} hold extreme values; look at both"
            )
        total = probabilities if total is None else total + probabilities
        segmentations.append(np.asarray(segmentation))
    assert total is not None
    return total / len(predictors), segmentations


def _write(
    target: Path,
    ending: str,
    segmentation: np.ndarray,
    probabilities: np.ndarray | None,
    properties: dict[str, Any],
    predictor: BatchedPredictor,
) -> None:
    """Write a case's files; the segmentation last."""
    if probabilities is not None:
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
