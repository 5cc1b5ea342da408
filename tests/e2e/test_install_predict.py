"""`pip install ./predict` in a fresh environment: prediction with the packaged model, without torch and nnU-Net."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed `hippo-nnunet`; skips where no package index can be reached."""
    folder = tmp_path_factory.mktemp("fresh")
    clone = folder / "clone"
    for name in ("hippo_nnunet", "predict"):  # what is built leaves traces beside the sources
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    pip = [folder / "env" / "bin" / "pip", "--disable-pip-version-check"]
    reached = subprocess.run(
        [*pip, "download", "-q", "--no-deps", "-d", folder, "setuptools"], capture_output=True, check=False
    )
    if reached.returncode:
        pytest.skip("no package index can be reached: nothing is installed")
    done = subprocess.run(
        [*pip, "install", "-q", "--no-compile", clone / "predict"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert subprocess.run([*pip, "check"], check=False).returncode == 0
    shutil.rmtree(clone)
    return folder / "env" / "bin" / "hippo-nnunet"


def run(program: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it with nothing of this environment, and no way into a network."""
    environ = {"PATH": os.defpath, "HOME": str(cwd), "https_proxy": "http://127.0.0.1:9", "COLUMNS": "200"}
    return subprocess.run(
        [str(program), *map(str, arguments)], env=environ, cwd=cwd, capture_output=True, text=True, check=False
    )


def test_prediction_works_and_training_says_what_it_needs(program: Path, tmp_path: Path) -> None:
    packages = next(program.parent.parent.glob("lib/python3*/site-packages"))
    for name in ("torch", "nnunetv2", "open_clip", "snakemake", "matplotlib"):
        assert not (packages / name).exists()
    image = np.random.default_rng(0).normal(100, 20, (36, 50, 34)).astype(np.float32).clip(0)
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), tmp_path / "scan.nii.gz")
    options = ("--volumes", "volumes.csv", "--qc", "qc")
    done = run(program, "predict", "-i", "scan.nii.gz", "-o", "masks", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "packaged model" in done.stderr
    assert nibabel.load(tmp_path / "masks" / "scan.nii.gz").shape == image.shape
    assert "contrast" in (tmp_path / "volumes.csv").read_text()
    assert (tmp_path / "qc" / "index.html").is_file()
    done = run(program, "segment", "scan.nii.gz", "-o", "segmented", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CC-BY-SA-4.0" in run(program, "model", "info", cwd=tmp_path).stdout
    for arguments in (("list",), ("clip", "info")):
        done = run(program, *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert "which is not installed: install hippo_nnunet" in done.stderr
