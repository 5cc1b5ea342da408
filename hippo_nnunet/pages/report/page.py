"""Write the report of an experiment: one HTML file that needs no network, figures for papers, tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hippo_nnunet import __version__
from hippo_nnunet.analysis.tables import ShownTable, comparison_table, counted, one_model, results_table, volumes_table
from hippo_nnunet.analysis.verdicts import headline
from hippo_nnunet.evaluation.comparison import Options
from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.side_by_side import MEAN
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import write_text
from hippo_nnunet.pages.figure import save_figure
from hippo_nnunet.pages.report import words
from hippo_nnunet.pages.report.charts import chart_data
from hippo_nnunet.pages.report.content import Content, gather
from hippo_nnunet.pages.report.figures import report_figures
from hippo_nnunet.pages.report.forest import QUESTIONS, prepare_forest, verdict_sentences
from hippo_nnunet.pages.report.notebook import MEASURED, MEASURED_DATASET
from hippo_nnunet.pages.report.style import SERIES_DARK, SERIES_LIGHT
from hippo_nnunet.pages.report.tables import write_table
from hippo_nnunet.pages.templating import PAGE, page_folder, read_template, render_template
from hippo_nnunet.progress import duration

if TYPE_CHECKING:
    from hippo_nnunet.pages.report.viewers import ViewerFragment

_CONTENT = r"tables/[^/]+\.(csv|md|tex)"
_SECTIONS = {
    "verdict": "Verdict",
    "table": "The table",
    "differences": "Differences",
    "cases": "Every case",
    "notebook": "The notebooks' score",
    "curves": "Convergence",
    "volumes": "Volumes",
    "slices": "Slices",
    "surface": "In 3D",
    "clip": "CLIP and its controls",
    "recipe": "How it was made",
    "limits": "What can be concluded",
}


def write_report(
    experiment: Path,
    output: Path | None = None,
    *,
    root: Path | None = None,
    cases: int = 6,
    figures: bool = True,
    overwrite: bool = False,
    options: Options | None = None,
) -> Path:
    """Write `index.html`, `figures/` (PNG and SVG) and `tables/` (CSV, Markdown and LaTeX) of an experiment.

    Args:
        experiment: The experiment's folder. What it lacks beside `metrics/per_case.csv` is named in the report.
        output: The folder to write, which appears whole or not at all; None: `report` in the experiment's.
        root: nnU-Net's root folder, which wins over its variables; None: its variables, else `nnunet` in the folder.
        cases: Cases to show in slices and in 3D, at most.
        figures: Whether to write the figures for papers.
        overwrite: Replace an earlier report.
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
        content = gather(experiment, root, options)
        page = render(content, viewer_fragment(experiment, root=root, cases=cases))
        fresh.mkdir()
        write_text(fresh / PAGE, page)
        for table in _tables(content):
            write_table(table, fresh / "tables")
        for figure in report_figures(content) if figures else ():
            save_figure(figure, fresh / "figures")
    return target / PAGE


def render(content: Content, viewer: ViewerFragment) -> str:
    """Return the page.

    Args:
        content: Of `gather`.
        viewer: Of `viewer_fragment`.
    """
    from plotly.offline import get_plotlyjs

    return render_template(
        "report",
        "report.html",
        content=content,
        viewer=viewer,
        plotly=get_plotlyjs(),
        style=read_template("report", "report.css"),
        script=read_template("report", "report.js"),
        light=SERIES_LIGHT,
        dark=SERIES_DARK,
        version=__version__,
        questions=QUESTIONS,
        **_results(content),
        **_evidence(content),
        **_background(content),
        sections=[(name, title) for name, title in _SECTIONS.items() if _has(name, content, viewer)],
    )


def _has(name: str, content: Content, viewer: ViewerFragment) -> bool:
    if name == "clip":
        pairs = content.comparison.pairs
        return not pairs.empty and bool((pairs["kind"] == "control").any())
    return name != "surface" or bool(viewer.html)


def _tables(content: Content) -> list[ShownTable]:
    comparison = comparison_table(content.comparison)
    return [
        results_table(content.comparison),
        *([comparison] if comparison else []),
        volumes_table(content.comparison.volumes),
    ]


def _results(content: Content) -> dict[str, Any]:
    """Verdict, table and differences."""
    pairs, models = content.comparison.pairs, content.comparison.models
    over_labels = models[models["scope"] == MEAN]
    return {
        "headline": headline(pairs),
        "tiles": _tiles(content),
        "verdicts": verdict_sentences(pairs),
        "has_blocks": bool((over_labels.groupby(["variant", "configuration"]).size() > 1).any()),
        "results": results_table(content.comparison),
        "has_notebook": content.notebook is not None,
        "forest": prepare_forest(pairs, set(QUESTIONS) - {"control"}),
        "controls": prepare_forest(pairs, {"control"}),
        "comparison": comparison_table(content.comparison),
        "comparison_notes": words.comparison_notes(content),
        "metric": QUALITY[content.comparison.options.metric].heading,
    }


def _tiles(content: Content) -> list[tuple[str, str]]:
    """Return the key figures shown below the verdict."""
    table, models = content.table, content.comparison.models
    over_labels = models[models["scope"] == MEAN].dropna(subset=["dice"])
    trained = [fold.get("trained_seconds") for fold in (content.manifest or {}).get("folds", [])]
    seconds = [float(value) for value in trained if value is not None]
    counts = [
        (table["case"].nunique(), "case, out of fold", "cases, out of fold"),
        (table["fold"].nunique(), "fold", "folds"),
        (len(content.models), "model", "models"),
    ]
    tiles = [(str(count), one if count == 1 else many) for count, one, many in counts]
    if len(over_labels):
        best = over_labels.loc[over_labels["dice"].idxmax()]
        cases = counted(best["cases"], "case")
        tiles.append((f"{best['dice']:.4f}", f"highest mean Dice: {one_model(best)}, {cases}"))
    if seconds:
        tiles.append((duration(sum(seconds)), "of training"))
    return tiles


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
        "labels": list(content.label_dice),
        "curve_configurations": list(dict.fromkeys(fold["configuration"] for fold in charts["curves"])),
        "cases_notes": _cases_notes(content),
        "notebook_sentence": words.notebook_sentence(content.notebook),
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
        "control_words": [(word, text) for word, text in words.CONTROL_MEANINGS.items() if word in present],
        "command": command,
        "recipes": words.recipe_rows(content),
        "facts": words.facts(content),
        "can": can,
        "cannot": cannot,
    }
