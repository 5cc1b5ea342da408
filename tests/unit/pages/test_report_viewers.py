"""What a report's viewers are given: which cases, their voxels in place, their surfaces, and what is left out."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas
from viewer_experiment import FakeExperiment, phantom, shifted

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.pages.report import viewer_slices
from hippo_nnunet.pages.report.panel import case_panel
from hippo_nnunet.pages.report.viewer_cases import ViewedCase, load_viewed, plain_labels
from hippo_nnunet.pages.report.viewer_choice import Reason, choose_cases, viewed_models
from hippo_nnunet.pages.report.viewer_slices import slice_data
from hippo_nnunet.pages.report.viewer_surfaces import decimated, signed_distance_mm, smoothed, surface_data, surface_of
from hippo_nnunet.pages.report.viewers import ViewerFragment, script_json, viewer_fragment

FLIPPED = np.array([[-1.0, 0, 0, 30], [0, 0, 2.5, -40], [0, 1.5, 0, 7], [0, 0, 0, 1]])


def oblique() -> np.ndarray:
    cosine, sine = np.cos(0.4), np.sin(0.4)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.0, 0.8, 3.0])
    affine[:3, 3] = (12, -7, 30)
    return affine


def unpack(text: str, dtype: str, shape: tuple[int, ...] = (-1,)) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype).reshape(shape)


def payload(fragment: ViewerFragment) -> dict[str, Any]:
    found = re.search(r"^const DATA = (.*);$", fragment.script, re.MULTILINE)
    assert found
    return json.loads(found.group(1))


def scores(**models: list[float]) -> pd.DataFrame:
    rows = [
        {"case": f"c{n}", "fold": 0, "variant": name, "configuration": "2d", "label": "x", "dice": dice}
        for name, values in models.items()
        for n, dice in enumerate(values)
    ]
    return pd.DataFrame(rows)


def plain(root: Path, cases: int = 1, **settings: Any) -> FakeExperiment:
    made = FakeExperiment(root, **settings)
    image, label = phantom()
    for n in range(cases):
        one, other = shifted(label, n + 1), shifted(label, 1, axis=1)
        made.add(f"case{n}", image, label, dict(zip(made.variants, (one, other), strict=False)))
    return made


def test_worst_median_best_then_most_different() -> None:
    table = scores(
        UNet=[0.9, 0.5, 0.7, 0.8, 0.6],
        AttentionUNet=[0.9, 0.52, 0.7, 0.78, 0.3],
        ensemble=[0.1, 0.9, 0.9, 0.9, 0.9],
    )
    models = viewed_models(table)
    assert [(model.name, model.colour) for model in models] == [
        ("UNet 2d", 0),
        ("AttentionUNet 2d", 1),
        ("ensemble 2d", 2),
    ]
    chosen = choose_cases(table, models, 5)
    assert list(chosen) == ["c1", "c2", "c0", "c4", "c3"]
    lowest, different = chosen["c1"]
    assert str(lowest) == "lowest mean Dice of UNet 2d (0.500; 5 cases)"
    assert different.title == "difference between models, rank 2 of 3"
    assert list(map(str, chosen["c2"])) == ["median mean Dice of UNet 2d (0.700)"]
    assert list(map(str, chosen["c0"])) == ["highest mean Dice of UNet 2d (0.900; 5 cases)"]
    assert list(map(str, chosen["c4"])) == [
        "difference between models, rank 1 of 3 (UNet 2d 0.600, AttentionUNet 2d 0.300)"
    ]
    assert list(choose_cases(table, models, 2)) == ["c1", "c2"]


def test_choice_where_there_is_little_to_choose() -> None:
    single = scores(UNet=[0.5, 0.9, np.nan])
    assert list(choose_cases(single, viewed_models(single), 6)) == ["c0", "c1"]
    only = scores(UNet=[0.5])
    assert choose_cases(only, viewed_models(only), 6) == {
        "c0": [
            Reason("lowest mean Dice of UNet 2d", "0.500; 1 case", "worst"),
            Reason("median mean Dice of UNet 2d", "0.500", "median"),
        ]
    }
    empty = scores(UNet=[np.nan])
    with pytest.raises(DataError, match="no Dice"):
        choose_cases(empty, viewed_models(empty), 6)
    ensemble = scores(ensemble=[0.5])
    with pytest.raises(DataError, match="ensemble only"):
        choose_cases(ensemble, viewed_models(ensemble), 6)


def test_repeats_share_a_colour() -> None:
    table = scores(UNet_seed1=[0.5], AttentionUNet_seed1=[0.5], UNet_seed2=[0.5])
    assert [(model.variant, model.colour) for model in viewed_models(table)] == [
        ("UNet_seed1", 0),
        ("UNet_seed2", 0),
        ("AttentionUNet_seed1", 1),
    ]


@pytest.mark.parametrize(
    "affine", [np.diag([1.0, 1.0, 1.0, 1.0]), FLIPPED, oblique()], ids=["plain", "flipped", "tilted"]
)
def test_every_voxel_keeps_its_place_in_the_world(tmp_path: Path, affine: np.ndarray) -> None:
    made = plain(tmp_path, affine=affine)
    case = load_viewed(made.measure(), made.root, 1).cases[0]
    stored = nib.load(made.prediction("case0", "AttentionUNet"))
    for values, turned in ((stored, case.predictions[1]), (nib.load(made.reference("case0")), case.reference)):
        for value in (1, 2):
            expected = nib.affines.apply_affine(values.affine, np.argwhere(np.asarray(values.dataobj) == value))
            found = nib.affines.apply_affine(case.affine, np.argwhere(turned == value))
            assert np.allclose(np.sort(expected.round(3), axis=0), np.sort(found.round(3), axis=0), atol=1e-2)
            assert {tuple(row) for row in expected.round(2)} == {tuple(row) for row in found.round(2)}
    directions = case.affine[:3, :3] / np.linalg.norm(case.affine[:3, :3], axis=0)
    assert np.diag(directions).min() > 0.9
    data = slice_data(case)[0]
    turned_image = unpack(data["image"], "u1", tuple(data["shape"]))
    assert turned_image.shape == case.image.shape
    assert np.argmax(turned_image) == np.argmax(np.clip(case.image, None, np.percentile(case.image, 99.5)))
    assert np.allclose(data["spacing"], np.linalg.norm(case.affine[:3, :3], axis=0))
    centre = np.array([*((size - 1) / 2 for size in case.image.shape), 1])
    for axis in range(3):
        last = data["position"][axis] + (case.image.shape[axis] - 1) * data["slope"][axis]
        end = centre.copy()
        end[axis] = case.image.shape[axis] - 1
        assert last == pytest.approx((case.affine @ end)[axis], abs=1e-2)


def test_fragment_has_both_sections_and_stays_small(tmp_path: Path) -> None:
    made = FakeExperiment(tmp_path, affine=FLIPPED)
    image, label = phantom((35, 51, 35))
    predictions = {"UNet": shifted(label, 1), "AttentionUNet": shifted(label, 1, 1), "ensemble": label}
    made.add("hippo", image, label, predictions)
    fragment = viewer_fragment(made.measure(), root=made.root)
    assert 'id="slices"' in fragment.html and 'id="surface"' in fragment.html
    assert fragment.notes == ()
    data = payload(fragment)
    assert data["labels"] == ["front", "back"]
    assert [model["name"] for model in data["models"]] == ["UNet 2d", "AttentionUNet 2d", "ensemble 2d"]
    (case,) = data["cases"]
    shape = tuple(case["slices"]["shape"])
    assert len(json.dumps(case["slices"])) < 100_000  # of pure noise, which nothing compresses
    reference = unpack(case["slices"]["reference"], "u1", shape)
    prediction = unpack(case["slices"]["predictions"]["0"], "u1", shape)
    row = next(row for row in made.rows if row["variant"] == "UNet" and row["label"] == "back")
    one, other = reference == 2, prediction == 2
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) == pytest.approx(row["dice"])
    assert case["dice"]["0"][1] == pytest.approx(row["dice"], abs=1e-4)
    assert case["dice"]["2"] == [1.0, 1.0]


def test_a_model_without_its_prediction_is_left_out(tmp_path: Path) -> None:
    made = plain(tmp_path)
    folder = made.measure()
    made.prediction("case0", "UNet").unlink()
    viewed = load_viewed(folder, made.root, 6)
    assert list(viewed.cases[0].predictions) == [1]
    assert viewed.cases[0].notes == ("UNet 2d is not shown: case0.nii.gz: the file is missing",)
    made.prediction("case0", "AttentionUNet").unlink()
    viewed = load_viewed(folder, made.root, 6)
    assert viewed.cases == ()
    assert "Case case0 is not shown" in viewed.notes[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda made: made.image("case0").unlink(), "case0_0000.nii.gz: the file is missing"),
        (lambda made: made.reference("case0").unlink(), "the file is missing"),
        (lambda made: made.reference("case0").write_bytes(b"no image"), "no NIfTI image|truncated or damaged"),
        (lambda made: made.write(phantom()[1][1:], made.reference("case0")), "but the image has"),
        (lambda made: made.write(phantom()[1] * 3, made.reference("case0")), "holds 3, which dataset.json"),
        (lambda made: made.write(phantom()[1], made.reference("case0"), np.diag([1, 1, 1.1, 1])), "mm away"),
        (lambda made: made.write(shifted(phantom()[1], 5), made.reference("case0")), "was measured; evaluate again"),
    ],
    ids=["image", "reference", "damaged", "shape", "value", "place", "changed"],
)
def test_a_case_that_would_be_drawn_wrong_is_left_out(tmp_path: Path, change: Any, words: str) -> None:
    made = plain(tmp_path, cases=2)
    folder = made.measure()
    change(made)
    viewed = load_viewed(folder, made.root, 6)
    assert [case.case for case in viewed.cases] == ["case1"]
    assert viewed.notes[0].startswith("Case case0 is not shown: ")
    assert re.search(words, viewed.notes[0]), viewed.notes
    assert str(tmp_path) not in viewed.notes[0]


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    made = plain(tmp_path)
    folder = made.measure()
    shutil.rmtree(made.raw)
    fragment = viewer_fragment(folder, root=made.root)
    assert (fragment.html, fragment.script, fragment.style) == ("", "", "")
    assert fragment.notes == (
        "Slices and surfaces are not shown: no images: nnU-Net's raw folder holds none of Dataset777_Phantom.",
    )
    (folder / "experiment.yaml").unlink()
    note = viewer_fragment(folder, root=made.root).notes[0]
    assert "not shown: experiment.yaml is missing: no experiment was started" in note, "no folder of the machine"
    with pytest.raises(ConfigError, match="at least one"):
        viewer_fragment(folder, root=made.root, cases=0)
    shutil.rmtree(folder / "metrics")
    with pytest.raises(DataError, match="no metrics yet"):
        viewer_fragment(folder, root=made.root)


def test_hostile_names_cannot_leave_their_place(tmp_path: Path) -> None:
    label_name = "</script><script>alert(1)</script>\u2028<!--"
    case_name = "<img src=x onerror=alert(1)> & \"'\u2029"
    made = FakeExperiment(tmp_path, labels={"background": 0, label_name: 1, "back": 2})
    image, label = phantom()
    made.add(case_name, image, label, {variant: shifted(label, 1) for variant in made.variants})
    fragment = viewer_fragment(made.measure(), root=made.root)
    assert "<img src=x" not in fragment.html and "<script>alert" not in fragment.html
    assert "</script" not in fragment.script.lower() and "<!--" not in fragment.script
    assert not {"\u2028", "\u2029"} & set(fragment.script)
    data = payload(fragment)
    assert data["labels"][0] == label_name
    assert data["cases"][0]["name"] == case_name


def test_script_json_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError):
        script_json({"dice": float("nan")})


def test_regions_are_shown_as_plain_labels(tmp_path: Path) -> None:
    assert plain_labels({"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}) == {
        "label 1": 1,
        "label 2": 2,
        "enhancing": 3,
    }
    with pytest.raises(DataError, match="300 labels"):
        plain_labels({str(n): (n,) for n in range(1, 301)})
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    made = plain(tmp_path, labels=labels, more={"regions_class_order": [1, 2]})
    viewed = load_viewed(made.measure(), made.root, 6)
    assert viewed.labels == ("label 1", "core")
    assert viewed.cases[0].notes == ()


def test_ignored_voxels_are_background_everywhere(tmp_path: Path) -> None:
    made = FakeExperiment(tmp_path, labels={"background": 0, "front": 1, "back": 2, "ignore": 3})
    image, label = phantom()
    ignoring = label.copy()
    ignoring[:8] = 3
    made.add("case0", image, ignoring, dict.fromkeys(made.variants, label), lambda reference: reference != 3)
    viewed = load_viewed(made.measure(), made.root, 6)
    (case,) = viewed.cases
    assert viewed.labels == ("front", "back")
    assert not case.reference[:8].any() and not case.predictions[0][:8].any()
    assert np.array_equal(case.predictions[0], case.reference) and case.reference.any()
    assert "ignores" in case.notes[0]


def viewed_case(reference: np.ndarray, prediction: np.ndarray, affine: np.ndarray | None = None) -> ViewedCase:
    affine = np.eye(4) if affine is None else affine
    spacing = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    image = np.random.default_rng(1).normal(size=reference.shape)
    return ViewedCase("c", (), image, reference, {0: prediction}, {0: [0.5]}, affine, spacing, ())


def test_large_images_are_cropped_and_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = np.zeros((90, 80, 60), np.uint8)
    reference[40:50, 20:30, 30:50] = 1
    prediction = shifted(reference, 4)
    case = viewed_case(reference, prediction, np.diag([1.0, 2.0, 3.0, 1.0]))
    cropped, notes = slice_data(case)
    assert cropped["shape"] == [14 + 2 * 15, 10 + 2 * 8, 20 + 5 + 5]
    assert cropped["offset"] == [25, 12, 25]
    assert "cropped to 15 mm" in notes[0] and len(notes) == 1
    monkeypatch.setattr(viewer_slices, "MOST_VOXELS", 5_000)
    thinned, notes = slice_data(case)
    shape, offset, step = (thinned[name] for name in ("shape", "offset", "step"))
    assert np.prod(shape) <= 5_000
    assert step[0] > step[2]  # the finest axis first
    assert "one voxel of" in notes[1]
    shown = unpack(thinned["reference"], "u1", tuple(shape))
    full = tuple(slice(o, o + n * s, s) for o, n, s in zip(offset, shape, step, strict=True))
    assert np.array_equal(shown, reference[full])
    assert thinned["spacing"] == pytest.approx([s * e for s, e in zip(step, (1, 2, 3), strict=True)])


def test_an_even_image_and_an_empty_reference_can_be_drawn() -> None:
    empty = np.zeros((9, 8, 7), np.uint8)
    case = ViewedCase("c", (), np.full(empty.shape, 7), empty, {0: empty}, {0: [None]}, np.eye(4), (1, 1, 1), ())
    data = slice_data(case)[0]
    assert data["start"] == [4, 4, 3]
    assert not unpack(data["image"], "u1").any()
    surfaces = surface_data(case, 1)
    assert surfaces["meshes"] == {"reference": [None], "0": [None]}


def ball(radius_mm: float, affine: np.ndarray, shape: tuple[int, int, int] = (40, 40, 40)) -> np.ndarray:
    points = nib.affines.apply_affine(affine, np.argwhere(np.ones(shape, bool)))
    centre = nib.affines.apply_affine(affine, (np.array(shape) - 1) / 2)
    return (np.linalg.norm(points - centre, axis=1) <= radius_mm).reshape(shape)


@pytest.mark.parametrize("affine", [np.eye(4), np.diag([-0.8, 1.2, 0.7, 1.0]), oblique() @ np.diag([1, 1, 0.3, 1])])
def test_surfaces_lie_in_the_world_and_face_outwards(affine: np.ndarray) -> None:
    mask = ball(9, affine)
    surface = surface_of(mask, affine)
    assert surface is not None
    centre = nib.affines.apply_affine(affine, (np.array(mask.shape) - 1) / 2)
    distances = np.linalg.norm(surface.vertices - centre, axis=1)
    assert distances.mean() == pytest.approx(9, abs=0.3)
    for shape in (surface, smoothed(surface)):
        corners = shape.vertices[shape.faces] - centre
        volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
        assert volume == pytest.approx(4 / 3 * np.pi * 9**3, rel=0.03)
    rough = np.std(distances)
    assert np.std(np.linalg.norm(smoothed(surface).vertices - centre, axis=1)) < 0.7 * rough
    edges = np.sort(np.concatenate([surface.faces[:, pair] for pair in ([0, 1], [1, 2], [2, 0])]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()  # closed


def test_signed_distance_between_balls_and_blocks() -> None:
    affine = np.diag([0.8, 1.0, 1.2, 1.0])
    small, large = ball(7, affine), ball(10, affine)
    inner, outer = surface_of(small, affine), surface_of(large, affine)
    assert inner is not None and outer is not None
    outside = signed_distance_mm(outer.vertices, inner, small, affine)
    inside = signed_distance_mm(inner.vertices, outer, large, affine)
    assert outside.mean() == pytest.approx(3, abs=0.3) and outside.min() > 1.8
    assert inside.mean() == pytest.approx(-3, abs=0.3) and inside.max() < -1.8
    assert np.abs(signed_distance_mm(inner.vertices, inner, small, affine)).max() < 1e-9
    block = np.zeros((20, 20, 20), bool)
    block[5:15, 5:15, 5:15] = True
    face = surface_of(block, affine)
    assert face is not None
    # The block's face lies half a voxel behind its last voxel: 14.5 * 0.8 = 11.6 mm.
    points = np.array([[13.6, 10.0, 12.0], [10.6, 10.0, 12.0]])
    assert signed_distance_mm(points, face, block, affine) == pytest.approx([2.0, -1.0])


def test_surface_data_can_be_read_back() -> None:
    affine = np.diag([-0.9, 1.1, 1.3, 1.0])
    affine[:3, 3] = (40, -10, 5)
    reference = ball(8, affine).astype(np.uint8)
    prediction = ball(10, affine).astype(np.uint8)
    data = surface_data(viewed_case(reference, prediction, affine), 2)
    assert data["meshes"]["reference"][1] is None and data["meshes"]["0"][1] is None
    assert "distance" not in data["meshes"]["reference"][0]
    mesh = data["meshes"]["0"][0]
    vertices = np.cumsum(unpack(mesh["vertices"], "<i4", (3, -1)), axis=1) * data["unit"]
    faces = np.cumsum(unpack(mesh["faces"], "<i4")).reshape(-1, 3)
    distance = unpack(mesh["distance"], "<i2") * data["distance_unit"]
    assert faces.min() == 0 and faces.max() == vertices.shape[1] - 1
    assert np.linalg.norm(vertices, axis=0).mean() == pytest.approx(10, abs=0.3)
    assert distance.mean() == pytest.approx(2, abs=0.2)
    assert 2 <= data["limit"] <= 4
    assert np.allclose(np.abs(vertices).max(axis=1), data["extent"], atol=0.6)


def test_colours_of_distances_end_at_3_mm() -> None:
    affine = np.eye(4)
    reference, prediction = (ball(radius, affine).astype(np.uint8) for radius in (5, 15))
    far = surface_data(viewed_case(reference, prediction, affine), 1)
    assert (far["limit"], far["clipped"]) == (3.0, True)
    near = surface_data(viewed_case(reference, ball(5.9, affine).astype(np.uint8), affine), 1)
    assert near["limit"] < 3.0
    assert not near["clipped"]


def test_the_panel_for_papers_shows_worst_median_and_best(tmp_path: Path) -> None:
    made = plain(tmp_path / "exp", cases=5)
    viewed = viewer_fragment(made.measure(), root=made.root, cases=5).viewed
    assert viewed is not None
    figure = case_panel(viewed)
    assert figure is not None
    assert figure.caption.startswith("Worst, median and best case by the mean Dice of UNet 2d")
    canvas = Canvas()
    figure.panels[0].draw(canvas)
    rows = [axes.get_ylabel() for axes in canvas.axes if axes.get_ylabel()]
    assert [row.split("\n")[0] for row in rows] == ["worst", "median", "best"]
    outlines = canvas.axes[-1].collections
    assert [tuple(o.get_edgecolor()[0][:3]) for o in outlines[:2]] == [(1, 1, 1)] * 2, "the reference is white"
    assert {o.get_linestyle()[0][1] is None for o in outlines[:2]} == {True}, "and solid"
    assert {o.get_linestyle()[0][1] is None for o in outlines[2:]} == {False}, "predictions are dashed"


def test_the_ensemble_is_marked_to_be_ticked(tmp_path: Path) -> None:
    made = FakeExperiment(tmp_path / "exp")
    image, label = phantom()
    for n in range(3):
        made.add(f"case{n}", image, label, {name: shifted(label, n + 1) for name in (*made.variants, "ensemble")})
    fragment = viewer_fragment(made.measure(), root=made.root)
    assert [model["ensemble"] for model in payload(fragment)["models"]] == [False, False, True]


def test_large_surfaces_are_thinned_out() -> None:
    surface = surface_of(ball(15, np.eye(4)), np.eye(4))
    assert surface is not None
    values = surface.vertices[:, 0]
    coarse, merged = decimated(surface, values, 900)
    assert 200 < len(coarse.faces) <= 900 < len(surface.faces)
    assert np.allclose(merged, coarse.vertices[:, 0])
    assert np.linalg.norm(coarse.vertices - 19.5, axis=1).mean() == pytest.approx(15, abs=0.5)
    same, _ = decimated(surface, values, len(surface.faces))
    assert same is surface
