"""The command `report`: an experiment's results as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import ExperimentRoot, Overwrite


def report(
    experiment: Annotated[Path, typer.Argument(help="Folder of the experiment.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. Default: 'report' in the experiment's.")
    ] = None,
    root: ExperimentRoot = None,
    cases: Annotated[int, typer.Option("--cases", min=1, help="Number of cases in slices and in 3D, at most.")] = 6,
    no_figures: Annotated[
        bool, typer.Option("--no-figures", help="Leave out the figures for papers (PNG, SVG and PDF).")
    ] = False,
    notebook_score: Annotated[
        bool, typer.Option("--notebook-score", help="Also show the score of the published notebooks' protocol.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write verdict, tables, charts and conclusions into one HTML file; prints its path."""
    from hippo_nnunet.pages.report.page import write_report

    page = write_report(
        experiment,
        output,
        root=root,
        cases=cases,
        figures=not no_figures,
        overwrite=overwrite,
        notebook=notebook_score,
    )
    typer.echo(page)
