"""`hippo-nnunet clip`: download the weights of a CLIP encoder, list which are available here, and probe one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Dataset, Device, Json, Root, stdout_to_stderr
from hippo_nnunet.cli.output import echo

app = typer.Typer(help="Download CLIP encoders, list which are available, and probe them.", no_args_is_help=True)

Model = Annotated[
    str | None,
    typer.Option(help="open_clip's name, hf-hub:ORG/MODEL or local-dir:PATH [default: HIPPO_CLIP_MODEL or ViT-B-32]."),
]
Weights = Annotated[
    str | None, typer.Option(help="open_clip's tag, or a file [default: HIPPO_CLIP_WEIGHTS or openai].")
]


@app.command()
def fetch(
    model: Model = None,
    weights: Weights = None,
) -> None:
    """Download an encoder's weights into the cache if they are missing, load them as a check; prints their path."""
    from hippo_nnunet.clip.encoder import fetch_encoder

    typer.echo(fetch_encoder(model, weights))


@app.command()
def info(as_json: Json = False) -> None:
    """Show the cache's location and, for each encoder, availability, size, SHA-256 and length of an embedding."""
    from dataclasses import asdict

    from rich.console import Console

    from hippo_nnunet.clip.encoder import inventory
    from hippo_nnunet.clip.hub import cache_folder
    from hippo_nnunet.clip.models import EncoderChoice

    with Console(stderr=True).status("loading the available encoders"):
        rows = inventory()
    if as_json:
        typer.echo(json.dumps({"cache": str(cache_folder()), "encoders": [asdict(row) for row in rows]}, indent=2))
        return
    typer.echo(f"cache: {cache_folder()}")
    for row in rows:
        mark = "*" if row.chosen else " "
        typer.echo(f"{mark} {row.model} {row.weights}  ({row.embed_dim or '?'} numbers an embedding)")
        if row.file is None or row.size_bytes is None:
            typer.echo(f"    not here; {EncoderChoice(row.model, row.weights).fetch}")
        else:
            typer.echo(f"    {row.size_bytes / 1e6:.1f} MB, sha256 {row.sha256}\n    {row.file}")
    typer.echo("* is what a trainer without the word mini takes")


@app.command("probe")
def probe_(
    dataset: Dataset,
    configuration: Annotated[str, typer.Option("--configuration", "-c", help="Such as 2d or 3d_fullres.")] = "2d",
    model: Model = None,
    weights: Weights = None,
    plans: Annotated[str | None, typer.Option("--plans", "-p", help="Plans. Default: those that exist.")] = None,
    slices: Annotated[
        int, typer.Option("--slices", min=0, help="Draw cases until they have so many slices; 0: all cases.")
    ] = 2000,
    device: Device = "auto",
    as_json: Json = False,
    root: Root = None,
) -> None:
    """Tell how much an encoder's embeddings of slices say about the labels, beside the slices' position.

    Ridge regression of each label's voxels in a slice, on the dataset's own folds; nothing is trained. The dataset must
    be planned and preprocessed. `--model mini` probes the bundled encoder.
    """
    from dataclasses import asdict

    from hippo_nnunet.analysis.clip_probe import lines, probe
    from hippo_nnunet.clip.models import named_encoder
    from hippo_nnunet.experiment import presets
    from hippo_nnunet.nnunet.api import resolve_device
    from hippo_nnunet.nnunet.paths import activate, folders_for
    from hippo_nnunet.nnunet.preprocessed import dataset_name

    folders = folders_for(root)
    name = dataset_name(dataset, folders)
    device = resolve_device(device)
    plans = plans or presets.preset(presets.preset_for_training(device, folders.preprocessed / name)).plans
    activate(root)
    with stdout_to_stderr():
        found = probe(named_encoder(model, weights), name, plans, configuration, folders, slices, device)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    for line in lines(found):
        echo(line)
