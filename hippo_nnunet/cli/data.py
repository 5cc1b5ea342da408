"""`hippo-nnunet data`: download, synthesise, check and convert datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Json, Overwrite, Root

app = typer.Typer(help="Get, check and convert datasets.", no_args_is_help=True)


@app.command()
def fetch(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to download to.")],
    url: Annotated[str | None, typer.Option(help="URL of another archive, or of a mirror.")] = None,
    md5: Annotated[str | None, typer.Option(help="MD5 of another archive; without it, its length is verified.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Download the published Task04_Hippocampus.tar (28 MB), resumed and verified; prints its path."""
    from hippo_nnunet.data.fetch import TASK04_URL, fetch_task04, published_md5

    url = TASK04_URL if url is None else url
    md5 = published_md5(url) if md5 is None else md5
    typer.echo(fetch_task04(output, url=url, md5=md5, overwrite=overwrite))


@app.command()
def synth(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder in which Task04_Phantom is created.")],
    cases: Annotated[int, typer.Option(help="Labelled cases.")] = 20,
    test_cases: Annotated[int, typer.Option(help="Test images without labels.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the random shapes.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a synthetic dataset in the format of Task04_Hippocampus; prints its path."""
    from hippo_nnunet.data.synth import make_phantom

    typer.echo(make_phantom(output, cases, test_cases, seed, overwrite))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="MSD task folder, or dataset folder of nnUNet_raw.")],
    as_json: Json = False,
) -> None:
    """List every problem of a dataset with file, finding and remedy; exit code 1 if any is an error."""
    from hippo_nnunet.data.check import check_dataset
    from hippo_nnunet.data.finding import findings_json, print_findings

    findings = check_dataset(folder)
    if as_json:
        typer.echo(findings_json(findings))
    else:
        print_findings(findings, folder)
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="MSD task folder, .tar or .zip, such as Task04_Hippocampus.tar.")],
    root: Root = None,
    dataset_id: Annotated[
        int | None, typer.Option("--dataset-id", "-d", help="nnU-Net's dataset id. Default: the task's number.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Check an MSD task and write it as a dataset into nnUNet_raw; prints its path."""
    from hippo_nnunet.data.convert import convert_msd
    from hippo_nnunet.nnunet.paths import folders_for

    typer.echo(convert_msd(source, folders_for(root).raw, dataset_id, overwrite))
