"""The command `compare`: the models of an experiment side by side."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Coverage, ExperimentRoot
from hippo_nnunet.cli.output import Printable

log = logging.getLogger(__name__)


def compare(
    experiment: Annotated[Path, typer.Argument(help="Folder of the experiment.")],
    metric: Annotated[
        str, typer.Option("--metric", help="Metric to compare in: dice, nsd_1mm, hd95_mm or assd_mm.")
    ] = "dice",
    rope: Annotated[
        float | None,
        typer.Option(
            "--rope", help="Negligible difference. Default: that of a recipe's repeats, else 0.005; needed for mm."
        ),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Variant to compare the others with. Default: UNet, else every pair."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="Published Dice per case: CSV file with case, <method>_<label>; or another experiment's folder.",
        ),
    ] = None,
    volumes: Annotated[
        bool,
        typer.Option("--volumes", help="Also check the volumes' intervals, and whether flags find the worst cases."),
    ] = False,
    coverage: Coverage = 0.9,
    full: Annotated[
        bool, typer.Option("--full", help="Also print every metric, p-values, effect sizes, ranks and volumes.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    root: ExperimentRoot = None,
) -> None:
    """Compare variants and configurations on identical folds: better, worse, equivalent, or cannot tell."""
    from hippo_nnunet.analysis.compare import (
        as_json,
        compare_experiment,
        read_choice,
        save_scores_and_times,
        write_comparison,
    )
    from hippo_nnunet.analysis.volumes import check_volumes
    from hippo_nnunet.evaluation.comparison import Options
    from hippo_nnunet.experiment.paths import ExperimentPaths
    from hippo_nnunet.nnunet.paths import folder_problem

    options = Options(metric, rope, baseline)
    metrics = ExperimentPaths(experiment).metrics
    problem = folder_problem(metrics) if metrics.is_dir() else ""
    if problem:
        log.warning("%s: cannot write there (%s): the comparison is shown, not saved", metrics, problem)
    else:
        save_scores_and_times(experiment, root)
    comparison = compare_experiment(experiment, options, against, root)
    checks = check_volumes(experiment, coverage, root) if volumes else None
    written = None if problem else write_comparison(comparison, experiment)
    if json_:
        typer.echo(as_json(comparison, checks))
        return
    from rich.console import Console

    from hippo_nnunet.analysis.printed import check_parts, full_parts, short_parts
    from hippo_nnunet.analysis.verdicts import ensemble_gain

    gain = ensemble_gain(read_choice(experiment), comparison.pairs)
    console = Console()
    wide = console if console.is_terminal else Console(width=240)
    for part in (full_parts if full else short_parts)(comparison, gain):
        (wide if full else console).print(Printable(part), highlight=False, markup=False)
    for part in check_parts(checks) if checks else ():
        wide.print(Printable(part), highlight=False, markup=False)
    if written:
        typer.echo(f"comparison: {written}")
