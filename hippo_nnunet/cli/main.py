"""The `hippo-nnunet` program: its commands, and errors as messages of one line with an exit code."""

from __future__ import annotations

import getpass
import io
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hippo_nnunet import __version__
from hippo_nnunet.cli import (
    clip,
    compare,
    data,
    doctor,
    explain,
    explore,
    model,
    predict,
    registration,
    report,
    run,
    segment,
    submit,
    train,
)
from hippo_nnunet.cli.options import NnunetStyle
from hippo_nnunet.cli.output import LogFormatter
from hippo_nnunet.errors import ConfigError, DependencyError, HippoError, one_line
from hippo_nnunet.files import is_utf8

app = typer.Typer(
    name="hippo-nnunet",
    help="Attention U-Nets, CLIP-guided U-Nets and their baseline inside nnU-Net v2: from NIfTI files to statistics.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(clip.app, name="clip")
app.add_typer(model.app, name="model")
for function in (
    doctor.doctor,
    registration.env,
    registration.register,
    registration.unregister,
    registration.list_,
    train.plan,
    train.train,
    run.run,
    segment.segment,
    predict.predict,
    submit.submit,
    explore.explore,
    explain.explain,
    compare.compare,
    report.report,
):
    cls = NnunetStyle if function in (train.plan, train.train, predict.predict) else None
    app.command(name=function.__name__.rstrip("_"), cls=cls)(function)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Configure logging once, before any command."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug or verbose else logging.INFO, handlers=[handler])
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # it announces its number of threads


def main() -> None:
    """Entry point of `hippo-nnunet`."""
    run_program(app)


def run_program(program: typer.Typer) -> None:
    """Run a program: exit code 0 for success, 1 for an error in one line, 2 for wrong usage; `--debug` raises."""
    try:
        getpass.getuser()
    except (KeyError, OSError):  # Snakemake and torch fail without a name
        os.environ["USER"] = f"uid{os.getuid()}"
    os.environ["PYTHONSAFEPATH"] = "1"  # no worker process, also of nnU-Net, imports from the working folder
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file may be called anything
    try:
        _check_names()
        program()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"error: {_describe(error)}", err=True)
        raise SystemExit(1) from None


def _check_names() -> None:
    """Refuse arguments and folders that are not UTF-8: nnU-Net and SimpleITK would end this process."""
    named = {"the current folder": str(Path.cwd())} if Path().exists() else {}
    named |= {name: value for name, value in os.environ.items() if name.startswith("nnUNet_")}
    named |= {f"argument {number}": word for number, word in enumerate(sys.argv[1:], 1)}
    for what, text in named.items():
        if not is_utf8(text):
            raise ConfigError(f"{what}, {text}: not UTF-8, which SimpleITK cannot open: rename the file or folder")


def _describe(error: Exception) -> HippoError:
    """Return what failed and what to do, in one line."""
    if isinstance(error, HippoError):
        return error
    if isinstance(error, ModuleNotFoundError) and _is_of_training(error.name or "hippo_nnunet"):
        return DependencyError(
            f"this command needs {error.name}, which is not installed: install hippo_nnunet (hippo-nnunet-predict, its "
            "smaller distribution, only predicts with the packaged model or with .onnx files)"
        )
    from hippo_nnunet.memory import is_out_of_memory, memory_error

    if is_out_of_memory(error):
        return memory_error(one_line(error))
    if isinstance(error, OSError):
        place, reason = error.filename or "the system", error.strerror or error
        return HippoError(f"{place}: {reason}; check the path, its permissions and the disk")
    kind = type(error).__name__
    return HippoError(
        f"unexpected {kind}: {error}; a bug in hippo_nnunet: run again with --debug and report the traceback"
    )


def _is_of_training(module: str) -> bool:
    """Tell whether a missing module is another package's, or one of ours that hippo-nnunet-predict leaves out."""
    return module.partition(".")[0] != __name__.partition(".")[0] or module.endswith((".trainers", ".planners"))


if __name__ == "__main__":
    main()
