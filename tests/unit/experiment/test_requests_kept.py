"""The requests in `experiments/` can be run, and differ in what they train."""

from __future__ import annotations

from pathlib import Path

from hippo_nnunet.experiment.experiment import Experiment

FILES = sorted((Path(__file__).parents[3] / "experiments").glob("*.yaml"))


def test_every_request_is_valid_and_no_training_is_requested_twice() -> None:
    assert FILES
    readme = (FILES[0].parent / "README.md").read_text("utf-8")
    trained: dict[tuple[str, ...], str] = {}
    for file in FILES:
        experiment = Experiment.load(file)
        assert experiment.number_of_folds == 5
        assert experiment.subjects == ("none" if file.stem.endswith("-nnunet-folds") else "auto")
        few = file.stem.startswith("task04-few")  # one fold
        assert few or all(experiment.complete(configuration) for configuration in experiment.folds)
        assert f"`{file.stem}`" in readme or f"`{file.stem[file.stem.rindex('-') :]}`" in readme
        teachers = {name for variant in experiment.variants for name in experiment.teachers(variant)}
        for cell in (cell for cell in experiment.cells() if cell.trainer not in teachers):
            key = experiment.subjects, experiment.preset, cell.trainer, cell.configuration, str(cell.fold)
            assert key not in trained, (file.stem, trained.get(key))
            trained[key] = file.stem
