"""The examples of docs/extending.md work as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_dataset import PLANS, TinyDataset

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"
TRAINER = "DropoutUNetTrainer_fast_1epochs_2iters"


def section(title: str) -> str:
    return PAGE.read_text().partition(f"\n## {title}")[2].partition("\n## ")[0]


def block(language: str, text: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    assert len(found) == 1
    return found[0]


def program(code: str, path: Path) -> str:
    """Run code with a folder of packages before the others; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the page, built and installed by pip into a folder of its own."""
    source, installed = tmp_path_factory.mktemp("acme_unets"), tmp_path_factory.mktemp("installed")
    text = section("A network in a separate package")
    (source / "pyproject.toml").write_text(block("toml", text))
    (source / "acme_unets.py").write_text(block("python", text))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(installed), str(source)], check=True, capture_output=True)
    return installed


def test_a_foreign_network_is_listed_trained_and_predicts(
    acme: Path, in_tiny: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(acme))
    assert "DropoutUNetTrainer" in in_tiny.command("hippo-nnunet", "list")
    in_tiny.command("nnUNetv2_train", in_tiny.number, "2d", 0, "-p", PLANS, "-tr", TRAINER, "-device", "cpu")
    fold = in_tiny.model(TRAINER) / "fold_0"
    assert (fold / "validation" / "summary.json").is_file()
    options = ("--input", in_tiny.images, "--model", fold.parent, "--device", "cpu")
    in_tiny.command("hippo-nnunet", "predict", "--output", tmp_path / "ours", *options)
    assert len(list((tmp_path / "ours").glob("*.nii.gz"))) == 2


def test_it_is_the_foreign_network_that_is_trained(acme: Path, in_tiny: TinyDataset) -> None:
    built = program(
        "import torch\n"
        "from nnunetv2.run.run_training import get_trainer_from_args\n"
        f"names = ('{in_tiny.name}', '2d', 0, '{TRAINER}', '{PLANS}')\n"
        "trainer = get_trainer_from_args(*names, device=torch.device('cpu'))\n"
        "trainer.initialize()\n"
        "print(type(trainer.network).__module__, type(trainer.network).__name__, trainer.network.dropout.p)\n",
        acme,
    )
    assert built.splitlines()[-1] == "acme_unets DropoutUNet 0.1"


def test_a_foreign_package_that_is_broken_is_named(acme: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['acme_unets'] = None\n"
        "from hippo_nnunet import trainers\n"
        "from hippo_nnunet.errors import DependencyError\n"
        "try:\n    trainers.DropoutUNetTrainer\n"
        "except DependencyError as error:\n    print(error)\n"
        "print(trainers.AttentionUNetTrainer.__name__)\n"
    )
    told, ours = program(code, acme).splitlines()[-2:]
    assert "acme_unets:DropoutUNetTrainer" in told
    assert ours == "AttentionUNetTrainer"


@pytest.fixture(params=["A recipe word", "A metric"])
def changed(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A copy of the package with the section's changes; the section's program, and what it prints there."""
    text = section(request.param)
    package = tmp_path / "hippo_nnunet"
    shutil.copytree(ROOT / "hippo_nnunet", package, ignore=shutil.ignore_patterns("__pycache__"))
    apply = ["git", "apply", "--unidiff-zero", "-"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    subprocess.run(apply, cwd=tmp_path, input=block("diff", text), text=True, check=True, env=environment)
    code = block("python", text)
    return request.param, program(code, tmp_path)


def test_a_change_of_the_page_applies_and_does_what_it_says(changed: tuple[str, str]) -> None:
    expected = {"A recipe word": "UNetTrainer_tversky_fast True", "A metric": "0.5"}
    assert changed[1].strip() == expected[changed[0]]
