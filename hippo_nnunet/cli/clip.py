"""`hippo-nnunet clip`: download the weights of a CLIP encoder, and list which are available here."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Json

app = typer.Typer(help="Download CLIP encoders, and list which are available.", no_args_is_help=True)


@app.command()
def fetch(
    model: Annotated[
        str | None,
        typer.Option(
            help="open_clip's name, hf-hub:ORG/MODEL or local-dir:PATH [default: HIPPO_CLIP_MODEL or ViT-B-32]."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="open_clip's tag, or a file [default: HIPPO_CLIP_WEIGHTS or openai].")
    ] = None,
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
    from hippo_nnunet.clip.models import EncoderChoice
    from hippo_nnunet.clip.weights import cache_folder

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
