"""`segment` on real heads that are on this machine: MNI152 of nilearn, Colin27 of mricron, hippodeep's example."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.segment_heads import MNI152, MRICRON, Example, examples, heads_folder
from hippo_nnunet.cli.main import app
from hippo_nnunet.errors import ConfigError

pytestmark = pytest.mark.slow

LEAST_DICE = {"example": 0.84, "MNI152": 0.87}
"""With hippodeep's masks, each side: agreement of two protocols, not accuracy."""
WHERE = {"MNI152": "pip install nilearn", "Colin27": "apt-get install mricron-data", "example": "see docs/segment.md"}


def head(name: str) -> Example:
    try:
        return examples(heads_folder())[name]
    except (ConfigError, KeyError):
        pytest.skip(f"{name} is not on this machine: {WHERE[name]}")


def run(*words: object) -> None:
    done = CliRunner().invoke(app, ["segment", *map(str, words)])
    assert done.exit_code == 0, done.output + repr(done.exception)


@pytest.mark.parametrize("name", ["example", "MNI152", "Colin27"])
def test_a_head(name: str, tmp_path: Path) -> None:
    example = head(name)
    run(example.path, "--output", tmp_path)
    (path,) = tmp_path.glob("*_dseg.nii.gz")
    image, labels = nib.load(example.path), nib.load(path)
    np.testing.assert_allclose(labels.affine, image.affine)
    voxels = np.asarray(labels.dataobj)
    world = {
        value: (np.argwhere(voxels == value) @ image.affine[:3, :3].T + image.affine[:3, 3]).mean(axis=0)
        for value in (1, 2, 3, 4)
    }
    assert world[1][0] < world[3][0]  # left is on the left
    assert world[2][0] < world[4][0]
    assert world[1][1] > world[2][1]  # anterior is in front
    assert world[3][1] > world[4][1]
    with (tmp_path / "volumes.csv").open() as stream:
        totals = {row["side"]: row for row in csv.DictReader(stream) if row["label"] == "total"}
    for side in ("left", "right"):
        assert 2500 < float(totals[side]["volume_mm3"]) < 5500
        assert float(totals[side]["low_mm3"]) < float(totals[side]["high_mm3"])
    assert (tmp_path / "qc" / "index.html").stat().st_size > 20_000
    for number, (side, mask) in enumerate(example.masks.items()):
        theirs = np.asarray(nib.load(mask).dataobj)
        theirs = theirs > theirs.max() / 2
        ours = np.isin(voxels, (2 * number + 1, 2 * number + 2))
        dice = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
        assert dice >= LEAST_DICE[name], side


def test_masks_of_another_program_in_the_place_of_the_registration(tmp_path: Path) -> None:
    example = head("example")
    if not example.masks:
        pytest.skip("hippodeep's masks are not on this machine")
    rois = [word for mask in example.masks.values() for word in ("--roi", mask)]
    run(example.path, "--output", tmp_path / "roi", "--no-qc", *rois)
    run(example.path, "--output", tmp_path / "registered", "--no-qc")
    one, other = (np.asarray(nib.load(next((tmp_path / n).glob("*.nii.gz"))).dataobj) for n in ("roi", "registered"))
    for values in ((1, 2), (3, 4)):
        first, second = np.isin(one, values), np.isin(other, values)
        assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.9


def test_a_stripped_head_gets_the_same_hippocampi(tmp_path: Path) -> None:
    example = head("Colin27")
    assert example.stripped is not None
    run(example.path, example.stripped, "--output", tmp_path, "--no-qc")
    one, other = (np.asarray(nib.load(path).dataobj) > 0 for path in sorted(tmp_path.glob("*.nii.gz")))
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.95


def test_a_macaque_is_refused(tmp_path: Path) -> None:
    path = MRICRON / "inia19-t1-brain.nii.gz"
    if not path.is_file():
        pytest.skip(f"the macaque is not on this machine: {WHERE['Colin27']}")
    done = CliRunner().invoke(app, ["segment", str(path), "--output", str(tmp_path / "out"), "--kind", "head"])
    assert done.exit_code == 1
    assert "no brain of a human head in a T1 was found" in str(done.exception)
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_the_template_is_the_one_of_nilearn() -> None:
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        pytest.skip(f"MNI152 is not on this machine: {WHERE['MNI152']}")
    from hippo_nnunet.segment.template import BRAIN, load_template

    whole = nib.load(Path(spec.origin).parent / MNI152)
    template = load_template()
    brain = np.argwhere(template.image > BRAIN)[::101]
    world = brain @ template.affine[:3, :3].T + template.affine[:3, 3]
    index = np.linalg.inv(whole.affine) @ np.c_[world, np.ones(len(world))].T
    corners = np.asarray(whole.dataobj, float)
    x, y, z = np.floor(index[:3]).astype(int)
    means = np.mean([corners[x + a, y + b, z + c] for a in (0, 1) for b in (0, 1) for c in (0, 1)], axis=0)
    np.testing.assert_allclose(means, template.image[tuple(brain.T)], atol=1.0)
