"""What the jobs of the workflow do, from the check of the data to the report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from hippo_nnunet.data.layout import ENDINGS
from hippo_nnunet.data.subjects import NONE
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.presets import preset
from hippo_nnunet.experiment.split_copy import save_split
from hippo_nnunet.experiment.subjects import check_subsets, keep_subjects, load_subjects, source_cases
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet import api
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import raw_cases
from hippo_nnunet.nnunet.splits import read_splits
from hippo_nnunet.workflow.devices import one_gpu

log = logging.getLogger(__name__)


def data(experiment: Experiment, folders: NnunetFolders, source: Path | None) -> None:
    """Check the dataset; convert it first where it is a Decathlon task.

    Raises:
        ConfigError: The dataset is missing, and no source was named.
        DataError: The data has errors.
    """
    from hippo_nnunet.data.check import check_dataset
    from hippo_nnunet.data.convert import convert_msd

    raw = folders.raw / experiment.dataset
    if (raw / "dataset.json").is_file():
        errors = [finding for finding in check_dataset(raw) if finding.severity == "error"]
        if errors:
            raise DataError(f"{errors[0].describe(raw)} ({len(errors)} errors: see hippo-nnunet data check {raw})")
        if source is not None and source_cases(source)[0] != raw_cases(experiment.dataset, folders):
            raise DataError(f"{raw} has other cases than {source}: leave --task out, or take another --root")
    elif source is not None:
        if raw.is_dir():
            raise DataError(f"{raw} has no dataset.json: delete {raw}, then run again: it is converted again")
        converted = convert_msd(source, folders.raw)
        if converted.name != experiment.dataset:
            raise ConfigError(
                f"{source} holds {converted.name}, not {experiment.dataset}; name it as the task that it holds"
            )
    elif not (folders.preprocessed / experiment.dataset / "gt_segmentations").is_dir():
        if raw.is_dir():
            raise DataError(f"{raw} has no dataset.json: delete {raw}, then run again with --task to convert it")
        raise ConfigError(f"{raw} is missing; name the task that it is made from with --task")


def plan(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Extract the fingerprint, plan, and make the splits; the experiment keeps a copy of them and of the subjects."""
    known = keep_subjects(experiment, folders, folder)
    by_case = known is None or experiment.subjects == NONE
    subjects = None if by_case else str(ExperimentPaths(folder).subjects)
    # the data step has checked every case
    api.plan_and_preprocess(experiment.dataset, preset(experiment.preset).planner, (), subjects=subjects, checked=True)
    save_split(experiment, folders, folder)
    check_subsets(experiment, folders, folder)


def preprocess(experiment: Experiment, configuration: str, trust: bool) -> None:
    """Preprocess one configuration."""
    api.plan_and_preprocess(experiment.dataset, preset(experiment.preset).planner, (configuration,), trust=trust)


def train(experiment: Experiment, cell: Cell, device: str, threads: int, gpus: str, trust: bool = False) -> None:
    """Train and validate one fold, on one of these GPUs; wait for another process that works on the same fold."""
    job = api.TrainJob(
        dataset=experiment.dataset,
        configuration=cell.configuration,
        fold=cell.fold,
        trainer=cell.trainer,
        plans=experiment.plans,
        device=device,
        threads=threads,
        trust_checkpoint=trust,
    )
    with one_gpu(gpus.split(",")):
        api.train_fold(job, wait=True)


def ensemble(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Choose the ensemble among the full variants in all complete configurations; write its out-of-fold predictions.

    Members are named as nnU-Net names their folders. Configurations with some folds only are left out, and named in
    the log; so are variants that train on a subset of the cases.
    """
    from hippo_nnunet.evaluation.probabilities import out_of_fold_files
    from hippo_nnunet.evaluation.selection import choose_ensemble
    from hippo_nnunet.inference.ensembling import write_out_of_fold

    paths = ExperimentPaths(folder)
    results, preprocessed = folders.results / experiment.dataset, folders.preprocessed / experiment.dataset
    for configuration in experiment.folds:
        if not experiment.complete(configuration):
            log.info("%s is not ensembled: not all of its folds are trained", configuration)
    members: dict[str, dict[str, Path]] = {}
    folds: dict[str, int] = {}
    for configuration in experiment.ensembled_configurations():
        for variant in (v for v in experiment.full_variants if experiment.fits(v, configuration)):
            model = experiment.model(variant, configuration)
            members[model], folds = out_of_fold_files(results / model, experiment.folds[configuration])
    dataset_json = read_object(preprocessed / "dataset.json")
    references, subjects = preprocessed / "gt_segmentations", load_subjects(folder, folds)
    choice = choose_ensemble(members, references, dataset_json, folds, subjects=subjects)
    choice.to_json(paths.choice)
    write_out_of_fold(choice, members, folds, paths.out_of_fold, results / choice.members[0])


def evaluate(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Measure every validation case of every trained fold, and the ensemble's, and write the tables."""
    import pandas as pd

    from hippo_nnunet.analysis.compare import save_measurements
    from hippo_nnunet.evaluation.labels import named_labels
    from hippo_nnunet.evaluation.tables import evaluate_folder, tag, write_tables

    preprocessed = folders.preprocessed / experiment.dataset
    dataset_json = read_object(preprocessed / "dataset.json")
    labels, ignore_label = named_labels(dataset_json)
    splits = read_splits(experiment.dataset, folders)
    if splits is None:
        raise DataError(f"{preprocessed}: no splits_final.json; it was there in training")

    def measure(predictions: Path, cases: list[str]) -> pd.DataFrame:
        return evaluate_folder(
            predictions,
            preprocessed / "gt_segmentations",
            labels,
            str(dataset_json["file_ending"]),
            cases,
            n_jobs=api.worker_processes(),
            ignore_label=ignore_label,
            reader_name=dataset_json.get("overwrite_image_reader_writer"),
        )

    tables = []
    for cell in experiment.cells():
        table = measure(experiment.result_folder(cell, folders.results) / "validation", splits[cell.fold]["val"])
        tables.append(tag(table, cell.variant, cell.configuration, cell.fold))
    if experiment.ensembled_configurations():
        fold_of: Mapping[str, int] = {case: k for k, split in enumerate(splits) for case in split["val"]}
        table = measure(ExperimentPaths(folder).out_of_fold, list(fold_of))
        tables.append(tag(table, ENSEMBLE, "+".join(experiment.ensembled_configurations()), fold_of))
    paths = ExperimentPaths(folder)
    for of_earlier_results in (paths.comparison, paths.volumetry):
        of_earlier_results.unlink(missing_ok=True)
    write_tables(pd.concat(tables, ignore_index=True), paths.metrics)
    save_measurements(experiment, folders, folder)


def predict(
    experiment: Experiment, folders: NnunetFolders, folder: Path, variant: str, device: str, trust: bool
) -> None:
    """Segment the test images with all folds of a variant, its configurations averaged, or with the ensemble."""
    from hippo_nnunet.evaluation.selection import EnsembleChoice
    from hippo_nnunet.inference.predict import PredictOptions
    from hippo_nnunet.inference.predict import predict as predict_images

    paths = ExperimentPaths(folder)
    configurations = experiment.configurations_to_predict()
    models: Sequence[str]
    if variant == ENSEMBLE:
        choice = EnsembleChoice.from_json(paths.choice)
        models, postprocessing = choice.members, choice.postprocessing
    else:
        models, postprocessing = experiment.models_to_predict(variant), "none"
    output = paths.predictions / variant
    delete_predictions(output)
    predict_images(
        folders.raw / experiment.dataset / "imagesTs",
        output,
        [folders.results / experiment.dataset / model for model in models],
        PredictOptions(
            experiment.folds[configurations[0]],
            device,
            postprocessing=postprocessing,
            trust_checkpoint=trust,
        ),
    )


def delete_predictions(folder: Path) -> None:
    """Delete what an earlier run has predicted, damaged files included, which `predict` would not replace."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.is_file() and path.name.endswith((*ENDINGS, "dataset.json", "plans.json")):
            path.unlink()


def submission(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Pack the ensemble's test predictions, and verify the archive."""
    from hippo_nnunet.inference.submission import dataset_labels, write_submission

    paths, raw = ExperimentPaths(folder), folders.raw / experiment.dataset
    archive = paths.submission(experiment.task)
    archive.unlink(missing_ok=True)  # it may be damaged, and is then not replaced
    cases = write_submission(
        paths.predictions / ENSEMBLE,
        raw / "imagesTs",
        archive,
        task_name=experiment.task,
        labels=dataset_labels(raw / "dataset.json"),
    )
    log.info("%d cases are in the archive", len(cases))


def report(folder: Path) -> None:
    """Write the report of everything else, in the place of an earlier one."""
    from hippo_nnunet.pages.report.page import write_report

    ExperimentPaths(folder).report.unlink(missing_ok=True)  # it may be damaged, and is then not replaced
    log.info("%s", write_report(folder, overwrite=True))
