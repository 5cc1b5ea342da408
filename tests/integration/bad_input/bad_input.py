"""The table of bad input: what a row is, the world that it damages, and how the program is run in this process."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shlex
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest

from benchmarks import __main__ as benchmarks
from hippo_nnunet.cli import main as program

Damage = Callable[["World"], object]
DATASET = "Dataset004_Phantom"
CASES = tuple(f"phantom_{number:03d}" for number in range(1, 7))
TEST_CASES = ("phantom_901", "phantom_902")
SHAPE = (6, 7, 8)
_OURS = ("nnUNet_", "HIPPO_CLIP_", "HIPPO_PRECISION")


@dataclass(frozen=True)
class Bad:
    """One bad input.

    Attributes:
        name: What is wrong.
        command: The words after `hippo-nnunet`, or `benchmark` and the words after `python -m benchmarks`; `{place}`
            stands for a path of the world.
        says: What the message holds: what failed, where, and the remedy; places are filled in here too.
        damage: Changes to the world before the command runs.
        environ: Variables that are set; places are filled in.
        code: 1, or 2 for wrong usage.
        on_stdout: The finding is what the command prints (a check), not an error.
        unprivileged: Permissions have to count, also for root.
        replaced: Attribute by dotted path to what stands in its place.
    """

    name: str
    command: str
    says: tuple[str, ...]
    damage: tuple[Damage, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    code: int = 1
    on_stdout: bool = False
    unprivileged: bool = False
    replaced: Mapping[str, Callable[[World], object]] = field(default_factory=dict)


@dataclass(frozen=True)
class World:
    """Folders with one of everything that a command reads, all of it right."""

    base: Path

    @property
    def places(self) -> dict[str, str]:
        """Every name that a row may use, with its path."""
        experiment = self.base / "experiment"
        root = experiment / "nnunet"
        model = root / "nnUNet_results" / DATASET / "UNetTrainer_fast__CompactPlans__2d"
        found = {
            "base": self.base,
            "task": self.base / "Task04_Phantom",
            "out": self.base / "out",
            "experiment": experiment,
            "root": root,
            "raw": root / "nnUNet_raw" / DATASET,
            "pre": root / "nnUNet_preprocessed" / DATASET,
            "model": model,
            "images": root / "nnUNet_raw" / DATASET / "imagesTs",
            "predictions": self.base / "predictions",
            "zip": self.base / "Task04_Phantom.zip",
        }
        return {name: str(path) for name, path in found.items()}

    def fill(self, text: str) -> str:
        return text.format(**self.places)

    def at(self, place: str) -> Path:
        return Path(self.fill(place))

    def tree(self) -> dict[str, str]:
        """Every path below the base with its kind and content."""
        found = {}
        for path in sorted(self.base.rglob("*")):
            if path.name.startswith("torchinductor_"):  # torch makes it at its import
                continue
            kind = stat.S_IFMT(path.lstat().st_mode)
            content = b""
            if stat.S_ISLNK(kind):
                content = str(path.readlink()).encode()
            elif stat.S_ISREG(kind):
                content = path.read_bytes()
            found[str(path.relative_to(self.base))] = f"{kind} {hashlib.sha256(content).hexdigest()}"
        return found


@dataclass(frozen=True)
class Outcome:
    """What a run of the program showed."""

    code: int
    stdout: str
    stderr: str


def text(place: str, content: str) -> Damage:
    """Write a file, and the folders that it lies in."""
    return lambda world: _written(world.at(place), content.encode())


def data(place: str, content: bytes) -> Damage:
    """Write a file of bytes."""
    return lambda world: _written(world.at(place), content)


def folder(place: str) -> Damage:
    """Make a folder, in the place of a file that is there."""

    def make(world: World) -> None:
        world.at(place).unlink(missing_ok=True)
        world.at(place).mkdir(parents=True, exist_ok=True)

    return make


def gone(place: str) -> Damage:
    """Delete a file or a folder."""

    def delete(world: World) -> None:
        path = world.at(place)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return delete


def cut(place: str, keep: float = 0.5) -> Damage:
    """Keep the first part of a file."""

    def shorten(world: World) -> None:
        content = world.at(place).read_bytes()
        world.at(place).write_bytes(content[: int(len(content) * keep)])

    return shorten


def closed(place: str, mode: int = 0) -> Damage:
    """Take permissions away."""
    return lambda world: world.at(place).chmod(mode)


def edited(place: str, change: Callable[[Any], object]) -> Damage:
    """Change the content of a JSON file; a change that returns something else than None replaces it."""

    def edit(world: World) -> None:
        content = json.loads(world.at(place).read_text())
        replaced = change(content)
        world.at(place).write_text(json.dumps(content if replaced is None else replaced))

    return edit


def image(place: str, array: np.ndarray, affine: np.ndarray | None = None) -> Damage:
    """Write a NIfTI image, (x, y, z)."""

    def write(world: World) -> None:
        world.at(place).parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), world.at(place))

    return write


def _written(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def run_in_process(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> Outcome:
    """Run the program or, for `benchmark`, the benchmarks, with the entry point's handling of errors."""
    capfd.readouterr()
    benchmark = arguments[:1] == ["benchmark"]
    with patch.object(sys, "argv", ["hippo-nnunet", *arguments[benchmark:]]):
        try:
            program.run_program(benchmarks.app if benchmark else program.app)
            code: object = 0
        except SystemExit as end:
            code = end.code
    printed = capfd.readouterr()
    return Outcome(int(code or 0) if isinstance(code, int) or code is None else 1, printed.out, printed.err)


@contextlib.contextmanager
def surroundings(row: Bad, world: World) -> Iterator[None]:
    """Set the row's variables and no other of nnU-Net's and ours, and work below the world's base."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    wanted = {name: world.fill(value) for name, value in row.environ.items()}
    before = Path.cwd()
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, {**kept, "COLUMNS": "200", **wanted}, clear=True))
        stack.enter_context(patch.object(tempfile, "tempdir", str(world.base / "tmp")))
        for name, replacement in row.replaced.items():
            stack.enter_context(patch(name, replacement(world)))
        stack.callback(os.chdir, before)
        os.chdir(world.base)
        if row.unprivileged:
            stack.enter_context(_without_override())
        yield


@contextlib.contextmanager
def _without_override() -> Iterator[None]:
    """Let permissions count for root too: put away the capabilities that pass them over (Linux, this thread)."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root is not bound by permissions here")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(header, sets) != 0:
        pytest.skip("root is not bound by permissions here")
    fewer = (ctypes.c_uint32 * 6)(*sets)
    fewer[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of the effective set
    if libc.capset(header, fewer) != 0:
        pytest.skip("root is not bound by permissions here")
    try:
        yield
    finally:
        libc.capset(header, sets)


def words(command: str, world: World) -> list[str]:
    """Split a row's command, and fill in its places."""
    return [world.fill(word) for word in shlex.split(command)]
