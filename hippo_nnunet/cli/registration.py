"""`env`, `register`, `unregister` and `list`: how nnU-Net and the user see what this package offers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet.cli.options import Json


def env(
    root: Annotated[
        Path | None, typer.Option("--root", help="Holds the nnU-Net folders whose variables are not set.")
    ] = None,
) -> None:
    """Print nnU-Net's variables as exports, for: eval "$(hippo-nnunet env --root DIR)".

    A variable that is already set keeps its value. The folders are created.
    """
    from hippo_nnunet.nnunet.paths import activate, environment, export_lines

    values = environment(root)
    activate(root)
    typer.echo(export_lines(values))


def register() -> None:
    """Let nnU-Net find our trainers and planners by name, through one small file in each of two of its folders."""
    from hippo_nnunet.nnunet.registration import register as write_shims

    written = write_shims()
    for path in written:
        typer.echo(f"wrote {path}")
    if not written:
        typer.echo("already registered")


def unregister() -> None:
    """Remove the files that `register` wrote."""
    from hippo_nnunet.nnunet.registration import unregister as remove_shims

    removed = remove_shims()
    for path in removed:
        typer.echo(f"removed {path}")
    if not removed:
        typer.echo("was not registered")


def list_(as_json: Json = False) -> None:
    """List the trainers, the recipe words that may follow a trainer's name, the planners and the CLIP models."""
    from hippo_nnunet.clip.models import CLIP_MODELS
    from hippo_nnunet.planners import PLANNERS
    from hippo_nnunet.training.recipe_words import WORD_GROUPS
    from hippo_nnunet.training.recipes import bases

    words = [
        {"group": group.name, "word": word, "meaning": meaning}
        for group in WORD_GROUPS
        for word, meaning in group.words.items()
    ]
    clip = [
        {"model": m.choice.model, "weights": m.choice.weights, "size_mb": m.size_mb, "meaning": m.meaning}
        for m in CLIP_MODELS
    ]
    if as_json:
        typer.echo(
            json.dumps({"trainers": bases(), "planners": PLANNERS, "words": words, "clip_models": clip}, indent=2)
        )
        return
    typer.echo("Trainers: <trainer>[_word]*, at most one word of a group, in this order")
    _echo_rows([(name, meaning) for name, meaning in bases().items()])
    typer.echo("\nWords")
    _echo_rows([(word["group"], word["word"], word["meaning"]) for word in words])
    typer.echo("\nPlanners")
    _echo_rows([(name, meaning) for name, meaning in PLANNERS.items()])
    typer.echo("\nCLIP models (environment: HIPPO_CLIP_MODEL, HIPPO_CLIP_WEIGHTS, HIPPO_CLIP_PROMPTS)")
    for m in clip:
        typer.echo(f"  {m['model']} {m['weights']}".rstrip())
        typer.echo(f"      {m['size_mb']} MB, {m['meaning']}")


def _echo_rows(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        typer.echo("  " + "  ".join([*cells, row[-1]]))
