"""The cache of slice embeddings: what it computes, what it recomputes, and what a patch gets of it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hippo_nnunet.clip import guidance_cache
from hippo_nnunet.clip.guidance_cache import (
    CachedGuidance,
    cache_file,
    guidance_axis,
    other_cases,
    patch_guidance,
    slice_embeddings,
    training_view,
)
from hippo_nnunet.clip.preprocessing import Preprocessing
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.networks.guidance import SliceView

CASES = [f"case_{number}" for number in range(12)]
SUBJECTS = {case: f"subject {number // 3}" for number, case in enumerate(CASES)}


class Encoder:
    """Embeds a slice by its mean, its shape and its channels."""

    name, sha256, preprocessing = "fake", "ab" * 32, Preprocessing(8, (0.5,), (0.5,), "bicubic")

    def __init__(self) -> None:
        self.encoded = 0

    def encode_image(self, slices: torch.Tensor) -> torch.Tensor:
        self.encoded += len(slices)
        shape = torch.tensor([float(n) for n in slices.shape[1:]]).expand(len(slices), -1)
        return F.normalize(torch.cat([slices.mean(dim=(1, 2, 3))[:, None], shape], 1), dim=1)


class Dataset:
    """nnU-Net's view of numpy files of shape (2, 3, 4, 5), whose slices along the first axis differ."""

    def __init__(self, folder: Path, cases: list[str]) -> None:
        self.source_folder, self.identifiers = str(folder), cases

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        path = Path(self.source_folder) / f"{identifier}.npz"
        direction = path.with_suffix(".pkl").read_text().split() if path.with_suffix(".pkl").is_file() else []
        properties = {"sitk_stuff": {"direction": tuple(map(float, direction))}} if direction else {}
        return np.load(path)["data"], None, None, properties


def write(folder: Path, case: str, factor: float = 1.0) -> None:
    folder.mkdir(exist_ok=True)
    ramp = factor * np.arange(3, dtype=np.float32)[None, :, None, None]
    np.savez(folder / f"{case}.npz", data=np.broadcast_to(ramp, (2, 3, 4, 5)))


def embed(dataset: Dataset, encoder: Encoder, axis: int = 0, lines: list[str] | None = None) -> dict[str, torch.Tensor]:
    report = lines.append if lines is not None else lambda line: None
    return slice_embeddings(dataset, encoder, axis, (0, 1, 2), torch.device("cpu"), report)  # type: ignore[arg-type]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = tmp_path / "Plans_2d"
    for case in ("a", "b"):
        write(folder, case, 1.0 if case == "a" else 2.0)
    return Dataset(folder, ["a", "b"])


def test_every_slice_is_encoded_once_and_kept_beside_the_data(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, lines = Encoder(), []
    made = embed(dataset, encoder, lines=lines)
    assert made["b"].shape == (3, 4)
    expected = F.normalize(torch.tensor([[2.0 * i, 2, 4, 5] for i in range(3)]), dim=1)
    torch.testing.assert_close(made["b"], expected)
    assert encoder.encoded == 6
    assert "2 cases" in lines[0] and "2 of 2" in lines[-1]
    file = cache_file(Path(dataset.source_folder), encoder, 0, (0, 1, 2), None)  # type: ignore[arg-type]
    assert file.parent.name == "Plans_2d_clip"
    assert {p.suffix for p in file.parent.iterdir()} <= {".safetensors", ".lock"}
    again = embed(dataset, encoder)
    assert encoder.encoded == 6
    assert all(torch.equal(again[case], made[case]) for case in made)
    with monkeypatch.context() as patch:
        patch.setattr(guidance_cache, "exclusive", lambda *_, **__: pytest.fail("another user's folder is only read"))
        embed(dataset, encoder)
    assert embed(dataset, encoder, axis=2)["a"].shape == (5, 4)  # another axis is another file
    assert torch.equal(embed(dataset, encoder)["a"], made["a"])


def test_a_process_that_waits_for_the_encoding_one_says_so(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = cache_file(Path(dataset.source_folder), Encoder(), 0, (0, 1, 2), None).with_suffix(".lock")  # type: ignore[arg-type]
    program = "import sys, pathlib, hippo_nnunet.locks as locks\nwith locks.exclusive(pathlib.Path(sys.argv[1]), ''):\n"
    program += "    print('held', flush=True); sys.stdin.read()"
    said: list[str] = []

    def end_the_other(form: str, *values: str) -> None:
        said.append(form % values)
        other.kill()

    monkeypatch.setattr("hippo_nnunet.locks.log.warning", end_the_other)
    command = [sys.executable, "-c", program, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert set(embed(dataset, Encoder())) == {"a", "b"}
    assert f"another process encodes the slices; wait for it (process {other.pid} on " in said[0]


def test_only_changed_and_new_cases_are_encoded_again(dataset: Dataset) -> None:
    encoder = Encoder()
    embed(dataset, encoder)
    write(Path(dataset.source_folder), "b", 3.0)
    os.utime(Path(dataset.source_folder) / "b.npz", ns=(1, 1))
    write(Path(dataset.source_folder), "c")
    dataset.identifiers = ["a", "b", "c"]
    encoder.encoded = 0
    made = embed(dataset, encoder)
    assert encoder.encoded == 6
    torch.testing.assert_close(made["b"][1], F.normalize(torch.tensor([3.0, 2, 4, 5]), dim=0))


def test_a_subset_of_the_cases_does_not_drop_the_others(dataset: Dataset) -> None:
    encoder = Encoder()
    embed(Dataset(Path(dataset.source_folder), ["b"]), encoder)
    embed(Dataset(Path(dataset.source_folder), ["a"]), encoder)
    assert embed(dataset, encoder).keys() == {"a", "b"}
    assert encoder.encoded == 6


def test_another_encoder_has_a_cache_of_its_own(dataset: Dataset) -> None:
    embed(dataset, Encoder())
    other = Encoder()
    other.sha256 = "cd" * 32
    embed(dataset, other)
    assert other.encoded == 6


def test_a_damaged_cache_is_made_anew(dataset: Dataset) -> None:
    encoder, lines = Encoder(), []
    embed(dataset, encoder)
    file = cache_file(Path(dataset.source_folder), encoder, 0, (0, 1, 2), None)  # type: ignore[arg-type]
    file.write_bytes(file.read_bytes()[:50])
    assert len(embed(dataset, encoder, lines=lines)) == 2
    assert encoder.encoded == 12
    assert "computed again" in lines[0]


def test_what_was_encoded_before_a_failure_is_kept(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hippo_nnunet.clip.guidance_cache.SAVE_INTERVAL_S", -1.0)
    encoder = Encoder()
    (Path(dataset.source_folder) / "b.npz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"case 'b' in .*cannot be read .* plan' again"):
        embed(dataset, encoder)
    write(Path(dataset.source_folder), "b")
    assert len(embed(dataset, encoder)) == 2
    assert encoder.encoded == 6


def test_a_missing_case_and_a_folder_that_cannot_be_written(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no preprocessed case 'z'"):
        embed(Dataset(Path(dataset.source_folder), ["z"]), Encoder())
    write(tmp_path / "Other_2d", "a", 1.0)
    (tmp_path / "Other_2d_clip").touch()
    with pytest.raises(DataError, match=r"Other_2d_clip.* or train with the word 'live'"):
        embed(Dataset(tmp_path / "Other_2d", ["a"]), Encoder())


def test_without_storing_the_embeddings_are_the_same_and_nothing_is_written(dataset: Dataset) -> None:
    """For the mean of live guidance, also where the folder is read-only."""
    folder = Path(dataset.source_folder).parent
    files = sorted(folder.rglob("*"))
    arguments: Any = (dataset, Encoder(), 0, (0, 1, 2), torch.device("cpu"), lambda line: None)
    passing = slice_embeddings(*arguments, store=False)
    assert sorted(folder.rglob("*")) == files
    stored = embed(dataset, Encoder())
    assert all(torch.equal(stored[case], passing[case]) for case in dataset.identifiers)


class Looking(Encoder):
    """Embeds a slice by its first voxel."""

    def encode_image(self, slices: torch.Tensor) -> torch.Tensor:
        angle = slices[:, 0, 0, 0] / 100
        return torch.stack([angle.cos(), angle.sin()], 1)


RAS, LPS = "-1 0 0 0 -1 0 0 0 1", "1 0 0 0 1 0 0 0 1"


def test_each_case_is_shown_by_its_own_orientation(dataset: Dataset) -> None:
    folder = Path(dataset.source_folder)
    image = np.arange(60, dtype=np.float32).reshape(1, 3, 4, 5)
    for case, direction in (("a", LPS), ("b", RAS)):
        np.savez(folder / f"{case}.npz", data=image)
        (folder / f"{case}.pkl").write_text(direction)
    made = embed(dataset, Looking())
    angles = {case: 100 * torch.atan2(of_case[:, 1], of_case[:, 0]) for case, of_case in made.items()}
    torch.testing.assert_close(angles["a"], torch.tensor([0.0, 20, 40]))
    torch.testing.assert_close(angles["b"], torch.tensor([19.0, 39, 59]))
    # an image whose orientation was corrected is encoded again
    (folder / "b.pkl").write_text(LPS)
    os.utime(folder / "b.pkl", ns=(1, 1))
    torch.testing.assert_close(embed(dataset, Looking())["b"], made["a"])
    # another axis order has a cache of its own
    other = slice_embeddings(dataset, Looking(), 0, (2, 1, 0), torch.device("cpu"), lambda line: None)  # type: ignore[arg-type]
    assert not torch.equal(other["a"], made["a"])


def test_the_view_of_a_training_is_that_of_most_cases_and_others_are_reported(dataset: Dataset) -> None:
    folder, lines = Path(dataset.source_folder), []
    assert training_view(dataset, 0, (0, 1, 2), lines.append) == SliceView()
    write(folder, "c")
    dataset.identifiers.append("c")
    for case, direction in (("a", RAS), ("b", LPS), ("c", RAS)):
        (folder / f"{case}.pkl").write_text(direction)
    assert lines == []
    assert training_view(dataset, 0, (0, 1, 2), lines.append) == SliceView(False, True, True)
    assert "1 of 3 cases are stored in another orientation than the rest (SAR)" in lines[0]
    (folder / "c.npz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"case 'c' in .*cannot be read"):
        training_view(dataset, 0, (0, 1, 2), lines.append)


def unit(*angles: float) -> torch.Tensor:
    return torch.tensor([[np.cos(a), np.sin(a)] for a in angles], dtype=torch.float32)


def test_guidance_of_a_slice_and_of_a_volume() -> None:
    embeddings = unit(0.0, 0.1, 0.2, 0.3, 0.4)
    assert torch.equal(patch_guidance(embeddings, 3, 1), embeddings[3])
    # the whole case: as the network itself pools evenly spaced slices
    torch.testing.assert_close(patch_guidance(embeddings, 0, 5), unit(0.2)[0])
    assert patch_guidance(embeddings, 0, 5).norm().item() == pytest.approx(1)
    # padding does not count, and a patch outside has its nearest slice
    assert torch.equal(patch_guidance(embeddings, -2, 4), patch_guidance(embeddings, 0, 2))
    assert torch.equal(patch_guidance(embeddings, 4, 4), embeddings[4])
    assert torch.equal(patch_guidance(embeddings, -9, 4), embeddings[0])
    assert torch.equal(patch_guidance(embeddings, 9, 4), embeddings[4])


def test_a_batch_is_looked_up_by_case_and_corner() -> None:
    embeddings = {"a": unit(0.0, 0.1, 0.2), "b": unit(1.0, 1.1)}
    corners = torch.tensor([[1, 7, -3], [0, 0, 0]])
    flat = CachedGuidance(embeddings, (6, 6))(["b", "a"], corners)
    assert torch.equal(flat, torch.cat([unit(1.1), unit(0.0)]))
    volumes = CachedGuidance(embeddings, (9, 9, 2))(["a", "b"], torch.tensor([[5, 5, 1], [5, 5, 0]]))
    torch.testing.assert_close(volumes, torch.cat([unit(0.15), unit(1.05)]))


def test_axis() -> None:
    assert guidance_axis((40, 56)) == 0
    assert guidance_axis((40, 56, 32)) == 2


def test_the_cache_can_be_read_by_others(dataset: Dataset) -> None:
    file = cache_file(Path(dataset.source_folder), Encoder(), 0, (0, 1, 2), None)  # type: ignore[arg-type]
    embed(dataset, Encoder())
    assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((Path(dataset.source_folder) / "a.npz").stat().st_mode)


def test_another_case_is_of_another_subject() -> None:
    chosen = other_cases(CASES, SUBJECTS, "0 0")
    assert chosen.keys() == set(CASES) and set(chosen.values()) <= set(CASES)
    assert all(SUBJECTS[case] != SUBJECTS[other] for case, other in chosen.items())
    assert len(set(chosen.values())) > len(CASES) / 2
    assert chosen == other_cases(CASES[::-1], SUBJECTS, "0 0")
    assert chosen != other_cases(CASES, SUBJECTS, "0 1")
    unknown = other_cases(CASES, {}, "0 0")
    assert all(case != other for case, other in unknown.items())
    assert sorted(unknown.values()) == sorted(CASES)


def test_one_subject_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 3 training cases of one subject, expected at least two"):
        other_cases(CASES[:3], SUBJECTS, "0 0")
