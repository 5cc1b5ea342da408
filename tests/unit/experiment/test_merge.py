"""Pieces of an experiment become one, or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from experiments.merge import main, merge
from hippo_nnunet.analysis.compare import compare_experiment
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.evaluation.comparison import Options
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.experiment.experiment import Experiment

RESULTS = Path(__file__).parents[3] / "results"
BY_SUBJECT = RESULTS / "task04-folds-auto"


def piece(folder: Path, variant: str, folds: tuple[int, ...] = (0, 1, 2, 3, 4)) -> Path:
    """A copy of a real experiment, as another training of some folds."""
    shutil.copytree(BY_SUBJECT, folder, ignore=shutil.ignore_patterns("comparison.csv", "volumetry.csv"))
    table = pd.read_csv(folder / "metrics" / "per_case.csv")
    table[(table["variant"] == "UNet") & table["fold"].isin(folds)].assign(variant=variant).to_csv(
        folder / "metrics" / "per_case.csv", index=False
    )
    request = yaml.safe_load((folder / "experiment.yaml").read_text())
    request |= {"variants": [variant], "folds": {"2d": list(folds)}, "plans": request.pop("plans")}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(request, sort_keys=False))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["folds"] = [
        {**fold, "variant": variant}
        for fold in manifest["folds"]
        if fold["variant"] == "UNet" and fold["fold"] in folds
    ]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_seeds_and_folds_of_several_pieces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = piece(tmp_path / "first", "UNet_seed1", (0, 1))
    second = piece(tmp_path / "second", "UNet_seed1", (2, 3, 4))
    output = tmp_path / "merged"
    main([str(piece(tmp_path / "base", "UNet")), str(first), str(second), "--output", str(output)])
    assert capsys.readouterr().out.strip() == str(output)
    table = read_per_case(output / "metrics" / "per_case.csv")
    assert table.groupby("variant")["case"].nunique().to_dict() == {"UNet": 220, "UNet_seed1": 220}
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["arguments"]["variants"] == ["UNet", "UNet_seed1"]
    assert len(manifest["folds"]) == 10
    assert [one["folder"] for one in manifest["pieces"]] == ["base", "first", "second"]
    comparison = compare_experiment(output, Options(n_resamples=99))
    assert comparison.models["dice_seed_sd"].notna().any()


def test_pieces_that_do_not_belong_together(tmp_path: Path) -> None:
    one = piece(tmp_path / "one", "UNet_seed1")
    with pytest.raises(ConfigError, match=r"does not belong to .*subjects is"):
        merge([RESULTS / "task04-folds-none", one], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"both have UNet_seed1 2d fold 0: leave one out"):
        merge([one, piece(tmp_path / "again", "UNet_seed1", (0,))], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no piece has UNet_seed2 2d fold 2, and 2 more trainings are missing"):
        merge([one, piece(tmp_path / "part", "UNet_seed2", (0, 1))], tmp_path / "out")
    other = piece(tmp_path / "other", "UNet_seed3")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["sha256"]["splits"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="its splits are others"):
        merge([one, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="exists: choose a new folder"):
        merge([one], tmp_path / "one")


def test_a_variant_that_no_piece_trains_in_all_configurations_is_limited(tmp_path: Path) -> None:
    merged = merge([RESULTS / "task04-recipe", RESULTS / "task04-2d-long"], tmp_path / "out")
    request = Experiment.load(merged / "experiment.yaml")
    assert request.folds.keys() == {"2d", "3d_fullres"}
    assert request.only == {"UNet_40epochs": ("2d",)}
    assert len(request.cells()) == 15


def test_folds_that_leave_a_variant_nothing_are_refused(tmp_path: Path) -> None:
    few = piece(tmp_path / "few", "UNet_seed1", (0, 1))
    with pytest.raises(ConfigError, match=r"few: UNet_seed1 has none of the folds 2, 3: name one that it has"):
        merge([BY_SUBJECT, few], tmp_path / "out", [3, 2])
    request = yaml.safe_load((few / "experiment.yaml").read_text())
    request |= {"variants": ["UNet", "UNet_seed1"], "folds": {"2d": [0, 1], "3d_fullres": [0]}}
    request |= {"only": {"UNet_seed1": ["3d_fullres"]}}
    (few / "experiment.yaml").write_text(yaml.safe_dump(request, sort_keys=False))
    with pytest.raises(ConfigError, match=r"few: UNet_seed1 has none of the folds 1: name one that it has"):
        merge([few], tmp_path / "out", [1])
    assert not (tmp_path / "out").exists()


def test_some_folds_of_every_piece(tmp_path: Path) -> None:
    few = piece(tmp_path / "few", "UNet_5cases", (0, 1))
    with pytest.raises(ConfigError, match="no piece has UNet_5cases 2d fold 2"):
        merge([BY_SUBJECT, few], tmp_path / "out")
    main([str(BY_SUBJECT), str(few), "--output", str(tmp_path / "out"), "--folds", "0", "1"])
    merged = tmp_path / "out"
    assert Experiment.load(merged / "experiment.yaml").folds == {"2d": (0, 1)}
    table = read_per_case(merged / "metrics" / "per_case.csv")
    assert set(table["fold"]) == {0, 1}
    assert set(table["variant"]) == {"UNet", "UNet_seed1", "UNet_seed2", "UNet_5cases"}
    manifest = json.loads((merged / "manifest.json").read_text())
    assert {fold["fold"] for fold in manifest["folds"]} == {0, 1}


def test_variants_that_are_left_out(tmp_path: Path) -> None:
    few = piece(tmp_path / "few", "UNet_5cases")
    for without, message in ((["UNet_flip"], "no piece has UNet_flip"), (["UNet_5cases"], "few has no other variants")):
        with pytest.raises(ConfigError, match=message):
            merge([BY_SUBJECT, few], tmp_path / "out", without=without)
    arguments = [str(BY_SUBJECT), str(few), "--output", str(tmp_path / "out"), "--without", "UNet_seed1", "UNet_seed2"]
    main(arguments)
    table = read_per_case(tmp_path / "out" / "metrics" / "per_case.csv")
    assert set(table["variant"]) == {"UNet", "UNet_5cases"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {fold["variant"] for fold in manifest["folds"]} == {"UNet", "UNet_5cases"}
    assert manifest["arguments"]["variants"] == ["UNet", "UNet_5cases"]
