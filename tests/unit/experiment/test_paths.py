"""The layout of an experiment's folder: experiments that exist must still open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.evaluation.selection import EnsembleChoice
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import RELATIVE, ExperimentPaths
from hippo_nnunet.nnunet.paths import FOLDER_VARIABLES

RESULTS = Path(__file__).parents[3] / "results"


def test_a_committed_experiment_opens() -> None:
    paths = ExperimentPaths(RESULTS / "task04-laptop")
    experiment = Experiment.load(paths.request)
    assert set(read_per_case(paths.per_case)["variant"]) == {*experiment.variants, "ensemble"}
    assert set(EnsembleChoice.from_json(paths.choice).members) <= {
        experiment.model(variant, "2d") for variant in experiment.variants
    }
    others = (paths.manifest, paths.summary, paths.comparison, paths.notebook_dice, paths.prediction_times)
    for path in (*others, paths.volumes, paths.submission(experiment.task)):
        assert path.is_file(), path


def test_relative_paths_begin_in_the_folder(tmp_path: Path) -> None:
    paths = ExperimentPaths(tmp_path)
    assert RELATIVE.per_case.as_posix() == "metrics/per_case.csv"
    assert tmp_path / RELATIVE.report == paths.report
    assert tmp_path / RELATIVE.split == paths.split


def test_a_root_wins_over_the_variables_and_these_over_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    paths = ExperimentPaths(tmp_path / "experiment")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "own"))
    assert paths.nnunet(None).raw == tmp_path / "own"
    assert paths.nnunet(None).results == tmp_path / "experiment" / "nnunet" / "nnUNet_results"
    assert paths.nnunet(tmp_path / "root").raw == tmp_path / "root" / "nnUNet_raw"


def test_an_experiments_own_folders_win_over_variables_that_were_set_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nnUNet_raw", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere" / name))
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    paths = ExperimentPaths(tmp_path / "experiment")
    own = tmp_path / "experiment" / "nnunet" / "nnUNet_results"
    own.mkdir(parents=True)
    assert paths.nnunet(None).results == own
    assert paths.nnunet(None).raw == tmp_path / "elsewhere" / "nnUNet_raw", "began with this variable set"
    assert paths.nnunet(tmp_path / "root").results == tmp_path / "root" / "nnUNet_results"


def test_the_folders_of_the_last_run_win_over_variables_while_they_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in FOLDER_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / "elsewhere" / name))
    paths = ExperimentPaths(tmp_path / "experiment")
    paths.run.parent.mkdir(parents=True)
    last = [tmp_path / "root" / name for name in FOLDER_VARIABLES]
    paths.run.write_text(json.dumps({"settings": {"folders": list(map(str, last))}}))
    assert paths.nnunet(None).raw == tmp_path / "elsewhere" / "nnUNet_raw"
    for folder in last[1:]:
        folder.mkdir(parents=True)
    found = paths.nnunet(None)
    assert (found.preprocessed, found.results) == tuple(last[1:])
    assert found.raw == tmp_path / "elsewhere" / "nnUNet_raw", "the last one was deleted"
    assert paths.nnunet(tmp_path / "new").results == tmp_path / "new" / "nnUNet_results"
    paths.run.write_text("{}")
    assert paths.nnunet(None).results == tmp_path / "elsewhere" / "nnUNet_results"
