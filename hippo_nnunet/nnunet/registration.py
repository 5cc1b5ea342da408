"""Makes our trainers and planners visible to nnU-Net's look-up by name.

nnU-Net finds a class by asking `hasattr(module, name)` of every module below its own trainer folder (or its
`experiment_planning` folder), for every name that anyone looks up. `register` puts one small shim module into each of
the two; the shim's `__getattr__` (PEP 562) is `trainer_attribute` or `planner_attribute` below, so that the classes
stay where they are, keep their identity, and pickle by reference. Every process that uses nnU-Net imports this module:
it stays light.

Source: ours, because nnU-Net searches `nnUNet_extTrainer` for trainers only and planners nowhere else.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hippo_nnunet.errors import ConfigError, DependencyError, UpstreamError
from hippo_nnunet.files import atomic_path
from hippo_nnunet.training.recipes import is_ours

EXT_TRAINERS = Path(__file__).with_name("ext_trainers")
"""The folder that `nnUNet_extTrainer` names; it holds the trainers' shim and nothing else."""

EXT_VARIABLE = "nnUNet_extTrainer"
"""nnU-Net's variable with the folders in which it looks for trainers besides its own."""

MARKER = "`hippo-nnunet register` writes it"
"""Stands in the first line of a shim: files without it are not ours, and are never modified."""

WITHOUT_REGISTRATION = (
    f'trainers: eval "$(hippo-nnunet env --root DIR)" sets {EXT_VARIABLE}, in which nnU-Net finds them; '
    "planners: hippo-nnunet plan -d ID -pl AttentionUNetPlanner plans for nnU-Net's other commands, "
    "and needs no registration"
)
"""What to do where nnU-Net's folders are read-only."""

State = Literal["absent", "current", "outdated", "foreign"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shim:
    """One module in a folder of nnU-Net.

    Attributes:
        path: The file.
        text: Its content.
    """

    path: Path
    text: str

    @property
    def state(self) -> State:
        """What is at `path`: no file, this text, an older text of ours, or a file that is not ours."""
        if not self.path.exists():
            return "absent"
        found = self.path.read_text(encoding="utf-8", errors="replace")
        if found == self.text:
            return "current"
        return "outdated" if MARKER in found.partition("\n")[0] else "foreign"


def trainer_attribute(name: str) -> Any:
    """Answer nnU-Net's look-up of a trainer; the `__getattr__` of the trainers' shim.

    Args:
        name: Any attribute of the shim module: trainer names, ours or not, and dunder names.

    Returns:
        The class of that name in `hippo_nnunet.trainers`.

    Raises:
        AttributeError: The name is not one of our recipes; answered without importing anything.
        ConfigError: One of our bases with an unknown or misplaced word; names the nearest right name.
        UpstreamError: `hippo_nnunet.trainers` cannot provide one of our own names.
    """
    if not is_ours(name):
        raise AttributeError(name)
    return _forward("hippo_nnunet.trainers", name)


def planner_attribute(name: str) -> Any:
    """Answer nnU-Net's look-up of a planner; the `__getattr__` of the planners' shim.

    Args:
        name: Any attribute of the shim module: planners and fingerprint extractors, ours or not, dunder names.

    Returns:
        The class of that name in `hippo_nnunet.planners`.

    Raises:
        AttributeError: The name is not one of our planners.
        UpstreamError: `hippo_nnunet.planners` cannot provide one of our own names.
    """
    if not name.endswith("Planner") or name not in importlib.import_module("hippo_nnunet.planners").PLANNERS:
        raise AttributeError(name)
    return _forward("hippo_nnunet.planners", name)


def _forward(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:  # hasattr would swallow it, and nnU-Net would say "not found"
        raise UpstreamError(
            f"{module} cannot deliver {name}: {error}; check the installed versions with 'hippo-nnunet doctor'"
        ) from error


def shims(nnunet_root: Path | None = None) -> tuple[Shim, Shim]:
    """Return the trainers' and the planners' shim.

    Args:
        nnunet_root: Folder of the package `nnunetv2`; None for the installed one.

    Raises:
        DependencyError: nnU-Net is not installed.
    """
    root = nnunet_root or find_nnunet()
    text = (EXT_TRAINERS / "hippo_nnunet_trainers.py").read_text(encoding="utf-8")
    return (
        Shim(root / "training" / "nnUNetTrainer" / "hippo_nnunet_trainers.py", text),
        Shim(root / "experiment_planning" / "hippo_nnunet_planners.py", text.replace("trainer", "planner")),
    )


def find_nnunet() -> Path:
    """Return the folder of the installed package `nnunetv2`, without importing it.

    Raises:
        DependencyError: It is not installed.
    """
    spec = importlib.util.find_spec("nnunetv2")
    # Without an origin it is a folder that an uninstalled nnU-Net left behind.
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        raise DependencyError("nnU-Net is not installed in this Python: pip install 'nnunetv2>=2.8.1,<2.9'")
    return Path(spec.submodule_search_locations[0])


def register(nnunet_root: Path | None = None) -> list[Path]:
    """Write both shims into nnU-Net's folders, unless they are current.

    Returns:
        The files that were written; empty if both were current.

    Raises:
        ConfigError: A folder cannot be written to, or a file of that name is not ours.
        DependencyError: nnU-Net is not installed.
        UpstreamError: nnU-Net has no such folder.
    """
    missing = [shim for shim in shims(nnunet_root) if shim.state != "current"]
    for shim in missing:
        if not shim.path.parent.is_dir():
            raise UpstreamError(
                f"{shim.path.parent}: no such folder in this nnU-Net; install the tested one: "
                "pip install 'nnunetv2>=2.8.1,<2.9'"
            )
        if shim.state == "foreign":
            raise ConfigError(f"{shim.path} was not written by hippo-nnunet: move it away, then register again")
    for shim in missing:
        try:
            with atomic_path(shim.path) as temporary:
                temporary.write_text(shim.text, encoding="utf-8")
                # In a shared environment every user of nnU-Net has to be able to read it, whatever the umask is.
                shutil.copymode(shim.path.parent / "__init__.py", temporary)
        except OSError as error:
            raise ConfigError(
                f"cannot write {shim.path}: {error.strerror}. Install nnU-Net into an environment of your own, or do "
                f"without registration. {WITHOUT_REGISTRATION[0].upper()}{WITHOUT_REGISTRATION[1:]}"
            ) from error
    return [shim.path for shim in missing]


def unregister(nnunet_root: Path | None = None) -> list[Path]:
    """Remove our shims from nnU-Net's folders, and nothing else.

    Returns:
        The files that were removed; a file of that name that is not ours stays, with a warning.

    Raises:
        ConfigError: A shim cannot be removed.
        DependencyError: nnU-Net is not installed.
    """
    removed = []
    for shim in shims(nnunet_root):
        if shim.state == "foreign":
            logger.warning("%s was not written by hippo-nnunet: left alone", shim.path)
        if shim.state not in ("current", "outdated"):
            continue
        try:
            shim.path.unlink()
            Path(importlib.util.cache_from_source(str(shim.path))).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"cannot remove {shim.path}: {error.strerror}; ask the owner of that environment to delete it"
            ) from error
        removed.append(shim.path)
    return removed
