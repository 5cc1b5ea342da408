"""`hippo-nnunet explore`: what it writes, and that what it shows is what nnU-Net makes."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from tiny_dataset import PLANS, TinyDataset
from typer.testing import CliRunner

from hippo_nnunet.cli.explore import explore
from hippo_nnunet.data.exploration import _OTHER_NORMALISATION
from hippo_nnunet.data.exploration_case import load_case
from hippo_nnunet.data.layout import read_dataset
from hippo_nnunet.data.resampling import planned_spacing
from hippo_nnunet.data.synth import make_phantom
from hippo_nnunet.errors import DataError
from hippo_nnunet.nnunet.example_case import computed_case, stored_case

pytestmark = pytest.mark.slow

app = typer.Typer()
app.command()(explore)
runner = CliRunner()


def run(*arguments: object) -> Path:
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return Path(result.stdout.strip())


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(tmp_path_factory.mktemp("phantom"), 9, 1)


@pytest.fixture(scope="module")
def page(phantom: Path) -> Path:
    return run(phantom, "--output", phantom.parent / "deep" / "exploration")


class Resources(HTMLParser):
    """Collects what a page would load or point to, its ids, and the elements that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.links += [found[key] or "" for key in ("src", "href", "xlink:href", "data", "srcset") if key in found]
        self.ids += [found["id"] or ""] if "id" in found else []


def test_the_page_needs_nothing_but_itself(page: Path) -> None:
    text = page.read_text()
    found = Resources(text)
    assert [link for link in found.links if not link.startswith(("#", "data:"))] == []
    assert not found.tags & {"script", "iframe", "object", "embed"}
    assert "@import" not in text
    assert all(target.startswith(("#", "data:")) for target in re.findall(r"url\(\s*['\"]?([^)'\"]+)", text))
    assert len(found.ids) == len(set(found.ids))
    targets = {link[1:] for link in found.links if link.startswith("#")}
    assert targets <= set(found.ids)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert len(text) < 5_000_000


def test_files(page: Path) -> None:
    folder = page.parent
    assert {p.name for p in folder.iterdir()} == {"index.html", "cases.csv", "summary.json", "figures"}
    names = {"sizes", "intensities", "class_shares", "volumes", "centres", "example"}
    written = {p.name for p in (folder / "figures").iterdir()}
    assert {f"{name}.{ending}" for name in names for ending in ("png", "svg")} <= written
    with (folder / "cases.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["part"] for row in rows] == ["training"] * 9 + ["test"]
    assert rows[-1]["volume_mm3_Anterior"] == ""
    summary = json.loads((folder / "summary.json").read_text())
    mean = np.mean([float(row["volume_mm3_Anterior"]) for row in rows[:9]])
    assert summary["labels"]["Anterior"]["volume_mm3"]["mean"] == pytest.approx(mean)
    shown = page.read_text()
    for case in {outlier["case"] for outlier in summary["outliers"]["found"]}:
        assert f"<td>{case}</td>" in shown


def test_overwrite(page: Path, phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        run(phantom, "--output", page.parent)
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "chapter1.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"chapter1\.txt"):
        run(phantom, "--output", mine, "--overwrite")
    assert (mine / "chapter1.txt").exists()


def test_an_archive_with_one_unlabelled_case(phantom: Path, tmp_path: Path) -> None:
    """What can be shown is shown, with a note on what is missing; --overwrite replaces an earlier page."""
    folder = tmp_path / "Task04_One"
    (folder / "imagesTr").mkdir(parents=True)
    shutil.copy(phantom / "imagesTr" / "phantom_001.nii.gz", folder / "imagesTr")
    content = json.loads((phantom / "dataset.json").read_text())
    content["training"], content["test"], content["name"] = content["training"][:1], [], "<script>One</script>"
    (folder / "dataset.json").write_text(json.dumps(content))
    archive = tmp_path / "Task04_One.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(folder, arcname=folder.name)
    output = tmp_path / "out"
    (output / "figures").mkdir(parents=True)
    (output / "index.html").write_text("another page")
    with pytest.raises(DataError, match="is no page of hippo_nnunet"):
        run(archive, "--output", output, "--overwrite")
    (output / "index.html").write_text("old, by hippo_nnunet")
    text = run(archive, "--output", output, "--overwrite").read_text()
    assert "No label could be measured" in text
    assert "too few to call one of them an outlier" in text
    assert "&lt;script&gt;One" in text
    assert {p.stem for p in (output / "figures").iterdir()} == {"sizes", "intensities", "example"}
    assert json.loads((output / "summary.json").read_text())["labels"] == {}


def test_bad_sources(phantom: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(b"no archive")
    for source in (tmp_path / "nowhere", tmp_path, damaged):
        with pytest.raises(DataError) as caught:
            run(source, "--output", tmp_path / "out")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["damaged.tar"]


def test_the_stored_case_is_found_and_equals_the_computed_one(
    tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plans turn the axes and resample anisotropic voxels to 1 mm: both ways lead to the same image."""
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    dataset = read_dataset(tiny.raw)
    case, problems = load_case(dataset, dataset.training[0])
    assert case is not None
    assert problems == []
    stored = stored_case(dataset, case)
    assert stored is not None
    assert f"{PLANS}, 3d_fullres" in stored.source
    assert stored.spacing_mm == (1.0, 1.0, 1.0)
    computed = computed_case(case, ["ZScoreNormalization"], False, (1.0, 1.0, 1.0))
    assert "resampled" in computed.source
    np.testing.assert_allclose(computed.channels, stored.channels, atol=1e-4)
    assert stored.label is not None
    assert computed.label is not None
    assert np.mean(computed.label == stored.label) > 0.999
    monkeypatch.setenv("nnUNet_preprocessed", str(tiny.root / "elsewhere"))
    assert stored_case(dataset, case) is None


def test_a_damaged_preprocessed_case_is_an_error(tiny: TinyDataset, tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(tiny.root / name / tiny.name, root / name / tiny.name)
    dataset = read_dataset(root / "nnUNet_raw" / tiny.name)
    case, _ = load_case(dataset, dataset.training[0])
    assert case is not None
    (root / "nnUNet_preprocessed" / tiny.name / f"{PLANS}_3d_fullres" / f"{case.id}.b2nd").write_bytes(b"broken")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("nnUNet_preprocessed", raising=False)
        with pytest.raises(DataError, match=f"preprocessed case '{case.id}'"):
            stored_case(dataset, case)


@pytest.mark.parametrize("coarse", [1.0, 5.0, 9.0])
def test_the_planned_spacing_is_nnunets(coarse: float) -> None:
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    rng = np.random.default_rng(0)
    spacings = rng.uniform(0.8, 1.2, (20, 3)) * (1, 1, coarse)
    if coarse == 9:
        spacings[:5, 2] = 0.5  # a tenth of the cases is fine: nnU-Net keeps the axis just above the others
    sizes = rng.integers((100, 100, 10), (200, 200, 20), (20, 3))
    planner = SimpleNamespace(
        overwrite_target_spacing=None,
        anisotropy_threshold=3,
        dataset_fingerprint={"spacings": list(spacings), "shapes_after_crop": list(sizes)},
    )
    expected = ExperimentPlanner.determine_fullres_target_spacing(planner)
    assert planned_spacing(spacings, sizes.astype(float)) == pytest.approx(expected)


def test_the_normalisation_of_a_channel_is_nnunets() -> None:
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import (
        channel_name_to_normalization_mapping as mapping,
    )

    other = {name: scheme.__name__ for name, scheme in mapping.items() if scheme.__name__ != "ZScoreNormalization"}
    assert other == _OTHER_NORMALISATION
