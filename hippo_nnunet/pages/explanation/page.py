"""The page of a folder of explanations: every figure, by model and case."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from hippo_nnunet.errors import DataError
from hippo_nnunet.files import write_text
from hippo_nnunet.pages.figure import ENDINGS
from hippo_nnunet.pages.templating import PAGE, is_own_page, render_template

MEANINGS = {
    "attention": "Coefficients of the attention gates, from 0 (shut) to 1 (open): what a skip connection lets pass.",
    "similarity": "Cosine between a voxel's embedding and the text of each class (CLIP-guided networks).",
    "probability": "The model's probability of each label.",
    "errors": "Voxels that the prediction has too many, and those that it missed, for each label.",
    "prompt": "What another description of a class changes in the prediction.",
}
"""Kind of a figure to what it shows, in the order of the page."""
_LINK = ("<!-- explained -->", "<!-- /explained -->")
"""Where a report links to the explanations."""


@dataclass(frozen=True)
class _Figure:
    kind: str
    link: str
    vectors: list[tuple[str, str]]


@dataclass(frozen=True)
class _Case:
    name: str
    figures: list[_Figure]


@dataclass(frozen=True)
class _Model:
    number: int
    name: str
    cases: list[_Case]
    tables: list[tuple[str, str]]


def check_page(folder: Path) -> None:
    """Refuse a folder whose `index.html` is not such a page.

    Raises:
        DataError: It is another page, a link or a folder.
    """
    page = folder / PAGE
    if not is_own_page(page):
        raise DataError(f"{page}: is not a page of explanations, so it is not replaced: choose another folder")


def write_page(folder: Path, report: Path | None = None) -> Path:
    """Write `index.html` of a folder of explanations, from the figures that lie there.

    Args:
        folder: Has `figures/`, or folders of models that have.
        report: Page of the experiment's report, which gets a link to this one.

    Returns:
        The page.
    """
    places = sorted({path.parent for pattern in ("figures/*.png", "*/figures/*.png") for path in folder.glob(pattern)})
    models = [_model(folder, place, number) for number, place in enumerate(places)]
    linked = report if report is not None and report.is_file() and not report.is_symlink() else None
    back = quote(os.path.relpath(linked, folder)) if linked else ""
    text = render_template(
        "explanation",
        "explanation.html",
        title=folder.resolve().parent.name,
        models=models,
        meanings={kind: MEANINGS[kind] for kind in MEANINGS if _shows(models, kind)},
        report=back,
    )
    page = write_text(folder / PAGE, text)
    if linked:
        _link_from(linked, quote(os.path.relpath(page, linked.parent)))
    return page


def _model(folder: Path, place: Path, number: int) -> _Model:
    """Collect the figures of one model: `place` is its folder `figures`."""
    own = place.parent
    cases: dict[str, dict[str, Path]] = {}
    for path in sorted(place.glob("*.png")):
        case, _, kind = path.stem.rpartition("_")
        if kind in MEANINGS:
            cases.setdefault(case, {})[kind] = path
    return _Model(
        number,
        "" if own == folder else own.name,
        [
            _Case(case, [_figure(folder, kinds[kind], kind) for kind in MEANINGS if kind in kinds])
            for case, kinds in cases.items()
        ],
        [(path.name, _link(folder, path)) for path in sorted(own.glob("*.csv"))],
    )


def _figure(folder: Path, path: Path, kind: str) -> _Figure:
    others = [(ending[1:].upper(), path.with_name(f"{path.stem}{ending}")) for ending in ENDINGS if ending != ".png"]
    return _Figure(kind, _link(folder, path), [(name, _link(folder, file)) for name, file in others if file.is_file()])


def _link(folder: Path, path: Path) -> str:
    return quote(path.relative_to(folder).as_posix())


def _shows(models: list[_Model], kind: str) -> bool:
    return any(figure.kind == kind for model in models for case in model.cases for figure in case.figures)


def _link_from(report: Path, link: str) -> None:
    """Link the explanations from a report; one of another version has no place for it and stays as it is."""
    start, end = _LINK
    head, found, rest = report.read_text(encoding="utf-8").partition(start)
    _, closed, tail = rest.partition(end)
    if found and closed:
        anchor = f'<a href="{link}">What the networks look at in their worst and best cases</a>'
        write_text(report, f"{head}{start}{anchor}{end}{tail}")
