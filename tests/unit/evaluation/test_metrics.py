"""Metrics of one case: values worked out by hand, and properties that must hold for any masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.metrics import METRICS, case_metrics

SHAPE = (7, 6, 5)
SPACING = (3.0, 2.0, 0.5)


def voxels(*places: tuple[int, ...], shape: tuple[int, ...] = (12, 12, 12), value: int = 1) -> np.ndarray:
    array = np.zeros(shape, dtype=np.uint8)
    for place in places:
        array[place] = value
    return array


def measure(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...] = SPACING) -> dict:
    return case_metrics(reference, prediction, spacing, {"one": 1})[0]


# A single voxel has eight corner surfels of equal area. Moved by k voxels along an axis of spacing s, its four near
# corners lie (k - 1) s from the other's surface and its four far corners k s.
@pytest.mark.parametrize(
    ("moved", "nsd", "hd95", "assd"),
    [
        ((5, 5, 8), 0.5, 1.5, 1.25),  # three voxels of 0.5 mm: near 1.0 (within tolerance), far 1.5
        ((5, 5, 7), 1.0, 1.0, 0.75),  # near 0.5, far 1.0
        ((6, 5, 5), 0.5, 3.0, 1.5),  # one voxel of 3 mm: near 0, far 3
        ((5, 7, 5), 0.0, 4.0, 3.0),  # two voxels of 2 mm: near 2, far 4
    ],
)
def test_single_voxels_anisotropic(moved: tuple[int, ...], nsd: float, hd95: float, assd: float) -> None:
    row = measure(voxels((5, 5, 5)), voxels(moved))
    assert row["dice"] == 0
    assert row["nsd_1mm"] == pytest.approx(nsd)
    assert row["hd95_mm"] == pytest.approx(hd95)
    assert row["assd_mm"] == pytest.approx(assd)
    assert row["volume_ref_mm3"] == row["volume_mm3"] == pytest.approx(3.0)


# One voxel against a bar of three that begins with it, spacing (3, 2, 0.75) mm. The voxel's surface is eight corners of
# area c; the bar's is four corners at each end and, at each of the two steps of s mm between, four edges of area
# e = s / 2 * hypot(other spacings). c is the triangle through the midpoints of a voxel's edges:
# c = sqrt(1.5^2 + 0.5625^2 + 0.375^2) / 2 = 0.82265. The voxel's surface lies on the bar's; of the bar's, four corners
# and four edges do too, four edges lie s away and four corners 2 s. So ASSD is (4 e s + 8 c s) / (16 c + 8 e) = s / 2.
@pytest.mark.parametrize(
    ("axis", "nsd", "hd95", "assd"),
    [
        (0, 0.584822, 6.0, 1.5),  # e = 3.20400, (12 c + 4 e) / (16 c + 8 e): the edges are 3 mm away
        (1, 0.586821, 4.0, 1.0),  # e = 3.09233, the same share: 2 mm away
        (2, 0.862772, 1.5, 0.375),  # e = 1.35208, (12 c + 8 e) / (16 c + 8 e): 0.75 mm, within the tolerance
    ],
)
def test_a_bar_weights_distances_by_surface_area(axis: int, nsd: float, hd95: float, assd: float) -> None:
    bar = voxels(tuple(slice(2, 5) if i == axis else 2 for i in range(3)))
    for pair in ((voxels((2, 2, 2)), bar), (bar, voxels((2, 2, 2)))):
        row = measure(*pair, (3.0, 2.0, 0.75))
        assert row["dice"] == pytest.approx(2 * 1 / (1 + 3))
        assert row["nsd_1mm"] == pytest.approx(nsd, abs=1e-6)
        assert row["hd95_mm"] == pytest.approx(hd95)
        assert row["assd_mm"] == pytest.approx(assd)


def test_hd95_ignores_a_twentieth_of_the_surface() -> None:
    reference = np.zeros((40, 40, 40), dtype=np.uint8)
    reference[10:30, 10:30, 10:30] = 1
    prediction = reference.copy()
    prediction[20, 20, 38] = 1
    row = measure(reference, prediction, (1.0, 1.0, 1.0))
    assert row["hd95_mm"] == 0
    assert 0 < row["assd_mm"] < 0.1


def test_dice_and_volumes_of_overlapping_boxes() -> None:
    reference = voxels((slice(2, 6), slice(2, 6), slice(2, 4)))  # 32 voxels
    prediction = voxels((slice(4, 8), slice(2, 6), slice(2, 5)))  # 48 voxels, 16 shared
    row = measure(reference, prediction, (1.0, 2.0, 0.5))
    assert row["dice"] == pytest.approx(2 * 16 / (32 + 48))
    assert (row["volume_ref_mm3"], row["volume_mm3"]) == (32.0, 48.0)


def test_both_empty_is_undefined() -> None:
    row = measure(voxels(), voxels())
    assert all(np.isnan(row[key]) for key in ("dice", "nsd_1mm", "hd95_mm", "assd_mm"))
    assert row["volume_ref_mm3"] == row["volume_mm3"] == 0


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_is_the_worst_that_the_image_allows(swap: bool) -> None:
    pair = [voxels((1, 1, 1)), voxels()]
    row = measure(*(pair[::-1] if swap else pair))
    diagonal = np.sqrt((12 * 3.0) ** 2 + (12 * 2.0) ** 2 + (12 * 0.5) ** 2)
    assert (row["dice"], row["nsd_1mm"]) == (0, 0)
    assert row["hd95_mm"] == row["assd_mm"] == pytest.approx(diagonal)


def test_mask_that_fills_the_image() -> None:
    full = np.ones((4, 4, 4), dtype=np.uint8)
    row = measure(full, full)
    assert (row["dice"], row["nsd_1mm"], row["hd95_mm"], row["assd_mm"]) == (1, 1, 0, 0)


def test_regions_join_labels_and_rows_keep_their_order() -> None:
    reference = voxels((2, 2, 2)) + voxels((2, 2, 3), value=2)
    prediction = voxels((2, 2, 3)) + voxels((2, 2, 2), value=2)
    rows = case_metrics(reference, prediction, SPACING, {"whole": (1, 2), "front": 1})
    assert [row["label"] for row in rows] == ["whole", "front"]
    assert [row["dice"] for row in rows] == [1, 0]
    assert set(rows[0]) == {"label", *METRICS}


def test_ignored_voxels_count_nowhere() -> None:
    reference = voxels((2, 2, 2)) + voxels((9, 9, 9), value=3)
    prediction = voxels((2, 2, 2), (9, 9, 9))
    row = case_metrics(reference, prediction, SPACING, {"one": 1}, ignore_label=3)[0]
    assert (row["dice"], row["hd95_mm"], row["volume_mm3"]) == (1, 0, 3.0)
    assert measure(reference, prediction)["dice"] == pytest.approx(2 / 3)


def test_two_dimensions() -> None:
    reference, prediction = voxels((3, 3), shape=(9, 9)), voxels((3, 5), shape=(9, 9))
    row = measure(reference, prediction, (2.0, 1.0))
    assert row["hd95_mm"] == pytest.approx(2.0)
    assert row["assd_mm"] == pytest.approx(1.5)
    assert row["nsd_1mm"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("prediction", "spacing", "message"),
    [
        (np.zeros((3, 3, 4)), (1, 1, 1), "same voxel grid"),
        (np.zeros((3, 3, 3)), (1, 1), "one spacing for each axis"),
        (np.zeros((3, 3, 3)), (1, 0, 1), "not positive"),
        (np.zeros((3, 3, 3)), (1, float("nan"), 1), "not positive"),
    ],
)
def test_bad_input(prediction: np.ndarray, spacing: tuple[float, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        case_metrics(np.zeros((3, 3, 3)), prediction, spacing, {"one": 1})


MASKS = arrays(np.uint8, SHAPE, elements=st.integers(0, 1), fill=st.just(0))
FEW = settings(max_examples=25, deadline=None)


@FEW
@given(MASKS, MASKS)
def test_symmetric_and_bounded(a: np.ndarray, b: np.ndarray) -> None:
    one, other = measure(a, b), measure(b, a)
    for key in ("dice", "nsd_1mm", "hd95_mm", "assd_mm"):
        assert one[key] == pytest.approx(other[key], nan_ok=True)
    if a.any() or b.any():
        diagonal = float(np.linalg.norm(np.multiply(SHAPE, SPACING)))
        assert 0 <= one["dice"] <= 1
        assert 0 <= one["nsd_1mm"] <= 1 + 1e-12
        assert 0 <= one["hd95_mm"] <= diagonal
        assert 0 <= one["assd_mm"] <= diagonal


@FEW
@given(MASKS.filter(np.any))
def test_identity(mask: np.ndarray) -> None:
    row = measure(mask, mask)
    assert (row["dice"], row["hd95_mm"], row["assd_mm"]) == (1, 0, 0)
    assert row["nsd_1mm"] == pytest.approx(1)


@FEW
@given(MASKS.filter(np.any), MASKS.filter(np.any), st.tuples(*[st.integers(0, 4)] * 3))
def test_translation_changes_nothing(a: np.ndarray, b: np.ndarray, shift: tuple[int, int, int]) -> None:
    moved = []
    for mask in (a, b):
        larger = np.zeros([n + 4 for n in SHAPE], dtype=np.uint8)
        larger[tuple(slice(s, s + n) for s, n in zip(shift, SHAPE, strict=True))] = mask
        moved.append(larger)
    one, other = measure(a, b), measure(*moved)
    for key in METRICS:
        assert one[key] == pytest.approx(other[key])
