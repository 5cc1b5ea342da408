"""nnU-Net's folders and the environment variables that name them.

A variable that the user has set always wins; what is unset goes below one root folder.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.nnunet.registration import EXT_TRAINERS

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
EXT_VARIABLE = "nnUNet_extTrainer"


@dataclass(frozen=True)
class NnunetFolders:
    """nnU-Net's three folders, as absolute paths.

    Attributes:
        raw: Datasets as nnU-Net reads them (`nnUNet_raw`).
        preprocessed: Plans, splits and preprocessed cases (`nnUNet_preprocessed`).
        results: Trained models (`nnUNet_results`).
    """

    raw: Path
    preprocessed: Path
    results: Path


def environment(root: Path | None, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Work out the four variables that nnU-Net reads; changes nothing.

    Args:
        root: Holds the folders whose variables are unset (or empty); None: all three have to be set.
        environ: The variables that are set; None for this process's.

    Returns:
        Variable to value. `nnUNet_extTrainer` keeps the user's folders, which nnU-Net searches first, before ours.

    Raises:
        ConfigError: A variable is unset and there is no root, or the root's home folder is unknown.
    """
    environ = os.environ if environ is None else environ
    unset = [variable for variable in FOLDER_VARIABLES if not environ.get(variable)]
    if unset and root is None:
        raise ConfigError(f"{', '.join(unset)} not set: pass --root DIR, or export the folders that nnU-Net shall use")
    below = at_home(root or Path()).absolute()
    values = {variable: environ.get(variable) or str(below / variable) for variable in FOLDER_VARIABLES}
    searched = [folder for folder in environ.get(EXT_VARIABLE, "").split(os.pathsep) if folder]
    if str(EXT_TRAINERS) not in searched:
        searched.append(str(EXT_TRAINERS))
    return {**values, EXT_VARIABLE: os.pathsep.join(searched)}


def at_home(path: Path) -> Path:
    """Put a home folder in the place of a leading `~`.

    Raises:
        ConfigError: Nobody knows that user's home.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: that user has no home folder here; write the folder out") from None


def folders_for(root: Path | None, environ: Mapping[str, str] | None = None) -> NnunetFolders:
    """Return nnU-Net's folders: those that the user has set, the others below `root`.

    Args:
        root: Holds the folders whose variables are unset; None: all three have to be set.
        environ: The variables that are set; None for this process's.

    Raises:
        ConfigError: A variable is unset and there is no root.
    """
    values = environment(root, environ)
    return NnunetFolders(*(Path(values[variable]).absolute() for variable in FOLDER_VARIABLES))


def activate(root: Path | None) -> NnunetFolders:
    """Set nnU-Net's variables in this process where they are unset, and create the folders.

    Args:
        root: Holds the folders whose variables are unset; None: all three have to be set.

    Returns:
        The folders, which exist now. A raw folder that the user has set may be read-only; the others are writable.

    Raises:
        ConfigError: A variable is unset and there is no root, or a folder cannot be created or written to.
    """
    values = environment(root)
    folders = folders_for(root)
    for variable, folder in zip(FOLDER_VARIABLES, (folders.raw, folders.preprocessed, folders.results), strict=True):
        problem = folder_problem(folder)
        if problem and not (variable == "nnUNet_raw" and os.environ.get(variable) and folder.is_dir()):
            raise ConfigError(
                f"{variable}={folder}: {problem}; give it room or permissions, or choose a folder that you can write to"
            )
    os.environ.update(values)
    return folders


def folder_problem(folder: Path) -> str:
    """Create the folder where it is missing and try to write there.

    Returns:
        Why that fails, in the system's words; empty where it works.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**16))
            return ""
    except OSError as error:
        return error.strerror or str(error)


def export_lines(values: Mapping[str, str]) -> str:
    """Return `export NAME=VALUE` lines for a POSIX shell's `eval`, each value quoted where it needs it."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())
