"""Fixtures of the tests that use nnU-Net itself: a tiny dataset, and models trained on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from tiny_dataset import ATTENTION, UNET, TinyDataset, make_dataset


@pytest.fixture(scope="session", autouse=True)
def no_progress_plots() -> Iterator[None]:
    """Trainings in this process write a single pixel: nnU-Net draws progress.png for a second of CPU after every epoch.

    Trainings in processes of their own draw it.
    """
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    with pytest.MonkeyPatch.context() as patch:
        pixel = Image.new("L", (1, 1))
        patch.setattr(LocalLogger, "plot_progress_png", lambda _, folder: pixel.save(f"{folder}/progress.png"))
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    """A preprocessed dataset with two labels."""
    return make_dataset(
        tmp_path_factory.mktemp("tiny"), "Dataset901_Tiny", configurations=("2d", "3d_fullres", "3d_lowres")
    )


@pytest.fixture
def in_tiny(tiny: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinyDataset]:
    """The dataset, with nnU-Net's variables set in this process."""
    for name, value in tiny.environ.items():
        monkeypatch.setenv(name, value)
    yield tiny


@pytest.fixture(scope="session")
def trained(tiny: TinyDataset) -> TinyDataset:
    """The dataset with UNET and ATTENTION trained and validated with probabilities in 2d, folds 0 and 1.

    ATTENTION is also trained in 3d_fullres, fold 0.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in tiny.environ.items():
            patch.setenv(name, value)
        for trainer, fold in [(UNET, 0), (UNET, 1), (ATTENTION, 0), (ATTENTION, 1)]:
            made = tiny.trainer(trainer, "2d", fold)
            made.run_training()
            made.perform_actual_validation(save_probabilities=True)
        tiny.trainer(ATTENTION, "3d_fullres", 0).run_training()
    return tiny


@pytest.fixture(scope="module")
def experiment(trained: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment whose trainings are the tiny models', under the names that its preset gives them."""
    folder = tmp_path_factory.mktemp("experiment")
    asked = {"dataset": trained.name, "preset": "laptop", "variants": ["UNet_seed1", "AttentionUNet_seed1"]}
    asked |= {"folds": {"2d": [0, 1]}, "number_of_folds": 2, "epochs": 1, "iterations": 100, "plans": "CompactPlans"}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(asked))
    results = folder / "nnunet" / "nnUNet_results" / trained.name
    results.mkdir(parents=True)
    for trainer in (UNET, ATTENTION):
        (results / f"{trainer}__CompactPlans__2d").symlink_to(trained.model(trainer))
    for name in ("nnUNet_preprocessed", "nnUNet_raw"):
        (folder / "nnunet" / name).symlink_to(trained.root / name)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, with WebGL in software."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: the page is not opened")
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as manager:
        opened = manager.chromium.launch(executable_path=found, args=flags)
        yield opened
        opened.close()
