"""Writing and removing the shims, and what they answer."""

from __future__ import annotations

import importlib.util
import logging
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest

from hippo_nnunet.errors import ConfigError, DependencyError, UpstreamError
from hippo_nnunet.nnunet.registration import EXT_TRAINERS, register, shims, unregister


@pytest.fixture
def nnunet_root(tmp_path: Path) -> Path:
    """The two folders of an installed nnU-Net that registration touches."""
    root = tmp_path / "site packages" / "nnunetv2"
    for folder in (root / "training" / "nnUNetTrainer", root / "experiment_planning"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch(mode=0o644)
    return root


def contents(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def load(path: Path) -> types.ModuleType:
    """Import a file by itself, as nnU-Net imports a shim."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_register_and_unregister_leave_everything_else_as_it_was(nnunet_root: Path) -> None:
    before = contents(nnunet_root)
    written = register(nnunet_root)
    assert {path.name for path in written} == {"hippo_nnunet_trainers.py", "hippo_nnunet_planners.py"}
    assert contents(nnunet_root).keys() - before.keys() == {str(p.relative_to(nnunet_root)) for p in written}
    assert sorted(unregister(nnunet_root)) == sorted(written)
    assert contents(nnunet_root) == before


def test_both_are_idempotent(nnunet_root: Path) -> None:
    written = register(nnunet_root)
    times = [path.stat().st_mtime_ns for path in written]
    assert register(nnunet_root) == []
    assert [path.stat().st_mtime_ns for path in written] == times
    unregister(nnunet_root)
    assert unregister(nnunet_root) == []


def test_an_older_shim_is_replaced(nnunet_root: Path) -> None:
    trainers, _ = shims(nnunet_root)
    register(nnunet_root)
    trainers.path.write_text(trainers.text.splitlines()[0] + "\nraise RuntimeError\n")
    assert trainers.state == "outdated"
    assert register(nnunet_root) == [trainers.path]
    assert trainers.state == "current"


def test_a_file_that_is_not_ours_is_never_touched(nnunet_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainers, planners = shims(nnunet_root)
    trainers.path.write_text("mine = 1\n")
    with pytest.raises(ConfigError, match="not written by hippo-nnunet"):
        register(nnunet_root)
    assert planners.state == "absent"
    with caplog.at_level(logging.WARNING):
        assert unregister(nnunet_root) == []
    assert "left alone" in caplog.text
    assert trainers.path.read_text() == "mine = 1\n"


def test_unregister_removes_the_cached_bytecode(nnunet_root: Path) -> None:
    for path in register(nnunet_root):
        subprocess.run([sys.executable, "-m", "py_compile", str(path)], check=True)
    assert list(nnunet_root.rglob("*.pyc"))
    unregister(nnunet_root)
    assert not list(nnunet_root.rglob("*.pyc"))


def test_other_users_of_a_shared_environment_can_read_the_shim(nnunet_root: Path) -> None:
    for path in register(nnunet_root):
        assert path.stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize("failing", ["write_text", "replace"])
def test_read_only_folder_names_the_other_way(nnunet_root: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, failing, refuse)
    before = contents(nnunet_root)
    with pytest.raises(ConfigError, match="hippo-nnunet env --root DIR") as caught:
        register(nnunet_root)
    assert "\n" not in str(caught.value)
    assert "Permission denied" in str(caught.value)
    assert "nnUNet_extTrainer" in str(caught.value)
    assert "hippo-nnunet plan -d ID -pl AttentionUNetPlanner" in str(caught.value)
    assert contents(nnunet_root) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_for_real(nnunet_root: Path) -> None:
    folder = nnunet_root / "training" / "nnUNetTrainer"
    folder.chmod(0o555)
    try:
        with pytest.raises(ConfigError, match="Permission denied"):
            register(nnunet_root)
    finally:
        folder.chmod(0o755)


def test_nnunet_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match=r"pip install 'nnunetv2>=2\.8"):
        register()


def test_nnunet_without_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="nnUNetTrainer"):
        register(tmp_path)


def test_the_folder_for_external_trainers_holds_the_shim_and_nothing_else(nnunet_root: Path) -> None:
    assert {path.name for path in EXT_TRAINERS.glob("*.py")} == {"__init__.py", "hippo_nnunet_trainers.py"}
    assert (EXT_TRAINERS / "hippo_nnunet_trainers.py").read_text() == shims(nnunet_root)[0].text


@pytest.mark.parametrize("which", [0, 1])
def test_a_shim_answers_foreign_names_with_attribute_error(nnunet_root: Path, which: int) -> None:
    register(nnunet_root)
    module = load(shims(nnunet_root)[which].path)
    foreign = (
        "nnUNetTrainer", "nnUNetTrainer_5epochs", "nnUNetTrainerDA5", "AttentionUNetTrainerXL", "MyUNetTrainer",
        "ExperimentPlanner", "nnUNetPlannerResEncM", "DatasetFingerprintExtractor", "PLANNERS", "import_module",
        "BASES", "Any", "is_ours", "torch", "__path__", "__wrapped__", "__all__", "", "UNet", "Trainer", "Planner",
    )  # fmt: skip
    assert [name for name in foreign if hasattr(module, name)] == []
    assert module.__file__ == str(shims(nnunet_root)[which].path)


@pytest.mark.parametrize("which", [0, 1])
def test_a_shim_without_the_package_is_an_empty_module(nnunet_root: Path, which: int) -> None:
    register(nnunet_root)
    path = shims(nnunet_root)[which].path
    code = (
        "import sys, importlib.util as u; sys.modules['hippo_nnunet'] = None\n"
        f"spec = u.spec_from_file_location('shim', {str(path)!r}); m = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(m); assert not hasattr(m, 'AttentionUNetTrainer'), 'no guard'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_foreign_names_import_nothing_heavy() -> None:
    code = (
        "import sys; from hippo_nnunet.nnunet.registration import trainer_attribute as t, planner_attribute as p\n"
        "for ask in (t, p):\n"
        "  for name in ('nnUNetTrainer', 'ExperimentPlanner', '__file__'):\n"
        "    try: ask(name); sys.exit('answered')\n"
        "    except AttributeError: pass\n"
        "heavy = {'torch', 'numpy', 'nnunetv2', 'typer', 'hippo_nnunet.trainers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Stand(types.ModuleType):
    """Stands for `hippo_nnunet.trainers`: makes classes on demand, refuses unknown words."""

    def __getattr__(self, name: str) -> type:
        if name.endswith("_flp"):
            raise ConfigError("Did you mean 'AttentionUNetTrainer_flip'?")
        if name.endswith("_seed9"):
            raise AttributeError("'module' object has no attribute 'float8_e8m0fnu'")
        if not name.startswith("AttentionUNetTrainer"):
            raise AttributeError(name)
        made = type(name, (), {"__module__": self.__name__})
        setattr(self, name, made)
        return made


@pytest.fixture
def trainers_shim(nnunet_root: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    monkeypatch.setitem(sys.modules, "hippo_nnunet.trainers", Stand("hippo_nnunet.trainers"))
    register(nnunet_root)
    return load(shims(nnunet_root)[0].path)


def test_a_class_keeps_its_identity_and_pickles(trainers_shim: types.ModuleType, nnunet_root: Path) -> None:
    first = trainers_shim.AttentionUNetTrainer_fast_seed3
    again = load(shims(nnunet_root)[0].path).AttentionUNetTrainer_fast_seed3
    assert first is again
    assert first.__module__ == "hippo_nnunet.trainers"
    assert pickle.loads(pickle.dumps(first)) is first


def test_a_wrong_word_is_our_error_even_through_hasattr(trainers_shim: types.ModuleType) -> None:
    with pytest.raises(ConfigError, match="AttentionUNetTrainer_flip"):
        hasattr(trainers_shim, "AttentionUNetTrainer_flp")


def test_an_attribute_error_inside_our_package_is_not_swallowed_by_hasattr(trainers_shim: types.ModuleType) -> None:
    with pytest.raises(UpstreamError, match="float8_e8m0fnu"):
        hasattr(trainers_shim, "AttentionUNetTrainer_seed9")
