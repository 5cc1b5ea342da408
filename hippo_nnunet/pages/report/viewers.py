"""The slice viewer and the 3D surfaces of a report: markup, script and style of two sections."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.pages.palette import LABEL_COLOURS, MODEL_COLOURS
from hippo_nnunet.pages.report.panel import surface_still
from hippo_nnunet.pages.report.viewer_cases import Viewed, ViewedCase, load_viewed
from hippo_nnunet.pages.report.viewer_slices import slice_data
from hippo_nnunet.pages.report.viewer_surfaces import surface_data
from hippo_nnunet.pages.templating import read_template, render_template

_SCRIPTS = ("viewers.js", "viewer_drawing.js", "viewer_slices.js", "viewer_surfaces.js")
# Inside a script element nothing may end it or open a comment; old engines end a line at U+2028 and U+2029.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class ViewerFragment:
    """What a page has to take up to show the viewers.

    Attributes:
        html: Two sections, with the ids `slices` and `surface`; empty if no case can be shown.
        script: For a script element behind the sections and behind Plotly; empty with `html`.
        style: For a style element; empty with `html`.
        notes: What cannot be shown, and why, in sentences.
        viewed: The cases; None where none can be shown.
    """

    html: str
    script: str
    style: str
    notes: tuple[str, ...]
    viewed: Viewed | None = None


def viewer_fragment(experiment: Path, *, root: Path | None = None, cases: int = 6) -> ViewerFragment:
    """Make the viewers of an experiment: slices with outlines, and surfaces in 3D, of a few cases.

    The cases are the worst, the median and the best by the mean Dice of the first variant, then those on which the
    variants differ most. A case is left out with a note if its image, reference or prediction is missing, is not on the
    image's grid or has changed since it was measured.

    Args:
        experiment: The experiment's folder.
        root: See `ExperimentPaths.nnunet`.
        cases: Maximum number of cases.

    Returns:
        The fragment. The page has to offer `window.Plotly` and the colours `--background`, `--surface`, `--text`,
        `--muted`, `--line`, `--accent`, `--series-N` of models and `--label-N` of labels, and to dispatch `themechange`
        on the document when they change.

    Raises:
        ConfigError: `cases` is below one.
        DataError: The metrics are missing or invalid: see `read_per_case`.
    """
    viewed = load_viewed(experiment, root, cases)
    if not viewed.cases:
        return ViewerFragment("", "", "", viewed.notes)
    payload = [_case_data(case, viewed) for case in viewed.cases]
    notes = [f"{case['name']}: {note}" for case in payload for note in case["notes"]]
    data = {
        "labels": list(viewed.labels),
        "models": [
            {"name": model.name, "colour": model.colour, "ensemble": model.variant == ENSEMBLE}
            for model in viewed.models
        ],
        "palette": {"models": len(MODEL_COLOURS), "labels": len(LABEL_COLOURS)},
        "cases": payload,
    }
    still = surface_still(viewed)
    html = render_template("report", "viewers.html", cases=payload, channel=viewed.channel, still=still)
    parts = "\n".join(read_template("report", name) for name in _SCRIPTS)
    script = f'(() => {{\n"use strict";\nconst DATA = {script_json(data)};\n{parts}\n}})();\n'
    return ViewerFragment(html, script, read_template("report", "viewers.css"), (*viewed.notes, *notes), viewed)


def _case_data(case: ViewedCase, viewed: Viewed) -> dict[str, Any]:
    slices, notes = slice_data(case)
    return {
        "name": case.case,
        "title": case.reasons[0].title,
        "reason": "; ".join(map(str, case.reasons)),
        "notes": [*case.notes, *notes],
        "models": list(case.predictions),
        "dice": case.dice,
        "slices": slices,
        "surfaces": surface_data(case, len(viewed.labels)),
    }


def script_json(data: Any) -> str:
    """Write data as JSON that can stand in a script element, whatever names it holds."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
