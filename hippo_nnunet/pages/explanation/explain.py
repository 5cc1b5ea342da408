"""The explanations of a model's predictions, or of the best and worst cases of an experiment, as files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from hippo_nnunet.clip.prompts import class_names, override_prompts
from hippo_nnunet.data.cases import InputCase, check_images, find_cases
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.evaluation.side_by_side import extreme_cases
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import write_table
from hippo_nnunet.inference.explanation import explain_case, text_similarities
from hippo_nnunet.inference.explanation_files import dice_rows, write_maps
from hippo_nnunet.inference.members import Member, find_members, load_member
from hippo_nnunet.inference.prompts import clip_networks
from hippo_nnunet.inference.scans import Attempts, FailedScans, warn_of_axes
from hippo_nnunet.nnunet.api import limit_processes, resolve_device
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.splits import read_splits
from hippo_nnunet.outputs import check_target, first_line, output_file
from hippo_nnunet.pages.explanation.earlier import DICE_TABLE, TEXT_TABLE, earlier_files
from hippo_nnunet.pages.explanation.page import check_page, write_page
from hippo_nnunet.progress import tracked
from hippo_nnunet.training.recipe_words import CLIP_BASE
from hippo_nnunet.training.recipes import parse

if TYPE_CHECKING:
    from hippo_nnunet.inference.batched_predictor import BatchedPredictor

log = logging.getLogger(__name__)

CASES_TABLE = "cases.csv"


@dataclass(frozen=True)
class Settings:
    """How to explain.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `mps`.
        checkpoint: File in each fold's folder.
        prompts: Other descriptions by class name, for CLIP-guided models.
        overwrite: Replace explanations that are there.
        trust_checkpoint: Load a checkpoint or plans that could run code.
    """

    device: str = "auto"
    checkpoint: str = "checkpoint_final.pth"
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    overwrite: bool = False
    trust_checkpoint: bool = False


@dataclass(frozen=True)
class _Job:
    """A case to explain, the expert's labels of it, and what the figures say about it."""

    case: InputCase
    reference: Path | None
    heading: str


@dataclass(frozen=True)
class _Part:
    """Cases that the same folds of a model explain, with the prompts to try."""

    member: Member
    jobs: Sequence[_Job]
    prompts: Mapping[str, Sequence[str]]


def explain_images(
    model: Path,
    inputs: Sequence[Path],
    output: Path,
    folds: Sequence[int | str] | None = None,
    labels: Path | None = None,
    settings: Settings | None = None,
) -> list[Path]:
    """Explain what a trained model predicts for images.

    Args:
        model: nnU-Net's model folder `{trainer}__{plans}__{configuration}`, or a file of `hippo-nnunet model export`.
        inputs: Folders or files: see `find_cases`.
        output: Gets the maps as NIfTI on the images' grids, tables, and `figures/` as PNG, SVG and PDF.
        folds: Folds whose maps are averaged; None for all that are trained.
        labels: Folder with the expert's labels, `<case>` + the dataset's file ending.
        settings: How.

    Returns:
        The files written; the last one is the page that shows them.

    Raises:
        ConfigError: A model, fold, checkpoint or device does not exist, or a prompt is for an unknown class or for a
            model without CLIP.
        DataError: A label is missing, or a target exists.
        FailedScans: Some images or their labels are invalid; all others are explained.
    """
    settings = settings or Settings()
    (member,) = find_members([model], folds, settings.checkpoint, settings.trust_checkpoint)
    override_prompts(member.dataset_json, settings.prompts)
    cases = find_cases(inputs, member.channels)
    jobs = [_Job(case, _reference(labels, case.case, member), _trainer(member)) for case in cases]
    part = _Part(member, jobs, settings.prompts)
    _earlier([part], output, settings.overwrite)
    check_page(output)
    attempts, reader = Attempts(len(cases)), member.plans["image_reader_writer"]
    checked = {job: attempts.run(job.case, partial(check_images, job.case, reader)) for job in jobs}
    good = [job for job, scan in checked.items() if scan]
    if not good:
        raise FailedScans(attempts)
    warn_of_axes(filter(None, checked.values()), member)
    written = [*_explain([_Part(member, good, settings.prompts)], output, settings, attempts), write_page(output)]
    if attempts.reasons:
        raise FailedScans(attempts, written)
    return written


def explain_experiment(
    folder: Path,
    worst: int = 3,
    best: int = 3,
    output: Path | None = None,
    root: Path | None = None,
    settings: Settings | None = None,
) -> list[Path]:
    """Explain the worst and best out-of-fold cases of every variant, each by the model that has not seen it.

    Args:
        folder: The experiment's folder.
        worst: How many of the lowest Dice (mean over labels), of each variant in each configuration.
        best: How many of the highest.
        output: Gets a table of the cases, and a folder of explanations for each model; None: `explain` in the folder.
        root: See `ExperimentPaths.nnunet`.
        settings: How.

    Returns:
        The files written; the last one is the page that shows them.

    Raises:
        ConfigError: No experiment there, neither worst nor best cases, or see `explain_images`.
        DataError: Metrics and splits do not say which model has not seen a case, or see `explain_images`.
    """
    settings = settings or Settings()
    if worst < 0 or best < 0 or worst + best == 0:
        raise ConfigError(f"got {worst} worst and {best} best cases to explain: ask for at least one")
    paths = ExperimentPaths(folder)
    experiment = Experiment.load(paths.request)
    folders = paths.nnunet(root)
    output = output or paths.explanation.parent
    chosen = extreme_cases(read_per_case(paths.per_case), worst, best)
    _check_unseen(chosen, experiment, folders)
    raw = folders.raw / experiment.dataset
    guided = {variant for variant in experiment.variants if parse(experiment.trainer(variant)).base == CLIP_BASE}
    if settings.prompts and not guided:
        raise ConfigError(f"--prompt: {folder} has no CLIP-guided variant, so there is no text to change: omit it")
    work: dict[Path, list[_Part]] = {}
    for key, rows in chosen.groupby(["variant", "configuration", "fold"], sort=False):
        variant, configuration, fold = cast(tuple[str, str, int], key)
        model = folders.results / experiment.dataset / experiment.model(variant, configuration)
        (member,) = find_members([model], [int(fold)], settings.checkpoint, settings.trust_checkpoint)
        prompts = settings.prompts if variant in guided else {}
        override_prompts(member.dataset_json, prompts)
        jobs = []
        for case, dice, rank in rows[["case", "dice", "rank"]].itertuples(index=False):
            images = _training_image(raw, case, member)
            heading = f"{variant} {configuration}, fold {fold}: {rank}, Dice {dice:.3f}"
            jobs.append(_Job(images, _reference(raw / "labelsTr", case, member), heading))
        work.setdefault(output / model.name, []).append(_Part(member, jobs, prompts))
    table = output / CASES_TABLE
    check_target(
        table, settings.overwrite, "a table of explained cases", lambda p: first_line(p) == ",".join(map(str, chosen))
    )
    for target, parts in work.items():
        _earlier(parts, target, settings.overwrite)
    check_page(output)
    attempts = Attempts(chosen["case"].nunique())
    written: list[Path] = []
    for target, parts in work.items():
        written += _explain(parts, target, settings, attempts)
    written = [write_table(chosen, table), *written, write_page(output, paths.report)]
    if attempts.reasons:
        raise FailedScans(attempts, written)
    return written


def _explain(parts: Sequence[_Part], output: Path, settings: Settings, attempts: Attempts) -> list[Path]:
    """Explain cases by folds of one model; files of an earlier explanation are deleted unless a case has failed."""
    limit_processes()
    import torch

    from hippo_nnunet.pages.explanation.figures import explanation_figures
    from hippo_nnunet.pages.figure import ENDINGS, save_figure

    where = torch.device(resolve_device(settings.device))
    earlier = _earlier(parts, output, settings.overwrite)
    written: list[Path] = []
    rows: list[dict[str, Any]] = []
    for part in parts:
        member, jobs = part.member, part.jobs
        predictor = load_member(member, where, use_mirroring=True, backend="torch")
        if part.prompts:
            clip_networks(predictor)
        _log_missing_maps(predictor)
        for job in tracked(jobs, f"explaining {_trainer(member)}"):
            explanation = attempts.run(
                job.case, partial(explain_case, predictor, job.case, job.reference, part.prompts)
            )
            if explanation is None:
                continue
            figures = explanation_figures(explanation, job.heading)
            for figure in figures:  # before the maps: those without a figure would not be replaced by the next call
                save_figure(figure, output / "figures")
            written += write_maps(explanation, output)
            written += [output / "figures" / f"{figure.name}{ending}" for figure in figures for ending in ENDINGS]
            rows += [{**row, "folds": " ".join(map(str, member.folds))} for row in dice_rows(explanation)]
        similarities = text_similarities(predictor, part.prompts)
        if similarities is not None:
            with output_file(output / TEXT_TABLE) as path:
                similarities.to_csv(path)
            written.append(output / TEXT_TABLE)
    if rows and any(part.prompts or job.reference for part in parts for job in part.jobs):
        written.append(write_table(pd.DataFrame(rows), output / DICE_TABLE))
    for file in earlier - set(written) if not attempts.reasons else ():
        file.unlink()
    return list(dict.fromkeys(written))


def _log_missing_maps(predictor: BatchedPredictor) -> None:
    from hippo_nnunet.inference.explanation_maps import reader_of

    if reader_of(predictor.networks[0]) is None:
        log.info(
            "%s has neither attention gates nor CLIP: only probabilities and, with labels, errors are shown",
            predictor.trainer_name,
        )


def _trainer(member: Member) -> str:
    return member.folder.resolve().name.split("__")[0]


def _reference(labels: Path | None, case: str, member: Member) -> Path | None:
    if labels is None:
        return None
    path = labels / f"{case}{member.dataset_json['file_ending']}"
    if not path.is_file():
        raise DataError(f"{path}: no labels of case {case}: add them, or omit --labels")
    return path


def _training_image(raw: Path, case: str, member: Member) -> InputCase:
    ending = member.dataset_json["file_ending"]
    files = tuple(raw / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(member.channels))
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: the image of case {case} is missing: pass --root, or restore it")
    return InputCase(case, files)


def _check_unseen(chosen: pd.DataFrame, experiment: Experiment, folders: NnunetFolders) -> None:
    splits = read_splits(experiment.dataset, folders)
    if splits is None:
        place = folders.preprocessed / experiment.dataset
        raise DataError(f"{place}: no splits_final.json, so which fold has not seen a case is unknown")
    for case, fold in chosen[["case", "fold"]].itertuples(index=False):
        if fold >= len(splits) or case not in splits[fold]["val"]:
            raise DataError(
                f"case {case} is not among the validation cases of fold {fold} in splits_final.json, though the "
                "metrics say so: evaluate the experiment again"
            )


def _earlier(parts: Sequence[_Part], output: Path, overwrite: bool) -> set[Path]:
    cases = [job.case for part in parts for job in part.jobs]
    return earlier_files(cases, class_names(parts[0].member.dataset_json), output, overwrite)
