"""Pictures of the QC page: outlines lie on the voxels' borders, planes are in the body's directions."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw
from skimage.measure import find_contours

from hippo_nnunet.pages.qc.montage import montage
from hippo_nnunet.pages.qc.outlines import outline_path, path_corners
from hippo_nnunet.pages.qc.pictures import (
    TEMPLATE,
    pixels_of,
    registration_strip,
    side_strip,
)
from hippo_nnunet.pages.qc.records import Registration, Side


def box(shape: tuple[int, int, int], low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = 1
    return mask


def test_outline_of_one_voxel_is_the_diamond_around_its_centre():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True  # second row from the top, third column: its centre is 5 and 3 half voxels from the corner
    (corners,) = path_corners(outline_path(mask))
    assert len(corners) == 4
    assert set(corners) == {(4, 3), (6, 3), (5, 2), (5, 4)}


def test_outline_of_an_empty_mask_is_empty_and_a_full_one_is_closed():
    assert outline_path(np.zeros((3, 3), bool)) == ""
    (corners,) = path_corners(outline_path(np.ones((2, 3), bool)))
    assert np.min(corners) == 0
    assert np.max(corners, axis=0).tolist() == [6, 4]


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_an_outline_encloses_exactly_the_centres_of_its_voxels(mask):
    scale = 4
    filled = np.zeros((mask.shape[0] * 2 * scale + 1, mask.shape[1] * 2 * scale + 1), int)
    for corners in path_corners(outline_path(mask)):
        canvas = Image.new("1", filled.shape[::-1])
        ImageDraw.Draw(canvas).polygon([(scale * x, scale * y) for x, y in corners], fill=1)
        filled += np.asarray(canvas)  # a hole is inside of two lines
    assert np.array_equal(filled[scale :: 2 * scale, scale :: 2 * scale] % 2 == 1, mask)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_outlines_are_those_of_scikit_image(mask):
    def points(lines):
        """Every middle between two voxels that a line goes through."""
        found = []
        for line in lines:
            for one, other in zip(line, [*line[1:], line[0]], strict=True):
                steps = max(abs(other[0] - one[0]), abs(other[1] - one[1]))
                found += [tuple(np.round(np.add(one, np.subtract(other, one) * n / steps), 6)) for n in range(steps)]
        return sorted(point for point in found if (point[0] + point[1]) % 2)

    theirs = [2 * line[:-1, ::-1] - 1 for line in find_contours(np.pad(mask, 1).astype(float), 0.5)]
    ours = path_corners(outline_path(mask))
    assert len(ours) == len(theirs)
    assert points(ours) == sorted(tuple(map(float, point)) for line in theirs for point in line)


def test_planes_show_the_largest_cut_in_the_body_s_directions():
    image = np.zeros((8, 10, 12))
    image[6, 7, 9] = 100  # right, anterior, superior
    labels = box(image.shape, (5, 2, 3), (7, 9, 11))
    labels[6, 9, 9] = labels[4, 7, 9] = 2  # the slices of the bright voxel have one voxel more than others
    strip = side_strip(Side(image, labels, (1.0, 2.0, 0.5), "left"), 2)
    sagittal, coronal, axial = strip.cuts
    bright = [np.argwhere(np.asarray(pixels_of(cut)) == 255).tolist() for cut in strip.cuts]
    # rows from the top: superior, or anterior, comes first
    assert bright[0] == [[12 - 1 - 9, 7]]
    assert [len(found) for found in bright[1:]] == [1, 1]
    assert bright[1] == [[12 - 1 - 9, 6]]
    assert bright[2] == [[10 - 1 - 7, 6]]
    assert (sagittal.ends, coronal.ends, axial.ends) == (tuple("PAIS"), tuple("LRIS"), tuple("LRPA"))
    assert sagittal.place_mm[2:] == (20.0, 6.0)
    assert axial.place_mm[2:] == (8.0, 20.0)
    assert [line.label for line in sagittal.outlines] == [0, 1]


def test_directions_that_are_not_known_bear_no_letters():
    labels = box((6, 6, 6), (2, 2, 2), (4, 4, 4))
    assert all(cut.ends == () for cut in side_strip(Side(labels * 9.0, labels, (1, 1, 1), letters=False), 1).cuts)


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_an_image_without_contrast_or_labels_is_drawn(value):
    image = np.full((5, 6, 7), value)
    strip = side_strip(Side(image, np.zeros(image.shape, np.uint8), (1, 1, 1)), 2)
    assert all(not cut.outlines and np.asarray(pixels_of(cut)).max() == 0 for cut in strip.cuts)
    assert montage([strip]).width == 720


def test_registration_has_the_outline_of_the_template():
    template = box((20, 24, 20), (4, 4, 4), (16, 20, 16)) > 0
    strip = registration_strip(Registration(np.where(template, 100.0, 10.0), template, (2, 2, 2)))
    assert [[line.label for line in cut.outlines] for cut in strip.cuts] == [[TEMPLATE]] * 3


def test_the_file_shows_outlines_in_the_labels_colours_where_they_are():
    image = np.linspace(0, 1, 20**3).reshape(20, 20, 20)
    labels = box(image.shape, (5, 5, 5), (15, 15, 15))
    drawn = np.asarray(montage([side_strip(Side(image, labels, (1, 1, 1)), 1)]).convert("RGB")).astype(int)
    gold = np.abs(drawn - [0xD9, 0xA4, 0x00]).sum(axis=2) < 40
    assert gold.sum() > 300
    # three squares beside one another, of equal height
    columns = np.flatnonzero(gold.any(axis=0))
    assert np.count_nonzero(np.diff(columns) > 50) == 2
    rows = np.flatnonzero(gold.any(axis=1))
    scale = 720 / side_strip(Side(image, labels, (1, 1, 1)), 1).size_mm[0]
    assert rows[-1] - rows[0] == pytest.approx(10 * scale, abs=4)


def test_neither_torch_nor_nnunet_nor_matplotlib_is_imported(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from hippo_nnunet.pages.qc.page import write_index\n"
        "from hippo_nnunet.pages.qc.records import ScanRecord, Side\n"
        "from hippo_nnunet.pages.qc.scan_files import write_scan\n"
        "labels = np.zeros((6, 6, 6), np.uint8); labels[2:4, 2:4, 2:4] = 1\n"
        "folder = Path(sys.argv[1])\n"
        "write_scan(folder, ScanRecord('a', ('one',), [Side(labels, labels, (1, 1, 1))]))\n"
        "write_index(folder)\n"
        "heavy = {'torch', 'nnunetv2', 'matplotlib', 'pandas', 'plotly', 'skimage'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
