"""The report's page in a browser: complete, quiet, without network, on a phone, in light and dark; and its size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_experiment import NO_VIEWER, log_folder, log_text, manifest, write_experiment, write_log
from tiny_dataset import UNET, TinyDataset
from viewer_experiment import FakeExperiment, phantom, shifted

from hippo_nnunet.evaluation.comparison import Options
from hippo_nnunet.nnunet.training_log import read_curves
from hippo_nnunet.pages.figure import save_figure
from hippo_nnunet.pages.report.content import gather
from hippo_nnunet.pages.report.figures import report_figures
from hippo_nnunet.pages.report.page import render, write_report

pytestmark = pytest.mark.slow

FAST = Options(n_resamples=99)
LONG_MS = 60_000
MEGABYTE = 1e6
READY = "() => document.querySelectorAll('.chart .main-svg').length >= 5"
COLOUR = "() => getComputedStyle(document.body).backgroundColor"
DOT = "() => getComputedStyle(document.querySelector('#chart-cases .points path')).fill"
OVERLAP = """() => [...document.querySelectorAll('.forest .row')].filter((row) => {
  const [words, verdict] = ['.figures', '.badge'].map((name) => row.querySelector(name));
  if (!verdict) return false;
  const range = document.createRange();
  range.selectNodeContents(words);
  const [one, other] = [range.getBoundingClientRect(), verdict.getBoundingClientRect()];
  return one.right > other.left && one.bottom > other.top && other.bottom > one.top;
}).length"""
WIDE = """() => [...document.querySelectorAll('body *')].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !e.closest('.scroll, .chart, #surface, #slices');
}).map((e) => e.tagName + '.' + e.className)"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = FakeExperiment(tmp_path_factory.mktemp("report") / "exp", variants=("UNet", "AttentionUNet"))
    image, label = phantom()
    for number in range(7):
        predictions = {"UNet": shifted(label, 1 + number % 2), "AttentionUNet": shifted(label, number % 3, axis=1)}
        made.add(f"case_{number}", image, label, predictions)
    folder = made.measure()
    for cell in made.experiment.cells():
        write_log(log_folder(made.experiment, folder, cell), log_text(range(4)))
    (folder / "manifest.json").write_text(json.dumps(manifest(made.experiment)))
    return write_report(folder, root=made.root, cases=2, options=FAST, notebook=True)


@pytest.fixture
def problems() -> list[str]:
    return []


@pytest.fixture
def page(browser: Any, written: Path, problems: list[str], request: pytest.FixtureRequest) -> Iterator[Any]:
    width, scheme = getattr(request, "param", (1280, "light"))
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    opened = context.new_page()
    opened.set_default_timeout(LONG_MS)
    opened.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda r: problems.append(r.url) if r.url.startswith(("http", "ws", "ftp")) else None)
    opened.goto(written.as_uri())
    opened.wait_for_function(READY, timeout=LONG_MS)
    yield opened
    context.close()


def test_the_page_is_whole_and_quiet(page: Any, problems: list[str]) -> None:
    sections = page.eval_on_selector_all("main section", "found => found.map((section) => section.id)")
    for name in ("verdict", "table", "differences", "cases", "notebook", "curves", "volumes", "slices", "surface"):
        assert name in sections
    assert sections[-3:] == ["recipe", "limits", "paper"]
    linked = page.eval_on_selector_all("nav a", "links => links.map((link) => link.hash.slice(1))")
    assert linked == sections
    assert page.locator("h1").count() == 1
    drawn = page.eval_on_selector_all(".chart", "charts => charts.map((c) => c.querySelectorAll('.trace').length)")
    assert drawn
    assert all(count > 0 for count in drawn)
    assert page.evaluate("() => [...document.querySelectorAll('.chart')].every((c) => c.ariaLabel.length > 20)")
    assert page.evaluate(WIDE) == []
    errors = [text for text in problems if "WebGL" not in text and "GPU" not in text]
    assert errors == []


@pytest.mark.parametrize("page", [(320, "light"), (390, "dark")], indirect=True)
def test_a_phone_scrolls_down_only(page: Any) -> None:
    assert page.evaluate(OVERLAP) == 0
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate(WIDE) == []
    assert not page.evaluate("() => document.getElementById('contents').open")


def test_the_theme_follows_the_button(page: Any) -> None:
    light, dot = page.evaluate(COLOUR), page.evaluate(DOT)
    page.evaluate("() => { window.seen = 0; document.addEventListener('themechange', () => { window.seen += 1; }); }")
    page.locator("#theme").click()
    assert page.evaluate("() => [document.documentElement.dataset.theme, window.seen]") == ["dark", 1]
    assert page.evaluate(COLOUR) != light
    assert page.evaluate(DOT) != dot, "charts are drawn again in the other theme's colours"
    page.locator("#theme").click()
    assert (page.evaluate(COLOUR), page.evaluate(DOT)) == (light, dot)


@pytest.mark.parametrize("page", [(1280, "dark")], indirect=True)
def test_the_theme_starts_as_the_system_is(page: Any) -> None:
    red, green, blue = page.evaluate(f"({COLOUR})().match(/\\d+/g).map(Number)")
    assert max(red, green, blue) < 60
    page.locator("#theme").click()
    assert page.evaluate("() => document.documentElement.dataset.theme") == "light"


def test_a_table_that_does_not_fit_says_that_it_scrolls(page: Any) -> None:
    page.locator("details.more summary").click()
    page.wait_for_function("() => document.querySelector('details.more .box').classList.contains('scrolls')")
    hint = "() => getComputedStyle(document.querySelector('details.more .caption'), '::after').content"
    assert "Scroll sideways" in page.evaluate(hint)
    others = "[...document.querySelectorAll('.box:not(.scrolls) .scroll')]"
    assert page.evaluate(f"() => {others}.every((s) => s.scrollWidth <= s.clientWidth + 1)")


@pytest.mark.parametrize("page", [(1280, "dark")], indirect=True)
def test_the_printed_page_is_light_and_whole(page: Any) -> None:
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 1000})
    assert min(page.evaluate(f"({COLOUR})().match(/\\d+/g).map(Number)")) > 240
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate(
        "() => [...document.querySelectorAll('.chart svg.main-svg')].every((s) => s.clientWidth < 690)"
    )
    visible = "(q) => { const e = document.querySelector(q); return Boolean(e && e.getClientRects().length); }"
    assert [page.evaluate(visible, name) for name in (".legend", ".still", "details.more table")] == [True] * 3
    assert [page.evaluate(visible, name) for name in ("#surface-plot", "nav", "#theme")] == [False] * 3
    assert page.evaluate("() => document.querySelector('.still').naturalWidth") > 500
    page.emulate_media(media="screen")
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert max(page.evaluate(f"({COLOUR})().match(/\\d+/g).map(Number)")) < 60, "the theme is restored"


def test_legend_and_choice_react(page: Any) -> None:
    lines = "() => document.querySelectorAll('#chart-dice-0 .trace').length"
    before = page.evaluate(lines)
    button = page.locator(".legend[data-target=curves] button").first
    button.click()
    assert page.evaluate(lines) == before / 2
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert page.evaluate(lines) == before
    shape = "() => document.querySelector('#chart-volume-0 .points path').getAttribute('d')"
    first = page.evaluate(shape)
    page.locator(".choice button").nth(1).click()
    assert page.evaluate(shape) != first, "another model has another marker"


def test_a_dot_names_its_case(page: Any) -> None:
    page.locator("#chart-cases").scroll_into_view_if_needed()
    box = page.locator("#chart-cases .points path").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function("() => document.querySelector('#chart-cases .hovertext')")
    assert "case_" in page.locator("#chart-cases .hovertext").first.text_content()


def test_260_cases_under_six_models_fit(tmp_path: Path) -> None:
    names = ["UNet", "AttentionUNet", *(f"CLIPGuidedUNet_{w}mini" for w in ("", "randomText_", "shuffledText_"))]
    write_experiment(tmp_path / "exp", [*names, "CLIPGuidedUNet_noImage_mini"], cases=260, folds=5, epochs=1000)
    content = gather(tmp_path / "exp", options=FAST)
    size = len(render(content, NO_VIEWER).encode())
    assert size < 8 * MEGABYTE, "slices and surfaces need the rest of 15 MB"


def test_figures_are_drawn(tmp_path: Path) -> None:
    write_experiment(tmp_path / "exp", ["UNet", "AttentionUNet"], cases=8)
    figures = report_figures(gather(tmp_path / "exp", options=FAST))
    for figure in figures:
        save_figure(figure, tmp_path / "figures")
        assert (tmp_path / "figures" / f"{figure.name}.png").stat().st_size > 5000
        assert "<svg" in (tmp_path / "figures" / f"{figure.name}.svg").read_text()


def test_the_log_of_a_real_training_says_what_its_checkpoint_says(trained: TinyDataset) -> None:
    import torch

    fold = next(trained.root.rglob(f"{UNET}__*__2d/fold_0"))
    logged = torch.load(fold / "checkpoint_final.pth", map_location="cpu", weights_only=False)["logging"]
    curves = read_curves(fold)
    assert curves is not None
    assert curves.epochs == list(range(len(logged["train_losses"])))
    assert curves.train_loss == pytest.approx([float(v) for v in logged["train_losses"]], abs=1e-4)
    assert curves.val_loss == pytest.approx([float(v) for v in logged["val_losses"]], abs=1e-4)
    assert curves.pseudo_dice == pytest.approx([float(v) for v in logged["mean_fg_dice"]], abs=1e-4, nan_ok=True)
