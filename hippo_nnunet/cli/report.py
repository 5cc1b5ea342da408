"""The command `report`: what an experiment has shown, as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    experiment: Annotated[Path, typer.Argument(help="Folder of the experiment.")],
    output: Annotated[
        Path | None, typer.Option("--output", help="Folder to write. Default: 'report' in the experiment's.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="nnU-Net's root folder, if the experiment was run with one.")
    ] = None,
    cases: Annotated[int, typer.Option("--cases", min=1, help="Cases to show in slices and in 3D, at most.")] = 6,
    no_figures: Annotated[
        bool, typer.Option("--no-figures", help="Leave out the figures for papers (PNG and SVG).")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report.")] = False,
) -> None:
    """Write verdict, tables, charts and conclusions into one HTML file; prints its path."""
    from hippo_nnunet.pages.report.page import write_report

    page = write_report(experiment, output, root=root, cases=cases, figures=not no_figures, overwrite=overwrite)
    typer.echo(page)
