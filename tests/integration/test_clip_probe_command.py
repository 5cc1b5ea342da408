"""`clip probe` on a small preprocessed dataset."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from tiny_dataset import PLANS, TinyDataset
from typer.testing import CliRunner

from hippo_nnunet.cli.clip import app
from hippo_nnunet.errors import ConfigError, DataError

COMMAND = ["probe", "--dataset", "DATASET", "--model", "mini", "--plans", PLANS, "--device", "cpu"]


def probed(dataset: TinyDataset, *options: str) -> list[str]:
    return [dataset.number if word == "DATASET" else word for word in [*COMMAND, *options]]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_encoder_is_probed_on_the_datasets_folds(in_tiny: TinyDataset, configuration: str) -> None:
    result = CliRunner().invoke(app, probed(in_tiny, "--configuration", configuration, "--slices", "0", "--json"))
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert (found["dataset"], found["configuration"], found["encoder"]) == (in_tiny.name, configuration, "mini/bundled")
    assert [row["label"] for row in found["labels"]] == ["anterior", "posterior", "background"]
    assert all(row["position"] <= 1 and row["both"] <= 1 for row in found["labels"][:2])
    assert found["folds"] == len(json.loads((in_tiny.preprocessed / "splits_final.json").read_text()))
    folder = in_tiny.preprocessed / f"{PLANS}_{configuration}_clip"
    assert list(folder.glob(f"{found['sha256'][:12]}_*.safetensors"))  # which a cached training will find
    drawn = CliRunner().invoke(app, probed(in_tiny, "--configuration", configuration, "--slices", "1", "--json"))
    assert isinstance(drawn.exception, DataError)  # one case is of one fold


class Leaving:
    """Pickles as a call that makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return Path.mkdir, (self.folder,)


def test_preprocessed_cases_run_no_code(in_tiny: TinyDataset, tmp_path: Path) -> None:
    case = min((in_tiny.preprocessed / f"{PLANS}_2d").glob("*.pkl"))
    content = case.read_bytes()
    case.write_bytes(pickle.dumps(Leaving(tmp_path / "canary")))
    try:
        result = CliRunner().invoke(app, probed(in_tiny, "--configuration", "2d"))
    finally:
        case.write_bytes(content)
    assert isinstance(result.exception, DataError)
    assert f"{case.name}: it could run code" in str(result.exception)
    assert not (tmp_path / "canary").exists()


def test_what_is_not_there_is_named(in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unplanned = CliRunner().invoke(app, [*probed(in_tiny)[:-4], "--plans", "OtherPlans"])
    assert isinstance(unplanned.exception, ConfigError)
    assert "OtherPlans.json is missing" in str(unplanned.exception)
    with monkeypatch.context() as emptied:
        emptied.setattr("hippo_nnunet.analysis.clip_probe.data_folder", lambda *_: tmp_path)
        unprepared = CliRunner().invoke(app, probed(in_tiny))
    assert isinstance(unprepared.exception, DataError)
    assert f"no preprocessed cases in {tmp_path}; run: hippo-nnunet plan" in str(unprepared.exception)
    monkeypatch.setattr("hippo_nnunet.analysis.clip_probe.read_splits", lambda *_: None)
    assert "no split into folds" in str(CliRunner().invoke(app, probed(in_tiny)).exception)
