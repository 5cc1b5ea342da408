"""The content of a report, collected from an experiment's folder; missing parts are named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hippo_nnunet.analysis.compare import compare_experiment, read_choice
from hippo_nnunet.analysis.notebook_scores import notebook_scores
from hippo_nnunet.evaluation.comparison import Comparison, Options
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.evaluation.pairing import Model, models_of, recipe_of
from hippo_nnunet.evaluation.per_case import read_per_case, score_empty
from hippo_nnunet.evaluation.side_by_side import full_rows, scores_of
from hippo_nnunet.experiment.benchmarks import benchmark_seconds
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import RELATIVE, ExperimentPaths
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.training_log import Curves, read_curves
from hippo_nnunet.pages.report.notebook import NotebookScores, compare_scores

_SECTIONS_OF = {
    NoteKind.NO_REQUEST: ("table", "notebook"),
    NoteKind.TRAINING_TIME: ("table",),
    NoteKind.TIME_PER_IMAGE: ("table",),
    NoteKind.NOTEBOOK_SCORE: ("notebook",),
    NoteKind.SUBSETS: ("sizes",),
}
"""Notes that belong to other sections than the comparison."""


@dataclass(frozen=True)
class FoldCurves:
    """The training of one fold: its model, its variant with the seed, and its curves."""

    model: Model
    variant: str
    fold: int
    curves: Curves


@dataclass(frozen=True)
class Content:
    """What a report shows.

    Attributes:
        name: Name of the experiment's folder.
        experiment: The request; None where `experiment.yaml` is missing.
        manifest: Content of `manifest.json`; None if it is missing.
        table: Checked per-case metrics, without those of models trained on fewer cases unless there are no others.
        models: Those of the table, in the order of the report; a model's position decides its colour and marker.
        comparison: Tables, pairs, ranks, volumes of all models; without the notes of other sections.
        case_dice: A row for each (fold, case), a column for each model's position: mean Dice over labels; NaN where not
            measured.
        label_dice: The same for each label.
        notebook: Both scores of the same masks; None where they cannot be computed or were not asked for.
        curves: Of every fold whose training log is there.
        choice: Content of `ensemble/choice.json`; None without an ensemble.
        benchmarks: Seconds of each step of the workflow by its name; empty if it was not recorded.
        missing: Section to sentences that say what it lacks, and why, or how it was made.
        asked_notebook: Whether the notebooks' score is to be shown.
    """

    name: str
    experiment: Experiment | None
    manifest: dict[str, Any] | None
    table: pd.DataFrame
    models: list[Model]
    comparison: Comparison
    case_dice: pd.DataFrame
    label_dice: dict[str, pd.DataFrame]
    notebook: NotebookScores | None
    curves: list[FoldCurves]
    choice: dict[str, Any] | None
    benchmarks: dict[str, float]
    missing: dict[str, list[str]]
    asked_notebook: bool = False

    @property
    def dataset(self) -> str:
        """The dataset's name; empty if unknown."""
        if self.experiment is not None:
            return self.experiment.dataset
        return str((self.manifest or {}).get("arguments", {}).get("dataset", ""))

    def index(self, model: Model) -> int:
        """Return the position of a model."""
        return self.models.index(model)


def gather(folder: Path, root: Path | None = None, options: Options | None = None, notebook: bool = False) -> Content:
    """Gather what an experiment can show.

    Args:
        folder: The experiment's folder; `metrics/per_case.csv` is all that it needs.
        root: See `ExperimentPaths.nnunet`.
        options: How to compare; the defaults where None.
        notebook: Whether to show the notebooks' score.

    Raises:
        ConfigError: No such folder.
        DataError: There are no metrics, they cannot be compared, or a file of the experiment is damaged.
    """
    paths = ExperimentPaths(folder)
    comparison = compare_experiment(folder, options or Options(), root=root, notebook=notebook)
    table = full_rows(read_per_case(paths.per_case))
    experiment = Experiment.load(paths.request) if paths.request.is_file() else None
    folders = paths.nnunet(root)
    manifest = read_object(paths.manifest) if paths.manifest.is_file() else None
    models = models_of(table)
    scored = score_empty(table)
    dice = scores_of(scored, models, "dice")
    notes: list[Note] = []
    missing: dict[str, list[str]] = {"table": [], "sizes": [], "notebook": [], "curves": [], "recipe": []}
    for note in comparison.notes:
        text = without_folders(note.text, paths, root)
        if note.kind not in _SECTIONS_OF:
            notes.append(Note(note.kind, text))
        for section in _SECTIONS_OF.get(note.kind, ()):
            missing[section].append(text)
    if manifest is None:
        missing["recipe"].append(
            f"{paths.manifest.name} is missing: versions, hardware, seeds and the hash of the splits are unknown."
        )
    curves = _curves(experiment, models, folders, missing)
    return Content(
        name=folder.resolve().name,
        experiment=experiment,
        manifest=manifest,
        table=table,
        models=models,
        comparison=replace(comparison, notes=tuple(notes)),
        case_dice=pd.DataFrame({k: dice[model].mean(axis=1) for k, model in enumerate(models)}).sort_index(),
        label_dice={
            label: pd.DataFrame({k: dice[model][label] for k, model in enumerate(models)}).sort_index()
            for label in dict.fromkeys(table["label"])
        },
        notebook=_notebook(experiment, folder, folders, scored, models) if notebook else None,
        curves=curves,
        choice=read_choice(folder),
        benchmarks=_benchmarks(folder),
        missing=missing,
        asked_notebook=notebook,
    )


def without_folders(text: str, paths: ExperimentPaths, root: Path | None) -> str:
    """Remove the folders of this machine from a message: a report can be published."""
    folders = paths.nnunet(root)
    known = [folders.raw_folder, folders.preprocessed_folder, folders.results_folder]
    places = {paths.folder, paths.folder.absolute(), *(folder.parent for folder in known if folder)}
    for place in sorted(places - {Path()}, key=lambda place: len(place.parts), reverse=True):
        text = text.replace(f"{place}/", "")
    return text


def _notebook(
    experiment: Experiment | None, folder: Path, folders: NnunetFolders, table: pd.DataFrame, models: list[Model]
) -> NotebookScores | None:
    """Put both scores of the same masks side by side, for the models that have the notebooks' score."""
    if experiment is None:
        return None
    scores, _ = notebook_scores(experiment, folder, folders, table)
    if scores.empty:
        return None
    names = scores[["variant", "configuration"]].itertuples(index=False)
    owners: list[Any] = [Model(recipe_of(str(v)), str(c)) for v, c in names]
    scores = scores.assign(model=owners)
    found = scores.groupby(["model", "fold", "case"], sort=False)["notebook_dice"].mean()
    dice = {model: frame.mean(axis=1) for model, frame in scores_of(table, models, "dice").items()}
    both = found.to_frame().join(pd.concat(dice, names=["model"]).rename("dice"), how="inner")
    return compare_scores(both.dropna().reset_index(), models)


def _curves(
    experiment: Experiment | None, models: list[Model], folders: NnunetFolders, missing: dict[str, list[str]]
) -> list[FoldCurves]:
    if experiment is None:
        missing["curves"].append(f"{RELATIVE.request} is missing: the trainings of this experiment are unknown.")
        return []
    found, absent = [], []
    for cell in experiment.cells():
        model = Model(recipe_of(cell.variant), cell.configuration)
        if model not in models:
            continue
        curves = read_curves(experiment.result_folder(cell, folders.results))
        if curves is None:
            absent.append(str(cell))
        else:
            found.append(FoldCurves(model, cell.variant, cell.fold, curves))
    if absent:
        which = "any training" if not found else ", ".join(absent)
        remedy = "" if found else ": if it is kept elsewhere, pass nnU-Net's root folder with --root"
        missing["curves"].append(f"nnU-Net's folder holds no training log of {which}{remedy}.")
    return found


def _benchmarks(folder: Path) -> dict[str, float]:
    """Return the seconds of each step, trainings left out: those are in the manifest, without validation.

    Raises:
        DataError: A file of Snakemake's is damaged.
    """
    benchmarks = ExperimentPaths(folder).benchmarks
    seconds = {}
    for path in sorted(benchmarks.rglob("*.tsv")):
        step = path.relative_to(benchmarks).with_suffix("")
        if step.parts[0] != "train":
            seconds[" ".join(step.parts)] = benchmark_seconds(path)
    return seconds
