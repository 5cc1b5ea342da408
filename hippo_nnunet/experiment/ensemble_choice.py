"""The models that an experiment has chosen for its ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.evaluation.selection import EnsembleChoice
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths


@dataclass(frozen=True)
class ChosenModels:
    """What predicts new images for an experiment.

    Attributes:
        folders: nnU-Net's model folders, in the order in which they are averaged.
        postprocessing: One of POSTPROCESSINGS.
    """

    folders: tuple[Path, ...]
    postprocessing: str


def chosen_models(folder: Path, root: Path | None = None) -> ChosenModels:
    """Find the ensemble that `run` has chosen.

    Args:
        folder: The experiment's folder.
        root: nnU-Net's root folder, which wins over its variables; None: its variables, else `nnunet` in the folder.

    Raises:
        ConfigError: No experiment there, or it has not chosen yet.
        DataError: The choice cannot be read.
    """
    paths = ExperimentPaths(folder)
    experiment = Experiment.load(paths.request)
    if not paths.choice.is_file():
        raise ConfigError(
            f"{paths.choice} is missing: the experiment has chosen no ensemble yet; finish it with "
            f"'hippo-nnunet run {folder}', or name models with --model"
        )
    choice = EnsembleChoice.from_json(paths.choice)
    folders = paths.nnunet(root)
    models = tuple(folders.results / experiment.dataset / member for member in choice.members)
    return ChosenModels(models, choice.postprocessing)
