"""`hippo-nnunet data`: fetch, synthesise, check and convert datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Get, check and convert datasets.", no_args_is_help=True)

_URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar"
_MD5 = "9d24dba78a72977dbd1d2e110310f31b"

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


@app.command()
def fetch(
    output: Annotated[Path, typer.Option(help="Folder to download to.")],
    url: Annotated[str, typer.Option(help="Address of the archive.")] = _URL,
    md5: Annotated[str, typer.Option(help="MD5 of the archive.")] = _MD5,
    overwrite: Overwrite = False,
) -> None:
    """Download the published Task04_Hippocampus.tar (28 MB), resumed and verified; prints its path."""
    from hippo_nnunet.data.fetch import fetch_task04

    typer.echo(fetch_task04(output, url=url, md5=md5, overwrite=overwrite, show_progress=True))


@app.command()
def synth(
    output: Annotated[Path, typer.Option(help="Folder that gets Task04_Phantom.")],
    cases: Annotated[int, typer.Option(help="Labelled cases.")] = 20,
    test_cases: Annotated[int, typer.Option(help="Test images without label.")] = 5,
    seed: Annotated[int, typer.Option(help="Another seed makes other cases.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a synthetic dataset in the form of Task04_Hippocampus; prints its path."""
    from hippo_nnunet.data.synth import make_phantom

    typer.echo(make_phantom(output, cases, test_cases, seed, overwrite))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="MSD task folder, or dataset folder of nnUNet_raw.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """List every problem of a dataset with file, finding and remedy; exit code 1 if one is an error."""
    from hippo_nnunet.data.check import check_dataset
    from hippo_nnunet.data.finding import findings_json, print_findings

    findings = check_dataset(folder, show_progress=True)
    if as_json:
        typer.echo(findings_json(findings))
    else:
        print_findings(findings, folder)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="MSD task folder or .tar, such as Task04_Hippocampus.tar.")],
    root: Annotated[Path, typer.Option(help="Writes into ROOT/nnUNet_raw, unless the variable nnUNet_raw is set.")],
    dataset_id: Annotated[int | None, typer.Option(help="nnU-Net's dataset id [default: the task's number].")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Check an MSD task and write it as a dataset of nnUNet_raw; prints its path."""
    from hippo_nnunet.data.convert import convert_msd
    from hippo_nnunet.nnunet.paths import folders_for

    typer.echo(convert_msd(source, folders_for(root).raw, dataset_id, overwrite, show_progress=True))
