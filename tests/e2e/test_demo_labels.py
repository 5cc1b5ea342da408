"""After the short trainings of `scripts/demo`, the first that a newcomer sees, every CLIP design finds every label."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app

pytestmark = pytest.mark.slow

SCRIPT = (Path(__file__).parents[2] / "scripts" / "demo").read_text()
CASES, EPOCHS, ITERATIONS = (re.search(rf"--{word} (\d+)", SCRIPT)[1] for word in ("cases", "epochs", "iterations"))


def hippo(*words: object) -> str:
    """Run a command, and return the last line of its output."""
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    hippo("data", "synth", "--output", folder, "--cases", CASES, "--test-cases", 4)
    hippo("data", "convert", folder / "Task04_Phantom", "--root", folder)
    hippo("plan", "--dataset", 4, "--preset", "laptop", "-c", "2d", "--root", folder)
    return folder


@pytest.mark.parametrize("design", ["", "dense_", "textHead_"])
def test_every_design_finds_every_label(root: Path, design: str) -> None:
    trainer = f"CLIPGuidedUNetTrainer_{design}mini_fast_{EPOCHS}epochs_{ITERATIONS}iters"
    options = ("-d", 4, "-c", "2d", "-f", 0, "-tr", trainer, "-p", "CompactPlans", "-device", "cpu", "--no-npz")
    fold = Path(hippo("train", *options, "--root", root))
    found = json.loads((fold / "validation" / "summary.json").read_text())["mean"]
    assert set(found) == {"1", "2"}
    assert min(label["Dice"] for label in found.values()) > 0.3, found
