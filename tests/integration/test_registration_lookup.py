"""nnU-Net's real look-ups and commands, on a copy of nnU-Net, before and after registration.

Each test starts fresh processes, since a look-up leaves modules behind; `PYTHONPATH` puts the copy before the installed
nnU-Net, so that no test changes the environment that it runs in.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_dataset import TinyDataset

from hippo_nnunet.nnunet.paths import EXT_VARIABLE, FOLDER_VARIABLES
from hippo_nnunet.nnunet.registration import EXT_TRAINERS, find_nnunet, register

pytestmark = pytest.mark.slow

LOOK_UPS = """
import io, json, pickle, sys
from contextlib import redirect_stdout
from pathlib import Path
import nnunetv2
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as trainer

def planner(name):
    folder = Path(nnunetv2.__path__[0], "experiment_planning")
    return recursive_find_python_class(str(folder), name, current_module="nnunetv2.experiment_planning")

def answer(find, name):
    with redirect_stdout(io.StringIO()):
        try:
            first = find(name)
            if first is None:
                return None
            if find(name) is not first or pickle.loads(pickle.dumps(first)) is not first:
                return "another class"
            return f"{first.__module__}.{first.__qualname__}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"

print(json.dumps({
    name: answer(find, name)
    for find, names in ((trainer, sys.argv[1].split()), (planner, sys.argv[2].split())) for name in names
}))
"""
UNINSTALLED = "import sys; sys.modules['hippo_nnunet'] = None\n"
TRAINERS = (
    "AttentionUNetTrainer UNetTrainer AttentionUNetTrainer_fast_seed3 AttentionUNetTrainer_flp "
    "nnUNetTrainer nnUNetTrainer_5epochs AttentionUNetTrainerXL"
)
PLANNERS = "AttentionUNetPlanner CompactPlanner Pad64Planner ExperimentPlanner ResEncUNetPlanner OtherPlanner"
STOCK_TRAINER = "nnunetv2.training.nnUNetTrainer.nnUNetTrainer.nnUNetTrainer"
STOCK_PLANNER = "nnunetv2.experiment_planning.experiment_planners.default_experiment_planner.ExperimentPlanner"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for `PYTHONPATH` with a copy of nnU-Net that knows nothing of us."""
    site = tmp_path_factory.mktemp("plain")
    shutil.copytree(find_nnunet(), site / "nnunetv2", ignore=shutil.ignore_patterns("hippo_nnunet_*"))
    return site


@pytest.fixture(scope="module")
def registered(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, registered."""
    site = tmp_path_factory.mktemp("registered")
    shutil.copytree(plain / "nnunetv2", site / "nnunetv2")
    assert len(register(site / "nnunetv2")) == 2
    return site


def python(site: Path, code: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")}
    environ = {**kept, "PYTHONPATH": str(site), **environ}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environ, cwd=site, capture_output=True, text=True, check=False
    )


def look_up(site: Path, code: str = LOOK_UPS, **environ: str) -> dict[str, str | None]:
    done = python(site, code, TRAINERS, PLANNERS, **environ)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_registered(registered: Path) -> None:
    found = look_up(registered)
    for name in ("AttentionUNetTrainer", "UNetTrainer", "AttentionUNetTrainer_fast_seed3"):
        assert found[name] == f"hippo_nnunet.trainers.{name}"
    assert (found["AttentionUNetTrainer_flp"] or "").startswith("ConfigError")
    assert "AttentionUNetTrainer_flip" in (found["AttentionUNetTrainer_flp"] or "")
    for name in ("AttentionUNetPlanner", "CompactPlanner", "Pad64Planner"):
        dotted = found[name] or ""
        assert dotted.startswith("hippo_nnunet.planners.")
        assert dotted.endswith(f".{name}")
    assert found["nnUNetTrainer"] == STOCK_TRAINER
    assert found["ExperimentPlanner"] == STOCK_PLANNER
    for name in ("nnUNetTrainer_5epochs", "ResEncUNetPlanner"):
        assert (found[name] or "").startswith("nnunetv2.")
    assert (found["AttentionUNetTrainerXL"] or "").startswith("RuntimeError: Could not find")
    assert found["OtherPlanner"] is None


def test_registered_but_uninstalled_leaves_nnunet_as_it_was(registered: Path) -> None:
    for name, found in look_up(registered, UNINSTALLED + LOOK_UPS).items():
        if name in ("nnUNetTrainer", "nnUNetTrainer_5epochs", "ExperimentPlanner", "ResEncUNetPlanner"):
            assert (found or "").startswith("nnunetv2.")
        else:
            assert (found or "RuntimeError: Could not find").startswith("RuntimeError: Could not find")


def test_external_trainers(plain: Path) -> None:
    found = look_up(plain, nnUNet_extTrainer=os.pathsep.join([str(plain / "gone"), str(EXT_TRAINERS)]))
    for name in ("AttentionUNetTrainer", "UNetTrainer", "AttentionUNetTrainer_fast_seed3"):
        assert found[name] == f"hippo_nnunet.trainers.{name}"
    assert "AttentionUNetTrainer_flip" in (found["AttentionUNetTrainer_flp"] or "")
    assert found["nnUNetTrainer"] == STOCK_TRAINER
    assert found["AttentionUNetPlanner"] is None


def test_planning_and_training_without_registration(plain: Path, tiny: TinyDataset, tmp_path: Path) -> None:
    """What the message of `register` in a read-only nnU-Net advises; each step with the variables that it needs."""
    folders = {variable: str(tmp_path / variable) for variable in FOLDER_VARIABLES}
    shutil.copytree(tiny.raw, Path(folders["nnUNet_raw"], tiny.name))
    preprocessed = Path(folders["nnUNet_preprocessed"], tiny.name)
    preprocessed.mkdir(parents=True)
    for name in ("splits_final.json", "dataset_fingerprint.json"):
        shutil.copy2(tiny.preprocessed / name, preprocessed)
    small = {"OMP_NUM_THREADS": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}

    def succeeds(code: str, *arguments: object, **environ: str) -> str:
        done = python(plain, code, *map(str, arguments), **small, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    program = "from hippo_nnunet.cli.main import main; main()"
    of_planning = {name: folders[name] for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    planned = succeeds(program, "plan", "-d", tiny.number, "-c", "2d", "-pl", "CompactPlanner", **of_planning)
    assert planned == "CompactPlans\n"
    exports = succeeds(program, "env", "--root", tmp_path)
    told = dict(line.removeprefix("export ").split("=", 1) for line in exports.splitlines())
    of_training = {**folders, "nnUNet_n_proc_DA": "0", EXT_VARIABLE: told[EXT_VARIABLE]}
    recipe = ("-tr", "AttentionUNetTrainer_noAug_1epochs_1iters", "-p", "CompactPlans", "-device", "cpu")
    model = f"{recipe[1]}__CompactPlans__2d"
    fold = tmp_path / "nnUNet_results" / tiny.name / model / "fold_0"
    train_and_predict = (
        "import os, sys; request = sys.argv.pop().split('|')\n"
        "from nnunetv2.run.run_training import run_training_entry as run; run()\n"
        f"for name in {FOLDER_VARIABLES[:2]}: del os.environ[name]\n"
        "from hippo_nnunet.cli.main import main; sys.argv[1:] = ['predict', *request]; main()"
    )
    request = ("-i", tiny.images, "-o", tmp_path / "out", "-d", tiny.number, "-c", "2d", "-f", 0, "-device", "cpu")
    files = succeeds(train_and_predict, tiny.number, "2d", 0, *recipe, "|".join(map(str, request)), **of_training)
    assert (fold / "validation" / "summary.json").is_file()
    assert json.loads((fold.parent / "dataset.json").read_text())["axis_codes"] == {"LPS": 4}
    assert [Path(file).parent for file in files.splitlines()[-2:]] == [tmp_path / "out"] * 2


def test_the_training_command_prints_the_nearest_name(registered: Path) -> None:
    code = "from nnunetv2.run.run_training import run_training_entry; run_training_entry()"
    done = python(registered, code, "4", "2d", "0", "-tr", "AttentionUNetTrainer_flp", "-device", "cpu")
    assert done.returncode == 1
    assert "AttentionUNetTrainer_flip" in done.stderr.splitlines()[-1]


def test_doctor_sees_all_three_states(plain: Path, registered: Path, tmp_path: Path) -> None:
    def levels(site: Path, *arguments: str) -> dict[str, str]:
        code = "import typer; from hippo_nnunet.cli.doctor import doctor; typer.run(doctor)"
        done = python(site, code, "--json", *arguments)
        return {finding["check"]: finding["level"] for finding in json.loads(done.stdout)}

    names = ("registration", "look-up of AttentionUNetTrainer", "look-up of AttentionUNetPlanner", "nnUNet_raw")
    bare, external, full = levels(plain), levels(plain, "--root", str(tmp_path)), levels(registered)
    assert [bare[name] for name in names] == ["error", "error", "error", "note"]
    assert [external[name] for name in names] == ["warning", "ok", "warning", "warning"]
    assert [full[name] for name in names] == ["ok", "ok", "ok", "note"]
    assert list(tmp_path.iterdir()) == []
