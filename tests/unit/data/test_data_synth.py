"""The phantom dataset: same files for the same seed, the form of Task04, and not to be had by a threshold."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from hippo_nnunet.data.phantom import LARGEST, SMALLEST, PhantomCase, make_case
from hippo_nnunet.data.synth import make_phantom
from hippo_nnunet.errors import ConfigError, DataError


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.nii.gz")}


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return [make_case(np.random.default_rng((3, 0, index))) for index in range(4)]


def best_threshold_dice(case: PhantomCase) -> float:
    """Best Dice of any pair of thresholds, chosen with the reference in hand."""
    foreground = case.label > 0
    edges = np.unique(np.quantile(case.image, np.linspace(0, 1, 41)))
    inside, _ = np.histogram(case.image[foreground], edges)
    everything, _ = np.histogram(case.image, edges)
    hits = np.concatenate([[0], np.cumsum(inside)])
    taken = np.concatenate([[0], np.cumsum(everything)])
    sizes = np.maximum(taken[None] - taken[:, None], 0) + foreground.sum()
    return float((2 * (hits[None] - hits[:, None]) / sizes).max())


def test_no_threshold_finds_the_structure(cases: list[PhantomCase]) -> None:
    scores = [best_threshold_dice(case) for case in cases]
    assert max(scores) < 0.6
    assert np.mean(scores) < 0.5


def test_boundary_does_not_show_in_the_brightness(cases: list[PhantomCase]) -> None:
    for case in cases:
        core = ndimage.binary_erosion(case.label > 0)
        anterior, posterior = (case.image[core & (case.label == value)].astype(float) for value in (1, 2))
        # what difference there is comes from the bias field, and is small against the spread of the whole image
        assert abs(anterior.mean() - posterior.mean()) < 0.6 * case.image.std()


def test_structure_is_one_piece_with_the_head_in_front(cases: list[PhantomCase]) -> None:
    for case in cases:
        parts, count = ndimage.label(case.label > 0)
        assert np.bincount(parts.ravel())[1:].max() > 0.97 * (case.label > 0).sum(), count
        assert np.argwhere(case.label == 1)[:, 1].min() > np.argwhere(case.label == 2)[:, 1].max()
        depth = ndimage.distance_transform_edt(case.label > 0).max(axis=(0, 2))
        filled = depth[depth > 0]
        assert filled[len(filled) // 2 :].max() > 1.1 * filled[: len(filled) // 3].max()  # head thicker than tail


def test_size_and_volume_are_those_of_task04(cases: list[PhantomCase]) -> None:
    for case in cases:
        assert all(low <= size <= high for low, size, high in zip(SMALLEST, case.label.shape, LARGEST, strict=True))
        volumes = np.bincount(case.label.ravel(), minlength=3)[1:]
        assert (volumes > 600).all()
        assert (volumes < 3500).all()
        assert case.image.min() >= 0
    assert len({case.label.shape for case in cases}) > 1


def test_same_seed_same_bytes_however_many_cases(tmp_path: Path) -> None:
    few = contents(make_phantom(tmp_path / "few", 1, 1, seed=5))
    more = contents(make_phantom(tmp_path / "more", 2, 2, seed=5))
    assert few.items() <= more.items()
    other = contents(make_phantom(tmp_path / "other", 1, 1, seed=6))
    assert few.keys() == other.keys()
    assert not any(few[name] == other[name] for name in few)
    assert len(set(more.values())) == len(more)


def test_form_is_that_of_task04(tmp_path: Path) -> None:
    folder = make_phantom(tmp_path, 2, 1, name="Task07_Ghost")
    assert folder == tmp_path / "Task07_Ghost"
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "Anterior", "2": "Posterior"}
    assert content["modality"] == {"0": "MRI"}
    assert (content["numTraining"], content["numTest"]) == (2, 1)
    for entry in content["training"]:
        image, label = (nib.load(folder / entry[key]) for key in ("image", "label"))
        assert np.array_equal(image.affine, label.affine)
        assert image.header.get_zooms() == (1, 1, 1)
        assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)
        assert label.get_data_dtype() == np.uint8
    assert (folder / content["test"][0]).is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Task07_Ghost"]


def test_no_overwrite_unasked(tmp_path: Path) -> None:
    folder = make_phantom(tmp_path, 1, 0)
    with pytest.raises(DataError, match="--overwrite"):
        make_phantom(tmp_path, 1, 0, seed=1)
    before = contents(folder)
    (folder / "imagesTr" / "mine.txt").write_text("kept")
    with pytest.raises(DataError, match=r"holds 'imagesTr/mine\.txt', which this command does not write"):
        make_phantom(tmp_path, 1, 0, seed=1, overwrite=True)
    (folder / "imagesTr" / "mine.txt").unlink()
    assert contents(folder) == before
    make_phantom(tmp_path, 1, 0, seed=1, overwrite=True)
    assert contents(folder) != before
    assert [p.name for p in tmp_path.iterdir()] == ["Task04_Phantom"]


def test_a_real_dataset_is_not_replaced(tmp_path: Path) -> None:
    folder = make_phantom(tmp_path, 1, 0)
    description = folder / "dataset.json"
    description.write_text(description.read_text().replace('"reference": "hippo_nnunet"', '"reference": "us"'))
    before = contents(folder)
    with pytest.raises(DataError, match=r"dataset\.json is of no synthetic dataset"):
        make_phantom(tmp_path, 1, 0, overwrite=True)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("training", "test", "seed", "says"),
    [
        (0, 0, 0, "0 training cases, .*: expected 1 to 900"),
        (901, 0, 0, "901 training cases, .*: expected 1 to 900"),
        (1, 100, 0, " 100 test cases, .* 0 to 99"),
        (1, -1, 0, " -1 test cases, .* 0 to 99"),
        (1, 1, -1, "seed -1: .* a seed of at least 0"),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, training: int, test: int, seed: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make_phantom(tmp_path, training, test, seed)
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hippo_nnunet.data.synth._write", full)
    with pytest.raises(DataError, match="No space left"):
        make_phantom(tmp_path, 1, 0)
    assert not list(tmp_path.iterdir())


def test_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write there"):
        make_phantom(tmp_path / "file", 1, 0)
