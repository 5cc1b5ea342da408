"""The distribution for prediction alone stays in step with the project's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[3]
OURS, SMALL = (tomllib.loads((ROOT / path / "pyproject.toml").read_text()) for path in ("", "predict"))
LEFT_OUT = {
    "clip/mini/*",
    "pages/report/templates/*",
    "pages/exploration/templates/*",
    "pages/explanation/templates/*",
    "workflow/Snakefile",
    "workflow/profiles/*/*.yaml",
}
"""Data of commands that it does not run."""


def test_its_requirements_are_some_of_ours() -> None:
    assert set(SMALL["project"]["dependencies"]) <= set(OURS["project"]["dependencies"])
    assert not {"torch", "nnunetv2"} & {text.partition(">")[0] for text in SMALL["project"]["dependencies"]}
    for key in ("requires-python", "scripts"):
        assert SMALL["project"][key] == OURS["project"][key]


def test_its_data_are_ours_but_for_what_is_left_out() -> None:
    ours, small = (set(project["tool"]["setuptools"]["package-data"]["hippo_nnunet"]) for project in (OURS, SMALL))
    assert small == ours - LEFT_OUT
    assert ours >= LEFT_OUT
