"""The paths in an experiment's folder."""

from __future__ import annotations

import os
from pathlib import Path

from hippo_nnunet.data.subjects import TABLE
from hippo_nnunet.errors import DataError
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet.paths import FOLDER_VARIABLES, NnunetFolders, folders_for

DONE = Path(".done")
"""Folder of the markers of finished jobs, relative to the experiment's folder."""
STATE = DONE / "state"
"""Folder of the state files of the jobs, likewise."""


class ExperimentPaths:
    """The files and folders of an experiment.

    Args:
        folder: The experiment's folder; `Path()` gives relative paths.

    Attributes:
        folder: As given.
        request: The request: the file of `Experiment`.
        run: State of the last `run`.
        manifest: Versions, hardware, hashes, and the folds as trained.
        split: The experiment's own copy of its split.
        subjects: The subject of every case; missing where no cases are known to belong together.
        metrics: Folder of the tables of metrics.
        per_case: Metrics of every case: see `per_case.COLUMNS`.
        summary: Means of the metrics.
        comparison: Paired differences between models.
        volumetry: Agreement of volumes with the reference's.
        notebook_dice: The notebooks' score of every case.
        prediction_times: Seconds that each variant took for the test images.
        choice: The ensemble's members: the file of `EnsembleChoice`.
        volumes: The ensemble's out-of-fold volumes.
        out_of_fold: The ensemble's out-of-fold segmentations.
        predictions: Segmented test images, one folder for each variant and for the ensemble.
        report: The report's page.
        explanation: The page of `explain`.
        logs: Log files of the jobs.
        benchmarks: Times of the jobs as Snakemake measures them: `<job>.tsv`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.request = folder / "experiment.yaml"
        self.run = folder / STATE / "run.json"
        self.manifest = folder / "manifest.json"
        self.split = folder / DONE / "splits_final.json"
        self.subjects = folder / TABLE
        self.metrics = folder / "metrics"
        self.per_case = self.metrics / "per_case.csv"
        self.summary = self.metrics / "summary.json"
        self.comparison = self.metrics / "comparison.csv"
        self.volumetry = self.metrics / "volumetry.csv"
        self.notebook_dice = self.metrics / "notebook_dice.csv"
        self.prediction_times = self.metrics / "prediction_times.csv"
        self.choice = folder / "ensemble" / "choice.json"
        self.volumes = folder / "ensemble" / "volumes.csv"
        self.out_of_fold = folder / "ensemble" / "out_of_fold"
        self.predictions = folder / "predictions"
        self.report = folder / "report" / "index.html"
        self.explanation = folder / "explain" / "index.html"
        self.logs = folder / "logs"
        self.benchmarks = folder / "benchmarks"

    def submission(self, task: str) -> Path:
        """Return the archive for the challenge; `task` as `Experiment.task`."""
        return self.folder / "submission" / f"{task}.zip"

    def nnunet(self, root: Path | None) -> NnunetFolders:
        """Return nnU-Net's folders.

        Args:
            root: nnU-Net's root folder, which wins over everything else; None: those in the experiment's folder
                `nnunet` or else of the last `run`, where they exist, else nnU-Net's variables, else below `nnunet`.
        """
        if root is not None:
            return folders_for(root, {})
        own = self.folder / "nnunet"
        places = [*self._last_folders().items(), *((name, own / name) for name in FOLDER_VARIABLES)]
        used = {name: str(path) for name, path in places if path.is_dir()}
        return folders_for(own, {**os.environ, **used})

    def _last_folders(self) -> dict[str, Path]:
        """Return the folders that the last `run` used, by nnU-Net's variables; empty if they are unknown."""
        try:
            return dict(zip(FOLDER_VARIABLES, map(Path, read_object(self.run)["settings"]["folders"]), strict=True))
        except (DataError, KeyError, TypeError, ValueError):
            return {}


RELATIVE = ExperimentPaths(Path())
"""The paths relative to the experiment's folder."""
