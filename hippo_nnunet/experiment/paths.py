"""The paths in an experiment's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.nnunet.paths import NnunetFolders, folders_for

DONE = Path(".done")
"""Folder of the markers of finished jobs, relative to the experiment's folder."""


@dataclass(frozen=True)
class ExperimentPaths:
    """The files and folders of an experiment.

    Attributes:
        folder: The experiment's folder; `Path()` gives relative paths.
    """

    folder: Path

    @property
    def request(self) -> Path:
        """The request: the file of `Experiment`."""
        return self.folder / "experiment.yaml"

    @property
    def manifest(self) -> Path:
        """Versions, hardware, hashes, and the folds as trained."""
        return self.folder / "manifest.json"

    @property
    def split(self) -> Path:
        """The experiment's own copy of its split."""
        return self.folder / DONE / "splits_final.json"

    @property
    def metrics(self) -> Path:
        """Folder of the tables of metrics."""
        return self.folder / "metrics"

    @property
    def per_case(self) -> Path:
        """Metrics of every case: see `per_case.COLUMNS`."""
        return self.metrics / "per_case.csv"

    @property
    def summary(self) -> Path:
        """Means of the metrics."""
        return self.metrics / "summary.json"

    @property
    def comparison(self) -> Path:
        """Paired differences between models."""
        return self.metrics / "comparison.csv"

    @property
    def volumetry(self) -> Path:
        """Agreement of volumes with the reference's."""
        return self.metrics / "volumetry.csv"

    @property
    def notebook_dice(self) -> Path:
        """The notebooks' score of every case."""
        return self.metrics / "notebook_dice.csv"

    @property
    def prediction_times(self) -> Path:
        """Seconds that each variant took for the test images."""
        return self.metrics / "prediction_times.csv"

    @property
    def choice(self) -> Path:
        """The ensemble's members: the file of `EnsembleChoice`."""
        return self.folder / "ensemble" / "choice.json"

    @property
    def volumes(self) -> Path:
        """The ensemble's out-of-fold volumes."""
        return self.folder / "ensemble" / "volumes.csv"

    @property
    def out_of_fold(self) -> Path:
        """The ensemble's out-of-fold segmentations."""
        return self.folder / "ensemble" / "out_of_fold"

    @property
    def predictions(self) -> Path:
        """Segmented test images, one folder for each variant and for the ensemble."""
        return self.folder / "predictions"

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.folder / "report" / "index.html"

    @property
    def logs(self) -> Path:
        """Log files of the jobs."""
        return self.folder / "logs"

    @property
    def benchmarks(self) -> Path:
        """Times of the jobs as Snakemake measures them: `<job>.tsv`."""
        return self.folder / "benchmarks"

    def submission(self, task: str) -> Path:
        """Return the archive for the challenge; `task` as `Experiment.task`."""
        return self.folder / "submission" / f"{task}.zip"

    def nnunet(self, root: Path | None) -> NnunetFolders:
        """Return nnU-Net's folders.

        Args:
            root: nnU-Net's root folder, which wins over its variables; None: its variables, else `nnunet` in the
                experiment's folder.
        """
        return folders_for(self.folder / "nnunet") if root is None else folders_for(root, {})


RELATIVE = ExperimentPaths(Path())
"""The paths relative to the experiment's folder."""
