"""Images in, segmentations out: one model, several folds, or an ensemble of models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hippo_nnunet.data.cases import CheckedCase, InputCase, find_cases
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.postprocessing import POSTPROCESSINGS, postprocess
from hippo_nnunet.evaluation.segmentation_shape import Segmentation
from hippo_nnunet.inference.members import find_members, load_member
from hippo_nnunet.inference.overlap import MOST_AHEAD, in_background
from hippo_nnunet.inference.prediction_files import check_output, save_probabilities, segmentation_file, start_output
from hippo_nnunet.inference.prompts import other_prompts
from hippo_nnunet.inference.scans import FailedScans, check_scans, check_size
from hippo_nnunet.memory import free_memory
from hippo_nnunet.nnunet.api import limit_processes, resolve_device
from hippo_nnunet.progress import tracked
from hippo_nnunet.threads import AdaptiveThreads

if TYPE_CHECKING:
    from torch import Tensor

    from hippo_nnunet.inference.batched_predictor import BatchedPredictor
    from hippo_nnunet.inference.sliding_window import PreprocessedImage


@dataclass(frozen=True)
class PredictOptions:
    """How to predict.

    Attributes:
        folds: Folds of each model; None for all that are trained.
        device: `auto`, `cpu`, `cuda` or `mps`.
        checkpoint: File name in each fold's folder.
        overwrite: Replace existing segmentations with labels of this model, or of the model in the folder's
            dataset.json. Nothing else is replaced.
        save_probabilities: Also write `<case>.npz` (float32, (c, z, y, x)) and nnU-Net's `<case>.pkl`.
        use_mirroring: Average over mirrored images, along the axes that the training allowed.
        postprocessing: One of POSTPROCESSINGS.
        backend: `auto`, `torch` or `openvino`: see `hippo_nnunet.inference.backends.choose_runs`.
        trust_checkpoint: Load checkpoints and plans of folders that could run code.
        observe: Called with each case after it is written, in a thread, one case at a time.
        other_outputs: Files that the caller writes: they must not be any of the files written here.
        check_cases: Called with the cases before anything is predicted; what it raises ends the prediction.
        prompts: Descriptions by class name, in place of the training's; for models with text only.
    """

    folds: Sequence[int | str] | None = None
    device: str = "auto"
    checkpoint: str = "checkpoint_final.pth"
    overwrite: bool = False
    save_probabilities: bool = False
    use_mirroring: bool = True
    postprocessing: str = "none"
    backend: str = "auto"
    trust_checkpoint: bool = False
    observe: Callable[[Segmentation], object] | None = None
    other_outputs: Sequence[Path] = ()
    check_cases: Callable[[Sequence[InputCase]], None] | None = None
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Prepared:
    """A case, preprocessed for every model; models with equal preprocessing share the image.

    Images and properties (nnU-Net's, to return to the image's grid) are one for each model.
    """

    case: InputCase
    images: list[PreprocessedImage]
    properties: list[dict[str, Any]]


def predict(
    inputs: Path | Sequence[Path], output: Path, models: Sequence[Path], options: PredictOptions | None = None
) -> list[Path]:
    """Segment images in this process; while the networks compute, threads preprocess the next cases and write the last.

    The logits of a model's folds are averaged, then the probabilities of the models, with equal weights: the result of
    `nnUNetv2_predict --save_probabilities` and `nnUNetv2_ensemble` but for rounding (sums are kept in single
    precision). All names and images are checked before a network runs; invalid images are left out.

    Args:
        inputs: Folders or files: see `find_cases`. 3D NIfTI images; arrays are (z, y, x) inside.
        output: Folder that gets `<case>` + the dataset's file ending, on the grid of the image, and a dataset.json and
            plans.json, so that nnU-Net's commands work on it.
        models: nnU-Net's model folders `{trainer}__{plans}__{configuration}`, or files of `hippo-nnunet model export`.
        options: How to predict.

    Returns:
        The segmentations written, sorted by case.

    Raises:
        ConfigError: An unknown model, fold, checkpoint, device, backend or postprocessing, models that do not belong
            together, or prompts for an unknown class or a model without text.
        DataError: An existing target, or a folder that cannot be written to.
        FailedScans: Some images are invalid or cannot be predicted; all others are.
        DependencyError: The device or the backend is not available.
        UpstreamError: The requested backend does not reproduce torch's output.
    """
    options = options or PredictOptions()
    if options.postprocessing not in POSTPROCESSINGS:
        raise ConfigError(
            f"unknown postprocessing '{options.postprocessing}': choose one of {', '.join(POSTPROCESSINGS)}"
        )
    members = find_members(models, options.folds, options.checkpoint, options.trust_checkpoint)
    cases = find_cases(inputs, members[0].channels)
    check_output(cases, output, members[0], options.overwrite, options.save_probabilities, options.other_outputs)
    if options.check_cases is not None:
        options.check_cases(cases)
    attempts, checked = check_scans(cases, members[0])
    limit_processes()
    import torch

    from hippo_nnunet.inference.backends import check_backend

    device = torch.device(resolve_device(options.device))
    check_backend(options.backend, device)
    threads = AdaptiveThreads(device)
    predictors = [load_member(member, device, options.use_mirroring, options.backend) for member in members]
    prompted = ExitStack()
    for predictor in predictors:
        predictor.threads = threads
        if options.prompts:
            prompted.enter_context(other_prompts(predictor, options.prompts))
    sizes = {one: attempts.run(one.case, partial(_check_sizes, one, predictors)) for one in checked}
    voxels = {one.case: size for one, size in sizes.items() if size is not None}
    if not voxels:
        raise FailedScans(attempts)
    start_output(output, members[0])

    def prepare(case: InputCase) -> _Prepared | None:
        return attempts.run(case, partial(_prepare, case, predictors))

    def finish(predicted: tuple[_Prepared, tuple[Tensor, ...]]) -> Path | None:
        done = attempts.run(predicted[0].case, partial(_segment, *predicted, predictors, options))
        return None if done is None else _write(predicted[0], done, predictors[0], output, options)

    values = max(voxels.values()) * (members[0].channels + predictors[0].label_manager.num_segmentation_heads)
    ahead = max(1, min(MOST_AHEAD, free_memory() // (16 * 4 * values)))  # cases before and after the networks
    prepared_cases = (done for done in in_background(prepare, voxels, ahead) if done is not None)
    for_cases, *for_models = tee(prepared_cases, 1 + len(predictors))

    def images(index: int) -> Iterator[PreprocessedImage]:
        return (prepared.images[index] for prepared in for_models[index])

    logits = [predictor.predict_images(images(i), sum(voxels.values())) for i, predictor in enumerate(predictors)]
    finished = in_background(finish, zip(for_cases, zip(*logits, strict=True), strict=True), ahead)
    with threads, prompted:
        written = [path for path in tracked(finished, "predicting", len(voxels)) if path]
    if attempts.reasons:
        raise FailedScans(attempts, written)
    return written


def _prepare(case: InputCase, predictors: Sequence[BatchedPredictor]) -> _Prepared:
    """Preprocess a case once for each distinct preprocessing of the models."""
    done: dict[str, tuple[PreprocessedImage, dict[str, Any]]] = {}
    keys = [_preprocessing(predictor) for predictor in predictors]
    for key, predictor in zip(keys, predictors, strict=True):
        if key not in done:
            done[key] = predictor.preprocess(case.files)
    return _Prepared(case, [done[key][0] for key in keys], [done[key][1] for key in keys])


def _check_sizes(checked: CheckedCase, predictors: Sequence[BatchedPredictor]) -> int:
    """Return the voxels of a scan on the finest grid of the models: see `check_size`."""
    return max(
        check_size(
            checked,
            predictor.plans_manager.plans,
            predictor.configuration_manager.spacing,
            predictor.label_manager.num_segmentation_heads,
        )
        for predictor in predictors
    )


def _preprocessing(predictor: BatchedPredictor) -> str:
    """Return a key of the plans' entries that determine preprocessing, comparable between models of one dataset."""
    plans = dict(predictor.plans_manager.plans)
    configuration = dict(predictor.configuration_manager.configuration)
    for content, other in (
        (plans, ("configurations", "plans_name", "experiment_planner_used")),
        (configuration, ("architecture", "batch_size", "batch_dice", "data_identifier")),
    ):
        for name in other:
            content.pop(name, None)
    return json.dumps([plans, configuration], sort_keys=True, default=str)


def _segment(
    prepared: _Prepared, logits: Sequence[Tensor], predictors: Sequence[BatchedPredictor], options: PredictOptions
) -> Segmentation:
    """Average the models' probabilities of a case."""
    manager = predictors[0].label_manager
    probabilities, of_models = _probabilities(prepared, logits, predictors)
    unprocessed = np.asarray(manager.convert_probabilities_to_segmentation(probabilities))
    segmentation = postprocess(unprocessed, options.postprocessing, manager)
    spacing = prepared.properties[0]["spacing"]
    return Segmentation(
        prepared.case.case, segmentation, spacing, probabilities, unprocessed, of_models, manager.has_regions
    )


def _write(
    prepared: _Prepared, done: Segmentation, first: BatchedPredictor, output: Path, options: PredictOptions
) -> Path:
    """Write the files of a case, the segmentation last."""
    case, properties = done.case, prepared.properties[0]
    if done.probabilities is not None and options.save_probabilities:
        save_probabilities(output, case, done.probabilities, properties)
    target = output / f"{case}{first.dataset_json['file_ending']}"
    with segmentation_file(target) as path:
        first.plans_manager.image_reader_writer_class().write_seg(done.array, str(path), properties)
    if options.observe is not None:
        options.observe(replace(done, images=prepared.case.files, written=target))
    return target


def _probabilities(
    prepared: _Prepared, logits: Sequence[Tensor], predictors: Sequence[BatchedPredictor]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the models' mean probabilities, (c, z, y, x), and each one's labels, (z, y, x), on the image's grid."""
    total: np.ndarray | None = None
    segmentations: list[np.ndarray] = []
    for of_model, properties, predictor in zip(logits, prepared.properties, predictors, strict=True):
        segmentation, probabilities = predictor.to_image_grid(of_model, properties)
        if not of_model.isfinite().all() or not np.isfinite(probabilities).all():
            raise DataError(
                f"case {prepared.case.case}: {predictor.trainer_name} predicts numbers that are NaN or infinite: "
                f"check its weights and {prepared.case.files[0]} for extreme values"
            )
        total = probabilities if total is None else total + probabilities
        segmentations.append(segmentation)
    assert total is not None
    return total / len(predictors), segmentations
