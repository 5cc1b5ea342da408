"""Folders of predictions measured against references, and the summary."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.labels import named_labels
from hippo_nnunet.evaluation.tables import COLUMNS, evaluate_folder, summarise, tag, write_tables

ENDING = ".nii.gz"
LABELS = {"Anterior": 1, "Posterior": 2}
OBLIQUE = np.array([[0.0, -1.2, 0.1, 5], [0.9, 0.0, 0.0, -3], [0.1, 0.1, 2.0, 7], [0, 0, 0, 1]])


def write(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.0, 2.0, 0.5, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(array.astype(np.uint8), affine), path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    for case in ("a", "b", "c"):
        reference = rng.integers(0, 3, (5, 6, 7))
        write(tmp_path / "ref" / f"{case}{ENDING}", reference)
        noise = np.where(rng.random(reference.shape) < 0.2, 0, reference)
        write(tmp_path / "pred" / f"{case}{ENDING}", noise)
    return tmp_path / "pred", tmp_path / "ref"


def test_dice_equals_nnunets(folders: tuple[Path, Path]) -> None:
    table = evaluate_folder(*folders, LABELS, ENDING)
    assert list(table["case"]) == ["a", "a", "b", "b", "c", "c"]
    for case in "abc":
        files = [str(folder / f"{case}{ENDING}") for folder in folders[::-1]]
        theirs = compute_metrics(*files, SimpleITKIO(), [1, 2])["metrics"]
        ours = table[table["case"] == case].set_index("label")["dice"]
        assert ours["Anterior"] == theirs[1]["Dice"]
        assert ours["Posterior"] == theirs[2]["Dice"]


def test_volume_uses_the_spacing_of_the_file(folders: tuple[Path, Path]) -> None:
    table = evaluate_folder(*folders, LABELS, ENDING, cases=["b"])
    array = np.asarray(nibabel.load(folders[1] / f"b{ENDING}").dataobj)
    assert table["volume_ref_mm3"].tolist() == [float((array == 1).sum()), float((array == 2).sum())]


def test_distances_follow_the_axes_of_the_file(tmp_path: Path) -> None:
    reference, prediction = np.zeros((9, 9, 9)), np.zeros((9, 9, 9))
    reference[2, 2, 2] = prediction[2, 4, 2] = 1  # two voxels along y, 2 mm each
    write(tmp_path / "ref" / f"a{ENDING}", reference)
    write(tmp_path / "pred" / f"a{ENDING}", prediction)
    table = evaluate_folder(tmp_path / "pred", tmp_path / "ref", {"one": 1}, ENDING)
    assert table.loc[0, "hd95_mm"] == pytest.approx(4.0)


def test_missing_prediction_and_reference(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    (predictions / f"b{ENDING}").unlink()
    with pytest.raises(DataError, match=r"no prediction for 1 cases \(b\)"):
        evaluate_folder(predictions, references, LABELS, ENDING)
    assert len(evaluate_folder(predictions, references, LABELS, ENDING, cases=["a"])) == 2
    (references / f"c{ENDING}").unlink()
    with pytest.raises(DataError, match=r"no reference for"):
        evaluate_folder(predictions, references, LABELS, ENDING, cases=["a", "c"])


def test_wrong_geometry(folders: tuple[Path, Path]) -> None:
    predictions, references = folders
    array = np.asarray(nibabel.load(predictions / f"a{ENDING}").dataobj)
    write(predictions / f"a{ENDING}", array, np.array([[1, 0, 0, 1], [0, 2, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 1.0]]))
    with pytest.raises(DataError, match=r"a\.nii\.gz: affine differs.*up to 1 mm away"):
        evaluate_folder(predictions, references, LABELS, ENDING)
    write(predictions / f"a{ENDING}", array[1:])
    with pytest.raises(DataError, match=r"a\.nii\.gz: shape \(4, 6, 7\), but .*a\.nii\.gz has \(5, 6, 7\)"):
        evaluate_folder(predictions, references, LABELS, ENDING)


def test_truncated_file(folders: tuple[Path, Path]) -> None:
    broken = folders[0] / f"b{ENDING}"
    broken.write_bytes(broken.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"b\.nii\.gz: cannot be read"):
        evaluate_folder(*folders, LABELS, ENDING)


def test_oblique_images(tmp_path: Path) -> None:
    q, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine = np.eye(4)
    affine[:3, :3] = q * [1.0, 2.0, 3.0]
    mask = np.zeros((6, 6, 6))
    mask[2:4, 2:4, 2:4] = 1
    write(tmp_path / "x" / f"a{ENDING}", mask, affine)
    table = evaluate_folder(tmp_path / "x", tmp_path / "x", {"one": 1}, ENDING)
    assert table.loc[0, "volume_mm3"] == pytest.approx(48, rel=1e-5)


def test_labels_of_dataset_json() -> None:
    regions = {
        "labels": {"background": 0, "whole": [1, 2], "front": [1], "ignore": 3},
        "regions_class_order": [2, 1],
    }
    assert named_labels(regions) == ({"whole": (1, 2), "front": 1}, 3)
    with pytest.raises(DataError, match="nnU-Net refuses"):
        named_labels({"labels": {"one": 1}})


def per_case() -> pd.DataFrame:
    rows = [
        ("a", 0, "Anterior", 0.8), ("a", 0, "Posterior", 0.6),
        ("b", 0, "Anterior", 0.6), ("b", 0, "Posterior", np.nan),
        ("c", 1, "Anterior", 1.0), ("c", 1, "Posterior", 0.8),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["case", "fold", "label", "dice"])
    for column in COLUMNS[6:]:
        table[column] = 1.0
    return table.assign(variant="UNet", configuration="2d")[list(COLUMNS)]


def test_summary_by_hand() -> None:
    entry = summarise(per_case())["UNet"]["2d"]
    assert entry["cases"] == 3
    assert entry["labels"]["Anterior"]["dice"] == {"mean": pytest.approx(0.8), "std": pytest.approx(0.2), "n": 3}
    assert entry["labels"]["Posterior"]["dice"]["mean"] == pytest.approx(0.7)
    assert entry["labels"]["Posterior"]["dice"]["n"] == 2
    assert entry["foreground_mean"]["dice"]["mean"] == pytest.approx(0.75)  # of the labels' means, as nnU-Net has it
    assert entry["foreground_mean"]["dice"]["std"] == pytest.approx(np.std([0.7, 0.6, 0.9], ddof=1))
    assert entry["folds"]["0"]["dice"] == pytest.approx((0.7 + 0.6) / 2)
    assert entry["folds"]["1"]["dice"] == pytest.approx(0.9)


def test_summary_of_one_case_is_json() -> None:
    summary = summarise(per_case().query("case == 'b'"))
    assert summary["UNet"]["2d"]["labels"]["Posterior"]["dice"] == {"mean": None, "std": None, "n": 0}
    json.dumps(summary, allow_nan=False)


def test_summary_refuses_repeated_rows_and_missing_columns() -> None:
    table = per_case()
    with pytest.raises(DataError, match="case a, label Anterior twice"):
        summarise(pd.concat([table, table.assign(fold=4)]))
    with pytest.raises(DataError, match="hd95_mm"):
        summarise(table.drop(columns="hd95_mm"))


def test_tag_and_write(tmp_path: Path) -> None:
    bare = per_case().drop(columns=["fold", "variant", "configuration"])
    tagged = tag(bare, "UNet", "2d", {"a": 0, "b": 0, "c": 1})
    assert tuple(tagged.columns) == COLUMNS
    pd.testing.assert_frame_equal(tagged, per_case())
    with pytest.raises(DataError, match=r"no fold for 1 cases \(c\)"):
        tag(bare, "UNet", "2d", {"a": 0, "b": 0})
    write_tables(tagged, tmp_path / "metrics")
    again = pd.read_csv(tmp_path / "metrics" / "per_case.csv")
    pd.testing.assert_frame_equal(again, tagged)
    assert sorted(path.name for path in (tmp_path / "metrics").iterdir()) == ["per_case.csv", "summary.json"]
