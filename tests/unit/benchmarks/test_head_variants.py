"""Variants of a head: the structures lie where the returned matrix says, whatever is drawn."""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from head_phantom import BALLS_MM, balls, save

from benchmarks.head_variants import ORDERS, Head, Variant, make


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    path = save(balls((1.5, 1.5, 1.5)), tmp_path_factory.mktemp("head") / "head.nii")
    return Head.load(path, np.mean(list(BALLS_MM.values()), axis=0))


@pytest.mark.parametrize("seed", range(6))
def test_structures_move_as_the_matrix_says(seed: int, head: Head) -> None:
    variant = replace(Variant.draw(seed), noise=0.0, bias=0.0)
    image, moved = make(head, variant)
    voxels = np.asarray(image.dataobj) / variant.scale
    for middle in BALLS_MM.values():
        expected = moved[:3, :3] @ middle + moved[:3, 3]
        world = np.argwhere(voxels > 350) @ image.affine[:3, :3].T + image.affine[:3, 3]
        near = world[np.linalg.norm(world - expected, axis=1) < 15]
        np.testing.assert_allclose(near.mean(axis=0), expected, atol=0.5)


def test_draws_are_seeded_and_cover_what_they_should() -> None:
    drawn = [Variant.draw(seed) for seed in range(200)]
    assert drawn[7] == Variant.draw(7)
    assert len({one.order for one in drawn}) > 40
    assert len({order.tobytes() for order in ORDERS}) == 48
    assert {(1.0, 1.0, 3.0), (1.0, 3.0, 1.0), (3.0, 1.0, 1.0)} <= {one.voxel_mm for one in drawn}
    assert min(one.scale for one in drawn) < 1e-2
    assert max(one.scale for one in drawn) > 1e3
    assert max(float(np.linalg.norm(one.shift_mm)) for one in drawn) > 35
    for name in ("neck_cut", "stripped"):
        assert {getattr(one, name) for one in drawn} == {True, False}


def test_an_axis_order_changes_nothing_else(head: Head) -> None:
    one, other = (make(head, Variant(order=order, noise=0.02, bias=0.3, seed=4))[0] for order in (0, 29))
    assert nib.aff2axcodes(one.affine) != nib.aff2axcodes(other.affine)
    back = nib.as_closest_canonical(other)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(nib.as_closest_canonical(one).dataobj))
