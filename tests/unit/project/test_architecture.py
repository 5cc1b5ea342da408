"""The arrows of the package: the contracts of `[tool.importlinter]` in pyproject.toml hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_imports_flow_one_way(tmp_path):
    # import-linter looks for sub-packages on disk: trainers and planners are put where the installation has them.
    package = tmp_path / "hippo_nnunet"
    shutil.copytree(ROOT / "hippo_nnunet", package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in ("trainers", "planners"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [Path(sys.executable).with_name("lint-imports"), ROOT / "pyproject.toml", "--no-cache"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
