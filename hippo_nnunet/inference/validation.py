"""The final validation of a fold: nnU-Net's files and figures, by the batched predictor, without worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.inference.export_prediction import export_prediction_from_logits

from hippo_nnunet.inference.batched_predictor import BatchedPredictor
from hippo_nnunet.nnunet.api import cpu_count


def validate_fold(trainer: Any, save_probabilities: bool) -> None:
    """Predict the fold's validation cases and write what nnU-Net's own validation writes.

    Args:
        trainer: A trained nnU-Net trainer, not distributed and not part of a cascade.
        save_probabilities: Whether each case's probabilities are kept (`--npz`), for ensembling.

    The folder `validation` then holds a segmentation for each case, probabilities where asked for, and `summary.json`.
    """
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = BatchedPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=True,
        perform_everything_on_device=True,
        device=trainer.device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        type(trainer).__name__,
        trainer.inference_allowed_mirroring_axes,
    )
    folder = Path(trainer.output_folder) / "validation"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # it says that the validation is complete
    _, keys = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, keys)
    for key in dataset.identifiers:
        data, _, _, properties = dataset.load_case(key)
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(data[:].copy())).cpu()
        export_prediction_from_logits(
            logits,
            properties,
            trainer.configuration_manager,
            trainer.plans_manager,
            trainer.dataset_json,
            str(folder / key),
            save_probabilities,
            num_threads_torch=torch.get_num_threads(),
        )
    labels = trainer.label_manager
    metrics = compute_metrics_on_folder(
        str(Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"),
        str(folder),
        str(folder / "summary.json"),
        trainer.plans_manager.image_reader_writer_class(),
        trainer.dataset_json["file_ending"],
        labels.foreground_regions if labels.has_regions else labels.foreground_labels,
        labels.ignore_label,
        chill=True,
        num_processes=min(default_num_processes, cpu_count()),
    )
    for label, values in metrics["mean"].items():
        trainer.logger.log_summary(f"final_val/class_{label}_dice", values["Dice"])
    trainer.logger.log_summary("final_val/foreground_dice", metrics["foreground_mean"]["Dice"])
    trainer.print_to_log_file("Validation complete", also_print_to_console=True)
    trainer.print_to_log_file("Mean Validation Dice: ", metrics["foreground_mean"]["Dice"], also_print_to_console=True)
    trainer.set_deep_supervision_enabled(True)
