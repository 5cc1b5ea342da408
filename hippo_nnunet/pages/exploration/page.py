"""Explore a dataset and write what was found: one HTML page, figures, a table and a summary."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from hippo_nnunet import __version__
from hippo_nnunet.data.archive import open_dataset
from hippo_nnunet.data.exploration import Exploration, explore_dataset, summarise
from hippo_nnunet.data.exploration_case import AXES, TOTAL, LoadedCase, load_case
from hippo_nnunet.data.layout import Dataset
from hippo_nnunet.data.outliers import MINIMUM_CASES, THRESHOLD, Screening, readable, screen, typical_case
from hippo_nnunet.data.resampling import planned_spacing
from hippo_nnunet.errors import DataError
from hippo_nnunet.files import write_text
from hippo_nnunet.nnunet.example_case import PreprocessedCase, computed_case, stored_case
from hippo_nnunet.pages.exploration.figures import exploration_figures
from hippo_nnunet.pages.exploration.slices import View, example_figure, outlier_figure
from hippo_nnunet.pages.figure import Figure, inline_svg, save_figure
from hippo_nnunet.pages.palette import LABEL_COLOURS
from hippo_nnunet.pages.templating import PAGE, page_folder, render_template

logger = logging.getLogger(__name__)

_CONTENT = r"cases\.csv|summary\.json"
_MOST_PICTURED = 6
_MOST_REASONS = 3
_MOST_NOTES = 20


def write_exploration(source: Path, output: Path, overwrite: bool = False) -> Path:
    """Measure a dataset and write ``index.html``, ``cases.csv``, ``summary.json`` and ``figures/``.

    Args:
        source: an MSD task folder, a dataset folder of nnUNet_raw, or a ``.tar`` or ``.zip`` of one.
        output: the folder to write; it appears whole or not at all.
        overwrite: replace an earlier exploration.

    Returns:
        The page, ``output/index.html``.

    Raises:
        DataError: no dataset, no image that can be read, an archive that cannot be extracted safely, or the output
            exists (with ``overwrite``: and holds other files).
    """
    with page_folder(output, _CONTENT, overwrite) as fresh, open_dataset(source) as dataset:
        exploration = explore_dataset(dataset)
        screening = screen(exploration)
        notes = _notes(exploration, dataset)
        for note in notes:
            logger.warning("%s", note)
        example, more_notes = _example(dataset, exploration, screening)
        outliers = _pictures(dataset, exploration, screening)
        figures = [*exploration_figures(exploration, screening), example, *([outliers] if outliers else [])]
        fresh.mkdir()
        for figure in figures:
            save_figure(figure, fresh / "figures")
        reasons = ["; ".join(screening.reasons(str(case))) for case in exploration.cases.case]
        exploration.cases.assign(outlier=reasons).to_csv(fresh / "cases.csv", index=False, float_format="%.6g")
        summary = _summary(exploration, screening, [*notes, *more_notes])
        text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(fresh / "summary.json", text)
        write_text(fresh / PAGE, _render(summary, exploration, screening, figures))
    return output / PAGE


def _notes(exploration: Exploration, dataset: Dataset) -> list[str]:
    """Say what is missing, in sentences."""
    notes = []
    problems = list(exploration.problems)
    missing = [p for p in problems if p.problem == "missing-file" and p.path.parent.name == "labelsTr"]
    if exploration.labelled.empty:
        notes.append("No label could be measured: volumes, shares, centres and outlines are left out.")
        if len(missing) == len(dataset.training):
            problems = [problem for problem in problems if problem not in missing]
    notes += [f"{p.case}: {p.describe(dataset.folder)}." for p in problems[:_MOST_NOTES]]
    if len(problems) > _MOST_NOTES:
        notes.append(f"{len(problems) - _MOST_NOTES} more problems: see summary.json or hippo-nnunet data check.")
    if len(exploration.cases) < MINIMUM_CASES:
        notes.append(
            f"{len(exploration.cases)} images are too few to call one of them an outlier (at least {MINIMUM_CASES})."
        )
    return notes


def _read(dataset: Dataset, case: str) -> LoadedCase:
    entry = next(entry for entry in (*dataset.training, *dataset.test) if entry.id == case)
    loaded, _ = load_case(dataset, entry)
    if loaded is None:
        raise DataError(f"{entry.images[0]}: was readable before and is not any more; run the command again")
    return loaded


def _example(dataset: Dataset, exploration: Exploration, screening: Screening) -> tuple[Figure, list[str]]:
    case = _read(dataset, typical_case(exploration, screening))
    done, note = _preprocess(dataset, case, exploration)
    before, after = View(case, exploration.labels, case.affine), None
    caption = "The case closest to the median in all measured quantities"
    if len(exploration.channels) > 1:
        caption += f", channel {exploration.channels[0]}"
    caption += ", cut through the middle of its foreground." if case.label is not None else ", cut in the middle."
    if len(exploration.labels) > len(LABEL_COLOURS):
        caption += " The outlines are those of all labels; their colours repeat."
    unit = "intensity"
    if done is not None:
        after = View(done, exploration.labels, case.affine)
        if exploration.normalisation(0) == "ZScoreNormalization":
            unit = "standard deviations"
        sizes = ["×".join(map(str, view.image.shape)) for view in (before, after)]
        caption += f" After preprocessing: {done.source}"
        if sizes[0] != sizes[1]:
            caption += f"; {sizes[0]} voxels became {sizes[1]}."
        elif exploration.normalisation(0) == "ZScoreNormalization":
            caption += "; a z-score shifts and scales, so only the values on the colour bar change."
        else:
            caption += f"; the size stays {sizes[0]} voxels."
    return example_figure(case.id, before, after, caption, unit), note


def _preprocess(
    dataset: Dataset, case: LoadedCase, exploration: Exploration
) -> tuple[PreprocessedCase | None, list[str]]:
    notes = []
    try:
        stored = stored_case(dataset, case)
    except DataError as error:
        stored = None
        notes.append(f"{error}.")
    if stored is not None:
        return stored, notes
    names = [exploration.normalisation(index) for index in range(len(exploration.channels))]
    if "CTNormalization" in names:
        notes.append(
            "nnU-Net normalises CT by the intensities of the whole dataset, which planning measures: plan and "
            "preprocess the dataset to see a case after preprocessing."
        )
        return None, notes
    cases = exploration.cases[exploration.cases.part == "training"]
    cases = cases if len(cases) else exploration.cases
    spacing = planned_spacing(
        cases[[f"spacing_{axis}_mm" for axis in AXES]].to_numpy(float),
        cases[[f"cropped_{axis}" for axis in AXES]].to_numpy(float),
    )
    return computed_case(case, names, exploration.masked, spacing), notes


def _pictures(dataset: Dataset, exploration: Exploration, screening: Screening) -> Figure | None:
    views = {}
    for name in screening.cases[:_MOST_PICTURED]:
        case = _read(dataset, name)
        reasons = screening.reasons(name)
        reason = "; ".join(reasons[:_MOST_REASONS])
        if len(reasons) > _MOST_REASONS:
            reason += f"; and {len(reasons) - _MOST_REASONS} more"
        reason = reason if case.label is not None else f"without label; {reason}"
        views[name] = (View(case, exploration.labels, case.affine), reason)
    if not views:
        return None
    caption = "The most extreme outliers, cut through the middle of their foreground."
    return outlier_figure(views, caption)


def _summary(exploration: Exploration, screening: Screening, notes: list[str]) -> dict[str, Any]:
    return {
        **summarise(exploration),
        "outliers": {
            "threshold": THRESHOLD,
            "expected_by_chance": screening.expected,
            "found": [
                {
                    "case": outlier.case,
                    "quantity": outlier.quantity,
                    "robust_z": outlier.z if np.isfinite(outlier.z) else None,
                    "reason": outlier.reason,
                }
                for outlier in screening.outliers
            ],
        },
        "notes": notes,
        "licence": str(exploration.description.get("licence", "")),
        "reference": str(exploration.description.get("reference", "")),
        "hippo_nnunet": __version__,
    }


def _render(summary: Mapping[str, Any], exploration: Exploration, screening: Screening, figures: list[Figure]) -> str:
    medians = {key: [summary[key][axis]["median"] for axis in AXES] for key in ("size_voxels", "spacing_mm")}
    tiles = [
        (f"{summary['labelled_images']}", "labelled images"),
        (f"{summary['test_images']}", "test images"),
        ("\u2009×\u2009".join(f"{value:g}" for value in medians["size_voxels"]), "voxels, median size"),
        ("\u2009×\u2009".join(f"{value:.3g}" for value in medians["spacing_mm"]), "mm, median voxel"),
        (f"{len(exploration.labels)}", "label" if len(exploration.labels) == 1 else "labels"),
        (f"{len(screening.cases)}", "cases to look at"),
    ]
    return render_template(
        "exploration",
        "exploration.html.j2",
        {"readable": readable},
        summary=summary,
        tiles=tiles,
        labels=[name for name in summary["labels"] if name != TOTAL] + ([TOTAL] if summary["labels"] else []),
        figures=[(figure, [(p, Markup(inline_svg(p))) for p in figure.panels]) for figure in figures],
        outliers=[(case, screening.reasons(case)) for case in screening.cases],
        threshold=THRESHOLD,
        expected=screening.expected,
        quantities=len(screening.z.columns),
        few=len(exploration.cases) < MINIMUM_CASES,
    )
