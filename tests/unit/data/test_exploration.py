"""Exploration: measurements against values worked out by hand, planted outliers, and inputs that cannot be measured."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hippo_nnunet.data.archive import open_dataset
from hippo_nnunet.data.exploration import Exploration, explore_dataset, summarise
from hippo_nnunet.data.exploration_case import TOTAL, LoadedCase, measure_case
from hippo_nnunet.data.layout import read_dataset
from hippo_nnunet.data.outliers import MINIMUM_CASES, robust_z, screen, typical_case
from hippo_nnunet.errors import DataError

LABELS = {"head": (1,), "tail": (2,)}


def save(array: np.ndarray, path: Path, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.eye(4) if affine is None else affine
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, path)


def write_dataset(folder: Path, cases: int = 12, description: dict | None = None, labels: bool = True) -> Path:
    """nnU-Net's form: 10x12x8 noise with a head of 4x(3 or 4)x2 voxels and a tail of 2x4x2."""
    for index in range(cases):
        rng = np.random.default_rng(index)
        name = f"case_{index:03d}"
        label = np.zeros((10, 12, 8), np.uint8)
        label[2:6, 2 : 5 + index % 2, 3:5] = 1
        label[2:4, 6:10, 3:5] = 2
        image = rng.normal(100, 10, label.shape).astype(np.float32) + 20 * (label > 0)
        save(image, folder / "imagesTr" / f"{name}_0000.nii.gz")
        if labels:
            save(label, folder / "labelsTr" / f"{name}.nii.gz")
    default = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "head": 1, "tail": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps({**default, **(description or {})}))
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "Dataset901_Toy")


def explored(folder: Path) -> Exploration:
    return explore_dataset(read_dataset(folder))


def case_of(label: np.ndarray, affine: np.ndarray, image: np.ndarray | None = None) -> LoadedCase:
    image = np.ones_like(label, dtype=np.float32) if image is None else image
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    return LoadedCase("a", (image,), label.astype(np.int64), affine, spacing)


class TestMeasureCase:
    def test_volume_share_and_centre_by_hand(self):
        label = np.zeros((4, 5, 6), int)  # z, y, x
        label[0, 0, 0:2] = 1
        label[3, 4, 5] = 2
        row = measure_case(case_of(label, np.diag([2.0, 3.0, 5.0, 1.0])), LABELS, "training")
        assert (row["size_x"], row["size_y"], row["size_z"]) == (6, 5, 4)
        assert (row["extent_x_mm"], row["extent_y_mm"], row["extent_z_mm"]) == (12, 15, 20)
        assert row["volume_mm3_head"] == pytest.approx(60)
        assert row["volume_mm3_tail"] == pytest.approx(30)
        assert row[f"volume_mm3_{TOTAL}"] == pytest.approx(90)
        assert row["share_head"] == pytest.approx(2 / 120)
        # mean index (0.5, 0, 0) less the centre (2.5, 2, 1.5), times the spacing
        assert row["centre_right_mm_head"] == pytest.approx(-4)
        assert row["centre_anterior_mm_head"] == pytest.approx(-6)
        assert row["centre_superior_mm_head"] == pytest.approx(-7.5)
        assert row[f"centre_right_mm_{TOTAL}"] == pytest.approx(2 * (2 - 2.5))

    def test_centres_follow_the_world_not_the_file(self):
        label = np.zeros((4, 5, 6), int)
        label[3, 0, 0] = 1
        flipped = np.array([[-1.0, 0, 0, 9], [0, 0, 2, 9], [0, -3, 0, 9], [0, 0, 0, 1]])
        row = measure_case(case_of(label, flipped), LABELS, "training")
        assert row["orientation"] == "LIA"
        found = [row[f"centre_{way}_mm_head"] for way in ("right", "anterior", "superior")]
        assert found == pytest.approx([2.5, 3.0, 6.0])
        assert row["volume_mm3_head"] == pytest.approx(6)

    def test_a_rotated_image_keeps_its_volume(self):
        angle = 0.4
        rotation = np.eye(4)
        rotation[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        label = np.zeros((4, 5, 6), int)
        label[1, 2, 5] = 1  # 2.5 voxels from the centre along x
        label[2, 2, 5] = 1
        row = measure_case(case_of(label, rotation @ np.diag([2.0, 1.0, 1.0, 1.0])), LABELS, "training")
        assert row["volume_mm3_head"] == pytest.approx(4)
        assert row["centre_right_mm_head"] == pytest.approx(5 * math.cos(angle))
        assert row["centre_anterior_mm_head"] == pytest.approx(5 * math.sin(angle))

    def test_an_empty_label_has_no_centre(self):
        row = measure_case(case_of(np.zeros((3, 3, 3), int), np.eye(4)), LABELS, "training")
        assert row["volume_mm3_head"] == 0
        assert math.isnan(row["centre_right_mm_head"])

    def test_overlapping_regions_count_once_in_the_total(self):
        label = np.zeros((3, 3, 3), int)
        label[0, 0], label[1, 0] = 1, 2
        row = measure_case(case_of(label, np.eye(4)), {"whole": (1, 2), "core": (2,)}, "training")
        assert (row["volume_mm3_whole"], row["volume_mm3_core"], row[f"volume_mm3_{TOTAL}"]) == (6, 3, 6)

    def test_intensities_are_those_inside_the_rim_of_zeros(self):
        image = np.zeros((6, 6, 6), np.float32)
        image[1:5, 1:5, 2:5] = np.arange(48).reshape(4, 4, 3) + 1
        image[2, 2, 3] = 0  # a hole belongs to nnU-Net's mask
        row = measure_case(case_of(np.zeros(image.shape, int), np.eye(4), image), LABELS, "training")
        inside = image[1:5, 1:5, 2:5]
        assert (row["cropped_x"], row["cropped_y"], row["cropped_z"]) == (3, 4, 4)
        assert row["channel0_p50"] == pytest.approx(np.median(inside))
        assert row["channel0_mean"] == row["channel0_mean_nonzero"] == pytest.approx(inside.mean())
        assert row["channel0_std"] == pytest.approx(inside.std())


class TestRobustZ:
    def test_by_hand(self):
        # median 3, deviations 2 1 0 1 97, their median 1
        z = robust_z(np.array([1.0, 2.0, 3.0, 4.0, 100.0]))
        assert z == pytest.approx(np.array([-2, -1, 0, 1, 97]) / 1.4826, rel=1e-4)

    def test_one_value_unlike_many_equal_ones(self):
        z = robust_z(np.array([1.0] * 99 + [3.0]))
        assert z[0] == 0
        assert z[-1] > 3.5

    def test_equal_values_and_nan(self):
        z = robust_z(np.array([2.0, 2.0 + 1e-9, np.nan]))
        assert list(z[:2]) == [0, 0]
        assert math.isnan(z[2])


def test_a_planted_outlier_is_named_with_its_reason(dataset: Path) -> None:
    label = np.zeros((10, 12, 8), np.uint8)
    label[1:9, 1:6, 1:7] = 1
    label[2:4, 6:10, 3:5] = 2
    save(label, dataset / "labelsTr" / "case_005.nii.gz")
    screening = screen(explored(dataset))
    assert screening.cases[0] == "case_005"
    (reason,) = [r for r in screening.reasons("case_005") if r.startswith("volume of head")]
    assert "240 mm³ (median 28)" in reason  # six cases of 24, five of 32, and this one
    assert "robust z +" in reason
    assert typical_case(explored(dataset), screening) != "case_005"


def test_a_label_that_only_one_case_lacks_is_named(dataset: Path) -> None:
    write_dataset(dataset, 24)
    label = np.zeros((10, 12, 8), np.uint8)
    label[2:6, 2:5, 3:5] = 1
    save(label, dataset / "labelsTr" / "case_003.nii.gz")
    screening = screen(explored(dataset))
    assert "no voxel of tail, which 23 of 24 cases have" in screening.reasons("case_003")


def test_other_units_of_intensity_make_no_outlier(dataset: Path) -> None:
    path = dataset / "imagesTr" / "case_004_0000.nii.gz"
    save(np.asarray(nib.load(path).dataobj, dtype=np.float32) * 1000, path)
    assert "case_004" not in screen(explored(dataset)).cases


def test_few_cases_give_no_outliers(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "Dataset901_Toy", MINIMUM_CASES - 1)
    save(np.ones((40, 12, 8), np.float32), folder / "imagesTr" / "case_000_0000.nii.gz")
    save(np.ones((40, 12, 8), np.uint8), folder / "labelsTr" / "case_000.nii.gz")
    assert screen(explored(folder)).outliers == ()


def test_z_score_is_nnunets(dataset: Path) -> None:
    exploration = explored(dataset)
    image = np.asarray(nib.load(dataset / "imagesTr" / "case_000_0000.nii.gz").dataobj)
    expected = np.percentile((image - image.mean()) / image.std(), 99.5)
    assert exploration.z_scored(0, "p99_5")[0] == pytest.approx(expected, rel=1e-5)
    assert not exploration.masked


def test_mask_is_used_where_cropping_takes_much(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "Dataset901_Toy", 3)
    for path in (folder / "imagesTr").iterdir():
        array = np.asarray(nib.load(path).dataobj).copy()
        array[:4] = 0
        save(array, path)
    assert explored(folder).masked


def test_summary_pools_shares_over_voxels(dataset: Path) -> None:
    big = np.zeros((20, 12, 8), np.uint8)
    big[0, 0, 0] = 1
    save(big.astype(np.float32) + 1, dataset / "imagesTr" / "case_000_0000.nii.gz")
    save(big, dataset / "labelsTr" / "case_000.nii.gz")
    summary = summarise(explored(dataset))
    head = 6 * 32 + 5 * 24 + 1  # 32 voxels in the odd cases, 24 in the even ones
    assert summary["labels"]["head"]["pooled_share"] == pytest.approx(head / (11 * 960 + 1920))
    assert summary["labels"]["tail"]["empty_in"] == 1
    assert summary["labels"][TOTAL]["volume_mm3"]["cases"] == 12
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


class TestBadInput:
    def test_an_unreadable_image_is_left_out_and_named(self, dataset: Path) -> None:
        (dataset / "imagesTr" / "case_002_0000.nii.gz").write_bytes(b"nothing")
        exploration = explored(dataset)
        assert "case_002" not in set(exploration.cases.case)
        assert len(exploration.cases) == 11
        assert [(p.case, p.problem) for p in exploration.problems] == [("case_002", "unreadable")]

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            (lambda a: a[:, :, :-1], "shape"),
            (lambda a: a * 3, "label-values"),
            (lambda a: a * np.float32(0.5), "label-values"),
        ],
    )
    def test_a_label_that_cannot_be_trusted_is_not_measured(self, dataset: Path, change, problem: str) -> None:
        path = dataset / "labelsTr" / "case_002.nii.gz"
        save(change(np.asarray(nib.load(path).dataobj)), path)
        exploration = explored(dataset)
        assert len(exploration.cases) == 12
        assert "case_002" not in set(exploration.labelled.case)
        assert [(p.case, p.problem) for p in exploration.problems] == [("case_002", problem)]

    def test_a_label_elsewhere_is_not_measured(self, dataset: Path) -> None:
        path = dataset / "labelsTr" / "case_002.nii.gz"
        save(np.asarray(nib.load(path).dataobj), path, np.diag([2.0, 1, 1, 1]))
        assert [p.problem for p in explored(dataset).problems] == ["affine"]

    def test_no_labels(self, tmp_path: Path) -> None:
        exploration = explored(write_dataset(tmp_path / "Dataset901_Toy", 3, labels=False))
        assert exploration.labelled.empty
        assert summarise(exploration)["labels"] == {}
        assert typical_case(exploration, screen(exploration)) in set(exploration.cases.case)

    def test_one_case(self, tmp_path: Path) -> None:
        exploration = explored(write_dataset(tmp_path / "Dataset901_Toy", 1))
        assert summarise(exploration)["labels"]["head"]["volume_mm3"]["sd"] is None
        assert typical_case(exploration, screen(exploration)) == "case_000"

    def test_nothing_readable_is_one_line(self, tmp_path: Path) -> None:
        folder = write_dataset(tmp_path / "Dataset901_Toy", 2)
        for path in (folder / "imagesTr").iterdir():
            path.write_bytes(gzip.compress(b"nothing"))
        with pytest.raises(DataError, match=r"none of its 2 images can be read; first: imagesTr/case_000") as caught:
            explored(folder)
        assert "\n" not in str(caught.value)

    def test_an_empty_dataset_is_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no image"):
            explored(write_dataset_without_cases(tmp_path / "Dataset901_Toy"))

    def test_no_dataset(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="there is no such folder"), open_dataset(tmp_path / "nowhere"):
            pass


def write_dataset_without_cases(folder: Path) -> Path:
    folder.mkdir()
    return write_dataset(folder, 0)


def test_channels_in_one_4d_file(tmp_path: Path) -> None:
    """MSD keeps the channels of a case in one file."""
    folder = tmp_path / "Task01_Two"
    rng = np.random.default_rng(0)
    image = np.stack([rng.normal(mean, 1, (5, 6, 7)) for mean in (10, 50)], axis=-1).astype(np.float32)
    label = np.zeros((5, 6, 7), np.uint8)
    label[0, 1, 2] = 1
    affine = np.diag([-1.0, 1, 2, 1])
    save(image, folder / "imagesTr" / "a.nii.gz", affine)
    save(label, folder / "labelsTr" / "a.nii.gz", affine)
    content = {
        "name": "Two",
        "modality": {"0": "FLAIR", "1": "CT"},
        "labels": {"0": "background", "1": "thing"},
        "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    exploration = explored(folder)
    assert exploration.problems == ()
    row = exploration.cases.iloc[0]
    assert (row.size_x, row.size_y, row.size_z) == (5, 6, 7)
    assert row.channel1_p50 == pytest.approx(np.median(image[..., 1]))
    assert row.volume_mm3_thing == pytest.approx(2)
    assert row.centre_right_mm_thing == pytest.approx(2)
    assert [exploration.normalisation(index) for index in (0, 1)] == ["ZScoreNormalization", "CTNormalization"]
