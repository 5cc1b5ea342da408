"""Each benchmark that runs nnU-Net, once, as small as can be, through the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_dataset import PLANS, TEST_CASES, TinyDataset
from typer.testing import CliRunner

from benchmarks import prediction
from benchmarks.__main__ import app
from benchmarks.contention import SIDES
from benchmarks.document import OURS, STOCK, Result, read_document
from benchmarks.processes import Run
from hippo_nnunet.errors import DataError

pytestmark = pytest.mark.slow


def benchmark(tmp_path: Path, *arguments: object) -> tuple[dict[str, Any], Result, str]:
    """Run a benchmark; returns the machine, the result and what it printed on stdout."""
    file = tmp_path / "out.json"
    done = CliRunner().invoke(app, [*map(str, arguments), "--output", str(file)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    machine, (result,) = read_document(file)
    return machine, result, done.stdout


@pytest.fixture(scope="module")
def epochs(tiny: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """Two epochs of two iterations by nnU-Net and by us, and the folder that keeps both models."""
    folder = tmp_path_factory.mktemp("epochs")
    options = ("--dataset", tiny.number, "--plans", PLANS, "--epochs", 2, "--iterations", 2, "--repeats", 1)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny.environ.items():
            patch.setenv(name, value)
        where = ("--device", "cpu", "--keep", folder / "kept")
        _, result, _ = benchmark(folder, "train-epochs", *options, *where)
    return result, folder / "kept"


def test_train_epochs_trains_the_same_network_on_both_sides(epochs: tuple[Result, Path]) -> None:
    result, kept = epochs
    for side in (STOCK, OURS):
        assert len(result.sides[side]["epoch_seconds"]) == 1, "the first epoch does not count"
        assert result.sides[side]["epoch_seconds"][0] < result.sides[side]["process_seconds"][0]
        assert result.sides[side]["peak_rss_mib"][0] > 100
    same = {key: value for key, value in result.checks.items() if key.startswith("same_")}
    assert same == {f"same_{key}": True for key in ("network", "parameters", "batch_size", "patch_size")}
    assert sorted(path.parts[-4] for path in kept.rglob("checkpoint_final.pth")) == [
        "Dataset901_Tiny",
        "Dataset901_Tiny",
    ]
    assert len(list(kept.rglob(f"UNetTrainer_2epochs_2iters__{PLANS}__2d"))) == 1


@pytest.fixture
def without_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnUNetv2_predict starts none of its six worker processes, each of which imports torch."""
    measure = prediction.run_measured

    def run_measured(command: Sequence[str], *settings: Any) -> Run:
        sequential = ("-npp", "0", "-nps", "0") if Path(command[0]).stem == "nnUNetv2_predict" else ()
        return measure([*command, *sequential], *settings)

    monkeypatch.setattr(prediction, "run_measured", run_measured)


@pytest.mark.usefixtures("without_workers")
def test_predict_compares_both_programs(in_tiny: TinyDataset, epochs: tuple[Result, Path], tmp_path: Path) -> None:
    model = epochs[1] / STOCK / in_tiny.name / f"nnUNetTrainer__{PLANS}__2d"
    before = sorted(model.rglob("*"))
    job = ("--model", model, "--images", in_tiny.images, "--limit", 1, "--repeats", 1, "--device", "cpu")
    machine, result, shown = benchmark(tmp_path, "predict", *job, "--no-warm-up", "--probabilities")
    assert len(TEST_CASES) > 1
    assert result.settings["cases"] == 1
    assert result.settings["folds"] == [0]
    assert result.checks["equal_share"] > 0.999
    assert result.checks["probabilities"]["close_share"] > 0.9
    for side in (STOCK, OURS):
        assert result.sides[side]["seconds"][0] > 0
    assert shown.startswith("### predict\n")
    assert {"cpu", "cores", "ram_gib", "gpu", "versions", "commit", "load_average_before"} <= set(machine)
    assert str(tmp_path) not in (tmp_path / "out.json").read_text(), "no folder of the machine"
    assert sorted(model.rglob("*")) == before


def test_train_step_compares_trainers_on_the_same_batch(in_tiny: TinyDataset, tmp_path: Path) -> None:
    names = ("UNetTrainer_fast_seed1", "AttentionUNetTrainer_fast_seed1")
    job = ("--dataset", in_tiny.number, "--plans", PLANS, "--trainers", ",".join(names), "--repeats", 2)
    _, result, shown = benchmark(tmp_path, "train-step", *job, "--warm-up", 1, "--device", "cpu")
    assert list(result.sides) == list(names)
    assert result.checks["same_batch"] is True
    assert result.checks["batch"] == [8, 1, 16, 16]
    trained = result.checks["trained_parameters"]
    assert trained[names[1]] > trained[names[0]]
    for name in names:
        assert len(result.sides[name]["seconds"]) == 2
    assert "AttentionUNetTrainer_fast_seed1" in shown
    assert not in_tiny.model(names[0]).exists(), "results belong into a scratch folder"


def test_contention_measures_each_kind_of_work_on_each_side(in_tiny: TinyDataset, tmp_path: Path) -> None:
    job = ("--dataset", in_tiny.number, "--plans", PLANS, "--repeats", 1, "--settle", 0, "--window", 0.1)
    _, result, shown = benchmark(tmp_path, "contention", *job)
    assert tuple(result.sides) == SIDES
    for figures in result.sides.values():
        assert set(figures) == {"training_seconds", "validation_seconds", "prediction_seconds"}
        assert all(seconds > 0 for (seconds,) in figures.values())
    assert result.checks["same_batches"] is True
    assert result.checks["largest_loss_difference"] < 0.01
    assert result.checks["largest_logit_difference"] < 0.01
    assert set(result.checks["last_threads"][SIDES[0]].values()) == {result.checks["threads"]}
    assert "beside a busy process, adaptive threads" in shown
    assert not list((in_tiny.root / "nnUNet_results").rglob("UNetTrainer_fast_1000epochs*"))


def test_a_target_that_is_there_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("{}")
    with pytest.raises(DataError, match="--overwrite"):
        benchmark(tmp_path, "startup")
