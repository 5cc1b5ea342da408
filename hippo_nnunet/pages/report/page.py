"""Write the report of an experiment: one HTML file that needs no network, figures for papers, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from hippo_nnunet.analysis.curve_tables import curve_table, equal_cases_table
from hippo_nnunet.analysis.tables import (
    ShownTable,
    comparison_table,
    counted,
    digits,
    interval,
    number,
    one_model,
    other_model,
    results_table,
    retrained,
)
from hippo_nnunet.analysis.verdicts import NOT_JUDGED, ensemble_gain, headline
from hippo_nnunet.analysis.volume_tables import volumes_table
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.evaluation.comparison import Options
from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.pairing import CONTROLS, ENSEMBLE, SUBSETS
from hippo_nnunet.evaluation.side_by_side import full_rows
from hippo_nnunet.evaluation.statistics import EQUIVALENT
from hippo_nnunet.evaluation.wording import shown_verdict
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import write_text
from hippo_nnunet.pages.figure import save_figure
from hippo_nnunet.pages.palette import LABEL_COLOURS, MODEL_COLOURS, MODEL_COLOURS_DARK
from hippo_nnunet.pages.report import paper, words
from hippo_nnunet.pages.report.charts import chart_data
from hippo_nnunet.pages.report.content import Content, gather
from hippo_nnunet.pages.report.figures import report_figures
from hippo_nnunet.pages.report.forest import QUESTIONS, prepare_forest, signed, verdict_sentences
from hippo_nnunet.pages.report.notebook import MEASURED, MEASURED_DATASET
from hippo_nnunet.pages.report.tables import minus, write_table
from hippo_nnunet.pages.templating import PAGE, page_folder, read_template, render_template
from hippo_nnunet.progress import duration

if TYPE_CHECKING:
    from hippo_nnunet.pages.report.viewers import ViewerFragment

_MOST_TILES = 2
_CONTENT = r"tables/[^/]+\.(csv|md|tex)"
_SECTIONS = {
    "verdict": "Verdict",
    "table": "Results",
    "differences": "Differences",
    "sizes": "Training cases",
    "cases": "Case by case",
    "notebook": "The notebooks' score",
    "curves": "Training curves",
    "volumes": "Volumetry",
    "slices": "Slices",
    "surface": "Surfaces",
    "clip": "CLIP and its controls",
    "recipe": "Methods and provenance",
    "limits": "Conclusions and limits",
    "paper": "Use in a paper",
}


def write_report(
    experiment: Path,
    output: Path | None = None,
    *,
    root: Path | None = None,
    cases: int = 6,
    figures: bool = True,
    overwrite: bool = False,
    notebook: bool = False,
    options: Options | None = None,
) -> Path:
    """Write `index.html`, `figures/` (PNG, SVG and PDF) and `tables/` (CSV, Markdown and LaTeX) of an experiment.

    Args:
        experiment: The experiment's folder. What it lacks beside `metrics/per_case.csv` is named in the report.
        output: The folder to write, which appears whole or not at all; None: `report` in the experiment's.
        root: See `ExperimentPaths.nnunet`.
        cases: Cases to show in slices and in 3D, at most.
        figures: Whether to write the figures for papers.
        overwrite: Replace an earlier report.
        notebook: Whether to show the notebooks' score.
        options: How to compare; the defaults where None.

    Returns:
        The page.

    Raises:
        ConfigError: No such folder, or see `viewer_fragment`.
        DataError: There are no metrics, they cannot be compared, or the output exists (with `overwrite`: and holds
            other files).
    """
    from hippo_nnunet.pages.report.viewers import viewer_fragment

    target = output or ExperimentPaths(experiment).report.parent
    with page_folder(target, _CONTENT, overwrite) as fresh:
        content = gather(experiment, root, options, notebook)
        viewer = viewer_fragment(experiment, root=root, cases=cases)
        drawn = report_figures(content, viewer.viewed) if figures else []
        tables = _tables(content)
        page = render(content, viewer, paper.exports(drawn, tables), _explanation_link(experiment, target))
        fresh.mkdir()
        write_text(fresh / PAGE, page)
        for table in tables:
            write_table(table, fresh / "tables")
        for figure in drawn:
            save_figure(figure, fresh / "figures")
    return target / PAGE


def _explanation_link(experiment: Path, target: Path) -> str:
    """Return the link to the page of `explain`, if there is one and the report lies in the experiment's folder."""
    page = ExperimentPaths(experiment).explanation
    near = target.resolve().parent == experiment.resolve()
    return f"../{page.parent.name}/{page.name}" if near and page.is_file() else ""


def render(content: Content, viewer: ViewerFragment, exports: Sequence[paper.Export] = (), explained: str = "") -> str:
    """Return the page.

    Args:
        content: Of `gather`.
        viewer: Of `viewer_fragment`.
        exports: The files beside the page.
        explained: Link to the page of `explain`; empty if there is none.
    """
    from plotly.offline import get_plotlyjs

    return render_template(
        "report",
        "report.html",
        {"minus": minus, "signed": signed},
        content=content,
        exports=exports,
        explained=explained,
        methods=paper.methods(content),
        bibtex=paper.bibtex(content),
        viewer=viewer,
        plotly=get_plotlyjs(),
        style=read_template("report", "report.css"),
        script=read_template("report", "report.js"),
        light=MODEL_COLOURS,
        dark=MODEL_COLOURS_DARK,
        label_colours=LABEL_COLOURS,
        questions=QUESTIONS,
        **_results(content),
        **_evidence(content),
        **_background(content),
        sections=[(name, title) for name, title in _SECTIONS.items() if _has(name, content, viewer)],
    )


def _has(name: str, content: Content, viewer: ViewerFragment) -> bool:
    if name == "clip":
        pairs = content.comparison.pairs
        return not pairs.empty and bool(pairs["kind"].isin(["control", "subset control"]).any())
    if name == "sizes":
        return not content.comparison.curve.empty
    if name == "notebook":
        return content.asked_notebook
    return name != "surface" or bool(viewer.html)


def _tables(content: Content) -> list[ShownTable]:
    comparison = content.comparison
    tables = (
        results_table(comparison),
        comparison_table(comparison),
        curve_table(comparison),
        equal_cases_table(comparison),
        volumes_table(comparison.volumes),
    )
    return [table for table in tables if table is not None]


def _results(content: Content) -> dict[str, Any]:
    """Verdict, table and differences."""
    pairs, models = content.comparison.pairs, full_rows(content.comparison.models)
    over_labels = models[models["scope"] == MEAN]
    verdicts = verdict_sentences(pairs)
    return {
        "headline": headline(pairs),
        "warnings": words.banners(content),
        "gain": ensemble_gain(content.choice, pairs),
        "answers": _difference_tiles(pairs),
        "tiles": _tiles(content),
        "verdicts": {kind: rows for kind, rows in verdicts.items() if kind not in SUBSETS} or verdicts,
        "has_blocks": bool((over_labels.groupby(["variant", "configuration"]).size() > 1).any()),
        "results": results_table(replace(content.comparison, models=models)),
        "forest": prepare_forest(pairs, {*QUESTIONS} - {"control", *SUBSETS}),
        "controls": prepare_forest(pairs, {"control", "subset control"}),
        "curve": curve_table(content.comparison),
        "equal_forest": prepare_forest(pairs if pairs.empty else pairs[pairs["scope"] == MEAN], {"subset"}),
        "equal_cases": equal_cases_table(content.comparison),
        "comparison": comparison_table(content.comparison),
        "comparison_notes": words.comparison_notes(content),
    }


def _tiles(content: Content) -> list[tuple[str, str]]:
    """Return the key figures shown below the differences."""
    table, models = content.table, full_rows(content.comparison.models)
    over_labels = models[models["scope"] == MEAN].dropna(subset=["dice"])
    trained = [fold.get("trained_seconds") for fold in (content.manifest or {}).get("folds", [])]
    seconds = [float(value) for value in trained if value is not None]
    has_ensemble = any(model.recipe == ENSEMBLE for model in content.models)
    counts = [
        (table["case"].nunique(), "case, out of fold", "cases, out of fold"),
        (table["fold"].nunique(), "fold", "folds"),
        (len(content.models), "model", "models, with the ensemble" if has_ensemble else "models"),
    ]
    tiles = [(str(count), one if count == 1 else many) for count, one, many in counts]
    if len(over_labels):
        best = over_labels.loc[over_labels["dice"].idxmax()]
        cases = counted(best["cases"], "case")
        tiles.append((f"{best['dice']:.4f}", f"highest mean Dice: {one_model(best)}, {cases}"))
    if seconds:
        tiles.append((duration(sum(seconds)), "of training"))
    return tiles


def _difference_tiles(pairs: pd.DataFrame) -> list[tuple[str, str]]:
    """Return difference, models and interval of the first comparisons of networks."""
    if pairs.empty:
        return []
    rows = pairs[(pairs["kind"] == "variant") & (pairs["scope"] == MEAN) & (pairs["verdict"] != NOT_JUDGED)]
    form = f"+{digits(str(pairs['metric'].iloc[0]))}"
    return [
        (
            number(row["difference"], form),
            f"{QUALITY[row['metric']].heading}, {one_model(row)} minus {other_model(row)}: "
            f"{_interval_of(row, form)}, {counted(row['n'], 'case')}. "
            f"As trained: {shown_verdict(row)}; if trained again: {retrained(row)}.",
        )
        for row in rows.head(_MOST_TILES).to_dict("records")
    ]


def _interval_of(row: Mapping[Any, Any], form: str) -> str:
    """Return the interval that the verdict is based on, as in the sentence below."""
    if shown_verdict(row) == EQUIVALENT:
        return f"{1 - 2 * row['alpha']:.0%} interval {interval(row['low_equivalence'], row['high_equivalence'], form)}"
    return f"{1 - row['alpha']:.0%} interval {interval(row['low'], row['high'], form)}"


def _evidence(content: Content) -> dict[str, Any]:
    """Cases, the notebooks' score, curves and volumes."""
    charts = chart_data(content)
    legends = {
        "notebook": sorted({own["model"] for own in (charts["notebook"] or {"models": []})["models"]}),
        "curves": sorted({fold["model"] for fold in charts["curves"]}),
    }
    measured = MEASURED if content.dataset.endswith(MEASURED_DATASET) else ()
    return {
        "charts": charts,
        "legends": legends,
        "curve_configurations": list(dict.fromkeys(fold["configuration"] for fold in charts["curves"])),
        "cases_notes": _cases_notes(content),
        "reversals": content.notebook.reversals.to_dict("records") if content.notebook else [],
        "measured": measured,
        "agreement": volumes_table(content.comparison.volumes),
        "agreement_words": words.agreement_words(content),
        "few_cases": bool(len(content.comparison.volumes)) and bool((content.comparison.volumes["n"] < 3).any()),
        "alt": words.alternatives(content),
    }


def _cases_notes(content: Content) -> list[str]:
    measured = content.case_dice.notna()
    partial = measured.any(axis=1) & ~measured.all(axis=1)
    if not partial.any():
        return []
    return [
        f"{int(partial.sum())} of {len(measured)} cases were not measured under every model: their lines are shorter."
    ]


def _background(content: Content) -> dict[str, Any]:
    """CLIP's controls, recipe and conclusions."""
    can, cannot = words.conclusions(content)
    present = {word for model in content.models for word in model.recipe.split("_")}
    device = (content.manifest or {}).get("device")
    command = words.command(content.experiment, content.name, device) if content.experiment else ""
    return {
        "control_words": [(word, text) for word, text in CONTROLS.items() if word in present],
        "command": command,
        "recipes": words.recipe_rows(content),
        "facts": words.facts(content),
        "can": can,
        "cannot": cannot,
    }
