"""`explain` on models that nnU-Net trained: maps on the oblique images' grid, and the cases a fold has not seen."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from tiny_dataset import ATTENTION, CASES, PLANS, TEST_CASES, UNET, TinyDataset

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.pages.explanation.explain import Settings, explain_experiment, explain_images

pytestmark = pytest.mark.slow

SETTINGS = Settings(device="cpu")
GUIDED = "CLIPGuidedUNetTrainer_mini_fast_1epochs_2iters"


def read(path: Path, like: Path) -> np.ndarray:
    """Voxels (x, y, z) of a file that has to lie on the image."""
    made, image = (nib.load(file) for file in (path, like))
    assert isinstance(made, nib.Nifti1Image)
    assert isinstance(image, nib.Nifti1Image)
    assert made.shape == image.shape
    for form in ("get_sform", "get_qform"):
        np.testing.assert_allclose(getattr(made, form)(), getattr(image, form)(), atol=1e-4)
    return np.asanyarray(made.dataobj)


def test_attention_of_test_images_on_their_grid(trained: TinyDataset, tmp_path: Path) -> None:
    model, output = trained.model(ATTENTION), tmp_path / "out"
    written = explain_images(model, [trained.images], output, settings=SETTINGS)
    assert all(path.is_file() for path in written)
    names = {path.name for path in written}
    predict(trained.images, tmp_path / "predicted", [model], PredictOptions(device="cpu", backend="torch"))
    for case in TEST_CASES:
        assert {f"{case}_attention.png", f"{case}_attention.svg", f"{case}_probability.png"} <= names
        image = trained.images / f"{case}_0000.nii.gz"
        for level in (1, 2):
            coefficients = read(output / f"{case}_attention_level{level}.nii.gz", image)
            assert coefficients.dtype == np.float32
            assert coefficients.min() >= 0
            assert 0 < coefficients.max() <= 1
            assert coefficients.std() > 0
        prediction = read(output / f"{case}_prediction.nii.gz", image)
        np.testing.assert_array_equal(prediction, read(tmp_path / "predicted" / f"{case}.nii.gz", image))
    assert not any("errors" in name or "similarity" in name for name in names)
    assert written[-1] == output / "index.html"
    assert f"figures/{TEST_CASES[0]}_attention.png" in written[-1].read_text()
    with pytest.raises(DataError, match="exists already"):
        explain_images(model, [trained.images], output, settings=SETTINGS)
    again = explain_images(model, [trained.images], output, settings=Settings("cpu", overwrite=True))
    assert set(again) == set(written)
    with pytest.raises(DataError, match=rf"{TEST_CASES[0]}.nii.gz: no labels of case"):
        explain_images(model, [trained.images], tmp_path / "other", labels=trained.raw / "labelsTr", settings=SETTINGS)


def test_a_unet_shows_probabilities_and_errors(
    trained: TinyDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = trained.raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz"
    with caplog.at_level(logging.INFO):
        explain_images(trained.model(UNET), [image], tmp_path, [0], trained.raw / "labelsTr", SETTINGS)
    assert "neither attention gates nor CLIP" in caplog.text
    case = CASES[0]
    found, reference = (
        read(path, image)
        for path in (tmp_path / f"{case}_prediction.nii.gz", trained.raw / "labelsTr" / f"{case}.nii.gz")
    )
    errors = read(tmp_path / f"{case}_errors_posterior.nii.gz", image)
    np.testing.assert_array_equal(errors == 1, (found == 2) & (reference != 2))
    np.testing.assert_array_equal(errors == 2, (found != 2) & (reference == 2))
    assert sorted(path.name for path in (tmp_path / "figures").glob("*.png")) == [
        f"{case}_errors.png",
        f"{case}_probability.png",
    ]
    with pytest.raises(ConfigError, match="has no text to change"):
        prompts = {"posterior": ["the tail"]}
        explain_images(trained.model(UNET), [image], tmp_path / "p", [0], None, Settings("cpu", prompts=prompts))


def test_an_experiment_by_the_folds_that_have_not_seen_the_cases(trained: TinyDataset, tmp_path: Path) -> None:
    experiment = Experiment(trained.name, "laptop", ("AttentionUNet_seed1",), {"2d": (0, 1)}, 2, 1, 100)
    link = trained.model(ATTENTION).with_name(experiment.model("AttentionUNet_seed1", "2d"))
    assert link.name == trained.model(ATTENTION).name.replace(PLANS, "CompactPlans")
    link.symlink_to(trained.model(ATTENTION))
    experiment.save(ExperimentPaths(tmp_path).request)
    rows: list[dict[str, Any]] = [
        {"case": case, "fold": number // 2, "variant": "AttentionUNet_seed1", "configuration": "2d", "label": label}
        | {"dice": number / 4, "nsd_1mm": 1, "hd95_mm": 1, "assd_mm": 1, "volume_ref_mm3": 1, "volume_mm3": 1}
        for number, case in enumerate(CASES)
        for label in ("anterior", "posterior")
    ]
    table = tmp_path / "metrics" / "per_case.csv"
    table.parent.mkdir()
    try:
        pd.DataFrame(rows).to_csv(table, index=False)
        explain_experiment(tmp_path, 1, 1, root=trained.root, settings=SETTINGS)
        chosen = pd.read_csv(tmp_path / "explain" / "cases.csv")
        assert chosen[["case", "fold", "rank"]].to_numpy().tolist() == [
            [CASES[0], 0, "worst 1"],
            [CASES[3], 1, "best 1"],
        ]
        dice = pd.read_csv(tmp_path / "explain" / link.name / "dice.csv").set_index("case")
        assert dice["folds"].to_dict() == {CASES[0]: 0, CASES[3]: 1}
        with pytest.raises(ConfigError, match="no CLIP-guided variant"):
            explain_experiment(tmp_path, root=trained.root, settings=Settings("cpu", prompts={"posterior": ["x"]}))
        pd.DataFrame(rows).assign(fold=lambda t: 1 - t["fold"]).to_csv(table, index=False)
        with pytest.raises(DataError, match="not among the validation cases of fold 1"):
            explain_experiment(tmp_path, output=tmp_path / "wrong", root=trained.root, settings=SETTINGS)
    finally:
        link.unlink()


def test_similarity_and_another_prompt(in_tiny: TinyDataset, tmp_path: Path) -> None:
    in_tiny.trainer(GUIDED).run_training()
    image = in_tiny.raw / "imagesTr" / f"{CASES[0]}_0000.nii.gz"
    model, labels = in_tiny.model(GUIDED), in_tiny.raw / "labelsTr"
    settings = Settings("cpu", prompts={"posterior": ["the tail", "the body"]})
    explain_images(model, [image], tmp_path, [0], labels, settings)
    for name in ("background", "anterior", "posterior"):
        cosine = read(tmp_path / f"{CASES[0]}_similarity_{name}.nii.gz", image)
        assert -1 <= cosine.min() < cosine.max() <= 1
    text = pd.read_csv(tmp_path / "text_similarity.csv", index_col=0)
    assert list(text) == list(text.index) == ["background", "anterior", "posterior", "posterior (changed)"]
    np.testing.assert_allclose(np.diag(text), 1, atol=1e-4)
    assert text.loc["posterior", "posterior (changed)"] < 1
    dice = pd.read_csv(tmp_path / "dice.csv")
    assert {"dice", "dice_before_after", "dice_changed"} < set(dice)
    assert (tmp_path / "figures" / f"{CASES[0]}_prompt.svg").is_file()
    options = PredictOptions([0], "cpu", backend="torch", prompts=settings.prompts)
    (predicted,) = predict([image], tmp_path / "predicted", [model], options)
    changed = read(tmp_path / f"{CASES[0]}_prediction_changed.nii.gz", image)
    np.testing.assert_array_equal(read(predicted, image), changed)
    with pytest.raises(ConfigError, match="prompt for 'tail': no such class"):
        explain_images(model, [image], tmp_path / "x", [0], None, Settings("cpu", prompts={"tail": ["x"]}))
    with pytest.raises(ConfigError, match="prompt for 'tail': no such class"):
        predict([image], tmp_path / "x", [model], replace(options, prompts={"tail": ["x"]}))
    assert not (tmp_path / "x").exists()
