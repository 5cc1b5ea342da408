"""`doctor`: problems of this installation, each with what to do about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Json
from hippo_nnunet.errors import printable

COLOURS = {"ok": "green", "note": "blue", "warning": "yellow", "error": "red"}
RESULT_COLOURS = {"pass": "green", "not run": "yellow", "fail": "red"}


def doctor(
    root: Annotated[
        Path | None, typer.Option("--root", help='Check as after: eval "$(hippo-nnunet env --root DIR)".')
    ] = None,
    as_json: Json = False,
    training: Annotated[
        bool, typer.Option("--training", help="Train, resume and predict in every mode, on synthetic data, instead.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="With --training: auto, cpu or cuda.")] = "auto",
    work: Annotated[
        Path | None, typer.Option("--work", help="With --training: folder to keep. Default: a temporary one.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="With --training: JSON file, written after every line.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="With --training: compile few networks, as on a CPU.")] = False,
) -> None:
    """Check versions, folders, registration, what nnU-Net resolves, GPU, compiler, disk and memory.

    With --training, check instead that trainings work in every mode of this machine: minutes.

    Exit code 1 if any finding is an error, or any line of the training check fails.
    """
    given = {"--device": device != "auto", "--work": work, "--output": output, "--quick": quick}
    if not training and any(given.values()):
        raise typer.BadParameter("goes with --training", param_hint=next(name for name in given if given[name]))
    if training:
        _check_training(device, work, output, quick, as_json)
        return
    from dataclasses import asdict

    from rich.console import Console

    from hippo_nnunet.doctor.installation import diagnose, survey

    with Console(stderr=True).status("checking nnU-Net and torch"):
        findings = diagnose(survey(root))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            level = typer.style(finding.level.ljust(7), fg=COLOURS[finding.level])
            typer.echo(f"{level}  {finding.check.ljust(width)}  {printable(finding.finding)}")
            if finding.remedy:
                typer.echo(f"{'':7}  {'':{width}}  -> {printable(finding.remedy)}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


def _check_training(device: str, work: Path | None, output: Path | None, quick: bool, as_json: bool) -> None:
    """Print a line for each outcome, and keep the folder where one failed: it holds the log."""
    import shutil
    import tempfile

    from hippo_nnunet.doctor.isolation import Outcome
    from hippo_nnunet.doctor.training_check import LOG, check_training
    from hippo_nnunet.errors import ConfigError
    from hippo_nnunet.files import read_object
    from hippo_nnunet.outputs import check_target

    def tell(outcome: Outcome) -> None:
        result = typer.style(outcome.result.ljust(7), fg=RESULT_COLOURS[outcome.result])
        typer.echo(f"{result} {outcome.seconds:6.1f} s  {outcome.name}: {outcome.reason}", err=as_json)

    if output:
        check_target(output, True, "a report of 'doctor --training'", lambda path: "lines" in read_object(path))
    if work and work.is_dir() and any(work.iterdir()) and not (work / LOG).is_file():
        raise ConfigError(f"{work} holds other files than a training check's: choose a new or an empty folder")
    folder = work or Path(tempfile.mkdtemp(prefix="hippo-training-check-"))
    document = check_training(device, folder, output, quick, tell)
    failed = sum(line["result"] == "fail" for line in document["lines"])
    if as_json:
        typer.echo(json.dumps(document, indent=1))
    count = len(document["lines"])
    not_run = sum(line["result"] == "not run" for line in document["lines"])
    what = f"{count - failed - not_run} lines pass, {failed} fail, {not_run} not run; {document['seconds']:.0f} s"
    typer.echo(f"{what}; log: {folder / LOG}" if failed or work else what, err=True)
    if not failed and work is None:
        shutil.rmtree(folder)
    if failed:
        raise typer.Exit(1)
