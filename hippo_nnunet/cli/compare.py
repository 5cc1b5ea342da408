"""The command `compare`: the models of an experiment side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    experiment: Annotated[Path, typer.Argument(help="Folder of the experiment.")],
    metric: Annotated[
        str, typer.Option("--metric", help="Metric to compare in: dice, nsd_1mm, hd95_mm or assd_mm.")
    ] = "dice",
    rope: Annotated[
        float | None,
        typer.Option("--rope", help="Differences up to this do not matter. Default: 0.005; to be given for mm."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Variant that the others are compared with. Default: UNet, else every two."),
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Published Dice per case: CSV file with case, <method>_<label>.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    root: Annotated[
        Path | None, typer.Option("--root", help="nnU-Net's root folder, if the experiment was run with one.")
    ] = None,
) -> None:
    """Compare variants and configurations on identical folds: better, worse, equivalent, or cannot tell."""
    from hippo_nnunet.evaluation.comparison import Options
    from hippo_nnunet.workflow.compared import as_json, compare_experiment, write_comparison

    comparison = compare_experiment(experiment, Options(metric, rope, baseline), against, root)
    written = write_comparison(comparison, experiment)
    if json_:
        typer.echo(as_json(comparison))
        return
    from rich.console import Console

    from hippo_nnunet.workflow.comparison_tables import comparison_parts

    console = Console()
    wide = console if console.is_terminal else Console(width=200)
    for part in comparison_parts(comparison):
        wide.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, str))
    if written:
        typer.echo(f"comparison: {written}")
