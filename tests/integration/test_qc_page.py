"""The QC page in Chromium: answers by keyboard and mouse, their export, selections, hostile names, many scans."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hippo_nnunet.pages.qc.page import render, write_index
from hippo_nnunet.pages.qc.records import Registration, ScanRecord, Side, VolumeRow
from hippo_nnunet.pages.qc.scan_files import read_scans, write_scan

HOSTILE = "<script>window.bad = 1</script>'\",=\n</template><img src=x onerror='window.bad=2'>"


def record(name: str, doubt: float, flags: tuple[str, ...] = ()) -> ScanRecord:
    labels = np.zeros((36, 52, 38), np.uint8)
    labels[12:22, 26:38, 12:20] = 1
    labels[12:20, 12:26, 14:22] = 2
    image = np.random.default_rng(0).normal(100, 20, labels.shape) - 30.0 * (labels > 0)
    sides = [Side(image, labels, (1, 1, 1), "left"), Side(image[::-1], labels[::-1], (1, 1, 1), "right")]
    head = np.pad(image, 20)
    volumes = [VolumeRow("left anterior", 960, 900, 1000, 0), VolumeRow("total", 1800)]
    details = {"image": name}
    registration = Registration(head, head > 0, (2, 2, 2))
    return ScanRecord(name, ("anterior", "posterior"), sides, volumes, flags, doubt, registration, 0.9, details)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qc")
    write_scan(folder, record("calm", 0.1))
    write_scan(folder, record(HOSTILE, 0.3, ("total: =HYPERLINK(\"x\"), in 'two' pieces", HOSTILE)))
    write_scan(folder, record("second", 0.2, ("implausible volume",)))
    (folder / "index.html").write_text(render(read_scans(folder), HOSTILE), encoding="utf-8")
    return folder


class Opened:
    """A page, and what it asked for or complained about."""

    def __init__(self, context: Any, file: Path) -> None:
        self.page = context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self.complaints.append(line.text))
        self.page.on("request", self._note)
        self.page.goto(file.as_uri())

    def _note(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.complaints.append(request.url)

    def answers(self) -> list[str | None]:
        return self.page.eval_on_selector_all(".scan", "all => all.map((one) => one.dataset.answer || null)")

    def shown(self) -> list[str]:
        return self.page.eval_on_selector_all(".scan:not([hidden])", "all => all.map((one) => one.dataset.name)")

    def exported(self) -> list[list[str]]:
        with self.page.expect_download() as download:
            self.page.click("#export")
        text = Path(download.value.path()).read_bytes().decode("utf-8")
        return list(csv.reader(io.StringIO(text, newline="")))


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context
    context.close()


def test_answers_by_keyboard_and_mouse_are_kept_and_exported(context, folder):
    opened = Opened(context, folder / "index.html")
    keyboard = opened.page.keyboard
    for key in ("f", "ArrowDown", "u", "ArrowDown", "p", "ArrowDown", "ArrowUp", "p"):
        keyboard.press(key)
    assert opened.answers() == ["fail", "pass", "pass"]
    keyboard.press("p")  # again: taken back
    opened.page.locator(".scan").nth(2).locator("button[data-answer=unsure]").click()
    keyboard.press("Control+p")
    assert opened.answers() == ["fail", None, "unsure"]
    again = Opened(context, folder / "index.html")
    assert again.answers() == ["fail", None, "unsure"]
    head, *rows = again.exported()
    assert head == ["scan", "answer", "answered", "doubt", "flags"]
    assert [row[0] for row in rows] == [HOSTILE, "second", "calm"]
    assert [row[1] for row in rows] == ["fail", "", "unsure"]
    assert rows[0][2].startswith("20") and rows[0][2].endswith("Z") and rows[1][2] == ""
    assert [float(row[3]) for row in rows] == [0.3, 0.2, 0.1]
    assert rows[0][4] == f"total: =HYPERLINK(\"x\"), in 'two' pieces; {HOSTILE}"
    assert opened.complaints == again.complaints == []


def test_an_answer_does_not_hold_for_a_scan_that_was_segmented_again(context, tmp_path):
    for name in ("a", "b"):
        write_scan(tmp_path, record(name, 0.1))
    opened = Opened(context, write_index(tmp_path))
    opened.page.keyboard.press("p")
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("f")
    assert opened.answers() == ["pass", "fail"]
    write_scan(tmp_path, record("b", 0.1, ("another result",)))
    assert Opened(context, write_index(tmp_path)).answers() == ["pass", None]


def test_selections(context, folder):
    opened = Opened(context, folder / "index.html")
    counts = "all => all.map((one) => [one.dataset.filter, Number(one.querySelector('b').textContent)])"
    opened.page.keyboard.press("p")
    assert dict(opened.page.eval_on_selector_all("#filters button", counts)) == {
        **{"all": 3, "flagged": 2, "open": 2, "pass": 1},
        **{"fail": 0, "unsure": 0},
    }
    for selection, shown in {
        "flagged": [HOSTILE, "second"],
        "open": ["second", "calm"],
        "pass": [HOSTILE],
        "fail": [],
    }.items():
        opened.page.click(f"#filters [data-filter={selection}]")
        assert opened.shown() == shown
    assert opened.page.is_visible("#none")
    opened.page.keyboard.press("p")  # nothing is selected: nothing is answered
    opened.page.click("#filters [data-filter=all]")
    opened.page.fill("#find", "CAL")
    assert opened.shown() == ["calm"]
    assert opened.answers() == ["pass", None, None]  # the letters typed there were no answers


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_its_width_and_runs_nothing_of_names(browser, folder, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    opened = Opened(context, folder / "index.html")
    opened.page.wait_for_selector(".stage svg image")
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.evaluate("window.bad") is None
    assert opened.page.locator("h2").first.text_content() == HOSTILE
    dark = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    opened.page.click("#theme")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    assert opened.complaints == []
    context.close()


def test_outlines_lie_on_the_image_and_can_be_hidden(context, folder):
    opened = Opened(context, folder / "index.html")
    page = opened.page
    page.wait_for_selector(".stage svg image")
    inside = """() => [...document.querySelectorAll(".scan:first-of-type .stage:first-of-type svg")].every((svg) => {
        const images = [...svg.querySelectorAll("image")].map((one) => one.getBoundingClientRect());
        return [...svg.querySelectorAll(".lines")].every((lines, n) => {
            const a = lines.getBoundingClientRect(), b = images[n];
            return a.width > b.width / 5 && a.left >= b.left - 2 && a.right <= b.right + 2 && a.top >= b.top - 2 &&
                a.bottom <= b.bottom + 2;
        });
    })"""
    assert page.evaluate(inside)
    assert page.locator(".lines").first.is_visible()
    page.keyboard.press("o")
    assert not page.locator(".lines").first.is_visible()


def test_answers_are_not_lost_quietly_where_the_browser_keeps_nothing(context, folder):
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'SecurityError'); }})"
    )
    opened = Opened(context, folder / "index.html")
    assert "does not keep the answers" in opened.page.text_content("#problem")
    assert opened.page.is_visible("#problem")
    opened.page.keyboard.press("f")
    assert opened.exported()[1][1] == "fail"


def test_five_hundred_scans_open(context, folder, tmp_path):
    (tmp_path / "scans").mkdir()
    stored = json.loads((folder / "scans" / "calm.json").read_text())
    for n in range(500):
        content = {**stored, "name": f"sub-{n:03d}", "doubt": n / 1000}
        (tmp_path / "scans" / f"sub-{n:03d}.json").write_text(json.dumps(content))
    page = write_index(tmp_path)
    assert page.stat().st_size < 40e6
    opened = Opened(context, page)
    drawn = "all => all.filter((one) => one.querySelector('svg image')).length"
    opened.page.wait_for_selector(".stage svg image")
    assert 1 <= opened.page.eval_on_selector_all(".scan", drawn) < 30  # only those near to the window
    opened.page.evaluate("document.querySelectorAll('.scan')[400].scrollIntoView()")
    opened.page.wait_for_selector(".scan:nth-of-type(401) .stage svg image")
    for _ in range(3):
        opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("f")
    assert opened.answers().index("fail") == 3
    assert opened.complaints == []
