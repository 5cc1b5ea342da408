"""`hippo-nnunet data`: options, exit codes, and what goes to stdout."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from hippo_nnunet.cli.data import app
from hippo_nnunet.errors import DataError

runner = CliRunner()


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    result = runner.invoke(app, ["synth", "--output", str(folder), "--cases", "1", "--test-cases", "1", "--seed", "2"])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(folder / "Task04_Phantom")
    return folder / "Task04_Phantom"


def test_synth_and_check(phantom: Path) -> None:
    result = runner.invoke(app, ["check", str(phantom)])
    assert result.exit_code == 0
    assert "0 errors, 0 warnings" in result.stdout.replace("\n", "")
    assert json.loads(runner.invoke(app, ["check", str(phantom), "--json"]).stdout) == []


def test_check_lists_errors_and_exits_1(phantom: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    content = json.loads((phantom / "dataset.json").read_text()) | {"test": [], "numTest": 0}
    (folder / "dataset.json").write_text(json.dumps(content))
    for part in ("imagesTr", "labelsTr"):
        array = np.full((4, 4, 4), 3, np.uint8)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / part / "phantom_001.nii.gz")
    result = runner.invoke(app, ["check", str(folder)])
    assert result.exit_code == 1
    assert "label-values" in result.stdout
    assert "labelsTr/phantom_001.nii.gz" in result.stdout
    listed = runner.invoke(app, ["check", str(folder), "--json"])
    assert listed.exit_code == 1
    found = {(entry["problem"], entry["severity"]) for entry in json.loads(listed.stdout)}
    assert {("constant-image", "error"), ("label-values", "error"), ("unused-label", "warning")} <= found
    assert all(Path(entry["path"]).exists() and entry["remedy"] for entry in json.loads(listed.stdout))


def test_warnings_alone_exit_0(phantom: Path) -> None:
    hidden = phantom / "imagesTr" / "._phantom_001.nii.gz"
    hidden.write_bytes(b"")
    result = runner.invoke(app, ["check", str(phantom)])
    hidden.unlink()
    assert result.exit_code == 0
    assert "hidden-file" in result.stdout


def test_errors_reach_the_caller(phantom: Path, tmp_path: Path) -> None:
    for command, says in (
        (["synth", "--output", str(phantom.parent)], f"{phantom}: exists already"),
        (["convert", str(tmp_path / "nothing"), "--root", str(tmp_path)], "nothing: there is no such folder"),
    ):
        error = runner.invoke(app, command).exception
        assert isinstance(error, DataError)
        assert says in str(error)
    assert not (tmp_path / "nnUNet_raw").exists()


@pytest.mark.parametrize("own", [True, False])
def test_convert_writes_where_the_user_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    seen = []
    monkeypatch.setattr("hippo_nnunet.data.convert.convert_msd", lambda *args, **_: seen.append(args) or "done")
    if own:
        monkeypatch.setenv("nnUNet_raw", str(tmp_path / "mine"))
    else:
        monkeypatch.delenv("nnUNet_raw", raising=False)
    root = [] if own else ["--root", str(tmp_path)]
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)
    result = runner.invoke(app, ["convert", "a.tar", *root, "-d", "9"])
    assert result.exit_code == 0, result.exception
    expected = tmp_path / ("mine" if own else "nnUNet_raw")
    assert seen == [(Path("a.tar"), expected, 9, False)]


def test_fetch_gets_the_published_archive_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[str, str | None]] = []

    def fetched(folder: Path, url: str, md5: str | None, **options: object) -> Path:
        seen.append((url.rsplit("/", 1)[-1], md5))
        return folder / "there.tar"

    monkeypatch.setattr("hippo_nnunet.data.fetch.fetch_task04", fetched)
    result = runner.invoke(app, ["fetch", "--output", str(tmp_path)])
    assert (result.exit_code, result.stdout.strip()) == (0, str(tmp_path / "there.tar"))
    assert seen == [("Task04_Hippocampus.tar", "9d24dba78a72977dbd1d2e110310f31b")]
    for arguments in (["--url", "https://a/Task05_B.tar"], ["--url", "https://a/Task05_B.tar", "--md5", "0" * 32]):
        runner.invoke(app, ["fetch", "--output", str(tmp_path), *arguments], catch_exceptions=False)
    assert seen[1:] == [("Task05_B.tar", None), ("Task05_B.tar", "0" * 32)]
