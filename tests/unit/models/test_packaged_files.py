"""The files that ship: they open, belong together, and are what they say."""

from __future__ import annotations

import pytest

from hippo_nnunet.evaluation.volume_calibration import subjects_needed
from hippo_nnunet.models.onnx_file import open_onnx
from hippo_nnunet.models.packaged import FOLDER, LARGEST, LICENCE, open_packaged
from hippo_nnunet.sharing.info import packaged_lines


def test_model_and_description_belong_together() -> None:
    model = open_packaged()
    opened = open_onnx(model.path)
    assert opened.description["licence"] == model.licence == "CC-BY-SA-4.0"
    assert opened.description["weights"] == "float16"
    assert opened.checkpoints == model.description["source"]["checkpoints"]
    assert not opened.mirroring_axes
    assert list(opened.labels.values) == [0, 1, 2]
    assert model.known_images().axis_codes == ("RAS",)
    assert model.description["attribution"] in (FOLDER / LICENCE).read_text()


def test_size() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LARGEST


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_every_volume_has_an_interval(level: float) -> None:
    calibration = open_packaged().calibration(level)
    assert list(calibration.by_label) == ["Anterior", "Posterior", "total"]
    for of_label in calibration.by_label.values():
        assert of_label.subjects >= subjects_needed(level)
        low, high = of_label.interval(1700.0, level)
        assert 1000 < low < 1700 < high < 2400


def test_performance_is_that_of_the_calibration_cases() -> None:
    model = open_packaged()
    found = model.description["performance"]
    total = model.calibration().by_label["total"]
    assert found["subjects"] == total.subjects
    assert found["cases"] == len(total.residuals_mm3)
    dice = found["by_label"]["mean"]["dice"]
    assert dice["worst"] <= dice["worst_5"] <= dice["low"] <= dice["mean"] <= dice["high"] <= 1
    assert f"  mean Dice: {dice['mean']:.4f}" in "\n".join(packaged_lines(model))


def test_no_path_of_a_machine() -> None:
    for path in FOLDER.iterdir():
        content = path.read_bytes()
        for text in (b"/home/", b"/root/", b"/tmp/", b"site-packages"):
            assert text not in content
