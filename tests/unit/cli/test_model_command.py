"""The options of `model export` and `model import`, through the program's own parser, as they reach the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.sharing.exporting import ExportOptions

WRITTEN = Path("written")

Calls = list[tuple[str, tuple[Any, ...]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the commands would have done: the function and its arguments."""
    seen: Calls = []

    def record(name: str) -> Any:
        return lambda *given: seen.append((name, given)) or WRITTEN

    monkeypatch.setattr("hippo_nnunet.sharing.exporting.export_model", record("export_model"))
    monkeypatch.setattr("hippo_nnunet.sharing.onnx_exporting.export_onnx", record("export_onnx"))
    monkeypatch.setattr("hippo_nnunet.sharing.installing.install_model", record("install_model"))
    return seen


def did(calls: Calls, *words: str) -> tuple[str, tuple[Any, ...]]:
    done = CliRunner().invoke(app, ["model", *words])
    assert (done.exit_code, done.stdout) == (0, f"{WRITTEN}\n"), done.output
    (call,) = calls
    return call


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--folds", "0,2"], {"folds": [0, 2]}),
        (["-f", "all"], {"folds": ["all"]}),
        (["--checkpoint", "best.pth"], {"checkpoint": "best.pth"}),
        (["--experiment", "exp"], {"experiment": Path("exp")}),
        (["--licence", "CC0-1.0"], {"licence": "CC0-1.0"}),
        (["--citation", "A paper, 2026"], {"citation": "A paper, 2026"}),
        (["--trust-checkpoint"], {"trust": True}),
        (["--overwrite"], {"overwrite": True}),
        (["--half"], {"half": True}),
    ],
)
@pytest.mark.parametrize(("onnx", "function"), [([], "export_model"), (["--onnx"], "export_onnx")])
def test_export(calls: Calls, onnx: list[str], function: str, words: list[str], expected: dict[str, Any]) -> None:
    call = did(calls, "export", "folder", "--output", "file", *onnx, *words)
    assert call == (function, (Path("folder"), Path("file"), ExportOptions(**expected)))


@pytest.mark.parametrize(
    ("words", "root", "overwrite"),
    [([], None, False), (["--root", "here"], Path("here"), False), (["--overwrite"], None, True)],
)
def test_import(calls: Calls, words: list[str], root: Path | None, overwrite: bool) -> None:
    assert did(calls, "import", "a.hippo", *words) == ("install_model", (Path("a.hippo"), root, overwrite))
