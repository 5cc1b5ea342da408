"""nnU-Net's folders and variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from hippo_nnunet.cli import registration as cli
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.nnunet import paths
from hippo_nnunet.nnunet.paths import (
    EXT_VARIABLE,
    FOLDER_VARIABLES,
    activate,
    environment,
    export_lines,
    folders_for,
    trained_model,
)
from hippo_nnunet.nnunet.registration import EXT_TRAINERS


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start without nnU-Net's variables, and undo whatever a test sets."""
    for variable in (*FOLDER_VARIABLES, EXT_VARIABLE):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(cli.env)
    app.command(name="list")(cli.list_)
    return app


def test_everything_below_the_root(tmp_path: Path) -> None:
    folders = activate(tmp_path / "a")
    assert folders == folders_for(tmp_path / "a", {})
    for variable, folder in zip(FOLDER_VARIABLES, (folders.raw, folders.preprocessed, folders.results), strict=True):
        assert os.environ[variable] == str(folder) == str(tmp_path / "a" / variable)
        assert folder.is_dir()
        assert list(folder.iterdir()) == []
    assert os.environ[EXT_VARIABLE] == str(EXT_TRAINERS)


def test_what_the_user_set_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "mine"))
    folders = activate(tmp_path / "root")
    assert folders.results == tmp_path / "mine"
    assert os.environ[FOLDER_VARIABLES[2]] == str(tmp_path / "mine")
    assert not (tmp_path / "root" / "nnUNet_results").exists()


def test_the_users_external_trainers_stay_first() -> None:
    values = environment(Path("r"), {EXT_VARIABLE: os.pathsep.join(["/mine", "/other"])})
    assert values[EXT_VARIABLE].split(os.pathsep) == ["/mine", "/other", str(EXT_TRAINERS)]
    assert environment(Path("r"), values) == values


def test_relative_root_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment(Path("rel"), {})["nnUNet_raw"] == str(tmp_path / "rel" / "nnUNet_raw")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folders_for(Path("~/x"), {}).raw == tmp_path / "x" / "nnUNet_raw"


def test_without_root_the_unset_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "/somewhere")
    with pytest.raises(ConfigError, match=r"^nnUNet_preprocessed, nnUNet_results not set: pass --root DIR"):
        environment(None)


def test_only_the_folders_that_are_used_have_to_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "mine"))
    folders = activate(None)
    assert folders.preprocessed == tmp_path / "mine"
    assert folders.preprocessed.is_dir()
    assert folders.of_datasets == [folders.preprocessed]
    assert os.environ[EXT_VARIABLE] == str(EXT_TRAINERS)
    for name in ("raw", "results"):
        assert f"nnUNet_{name}" not in os.environ
        with pytest.raises(ConfigError, match=f"^nnUNet_{name} is not set: pass --root DIR, or export nnUNet_{name}$"):
            getattr(folders, name)
    with pytest.raises(ConfigError, match=r"^nnUNet_raw is not set"):
        _ = folders_for(None, {}).of_datasets


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    names = ("UNetTrainer__CompactPlans__2d", "UNetTrainer__nnUNetPlans__2d", "UNetTrainer_fast__CompactPlans__2d")
    folder = tmp_path / "nnUNet_results" / "Dataset004_Hippocampus"
    made = [*(folder / name for name in names), folder / "UNetTrainer__nnUNetPlans__3d_fullres"]
    for path in made:
        path.mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("4", "2d", "UNetTrainer", "CompactPlans"), 0),
        (("Dataset004_Hippocampus", "2d", None, "nnUNetPlans"), 1),
        (("004", "2d", "UNetTrainer_fast", None), 2),
        (("4", "3d_fullres", None, None), 3),
    ],
)
def test_a_trained_model_by_its_names(
    tmp_path: Path, models: list[Path], asked: tuple[str, str, str | None, str | None], expected: int
) -> None:
    assert trained_model(folders_for(tmp_path, {}), *asked) == models[expected]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("4", "2d", "UNetTrainer", None), "several models of dataset 4 2d .* -tr UNetTrainer -p any; there are: Data"),
        (("4", "2d", "UNet", None), "no model of dataset 4 2d .*; there are: .*UNetTrainer_fast__CompactPlans__2d"),
        (("4", "*", None, None), "no model"),
        (("5", "2d", None, None), "there are: none"),
        (("../Dataset004_Hippocampus/..", "2d", None, None), "there are: none"),
    ],
)
def test_a_trained_model_that_is_not_clear(
    tmp_path: Path, models: list[Path], asked: tuple[str, str, str | None, str | None], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        trained_model(folders_for(tmp_path, {}), *asked)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"nnUNet_raw=.*file/nnUNet_raw: Not a directory"):
        activate(tmp_path / "file")
    assert "nnUNet_raw" not in os.environ


def test_a_folder_that_another_process_removes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def mkdir(folder: Path, **options: bool) -> None:
        made.append(folder)
        if len(made) > 1:
            os.mkdir(folder)  # noqa: PTH102 - mkdir is replaced

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert paths.folder_problem(tmp_path / "new") == ""
    assert len(made) == 2


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def problem(folder: Path) -> str:
        return "Read-only file system" if folder.name == "nnUNet_results" else ""

    monkeypatch.setattr(paths, "folder_problem", problem)
    with pytest.raises(ConfigError, match=r"nnUNet_results=.*Read-only file system"):
        activate(tmp_path)


def test_the_users_raw_folder_may_be_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    monkeypatch.setattr(paths, "folder_problem", lambda folder: "Read-only" if folder == tmp_path else "")
    assert activate(tmp_path / "root").raw == tmp_path


@pytest.mark.parametrize("name", ["plain", "with space", "quo'te", "$(touch pwned)", 'dou"ble', "new\nline"])
def test_a_shell_reads_the_exports_back(tmp_path: Path, name: str) -> None:
    lines = export_lines(environment(tmp_path / name, {}))
    script = f'eval "$1"; "{sys.executable}" -c "import os, json; print(json.dumps(dict(os.environ)))"'
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", lines],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PATH": ""},
    )
    assert json.loads(done.stdout)["nnUNet_results"] == str(tmp_path / name / "nnUNet_results")
    assert list(tmp_path.iterdir()) == []


def test_env_prints_nothing_but_exports(tmp_path: Path, app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["env", "--root", str(tmp_path / "x y")])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split("=")[0] for line in lines] == [f"export {v}" for v in (*FOLDER_VARIABLES, EXT_VARIABLE)]
    assert (tmp_path / "x y" / "nnUNet_results").is_dir()


def test_env_without_root_fails_without_output(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["env"])
    assert isinstance(done.exception, ConfigError)
    assert done.stdout == ""


def test_list_names_every_trainer_planner_and_word(app: typer.Typer) -> None:
    from hippo_nnunet.planners import PLANNERS
    from hippo_nnunet.training.recipe_words import BASES, WORD_GROUPS

    listed = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert listed["trainers"] == BASES
    assert listed["planners"] == PLANNERS
    assert {(w["group"], w["word"]) for w in listed["words"]} == {(g.name, w) for g in WORD_GROUPS for w in g.words}
    text = CliRunner().invoke(app, ["list"]).stdout
    assert all(name in text for name in [*BASES, *PLANNERS, *(w["word"] for w in listed["words"])])
