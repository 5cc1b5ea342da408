"""`explore`: what is in a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Overwrite


def explore(
    source: Annotated[
        Path, typer.Argument(help="Dataset folder of nnUNet_raw, MSD task folder, or .tar or .zip of one.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for page, figures and table.")],
    overwrite: Overwrite = False,
) -> None:
    """Show sizes, intensities, volumes, places and outliers of a dataset; prints the page's path."""
    from hippo_nnunet.pages.exploration.page import write_exploration

    typer.echo(write_exploration(source, output, overwrite))
