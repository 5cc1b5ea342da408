"""nnU-Net's folders and the environment variables that name them.

A variable that the user has set always wins; a folder whose variable is unset is below one root folder.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.nnunet.registration import EXT_TRAINERS, EXT_VARIABLE

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class NnunetFolders:
    """nnU-Net's three folders, as absolute paths. One that is unknown is an error only where it is used.

    Args:
        raw_folder: See `raw`; None if it is unknown. The others likewise.
    """

    raw_folder: Path | None
    preprocessed_folder: Path | None
    results_folder: Path | None

    @property
    def raw(self) -> Path:
        """Datasets as nnU-Net reads them (`nnUNet_raw`)."""
        return _known("nnUNet_raw", self.raw_folder)

    @property
    def preprocessed(self) -> Path:
        """Plans, splits and preprocessed cases (`nnUNet_preprocessed`)."""
        return _known("nnUNet_preprocessed", self.preprocessed_folder)

    @property
    def results(self) -> Path:
        """Trained models (`nnUNet_results`)."""
        return _known("nnUNet_results", self.results_folder)

    @property
    def of_datasets(self) -> list[Path]:
        """The raw and the preprocessed folder, of which one may be unknown."""
        known = [folder for folder in (self.raw_folder, self.preprocessed_folder) if folder is not None]
        return known or [self.raw]


def _known(variable: str, folder: Path | None) -> Path:
    if folder is None:
        raise ConfigError(f"{variable} is not set: pass --root DIR, or export {variable}")
    return folder


def environment(root: Path | None, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the four variables that nnU-Net reads; changes nothing.

    Args:
        root: Holds the folders whose variables are unset (or empty); None: all three have to be set.
        environ: The variables that are set; None for this process's.

    Returns:
        Variable to value. `nnUNet_extTrainer` keeps the user's folders, which nnU-Net searches first, before ours.

    Raises:
        ConfigError: A variable is unset and there is no root, or the root's home folder is unknown.
    """
    values = _variables(root, environ)
    unset = [variable for variable in FOLDER_VARIABLES if variable not in values]
    if unset:
        raise ConfigError(f"{', '.join(unset)} not set: pass --root DIR, or export the folders that nnU-Net should use")
    return values


def _variables(root: Path | None, environ: Mapping[str, str] | None) -> dict[str, str]:
    """Return those of nnU-Net's variables whose values are known."""
    environ = os.environ if environ is None else environ
    values = {variable: environ[variable] for variable in FOLDER_VARIABLES if environ.get(variable)}
    if root is not None:
        below = at_home(root).absolute()
        values = {variable: values.get(variable, str(below / variable)) for variable in FOLDER_VARIABLES}
    return {**values, EXT_VARIABLE: trainer_folders(environ)}


def trainer_folders(environ: Mapping[str, str]) -> str:
    """Return the value for `nnUNet_extTrainer`: the user's folders, which nnU-Net searches first, before ours."""
    searched = [folder for folder in environ.get(EXT_VARIABLE, "").split(os.pathsep) if folder]
    if str(EXT_TRAINERS) not in searched:
        searched.append(str(EXT_TRAINERS))
    return os.pathsep.join(searched)


def at_home(path: Path) -> Path:
    """Expand a leading `~`.

    Raises:
        ConfigError: That user has no home folder here.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: that user has no home folder here; write the folder out") from None


def folders_for(root: Path | None, environ: Mapping[str, str] | None = None) -> NnunetFolders:
    """Return nnU-Net's folders: those whose variables are set, the others below `root`, or unknown without one.

    Args:
        root: Holds the folders whose variables are unset.
        environ: The variables that are set; None for this process's.

    Raises:
        ConfigError: The root's home folder is unknown.
    """
    values = _variables(root, environ)
    return NnunetFolders(
        *(Path(values[variable]).absolute() if variable in values else None for variable in FOLDER_VARIABLES)
    )


def activate(root: Path | None) -> NnunetFolders:
    """Set nnU-Net's variables in this process where they are unset, and create the folders.

    Args:
        root: Holds the folders whose variables are unset; None leaves those unset.

    Returns:
        The folders; those that are known exist. A raw folder that the user has set may be read-only; the others are
        writable.

    Raises:
        ConfigError: A folder cannot be created or written to.
    """
    values = _variables(root, None)
    for variable in FOLDER_VARIABLES:
        if variable not in values:
            continue
        folder = Path(values[variable]).absolute()
        problem = folder_problem(folder)
        if problem and not (variable == "nnUNet_raw" and os.environ.get(variable) and folder.is_dir()):
            raise ConfigError(
                f"{variable}={folder}: {problem}; give it room or permissions, or choose a folder that you can write to"
            )
    os.environ.update(values)
    return folders_for(root)


def user_cache(environ: Mapping[str, str]) -> Path | None:
    """Return the folder of the user's caches, which may not exist; None if the home folder is unknown."""
    try:
        return Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home(), ".cache"))
    except RuntimeError:
        return None


def trained_model(
    folders: NnunetFolders, dataset: str, configuration: str, trainer: str | None, plans: str | None
) -> Path:
    """Return nnU-Net's folder of a trained model.

    Args:
        folders: nnU-Net's folders.
        dataset: Id or full name.
        configuration: Such as `2d`.
        trainer: None where only one has been trained.
        plans: Likewise.

    Raises:
        ConfigError: There is no such model, or there are several.
    """
    pattern = f"Dataset{int(dataset):03d}_*" if re.fullmatch("[0-9]{1,9}", dataset) else glob.escape(Path(dataset).name)
    models = [m for m in folders.results.glob(f"{pattern}/*__*__{glob.escape(configuration)}") if m.is_dir()]
    wanted = (trainer, plans)
    fits = [m for m in models if all(w in (None, n) for w, n in zip(wanted, m.name.split("__"), strict=False))]
    if len(fits) == 1:
        return fits[0]
    listed = ", ".join(f"{m.parent.name}/{m.name}" for m in sorted(fits or models)) or "none"
    raise ConfigError(
        f"{'several models' if fits else 'no model'} of dataset {dataset} {configuration} in {folders.results} fit "
        f"-tr {trainer or 'any'} -p {plans or 'any'}; there are: {listed}"
    )


def folder_problem(folder: Path) -> str:
    """Create the folder if it is missing, and try to write there.

    Returns:
        The system's error message; empty if it works.
    """
    problem = ""
    for _ in range(3):  # another process that tests the same new folder may remove it in between
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(2**16))
                return ""
        except OSError as error:
            problem = error.strerror or str(error)
            if not isinstance(error, FileNotFoundError):
                break
    return problem


def export_lines(values: Mapping[str, str]) -> str:
    """Return `export NAME=VALUE` lines for a POSIX shell's `eval`, each value quoted where it needs it."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())
