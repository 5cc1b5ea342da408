"""Whatever is wrong with the input: exit code 1 or 2, one line with what, where and the remedy, nothing changed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bad_input import Bad, Outcome, World, run_in_process, surroundings, words
from bad_input_archives import ROWS as ARCHIVES
from bad_input_compare import ROWS as COMPARE
from bad_input_datasets import ROWS as DATASETS
from bad_input_explain import ROWS as EXPLAIN
from bad_input_images import ROWS as IMAGES
from bad_input_packaged import ROWS as PACKAGED
from bad_input_predict import ROWS as PREDICT
from bad_input_program import ROWS as PROGRAM
from bad_input_run import ROWS as RUN
from bad_input_sharing import ROWS as SHARING
from bad_input_training import ROWS as TRAINING
from bad_input_world import make_world
from typer.main import get_command

from hippo_nnunet.cli.main import app

ROWS = (*DATASETS, *IMAGES, *ARCHIVES, *PROGRAM, *TRAINING, *PREDICT, *PACKAGED, *EXPLAIN, *RUN, *COMPARE, *SHARING)


@pytest.fixture(scope="module")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("bad") / "with a space")


def world_of(row: Bad, whole_world: World, tmp_path: Path) -> World:
    """The world, or a copy of it that is damaged."""
    if not row.damage:
        return whole_world
    world = World(Path(shutil.copytree(whole_world.base, tmp_path / "with a space", symlinks=True)))
    for damage in row.damage:
        damage(world)
    return world


def check(row: Bad, world: World, outcome: Outcome) -> None:
    """Compare what happened with what the row says."""
    said = outcome.stdout if row.on_stdout else outcome.stderr
    assert outcome.code == row.code, outcome
    assert "Traceback" not in outcome.stdout + outcome.stderr
    assert row.on_stdout or outcome.stdout == "", outcome.stdout
    if row.code == 1 and not row.on_stdout:
        lines = [line for line in outcome.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, outcome.stderr
        assert outcome.stderr.splitlines()[-1] == lines[0], "something stands below the message"
        assert not lines[0].startswith("error: unexpected"), lines[0]
        said = lines[0]
    if row.code == 2:
        said = " ".join(re.sub("[│╭╰─╮╯]", " ", said).split())
    for words_said in row.says:
        assert world.fill(words_said) in said, said


def test_the_table_is_large_and_its_rows_differ() -> None:
    assert len(ROWS) >= 100
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_table_has_every_command() -> None:
    commands = set()
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        commands |= {f"{name} {part}" for part in inner} if inner else {name}
    tested = {" ".join(row.command.split()[:count]) for row in ROWS for count in (1, 2)}
    assert commands - tested == set()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "-"))
def test_bad_input(row: Bad, whole_world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world = world_of(row, whole_world, tmp_path)
    before = world.tree()
    with surroundings(row, world):
        outcome = run_in_process(words(row.command, world), capfd)
    check(row, world, outcome)
    assert world.tree() == before


@pytest.mark.parametrize("name", ["image-is-empty", "fold-is-a-word", "no-such-command"])
def test_bad_input_in_a_process_of_its_own(name: str, whole_world: World, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.name.replace(" ", "-") == name)
    world = world_of(row, whole_world, tmp_path)
    before = world.tree()
    with surroundings(row, world):
        command = [sys.executable, "-m", "hippo_nnunet.cli.main", *words(row.command, world)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    check(row, world, Outcome(done.returncode, done.stdout, done.stderr))
    assert world.tree() == before
