"""What a report gathers and shows of an experiment, whole or with parts missing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import typer
from report_experiment import NO_VIEWER, VARIANTS, log_folder, write_experiment
from typer.testing import CliRunner

from hippo_nnunet.analysis.compare import compare_experiment
from hippo_nnunet.cli.report import report
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.comparison import Options
from hippo_nnunet.evaluation.notes import Note, NoteKind
from hippo_nnunet.pages.figure import inline_svg
from hippo_nnunet.pages.report import content as report_content
from hippo_nnunet.pages.report import page as report_page
from hippo_nnunet.pages.report.content import Content, gather
from hippo_nnunet.pages.report.figures import report_figures
from hippo_nnunet.pages.report.page import render, write_report
from hippo_nnunet.pages.report.words import comparison_notes, conclusions

FAST = Options(n_resamples=99)
SECTIONS = ("verdict", "table", "differences", "cases", "curves", "volumes", "slices", "recipe", "limits", "paper")


class Reader(HTMLParser):
    """Collects the sections, the text and the tags of a page, as a browser would understand them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._raw = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._raw = tag in ("script", "style")
        if tag == "section":
            self.sections.append(str(dict(attrs)["id"]))

    def handle_endtag(self, tag: str) -> None:
        self._raw = False

    def handle_data(self, data: str) -> None:
        if not self._raw:
            self.text += data


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly */")
    monkeypatch.setattr("hippo_nnunet.pages.report.viewers.viewer_fragment", lambda *_, **__: NO_VIEWER)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "exp"
    write_experiment(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "exp"))


def shown(content: Content) -> tuple[Reader, str]:
    page = render(content, NO_VIEWER)
    return Reader(page), page


def charts(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_a_whole_experiment_is_shown_whole(folder: Path) -> None:
    content = gather(folder, options=FAST)
    assert content.missing == {"table": [], "sizes": [], "notebook": [], "curves": [], "recipe": []}
    assert len(content.curves) == 2 * len(VARIANTS)
    reader, page = shown(content)
    assert {*SECTIONS, "clip"} == set(reader.sections)
    assert "AttentionUNet is better than UNet (2d)" in reader.text
    for words in ("2d: 3 epochs of 100 iterations", "ab" * 32, "hippo-nnunet run exp --dataset", "random unit vectors"):
        assert words in reader.text
    data = charts(page)
    assert data["cases"]["cases"] == list(content.case_dice.index.get_level_values("case"))
    table = pd.read_csv(folder / "metrics" / "per_case.csv")
    own = table[(table["case"] == "case_7") & (table["variant"] == "AttentionUNet")]
    position = data["cases"]["cases"].index("case_7")
    assert data["cases"]["values"][1][position] == pytest.approx(own["dice"].mean(), abs=6e-5)
    volumes = next(entry for entry in data["volumes"] if entry["name"] == "AttentionUNet 2d")["labels"][1]
    difference = own["volume_mm3"] - own["volume_ref_mm3"]
    found = volumes["difference"][volumes["cases"].index("case_7")]
    assert found == pytest.approx(difference.iloc[1], abs=0.06)
    assert data["curves"][0]["val_loss"] == [1.0, 0.5, 0.3333]


def test_the_two_scores_that_rank_differently_are_named(folder: Path) -> None:
    content = gather(folder, options=FAST, notebook=True)
    assert content.notebook is not None
    found = content.notebook.reversals
    row = found[(found["fold"] == "all") & (found["other"].map(str) == "UNet 2d")].iloc[0]
    assert str(row["better"]) == "AttentionUNet 2d"
    assert row["dice"] > 0 > row["notebook_dice"]
    assert content.notebook.comparisons == 3 * 6, "six pairs; two folds, and both"
    assert "rank models in opposite order" in shown(content)[0].text


@pytest.mark.parametrize(
    ("lost", "section", "words"),
    [
        ("manifest.json", "recipe", "manifest.json is missing"),
        ("experiment.yaml", "curves", "experiment.yaml is missing"),
        ("nnunet", "curves", "no training log of any training"),
        ("metrics/notebook_dice.csv", "notebook", "No score of the notebooks' protocol"),
    ],
)
def test_a_missing_part_is_named_in_its_section(folder: Path, lost: str, section: str, words: str) -> None:
    path = folder / lost
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    content = gather(folder, options=FAST, notebook=True)
    assert any(words in note for note in content.missing[section])
    reader, page = shown(content)
    assert words in reader.text
    assert set(SECTIONS) <= set(reader.sections)
    assert str(folder.parent) not in page, "a report can be published: it names no folder of the machine"


def test_notes_are_placed_by_their_kind_whatever_they_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = (
        Note(NoteKind.NOTEBOOK_SCORE, "The first."),
        Note(NoteKind.ONE_SEED, "The second."),
        Note(NoteKind.LEFT_OUT, "No score of the notebooks' protocol: a folder of that name was left out."),
    )
    found = compare_experiment(folder, FAST)
    monkeypatch.setattr(report_content, "compare_experiment", lambda *_, **__: replace(found, notes=notes))
    content = gather(folder, options=FAST)
    assert content.missing["notebook"] == ["The first."]
    assert comparison_notes(content) == [notes[2].text], "the conclusions speak of seeds already"


@pytest.mark.parametrize("root", [None, "my data"])
def test_no_folder_of_the_machine_is_named(folder: Path, tmp_path: Path, root: str | None) -> None:
    """Neither the experiment's nor nnU-Net's, also where a name has spaces."""
    spaced = Path(shutil.move(folder, tmp_path / "my experiment"))
    (spaced / "metrics" / "notebook_dice.csv").unlink()
    content = gather(spaced, root=tmp_path / root if root else None, options=FAST, notebook=True)
    assert content.missing["notebook"]
    assert str(tmp_path) not in shown(content)[1]
    assert "experiment/" not in shown(content)[0].text


def test_the_notebooks_score_is_shown_only_on_demand(folder: Path) -> None:
    reader, page = shown(gather(folder, options=FAST))
    assert "notebook" not in reader.sections
    assert "notebooks" not in reader.text
    assert charts(page)["notebook"] is None
    asked, _ = shown(gather(folder, options=FAST, notebook=True))
    assert "notebook" in asked.sections
    assert "notebooks' score" in asked.text


def test_a_banner_warns_before_the_headline(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert shown(gather(folder, options=FAST))[0].text.count("Too short to judge.") == 1
    for fold in manifest["folds"]:
        fold["schedule"] = {"epochs": 16, "iterations": 100}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "Too short to judge." not in shown(gather(folder, options=FAST))[0].text
    table = pd.read_csv(folder / "metrics" / "per_case.csv")
    table.loc[(table["variant"] == "CLIPGuidedUNet_mini") & (table["label"] == "Posterior"), "dice"] = 0.0
    table.to_csv(folder / "metrics" / "per_case.csv", index=False)
    reader, page = shown(gather(folder, options=FAST))
    assert page.index("A label was never found.") < page.index("<h1>")
    assert "CLIPGuidedUNet_mini 2d is worse" not in reader.text
    assert "CLIPGuidedUNet_mini cannot be judged against UNet" in reader.text


def test_the_ensemble_is_not_credited_with_postprocessing(folder: Path) -> None:
    table = pd.read_csv(folder / "metrics" / "per_case.csv")
    ensemble = table[table["variant"] == "UNet"].assign(variant="ensemble", dice=lambda rows: rows["dice"] + 0.05)
    pd.concat([table, ensemble]).to_csv(folder / "metrics" / "per_case.csv", index=False)
    (folder / "ensemble").mkdir()
    choice = {"nested_gain": 0.0003, "postprocessing": "largest_per_label"}
    (folder / "ensemble" / "choice.json").write_text(json.dumps(choice))
    content = gather(folder, options=FAST)
    can, _ = conclusions(content)
    assert any("the ensemble gains +0.0003 Dice over the best single model" in line for line in can)
    own = [line for line in can if line.startswith("As trained, ensemble")]
    assert own
    assert all("its postprocessing included" in line for line in own)
    assert "+0.0003 Dice over the best single model" in shown(content)[0].text


def test_negative_numbers_have_a_minus_sign(folder: Path) -> None:
    reader, _ = shown(gather(folder, options=FAST))
    assert re.search(r"−0\.\d", reader.text)
    bare = re.sub(r"[\w)-]-\S+|--\S+", "", reader.text.partition("This command repeats")[0])
    assert not re.search(r"-\d", bare)


def test_a_paper_gets_methods_references_and_every_file(folder: Path) -> None:
    page = write_report(folder, options=FAST)
    reader = Reader(page.read_text())
    for words in (
        "We trained UNet, AttentionUNet, CLIPGuidedUNet_mini and CLIPGuidedUNet_randomText_mini on Dataset004",
        "nnU-Net 2.8.1, PyTorch 2.8.0",
        "In 2d, training took 3 epochs of 100 iterations",
        "Each of the 20 cases (2 folds)",
        "@article{isensee2021nnunet",
        "@misc{oktay2018attention",
        "@inproceedings{radford2021clip",
        "@article{nadeau2003inference",
    ):
        assert words in reader.text
    linked = {link for link in re.findall(r'href="([^"#]+)"', page.read_text()) if not link.startswith("data:")}
    written = {
        path.relative_to(page.parent).as_posix()
        for place in ("figures", "tables")
        for path in (page.parent / place).iterdir()
    }
    assert linked == written
    figure = page.parent / "figures" / "differences.svg"
    assert "Which network is better?" in figure.read_text(), "text stays text"
    assert (page.parent / "figures" / "differences.pdf").read_bytes().startswith(b"%PDF")


def test_one_training_without_a_log_is_named(folder: Path) -> None:
    content = gather(folder, options=FAST)
    assert content.experiment is not None
    shutil.rmtree(log_folder(content.experiment, folder, content.experiment.cells()[1]))
    again = gather(folder, options=FAST)
    assert again.missing["curves"] == ["nnU-Net's folder holds no training log of AttentionUNet 2d fold 0."]
    assert len(again.curves) == len(content.curves) - 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"variants": ["UNet"]}, "There is one model: nothing to compare it with."),
        ({"cases": 1, "folds": 1}, "on 1 case, too few for an interval"),
        ({"cases": 8, "folds": 1}, "rest on one fold (0)"),
        ({"variants": ["UNet_seed1", "UNet_seed2"]}, "spread between seeds"),
    ],
)
def test_small_experiments_are_shown_without_wrong_numbers(tmp_path: Path, settings: dict, words: str) -> None:
    write_experiment(tmp_path / "exp", **settings)
    reader, page = shown(gather(tmp_path / "exp", options=FAST))
    assert words in reader.text
    assert not re.search(r"\bnan\b", reader.text, re.IGNORECASE)
    assert "NaN" not in json.dumps(charts(page))


def test_an_experiment_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        gather(tmp_path / "absent")
    with pytest.raises(DataError, match=r"per_case\.csv is missing: .*hippo-nnunet run"):
        write_report(tmp_path, figures=False)
    assert list(tmp_path.iterdir()) == []


def test_hostile_names_are_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>&_"
    write_experiment(tmp_path / "exp", ["UNet", "AttentionUNet"], cases=6, labels=("<b>x", "50%_{}"), prefix=evil)
    reader, page = shown(gather(tmp_path / "exp", options=FAST))
    assert "<script>alert" not in page
    assert "<b>x" in reader.text
    assert reader.tags.count("script") == 3
    data = charts(page)
    assert data["cases"]["cases"][0] == f"{evil}0"
    assert [label["label"] for label in data["volumes"][0]["labels"]] == ["<b>x", "50%_{}"]


def test_names_are_not_read_as_mathematics_and_get_files_of_their_own(tmp_path: Path) -> None:
    labels = ("a $\\undefined$", "A $ \\undefined$", "_$x^2$")
    write_experiment(tmp_path / "exp", ["UNet", "AttentionUNet"], cases=6, labels=labels)
    figures = {figure.name: figure for figure in report_figures(gather(tmp_path / "exp", options=FAST))}
    volumes = [name for name in figures if name.startswith("volumes-")]
    assert volumes == ["volumes-a-undefined", "volumes-a-undefined-2", "volumes-x-2"]
    for name in (*volumes, "differences"):
        inline_svg(figures[name].panels[0])


def test_the_folder_is_written_whole_and_replaced_only_on_demand(folder: Path) -> None:
    page = write_report(folder, figures=False, options=FAST)
    assert page == folder / "report" / "index.html"
    tables = {path.name for path in (folder / "report" / "tables").iterdir()}
    assert tables == {f"{name}.{end}" for name in ("results", "comparison", "volumes") for end in ("csv", "md", "tex")}
    with pytest.raises(DataError, match="--overwrite"):
        write_report(folder, figures=False, options=FAST)
    page.write_text("old, of hippo_nnunet")
    write_report(folder, figures=False, overwrite=True, options=FAST)
    assert page.read_text() != "old, of hippo_nnunet"
    page.write_text("another page")
    with pytest.raises(DataError, match="is no page of hippo_nnunet"):
        write_report(folder, figures=False, overwrite=True, options=FAST)
    page.write_text("old, of hippo_nnunet")
    (folder / "report" / "mine.txt").touch()
    with pytest.raises(DataError, match=r"mine\.txt"):
        write_report(folder, figures=False, overwrite=True, options=FAST)
    assert (folder / "report" / "mine.txt").exists()


def test_a_failure_leaves_the_earlier_report(folder: Path) -> None:
    page = write_report(folder, figures=False, options=FAST)
    before = page.read_text()
    (folder / "metrics" / "per_case.csv").write_text("case\n")
    with pytest.raises(DataError, match=r"per_case\.csv: lacks the columns fold, variant"):
        write_report(folder, figures=False, overwrite=True, options=FAST)
    assert page.read_text() == before
    assert not list(folder.glob(".report*"))


def test_the_command_prints_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = {}

    def write(experiment: Path, output: Path | None, **settings: object) -> Path:
        asked.update(settings, experiment=experiment, output=output)
        return Path("out/index.html")

    monkeypatch.setattr(report_page, "write_report", write)
    app = typer.Typer()
    app.command()(report)
    done = CliRunner().invoke(app, ["exp", "--output", "out", "--cases", "2", "--no-figures", "--root", "r"])
    assert done.stdout == "out/index.html\n"
    assert asked == {
        **{"experiment": Path("exp"), "output": Path("out"), "root": Path("r")},
        **{"cases": 2, "figures": False, "overwrite": False, "notebook": False},
    }
