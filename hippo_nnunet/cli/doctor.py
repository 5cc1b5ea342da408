"""`doctor`: problems of this installation, each with what to do about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Json

COLOURS = {"ok": "green", "note": "blue", "warning": "yellow", "error": "red"}


def doctor(
    root: Annotated[
        Path | None, typer.Option("--root", help='Check as after: eval "$(hippo-nnunet env --root DIR)".')
    ] = None,
    as_json: Json = False,
) -> None:
    """Check versions, folders, registration, what nnU-Net resolves, GPU, compiler, disk and memory.

    Exit code 1 if any finding is an error.
    """
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
            typer.echo(f"{level}  {finding.check.ljust(width)}  {finding.finding}")
            if finding.remedy:
                typer.echo(f"{'':7}  {'':{width}}  -> {finding.remedy}")
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)
