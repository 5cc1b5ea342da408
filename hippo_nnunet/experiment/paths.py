"""The paths in an experiment's folder."""

from __future__ import annotations

import os
from pathlib import Path

from hippo_nnunet.data.subjects import TABLE
from hippo_nnunet.nnunet.paths import FOLDER_VARIABLES, NnunetFolders, folders_for

DONE = Path(".done")
"""Folder of the markers of finished jobs, relative to the experiment's folder."""


class ExperimentPaths:
    """The files and folders of an experiment.

    Args:
        folder: The experiment's folder; `Path()` gives relative paths.

    Attributes:
        folder: As given.
        request: The request: the file of `Experiment`.
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
                `nnunet`, where they exist, else nnU-Net's variables, else below `nnunet`.
        """
        ignored = self.ignored_variables(root)
        environ = {name: value for name, value in os.environ.items() if name not in ignored}
        return folders_for(root or self.folder / "nnunet", environ)

    def ignored_variables(self, root: Path | None) -> list[str]:
        """Return those of nnU-Net's variables that do not apply to this experiment; `root` as for `nnunet`."""
        own = self.folder / "nnunet"
        return [name for name in FOLDER_VARIABLES if root is not None or (own / name).is_dir()]


RELATIVE = ExperimentPaths(Path())
"""The paths relative to the experiment's folder."""
