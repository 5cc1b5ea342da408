"""What other systems do otherwise: workers are spawned, paths hold spaces and any letters, case is ignored."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_dataset import PLANS, UNET, TinyDataset

from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.nnunet import memory_cases
from hippo_nnunet.nnunet.finished import is_finished
from hippo_nnunet.planners import PLANNERS
from hippo_nnunet.training import recipe_words

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    [
        "UNetTrainer",
        "UNetTrainer_flipRotNoise_diceFocal_1epochs_1iters_seed1",
        "CLIPGuidedUNetTrainer_cached_mini_fast_1epochs_1iters",
    ],
)
def test_what_goes_to_worker_processes_can_be_pickled(
    name: str, in_tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_cases, "free_memory", lambda *_: 0)
    trainer = in_tiny.trainer(name)
    trainer.initialize()
    for loader in trainer.get_dataloaders():
        plain = loader.data_loader
        sent = pickle.loads(pickle.dumps(plain))
        assert type(sent) is type(plain)
        ours, theirs = next(sent), next(plain)
        assert ours["data"].shape == theirs["data"].shape
        assert set(ours) == set(theirs)


def test_training_with_spawned_workers(tiny: TinyDataset) -> None:
    script = Path(__file__).parents[1] / "helpers" / "spawned_training.py"
    name = "UNetTrainer_flip_1epochs_2iters_seed5"
    done = subprocess.run(
        [sys.executable, str(script), tiny.name, name],
        env={**os.environ, **tiny.environ, "nnUNet_n_proc_DA": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nnU-Net's own data loader" in done.stdout
    assert is_finished(Path(done.stdout.splitlines()[-1]))


def test_folders_with_spaces_and_letters_of_any_script(
    trained: TinyDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "Größe & Co" / "海馬 (Kopie)"
    moved = TinyDataset(home / "nnU-Net Daten", trained.name)
    shutil.copytree(trained.root, moved.root)
    for name, value in moved.environ.items():
        monkeypatch.setenv(name, value)
    output = home / "Vorhersage 1"
    written = predict(moved.images, output, [moved.model(UNET)], PredictOptions(device="cpu"))
    there = predict(trained.images, tmp_path / "plain", [trained.model(UNET)], PredictOptions(device="cpu"))
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in there]
    assert json.loads((output / "plans.json").read_text())["plans_name"] == PLANS


def test_a_checkpoint_names_no_folder_of_another_system(trained: TinyDataset) -> None:
    """Paths in a pickle are of one system: a WindowsPath cannot be read on Linux."""
    file = trained.model(UNET) / "fold_0" / "checkpoint_final.pth"
    content = torch.load(file, weights_only=False)
    assert b"pathlib" not in pickle.dumps({key: content[key] for key in ("init_args", "hippo_nnunet", "trainer_name")})


def test_no_two_names_differ_in_case_alone() -> None:
    """Disks of macOS and Windows make no difference between them."""
    words = [word for group in recipe_words.WORD_GROUPS for word in group.words]
    names = [*recipe_words.BASES, *words, *PLANNERS, "ensemble"]
    assert len({name.casefold() for name in names}) == len(names)
