"""The page of a folder of explanations, and the report's link to it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from report_experiment import NO_VIEWER, write_experiment

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.comparison import Options
from hippo_nnunet.pages.explanation.page import check_page, write_page
from hippo_nnunet.pages.figure import ENDINGS
from hippo_nnunet.pages.report.page import write_report

CASES = ("case_1", 'a b&<"x">')


def explanations(folder: Path, model: str = "") -> Path:
    figures = folder / model / "figures"
    figures.mkdir(parents=True)
    for case in CASES:
        for kind in ("errors", "attention"):
            for ending in ENDINGS:
                (figures / f"{case}_{kind}{ending}").write_bytes(b"x")
    (folder / model / "dice.csv").write_text("case,dice\n")
    return folder


def links(page: Path) -> list[Path]:
    text = page.read_text()
    found = re.findall(r'(?:href|src)="(?!data:|#)([^"]+)"', text)
    return [page.parent / unquote(link) for link in found]


@pytest.mark.parametrize("model", ["", "UNetTrainer__nnUNetPlans__2d"])
def test_every_figure_is_on_the_page(tmp_path: Path, model: str) -> None:
    page = write_page(explanations(tmp_path / "explain", model))
    assert page == tmp_path / "explain" / "index.html"
    assert all(path.is_file() for path in links(page))
    written = {path for path in (tmp_path / "explain").rglob("*") if path.is_file()} - {page}
    assert set(links(page)) == written
    text = page.read_text()
    assert text.index("Attention: ") < text.index("Errors: "), "in the order of the explanations"
    assert "<x>" not in text
    assert "similarity" not in text.lower(), "only what is shown is explained"
    assert (f"<h2>{model}</h2>" in text) == bool(model)


def test_another_page_is_never_replaced(tmp_path: Path) -> None:
    check_page(tmp_path)
    write_page(explanations(tmp_path / "explain"))
    check_page(tmp_path / "explain")
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(DataError, match=r"index\.html: is not a page of explanations"):
        check_page(tmp_path)
    link = tmp_path / "linked" / "index.html"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "explain" / "index.html")
    with pytest.raises(DataError, match="is not a page of explanations"):
        check_page(link.parent)


def test_report_and_explanations_link_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly */")
    monkeypatch.setattr("hippo_nnunet.pages.report.viewers.viewer_fragment", lambda *_, **__: NO_VIEWER)
    folder, fast = tmp_path / "exp", Options(n_resamples=99)
    write_experiment(folder, ["UNet", "AttentionUNet"], cases=6)
    report = write_report(folder, figures=False, options=fast)
    assert "explain/index.html" not in report.read_text(), "there is nothing yet to link"
    page = write_page(explanations(folder / "explain", "model"), report)
    assert 'href="../explain/index.html"' in report.read_text()
    assert 'href="../report/index.html"' in page.read_text()
    linked = report.read_text()
    write_page(folder / "explain", report)
    assert report.read_text() == linked, "once"
    again = write_report(folder, figures=False, overwrite=True, options=fast)
    assert 'href="../explain/index.html"' in again.read_text(), "a new report finds them"
    elsewhere = write_report(folder, tmp_path / "elsewhere", figures=False, options=fast)
    assert "explain/index.html" not in elsewhere.read_text(), "a report that is moved names no folder of the machine"
