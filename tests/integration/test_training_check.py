"""The training check, whole, on the CPU."""

from __future__ import annotations

import getpass
import json
import platform
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.doctor.training_lines import NEEDS_CUDA, NEEDS_TWO, QUICK

pytestmark = [pytest.mark.slow, pytest.mark.training_check]


def test_the_whole_check_on_the_cpu(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["doctor", "--training", "--device", "cpu", "--work", str(tmp_path / "work"), "--output", str(report)]
    done = CliRunner().invoke(app, options)
    document = json.loads(report.read_text())
    results = {line["name"]: (line["result"], line["reason"]) for line in document["lines"]}
    assert [(name, *found) for name, found in results.items() if found[0] == "fail"] == []
    assert done.exit_code == 0
    assert {reason for result, reason in results.values() if result == "not run"} == {NEEDS_CUDA, NEEDS_TWO, QUICK}
    assert sum(result == "pass" for result, _ in results.values()) > 30
    assert (document["device"], document["gpu"], document["quick"]) == ("cpu", None, True)
    text = report.read_text()
    for private in (str(tmp_path), str(Path.home()), f"/{getpass.getuser()}/", platform.node()):
        assert len(private) < 4 or private not in text
