"""What forbids a verdict, the tail of Dice, and the ensemble's gain apart from its postprocessing's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_experiment import manifest, write_experiment

from hippo_nnunet.analysis.compare import compare_experiment
from hippo_nnunet.analysis.printed import full_parts, short_parts
from hippo_nnunet.analysis.verdicts import NOT_JUDGED, ensemble_gain, headline, labels_never_found, verdict_sentence
from hippo_nnunet.evaluation.comparison import Comparison, Options
from hippo_nnunet.evaluation.notes import NoteKind
from hippo_nnunet.evaluation.pairing import Model

FAST = Options(n_resamples=99)
LOST = Model("CLIPGuidedUNet_mini", "2d")


def per_case(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "metrics" / "per_case.csv")


@pytest.fixture(scope="module")
def lost(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment in which one network never found one of the labels."""
    folder = tmp_path_factory.mktemp("made") / "exp"
    write_experiment(folder, ["UNet", "AttentionUNet", LOST.recipe])
    table = per_case(folder)
    rows = (table["variant"] == LOST.recipe) & (table["label"] == "Posterior")
    table.loc[rows, ["dice", "volume_mm3"]] = 0.0
    table.loc[rows, ["hd95_mm", "assd_mm"]] = 77.0
    table.to_csv(folder / "metrics" / "per_case.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def compared(lost: Path) -> Comparison:
    return compare_experiment(lost, FAST)


def test_a_label_that_was_never_found_gets_no_verdict_and_no_distance(compared: Comparison) -> None:
    pairs = compared.pairs[compared.pairs["variant"] == LOST.recipe].set_index("scope")
    assert pairs.loc[["mean", "Posterior"], "verdict"].tolist() == [NOT_JUDGED] * 2
    assert pairs.loc[["mean", "Posterior"], "verdict_retrained"].tolist() == [NOT_JUDGED] * 2
    assert pairs.loc["Anterior", "verdict"] != NOT_JUDGED, "the other label is compared as always"
    models = compared.models[compared.models["variant"] == LOST.recipe].set_index("scope")
    assert np.isnan(models.loc[["mean", "Posterior"], ["hd95_mm", "assd_mm"]].to_numpy()).all()
    assert models.loc["Anterior", "hd95_mm"] == 1.5
    (note,) = (note for note in compared.notes if note.kind is NoteKind.LABEL_NOT_FOUND)
    assert "CLIPGuidedUNet_mini 2d never found Posterior" in note.text
    assert "CLIPGuidedUNet_mini cannot be judged against UNet: a label was never found (2d)" in headline(compared.pairs)
    assert "worse" not in verdict_sentence(pairs.reset_index().iloc[0])


@pytest.mark.parametrize("parts", [short_parts, full_parts])
def test_warnings_stand_before_the_figures(compared: Comparison, parts: Any) -> None:
    printed = list(parts(compared))
    assert printed[0] == headline(compared.pairs)
    assert printed[1].startswith("warning: CLIPGuidedUNet_mini 2d never found Posterior")


def test_one_case_with_the_label_is_enough(lost: Path) -> None:
    table = per_case(lost)
    assert labels_never_found(table) == {LOST: ["Posterior"]}
    own = table.index[(table["variant"] == LOST.recipe) & (table["label"] == "Posterior")]
    table.loc[own[0], "dice"] = 0.1
    assert labels_never_found(table) == {}
    table.loc[own, "volume_ref_mm3"] = 0.0
    table.loc[own, "dice"] = 0.0
    assert labels_never_found(table) == {}, "no case has the label, so none could be found"


def test_short_trainings_are_named_with_their_length(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path / "exp", ["UNet", "AttentionUNet"])
    text = manifest(experiment)
    assert [note for note in compare_experiment(tmp_path / "exp", FAST).notes if note.kind is NoteKind.SHORT_TRAINING]
    for fold in text["folds"]:
        fold["schedule"] = (
            {"epochs": 4, "iterations": 25} if fold["variant"] == "UNet" else {"epochs": 11, "iterations": 100}
        )
    (tmp_path / "exp" / "manifest.json").write_text(json.dumps(text))
    (note,) = (n for n in compare_experiment(tmp_path / "exp", FAST).notes if n.kind is NoteKind.SHORT_TRAINING)
    assert note.text.startswith("UNet 2d: trained for 100 iterations only")


def test_the_tail_of_dice(lost: Path, compared: Comparison) -> None:
    rows = compared.models.set_index(["variant", "scope"])
    wide = per_case(lost).query("variant == 'UNet'").pivot(index="case", columns="label", values="dice")
    assert rows.loc[("UNet", "Anterior"), "dice_p05"] == pytest.approx(np.percentile(wide["Anterior"], 5))
    assert rows.loc[("UNet", "mean"), "dice_worst"] == pytest.approx(wide.mean(axis=1).min())
    assert rows.loc[("UNet", "mean"), "failures"] == 0
    assert rows.loc[(LOST.recipe, "mean"), "failures"] == 20, "a case fails if one label does"
    assert rows.loc[(LOST.recipe, "Anterior"), "failures"] == 0


def pairs(difference: float) -> pd.DataFrame:
    named = {"kind": "ensemble", "variant": "ensemble", "configuration": "2d", "scope": "mean", "metric": "dice"}
    rows = [{**named, "against": name, "against_configuration": "2d", "n": 20} for name in ("UNet", "AttentionUNet")]
    return pd.DataFrame(rows).assign(difference=[difference, difference + 0.02])


def test_postprocessing_is_not_credited_to_the_ensemble() -> None:
    text = ensemble_gain({"nested_gain": 0.0003, "postprocessing": "largest_per_label"}, pairs(0.0594))
    assert "+0.0003 Dice" in text
    assert "The rest of the +0.0594 over UNet 2d is the effect of postprocessing" in text
    assert "The rest" not in ensemble_gain({"nested_gain": 0.0011}, pairs(0.0011))
    assert ensemble_gain(None, pairs(0.1)) == ""
    assert ensemble_gain({"nested_gain": None}, pairs(0.1)) == ""
    assert ensemble_gain({"nested_gain": 0.1}, pairs(0.1).assign(metric="hd95_mm")) == ""


def test_the_gain_has_its_interval_and_its_control() -> None:
    gains = [
        {"dice": 0.0008, "low": 0.0001, "high": 0.0015, "members": ["a", "b"]},
        {"dice": 0.0012, "low": None, "high": None, "members": ["c", "d"]},
    ]
    text = ensemble_gain(
        {"nested_gain": 0.0011, "gain": gains[0] | {"dice": 0.0011}, "seed_gains": gains}, pairs(0.0011)
    )
    assert "gains +0.0011 Dice (95% interval +0.0001 to +0.0015) over the best single model" in text
    assert text.endswith("Two trainings of one recipe gain up to +0.0012 over their mean.")
