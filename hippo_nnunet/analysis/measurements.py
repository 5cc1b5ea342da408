"""What evaluating an experiment keeps beside its metrics, so that it can be shown where the masks are not."""

from __future__ import annotations

import logging
from pathlib import Path

from hippo_nnunet.analysis.compare import notebook_scores
from hippo_nnunet.analysis.volumes import record_volumes
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import write_table
from hippo_nnunet.nnunet.paths import NnunetFolders

log = logging.getLogger(__name__)


def keep_measurements(experiment: Experiment, folders: NnunetFolders, folder: Path) -> None:
    """Measure the notebooks' score of every case and the ensemble's volumes anew, and write both tables.

    What cannot be measured is named in the log, and its table is not written: neither decides over an experiment.

    Args:
        experiment: What was asked.
        folders: nnU-Net's folders.
        folder: The experiment's folder, with its metrics.

    Raises:
        DataError: The metrics are missing or unsound, or a table cannot be written.
    """
    paths = ExperimentPaths(folder)
    scores, notes = notebook_scores(experiment, folder, folders, read_per_case(paths.per_case), again=True)
    for note in notes:
        log.warning("%s", note)
    if not scores.empty:
        write_table(scores.round(6), paths.notebook_dice)
    if experiment.complete_configurations():
        try:
            record_volumes(experiment, folders, folder)
        except DataError as error:
            log.warning("no out-of-fold volumes: %s", error)
