"""What a model knows of its images: other grids, sides, orientations and contrasts are named; good images are not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hippo_nnunet.evaluation.known_images import (
    MIRRORED,
    ORIENTATIONS,
    KnownImages,
    Likeness,
    coarsened,
    stored_codes,
)


def smooth(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2).astype(np.float32)


IMAGE = smooth((36, 52, 34), 0)
CROP = coarsened(IMAGE[6:30, 8:44, 2:30])


@pytest.fixture
def known() -> KnownImages:
    return KnownImages(("RAS",), ((1, 1),) * 3, ((30, 40), (40, 60), (24, 48)), 0.0, CROP, 0.6)


def changed(orientation: int) -> np.ndarray:
    order, signs = ORIENTATIONS[orientation]
    return IMAGE.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_good_image_is_like_the_mean_on_any_scale_and_place(known: KnownImages, scale: float) -> None:
    found = known.likeness(IMAGE * scale + 7)
    assert found.expected == pytest.approx(1, abs=1e-3)
    assert found.expected == max(*found.oriented, found.inverted)
    assert known.check_content(IMAGE * scale + 7) == []
    assert known.check_content(IMAGE[2:, 4:, 2:]) == []


@pytest.mark.parametrize("orientation", range(1, 48))
def test_every_other_way_to_store_it_is_named(known: KnownImages, orientation: int) -> None:
    (found,) = known.check_content(changed(orientation))
    if orientation == MIRRORED:
        assert found.flag == "side"
        return
    assert found.flag == "orientation"
    assert f"as if its axes were {stored_codes(orientation, 'RAS')}, not RAS" in found.text


def test_names_of_orientations() -> None:
    assert stored_codes(0, "RAS") == "RAS"
    assert stored_codes(MIRRORED, "RAS") == "LAS"
    # arrays (z, y, x) with the first two axes exchanged are files with y and z exchanged
    assert stored_codes(ORIENTATIONS.index(((1, 0, 2), (1, 1, 1))), "RAS") == "RSA"
    assert stored_codes(ORIENTATIONS.index(((0, 1, 2), (-1, 1, 1))), "RAS") == "RAI"
    assert len({stored_codes(number, "RAS") for number in range(48)}) == 48


def test_inverted_contrast_noise_and_nothing(known: KnownImages) -> None:
    assert [s.flag for s in known.check_content(-IMAGE)] == ["contrast"]
    assert "inverted" in known.check_content(-IMAGE)[0].text
    for image in (smooth(IMAGE.shape, 5), np.full(IMAGE.shape, 3.0, np.float32)):
        (found,) = known.check_content(image)
        assert found.flag == "contrast"
        assert "does not look like the training images" in found.text


def test_an_explanation_has_to_be_clearly_likelier(known: KnownImages) -> None:
    oriented = [0.7] + [0.1] * 47
    for likelier, flags in ((0.74, []), (0.76, ["side"])):
        oriented[MIRRORED] = likelier
        assert [s.flag for s in known.judge(Likeness(tuple(oriented), 0.0))] == flags


def test_an_image_smaller_than_the_mean_crop(known: KnownImages) -> None:
    found = known.likeness(IMAGE[10:26, 14:38, 8:24])
    assert found.expected > max(found.oriented[1:])


def test_grids(known: KnownImages) -> None:
    assert known.refusal((35, 50, 36), (1, 1, 1), "RAS") is None
    assert known.check_grid((35, 50, 36), (1, 1, 1)) == []
    head = known.refusal((180, 220, 180), (1, 1, 1), "RAS")
    assert head is not None
    assert "180 x 220 x 180 mm, but the model knows crops of 30 to 40 x 40 to 60 x 24 to 48 mm" in head
    assert "hippo-nnunet segment" in head
    axes = known.refusal((35, 50, 36), (1, 1, 1), "LPS")
    assert axes is not None
    assert "its axes are LPS" in axes
    (voxels,) = known.check_grid((18, 25, 18), (2, 2, 2))
    assert voxels.flag == "voxel-size"
    assert "voxels of 2 x 2 x 2 mm, but the model knows 1 x 1 x 1 mm" in voxels.text
    assert [s.flag for s in known.check_grid((35, 50, 12), (1, 1, 3))] == ["voxel-size"]
    assert known.check_grid((32, 45, 33), (1.1, 1.1, 1.1)) == []
    for shape in ((60, 60, 60), (20, 50, 36)):
        assert [s.flag for s in known.check_grid(shape, (1, 1, 1))] == ["size"]


def test_intensities(known: KnownImages) -> None:
    assert known.check_intensities(0.0) == []
    (found,) = known.check_intensities(-1024.0)
    assert found.flag == "intensity"
    assert "down to -1024" in found.text


def test_json(known: KnownImages) -> None:
    again = KnownImages.read(json.loads(json.dumps(known.as_json())))
    assert again.as_json() == known.as_json()
    assert again.spacing_mm == known.spacing_mm
    np.testing.assert_allclose(again.mean_crop, known.mean_crop, atol=0.005)
    for broken in ({}, {**known.as_json(), "mean_crop": {"shape": [1, 1, 2], "values": [1, 1]}}):
        with pytest.raises((KeyError, ValueError)):
            KnownImages.read(broken)
