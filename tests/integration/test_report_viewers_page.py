"""The viewers in a browser: what they draw is where it should be, and every control does what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from viewer_experiment import FakeExperiment, phantom, shifted

from hippo_nnunet.pages.palette import LABEL_COLOURS, MODEL_COLOURS
from hippo_nnunet.pages.report.viewers import viewer_fragment

pytestmark = pytest.mark.slow

plotly_offline = pytest.importorskip("plotly.offline", reason="plotly is not installed")

MARGIN = 20
WHITE, LONG_MS = 200, 60_000
SPACING = (1.0, 1.5, 2.5)
LIGHT = {"background": "#fff", "surface": "#f6f7f9", "text": "#1f2328", "muted": "#5b646d", "line": "#d5dae0"}
DARK = {"background": "#14181c", "surface": "#1d2329", "text": "#e3e8ed", "muted": "#a3adb7", "line": "#3a434c"}
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
FINGERPRINT = "() => document.getElementById('slices-canvas').toDataURL()"
CAMERAS = "() => ['scene', 'scene2'].map((s) => document.getElementById('surface-plot')._fullLayout[s]?.camera.eye)"


def colours(values: dict[str, str]) -> str:
    named = "".join(f"--{name}: {value};" for name, value in {**values, "accent": "#0b62b0"}.items())
    palettes = {"series": MODEL_COLOURS, "label": LABEL_COLOURS}
    return named + "".join(f"--{k}-{n}: {v};" for k, values in palettes.items() for n, v in enumerate(values, start=1))


def host(folder: Path, root: Path) -> str:
    """The least that a page has to offer the viewers."""
    part = viewer_fragment(folder, root=root)
    style = (
        f":root {{ {colours(LIGHT)} }} :root[data-theme=dark] {{ {colours(DARK)} }}"
        "* { box-sizing: border-box; } body { margin: 0; background: var(--background); color: var(--text); }"
        "main { padding: .9rem; max-width: 72rem; margin: 0 auto; }"
    )
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>host</title><link rel="icon" href="data:,">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}{part.style}</style></head>'
        f"<body><main>{part.html}</main><script>{plotly_offline.get_plotlyjs()}</script>"
        f"<script>{part.script}</script></body></html>"
    )


@dataclass(frozen=True)
class Opened:
    """A page, what its console complained of, and the reference of the case that it shows first."""

    page: Any
    problems: list[str]
    reference: np.ndarray

    def slider(self, value: int) -> None:
        self.page.locator("#slices-slider").fill(str(value))

    def tick(self, name: str, on: bool) -> None:
        self.page.locator("#slices").get_by_label(name, exact=True).set_checked(on)

    def drawn(self) -> str:
        return str(self.page.evaluate(FINGERPRINT))

    def wait(self, condition: str) -> None:
        self.page.wait_for_function(condition, timeout=LONG_MS)

    def show_surfaces(self) -> None:
        self.page.locator("#surface-plot").scroll_into_view_if_needed()
        self.wait("() => document.querySelectorAll('#surface-plot canvas').length > 0")
        self.wait(f"() => ({CAMERAS})()[0]")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Two cases on a left-handed grid; the page shows the worse one first."""
    made = FakeExperiment(
        tmp_path_factory.mktemp("experiment"), affine=np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
    )
    image, label = phantom()
    image[:2, :2] = 300  # so that the others are dark
    for case, by in (("better", 1), ("worse", 2)):
        made.add(case, image, label, {"UNet": shifted(label, by), "AttentionUNet": shifted(label, by, axis=1)})
    folder = made.measure()
    page = folder / "page.html"
    page.write_text(host(folder, made.root), encoding="utf-8")
    return page, label[::-1]  # towards the right


@contextmanager
def opened(browser: Any, written: tuple[Path, np.ndarray], width: int, ratio: float = 1) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": width, "height": 800}, device_scale_factor=ratio)
    page = context.new_page()
    page.set_default_timeout(LONG_MS)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(written[0].as_uri())
    page.wait_for_function("() => document.querySelectorAll('#slices-table tbody tr').length > 1", timeout=LONG_MS)
    yield Opened(page, problems, written[1])
    context.close()
    assert problems == []


@pytest.fixture(scope="module")
def desktop(browser: Any, written: tuple[Path, np.ndarray]) -> Iterator[Opened]:
    with opened(browser, written, 1280, ratio=2) as found:
        yield found


PLANES = {"Sagittal": (0, 1, 2), "Coronal": (1, 0, 2), "Axial": (2, 0, 1)}


def brightness(opened: Opened, points: np.ndarray, plane: str) -> np.ndarray:
    """Darkest channel of the canvas at points in voxels across and up, from the image's corner."""
    _, across, up = PLANES[plane]
    shape = opened.reference.shape
    box = opened.page.locator("#slices-canvas").bounding_box()
    wide, high = shape[across] * SPACING[across], shape[up] * SPACING[up]
    scale = min((box["width"] - 2 * MARGIN) / wide, (box["height"] - 2 * MARGIN) / high)
    x = (box["width"] - wide * scale) / 2 + points[:, 0] * SPACING[across] * scale
    y = (box["height"] + high * scale) / 2 - points[:, 1] * SPACING[up] * scale
    read = (
        "(points) => { const canvas = document.getElementById('slices-canvas');"
        "const context = canvas.getContext('2d'), ratio = canvas.width / canvas.getBoundingClientRect().width;"
        "return points.map(([x, y]) =>"
        "Math.min(...context.getImageData(Math.floor(x * ratio), Math.floor(y * ratio), 1, 1).data.slice(0, 3))); }"
    )
    return np.array(opened.page.evaluate(read, np.stack([x, y], axis=1).tolist()))


def edges(cut: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the edges between voxels, and whether the labels on their sides differ."""
    points, differ = [], []
    for axis in (0, 1):
        change = np.diff(cut.astype(int), axis=axis) != 0
        where = np.argwhere(np.ones(change.shape, bool)).astype(float)
        where[:, axis] += 1
        where[:, 1 - axis] += 0.5
        points.append(where)
        differ.append(change.ravel())
    return np.concatenate(points), np.concatenate(differ)


@pytest.mark.parametrize("plane", PLANES)
def test_outline_lies_on_the_edges_of_the_masks_voxels(desktop: Opened, plane: str) -> None:
    page = desktop.page
    page.locator("#slices label", has_text=plane).click()
    for name in ("UNet 2d", "AttentionUNet 2d", "Shade the reference's labels"):
        desktop.tick(name, False)
    desktop.tick("Reference", True)
    index = {"Sagittal": 12, "Coronal": 12, "Axial": 7}[plane]
    desktop.slider(index)
    cut = np.take(desktop.reference, index, axis=PLANES[plane][0])
    points, differ = edges(cut)
    bright = brightness(desktop, points, plane)
    desktop.tick("Reference", False)
    without = brightness(desktop, points, plane)
    desktop.tick("Reference", True)
    assert differ.any()
    assert (bright[differ] > WHITE).all() and (without[differ] < WHITE).all()
    assert (bright[~differ] == without[~differ]).all()  # nothing is drawn elsewhere
    for name in ("UNet 2d", "AttentionUNet 2d"):
        desktop.tick(name, True)


def test_slider_keys_and_wheel_change_the_slice(desktop: Opened) -> None:
    page = desktop.page
    page.locator("#slices label", has_text="Sagittal").click()
    desktop.slider(9)
    seen = [desktop.drawn()]
    canvas = page.locator("#slices-canvas")
    canvas.focus()
    for key, expected in (("ArrowRight", "11"), ("ArrowUp", "12"), ("ArrowLeft", "11"), ("End", "20"), ("Home", "1")):
        page.keyboard.press(key)
        assert page.locator("#slices-where").inner_text().startswith(f"{expected} of 20"), key
        seen.append(desktop.drawn())
    assert len(set(seen)) == 5  # one of them comes twice
    assert page.locator("#slices-slider").get_attribute("aria-valuetext") == "slice 1 of 20, R −19.0 mm"
    canvas.scroll_into_view_if_needed()
    page.evaluate("() => { scrollTo(0, 200); }")
    canvas.hover()
    before = page.evaluate("() => scrollY")
    page.mouse.wheel(0, 120)
    desktop.wait("() => document.getElementById('slices-where').textContent.startsWith('2 of')")
    assert page.evaluate("() => scrollY") == before
    page.mouse.wheel(0, -120)
    desktop.wait("() => document.getElementById('slices-where').textContent.startsWith('1 of')")
    page.mouse.wheel(0, -120)  # at the end: the page scrolls
    desktop.wait(f"() => scrollY < {before}")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 100, steps=4)
    page.mouse.up()
    assert int(page.locator("#slices-slider").input_value()) > 3


def test_toggles_hide_outlines_and_figures_follow(desktop: Opened) -> None:
    page = desktop.page
    page.locator("#slices label", has_text="Coronal").click()
    desktop.slider(16)
    drawn = [desktop.drawn()]
    for name in ("Reference", "UNet 2d", "AttentionUNet 2d"):
        desktop.tick(name, False)
        drawn.append(desktop.drawn())
        desktop.tick(name, True)
        assert desktop.drawn() == drawn[0]
    desktop.tick("front", False)
    assert desktop.drawn() == drawn[0]  # this slice has none
    desktop.tick("back", False)
    page.locator("#slices-shade").set_checked(False)
    drawn.append(desktop.drawn())
    assert len(set(drawn)) == 5
    for name in ("front", "back"):
        desktop.tick(name, True)
    cut = desktop.reference[:, 16] == 2
    other = np.roll(desktop.reference, -2, axis=0)[:, 16] == 2  # the file's first axis runs to the left
    expected = 2 * (cut & other).sum() / (cut.sum() + other.sum())
    assert page.locator('[data-cell="0-1"]').inner_text() == f"{expected:.3f}"
    assert page.locator('[data-cell="0-0"]').inner_text() == "–"


def test_pointer_tells_the_labels(desktop: Opened) -> None:
    desktop.page.locator("#slices label", has_text="Axial").click()
    desktop.slider(5)
    box = desktop.page.locator("#slices-canvas").bounding_box()
    desktop.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    found = desktop.page.locator("#slices-probe").inner_text()
    assert found.startswith("Reference: ") and "UNet 2d: " in found


def test_surfaces_turn_together_and_follow_their_controls(desktop: Opened) -> None:
    page = desktop.page
    desktop.show_surfaces()
    first, second = page.evaluate(CAMERAS)
    assert first == second
    box = page.locator("#surface-plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4 + 120, box["y"] + box["height"] / 2 + 30, steps=5)
    page.mouse.up()
    desktop.wait(
        f"() => {{ const [one, two] = ({CAMERAS})();"
        f"return Math.abs(one.x - {first['x']}) > 0.05 && Math.abs(one.x - two.x) < 1e-6; }}"
    )
    page.get_by_role("button", name="Reset view").click()
    desktop.wait(f"() => ({CAMERAS})().every((eye) => Math.abs(eye.x - {first['x']}) < 1e-6)")
    page.locator("#surface-plot").focus()
    page.keyboard.press("ArrowRight")
    desktop.wait(f"() => ({CAMERAS})().every((eye) => Math.abs(eye.x - {first['x']}) > 1e-3)")
    count = "() => document.getElementById('surface-plot').data.filter((t) => t.type === 'mesh3d').length"
    assert page.evaluate(count) == 4
    page.locator("#surface-labels").get_by_label("back").set_checked(False)
    desktop.wait(f"() => ({count})() === 2")
    page.locator("#surface label", has_text="Overlaid").click()
    page.locator("#surface label", has_text="Distance").click()
    desktop.wait("() => document.getElementById('surface-plot')._fullLayout.coloraxis?.showscale")
    desktop.wait("() => !document.getElementById('surface-plot').layout.scene2")
    intensity = page.evaluate(
        "() => document.getElementById('surface-plot').data.find((t) => t.intensity).intensity.slice()"
    )
    # Moved by two voxels of 1 mm along the first axis.
    assert -2 <= min(intensity) < -1.5 and 1.5 < max(intensity) <= 2.1
    assert page.locator("#surface-opacity").is_visible()


def test_one_picker_moves_both_viewers(desktop: Opened) -> None:
    page = desktop.page
    desktop.show_surfaces()
    before = desktop.drawn()
    assert page.locator("#slices-case option").nth(0).inner_text().startswith("worse: lowest")
    page.locator("#surface-case").select_option("1")
    assert page.locator("#slices-case").input_value() == "1"
    assert "highest mean Dice" in page.locator("#slices-reason").inner_text()
    desktop.wait("() => document.getElementById('surface-plot').getAttribute('aria-label').includes('better')")
    assert desktop.drawn() != before
    page.locator("#slices-case").select_option("0")
    desktop.wait("() => document.getElementById('surface-plot').getAttribute('aria-label').includes('worse')")


def test_colours_follow_the_theme(desktop: Opened) -> None:
    page = desktop.page
    desktop.show_surfaces()
    for theme, text in (("dark", DARK["text"]), ("light", LIGHT["text"])):
        page.evaluate(
            "(theme) => { document.documentElement.dataset.theme = theme;"
            "document.dispatchEvent(new Event('themechange')); }",
            theme,
        )
        desktop.wait(f"() => document.getElementById('surface-plot').layout.font.color === '{text}'")


@pytest.mark.parametrize("width", [320])
def test_phone_without_overflow(browser: Any, written: tuple[Path, np.ndarray], width: int) -> None:
    with opened(browser, written, width, ratio=3) as phone:
        page = phone.page
        box = page.locator("#slices-canvas").bounding_box()
        assert page.evaluate("() => document.getElementById('slices-canvas').width") == round(3 * box["width"])
        phone.show_surfaces()
        assert page.evaluate("() => document.documentElement.scrollWidth") == width
        scenes = "() => document.getElementById('surface-plot')._fullLayout.scene2.domain.y[1]"
        assert page.evaluate(scenes) < 0.5  # below one another
        unnamed = page.evaluate(
            "() => [...document.querySelectorAll('select, input, button, canvas')].filter((e) =>"
            "!e.closest('#surface-plot') && !e.labels?.length &&"
            "!e.getAttribute('aria-label') && !e.textContent.trim())"
            ".map((e) => e.id)"
        )
        assert unnamed == []
