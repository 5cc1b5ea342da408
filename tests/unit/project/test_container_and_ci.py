"""The container's and the CI's files: what they copy exists, they run the README's commands, and hold no secret."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of(word: str) -> list[str]:
    return [rest for name, rest in instructions() if name == word]


def is_ignored(path: str) -> bool:
    """Tell whether .dockerignore keeps a path out of the context, as Docker does: the last line that fits decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if not pattern or pattern.startswith("#"):
            continue
        from_root = [path, *map(str, Path(path).parents)][:-1]
        places = Path(path).parts if "**/" in line else from_root
        if any(fnmatch.fnmatch(place, pattern) for place in places):
            ignored = not line.startswith("!")
    return ignored


def test_the_context_holds_what_is_copied_and_no_data() -> None:
    copied = [source for rest in of("COPY") for source in rest.split()[:-1]]
    assert {"pyproject.toml", "hippo_nnunet", "trainers", "planners"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not is_ignored(source), source
    for kept_out in (".git/config", ".venv/bin/python", "results/README.md", "tests/conftest.py", ".env", "id_rsa"):
        assert is_ignored(kept_out), kept_out
    assert is_ignored("hippo_nnunet/__pycache__/x.pyc")
    size = sum(path.stat().st_size for part in copied for path in [ROOT / part, *(ROOT / part).rglob("*")])
    assert size < 30e6, "the context has grown: what of it does the package need?"


def test_everything_that_the_package_needs_is_copied() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {folder.split("/")[0] for folder in settings["tool"]["setuptools"]["package-dir"].values()}
    files = {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml"}
    copied = {source for rest in of("COPY") for source in rest.split()[:-1]}
    assert folders | files <= copied


def test_the_image_is_made_by_the_readmes_commands_and_runs_as_nobody_special() -> None:
    steps = [step.strip() for rest in of("RUN") for step in rest.split("&&")]
    for command in ("pip install -e '.[openvino]'", "hippo-nnunet register"):
        assert command in steps
        assert command in README
    (base,) = of("FROM")
    assert re.fullmatch(r"python:3\.\d+-slim-[a-z]+", base)
    assert Version(re.findall(r"3\.\d+", base)[0]) in SpecifierSet(PROJECT["requires-python"])
    assert of("USER")[-1] not in ("root", "0")
    assert of("ENTRYPOINT") == ['["hippo-nnunet"]']
    assert not any(re.search(r"(?i)token|secret|password|api_key", rest) for _, rest in instructions())


@pytest.mark.parametrize(("device", "index"), [("cpu", "/whl/cpu"), ("cuda", "pypi.org"), ("tpu", None)])
def test_the_device_decides_where_torch_comes_from(device: str, index: str | None, tmp_path: Path) -> None:
    (run,) = (rest for rest in of("RUN") if "DEVICE" in rest)
    (tmp_path / "pip").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "pip").chmod(0o755)
    environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "DEVICE": device}
    done = subprocess.run(["sh", "-c", run], env=environ, capture_output=True, text=True, check=False, timeout=60)
    if index is None:
        assert done.returncode == 1
        assert "take cpu or cuda" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert index in words[words.index("--index-url") + 1]
    (torch,) = (word for word in done.stdout.split() if word.startswith("torch>"))
    (ours,) = (text for text in PROJECT["dependencies"] if Requirement(text).name == "torch")
    assert Requirement(torch).specifier == Requirement(ours).specifier


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_whole(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w./-]+@v\d+", step.get("uses", "a@v1"))
            script = shlex.split(step.get("run", ""))[:1]
            assert not script or not script[0].startswith("scripts/") or os.access(ROOT / script[0], os.X_OK)


def test_the_ci_runs_what_the_readme_names_on_every_python() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    commands = {name: [step.get("run") for step in job["steps"]] for name, job in jobs.items()}
    for name, script in (("test", "scripts/test"), ("lowest", "scripts/test"), ("demo", "scripts/demo")):
        assert script in commands[name]
        assert f"`{script}`" in README
    local = (ROOT / ".ci" / "run").read_text()
    for command in ("ruff check .", "ruff format --check .", "mypy"):
        assert command in commands["lint"]
        assert f'"$python" -m {command}' in local
    allowed = SpecifierSet(PROJECT["requires-python"])
    versions = [f"3.{minor}" for minor in range(9, 30) if Version(f"3.{minor}") in allowed]
    assert jobs["test"]["strategy"]["matrix"]["python-version"] == versions


def test_the_lowest_versions_are_the_lowest_that_we_allow() -> None:
    lines = (ROOT / "requirements-lowest.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    versions = {_name(pin): Version(next(iter(pin.specifier)).version) for pin in pins}
    for text in PROJECT["dependencies"]:
        ours = Requirement(text)
        version = versions[_name(ours)]
        assert version in ours.specifier, f"{text}: requirements-lowest.txt has {version}; make it anew"
        lowest = min(Version(part.version) for part in ours.specifier if part.operator == ">=")
        assert version == lowest, f"{text}: the lowest that Python 3.11 can install is {version}; raise the bound to it"


def _name(requirement: Requirement) -> str:
    return requirement.name.lower().replace("_", "-")
