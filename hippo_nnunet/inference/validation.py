"""The final validation of a fold: nnU-Net's files and figures, by the batched predictor, without worker processes."""

from __future__ import annotations

from itertools import tee
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from hippo_nnunet.clip.orientation import axis_directions
from hippo_nnunet.files import atomic_path
from hippo_nnunet.inference.batched_predictor import BatchedPredictor
from hippo_nnunet.inference.overlap import in_background
from hippo_nnunet.inference.sliding_window import PreprocessedImage, check_finite
from hippo_nnunet.nnunet.memory_cases import read_case, shapes
from hippo_nnunet.progress import tracked

CASES_AHEAD = 4
"""Cases that are read before they are needed, and written after they are predicted."""


def validate_fold(trainer: Any, save_probabilities: bool) -> None:
    """Predict the fold's validation cases and write what nnU-Net's own validation writes.

    Args:
        trainer: A trained trainer of ours, not distributed and not part of a cascade; its `threads` are entered.
        save_probabilities: Whether to save each case's probabilities (`--npz`), for ensembling.

    The folder `validation` then holds a segmentation for each case, the probabilities if saved, and `summary.json`.
    """
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # its presence means that the validation is complete
    _predict(trainer, folder, save_probabilities)
    labels = trainer.label_manager
    metrics = write_summary(
        Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations",
        folder,
        trainer.plans_manager.image_reader_writer_class(),
        trainer.dataset_json["file_ending"],
        labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label,
    )
    for label, values in metrics["mean"].items():
        trainer.logger.log_summary(f"final_val/class_{label}_dice", values["Dice"])
    trainer.logger.log_summary("final_val/foreground_dice", metrics["foreground_mean"]["Dice"])
    trainer.print_to_log_file("Validation complete", also_print_to_console=True)
    trainer.print_to_log_file("Mean Validation Dice: ", metrics["foreground_mean"]["Dice"], also_print_to_console=True)
    trainer.set_deep_supervision_enabled(True)


def _predict(trainer: Any, folder: Path, save_probabilities: bool) -> None:
    predictor = BatchedPredictor.of_trainer(trainer)
    _, keys = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, keys)

    def read(key: str) -> tuple[str, PreprocessedImage, dict[str, Any]]:
        image, _, properties = read_case(dataset, key)
        directions = axis_directions(properties, trainer.plans_manager.transpose_forward)
        voxels = torch.from_numpy(image.astype(np.float32, copy=False))
        return key, PreprocessedImage(voxels, directions=directions), properties

    def write(predicted: tuple[tuple[str, PreprocessedImage, dict[str, Any]], torch.Tensor]) -> None:
        (key, _, properties), logits = predicted
        export_prediction_from_logits(
            check_finite(logits),
            properties,
            trainer.configuration_manager,
            trainer.plans_manager,
            trainer.dataset_json,
            str(folder / key),
            save_probabilities,
            num_threads_torch=trainer.threads.current,
        )

    voxels = sum(int(np.prod(shape[1:])) for shape in shapes(dataset))
    to_predict, cases = tee(in_background(read, dataset.identifiers, CASES_AHEAD))
    logits = predictor.predict_images((image for _, image, _ in to_predict), voxels)
    written = in_background(write, zip(cases, logits, strict=True), CASES_AHEAD)
    for _ in tracked(written, "validating", len(dataset.identifiers)):
        pass


def write_summary(
    references: Path,
    predictions: Path,
    reader: Any,
    ending: str,
    labels: list[Any],
    ignore_label: int | None,
) -> dict[str, Any]:
    """Write `summary.json` beside predictions: nnU-Net's `compute_metrics_on_folder` without its worker processes.

    Args:
        references: Folder of the reference segmentations.
        predictions: Folder of the predictions; every one needs its reference.
        reader: nnU-Net's reader of such files.
        ending: Their ending.
        labels: Labels or regions to evaluate, background left out.
        ignore_label: Value in the references that does not count, or None.

    Returns:
        The content: `metric_per_case`, `mean` over the cases and `foreground_mean` over the labels; a case without a
        label, in reference and prediction, does not count for it.
    """
    cases = [
        compute_metrics(str(references / path.name), str(path), reader, labels, ignore_label)
        for path in sorted(predictions.iterdir())
        if path.name.endswith(ending)
    ]
    metrics = list(cases[0]["metrics"][labels[0]])
    mean = {
        label: {metric: np.nanmean([case["metrics"][label][metric] for case in cases]) for metric in metrics}
        for label in labels
    }
    foreground_mean = {metric: np.mean([values[metric] for values in mean.values()]) for metric in metrics}
    summary = {"metric_per_case": cases, "mean": mean, "foreground_mean": foreground_mean}
    for part in (*cases, mean, foreground_mean):
        recursive_fix_for_json_export(part)
    with atomic_path(predictions / "summary.json") as temporary:
        save_summary_json(summary, str(temporary))
    return summary
