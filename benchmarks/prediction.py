"""Whole processes: `nnUNetv2_predict` against `hippo-nnunet predict`."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.agreement import compare_labels, compare_probabilities
from benchmarks.document import OURS, STOCK, Result
from benchmarks.processes import Run, program, run_measured
from benchmarks.ratios import turns
from hippo_nnunet.data.cases import InputCase, find_cases
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.inference.members import Member, find_members, load_member
from hippo_nnunet.nnunet.api import resolve_device
from hippo_nnunet.nnunet.paths import environment
from hippo_nnunet.sharing.exporting import ExportOptions
from hippo_nnunet.sharing.onnx_exporting import export_onnx

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictJob:
    """What both sides predict.

    Attributes:
        model: nnU-Net's model folder `{trainer}__{plans}__{configuration}`.
        images: Folder of images.
        folds: Folds; None for all that are trained.
        device: `auto`, `cpu`, `cuda` or `mps`; the same for both.
        limit: Predict the first so many cases only; None for all.
        repeats: How often each side predicts.
        mirroring: Average over mirrored images.
        probabilities: Predict once more, unmeasured, with probabilities, and compare these.
        backend: Our `--backend`; None leaves it to us.
        checkpoint: File in each fold's folder.
        warm_up: Predict one case with each side before anything is measured, so that neither reads its libraries from
            a cold disk.
        trust: Predict with checkpoints and plans that could run code.
        onnx: Ours predicts with an ONNX file of the folds, exported before anything is measured.
    """

    model: Path
    images: Path
    folds: tuple[int | str, ...] | None = None
    device: str = "auto"
    limit: int | None = None
    repeats: int = 3
    mirroring: bool = True
    probabilities: bool = False
    backend: str | None = None
    checkpoint: str = "checkpoint_final.pth"
    warm_up: bool = True
    trust: bool = False
    onnx: bool = False


def benchmark_predict(job: PredictJob) -> Result:
    """Predict the same images with both programs in turns.

    Raises:
        ConfigError: A missing model, fold or checkpoint, a model folder not named as nnU-Net names it, or an ONNX file
            for another device than the CPU.
        DependencyError: The device is not available, or onnx is not installed.
        DataError: No images, results that cannot be compared, or a model that could run code and is not trusted.
        HippoError: A program failed; its last lines are in the log.
    """
    member = find_members([job.model], job.folds, job.checkpoint, job.trust)[0]
    cases = find_cases(job.images, member.channels)[: job.limit]
    device = resolve_device(job.device)
    if job.onnx and device != "cpu":
        raise ConfigError(f"an ONNX file is computed on the CPU, but the device is {device}: give --device cpu")
    load_member(member, torch.device("cpu"), job.mirroring, "torch")  # nnU-Net's side checks nothing
    with tempfile.TemporaryDirectory(prefix="hippo-benchmark-") as scratch:
        work = Path(scratch)
        sides = _Sides(job, member, device, work)
        images = _link_images(cases, work / "images", str(member.dataset_json["file_ending"]))
        if job.warm_up:
            one = _link_images(cases[:1], work / "one", str(member.dataset_json["file_ending"]))
            for side in (STOCK, OURS):
                sides.predict(side, one, work / f"warm-up-{side}")
        measures: dict[str, dict[str, list[float]]] = {STOCK: {}, OURS: {}}
        checks: list[dict[str, Any]] = []
        for count, (side, repeat) in enumerate(turns((STOCK, OURS), job.repeats), start=1):
            run = sides.predict(side, images, work / f"{side}-{repeat}")
            run.add_to(measures[side])
            log.info("%s, repeat %d: %.1f s, %.0f MiB", side, repeat + 1, run.seconds, run.peak_rss_mib)
            if count % 2 == 0:
                checks.append(sides.compare(work / f"{STOCK}-{repeat}", work / f"{OURS}-{repeat}"))
        agreement = min(checks, key=lambda check: float(check["equal_share"]))
        if job.probabilities:
            folders = [work / f"{side}-probabilities" for side in (STOCK, OURS)]
            for side, folder in zip((STOCK, OURS), folders, strict=True):
                sides.predict(side, images, folder, probabilities=True)
            agreement |= {"probabilities": compare_probabilities(*folders)}
    return Result("predict", _settings(job, member, device, len(cases)), measures, agreement)


class _Sides:
    """The two programs, set up to predict with one model."""

    def __init__(self, job: PredictJob, member: Member, device: str, work: Path) -> None:
        self.job, self.member, self.device, self.work = job, member, device, work
        self.parts = _name_parts(member.folder)
        dataset = str(member.plans["dataset_name"])
        results = work / "results"
        (results / dataset).mkdir(parents=True)
        # nnUNetv2_predict looks for a model below nnUNet_results only
        (results / dataset / member.folder.resolve().name).symlink_to(member.folder.resolve())
        own = {**os.environ, "nnUNet_results": str(results)}
        self.environ = {**own, **environment(work, own)}
        self.dataset = dataset
        self.onnx = work / "model.onnx" if job.onnx else None
        if self.onnx:
            export_onnx(member.folder, self.onnx, ExportOptions(member.folds, job.checkpoint, trust=job.trust))

    def predict(self, side: str, images: Path, output: Path, probabilities: bool = False) -> Run:
        command = self._stock(images, output) if side == STOCK else self._ours(images, output)
        if probabilities:
            command.append("--save_probabilities" if side == STOCK else "--save-probabilities")
        return run_measured(command, self.environ, self.work / f"{output.name}.log")

    def compare(self, stock: Path, ours: Path) -> dict[str, Any]:
        """Compare two folders of predictions and delete them."""
        found = compare_labels(stock, ours, str(self.member.dataset_json["file_ending"]))
        shutil.rmtree(stock)
        shutil.rmtree(ours)
        return found

    def _stock(self, images: Path, output: Path) -> list[str]:
        trainer, plans, configuration = self.parts
        model = ["-d", self.dataset, "-tr", trainer, "-p", plans, "-c", configuration, "-chk", self.job.checkpoint]
        folds = ["-f", *map(str, self.member.folds)]
        command = [program("nnUNetv2_predict"), "-i", str(images), "-o", str(output), *model, *folds]
        return [*command, "-device", self.device, *([] if self.job.mirroring else ["--disable_tta"])]

    def _ours(self, images: Path, output: Path) -> list[str]:
        command = [program("hippo-nnunet"), "predict", "--input", str(images), "--output", str(output)]
        backend = ["--backend", self.job.backend] if self.job.backend else []
        options = [*backend, *([] if self.job.mirroring else ["--no-mirroring"])]
        if self.onnx:
            return [*command, "--model", str(self.onnx), *options]
        model = ["--model", str(self.member.folder), "--checkpoint", self.job.checkpoint]
        folds = ["--folds", ",".join(map(str, self.member.folds))]
        trust = ["--trust-checkpoint"] * self.job.trust
        return [*command, *model, *folds, "--device", self.device, *options, *trust]


def _name_parts(folder: Path) -> tuple[str, str, str]:
    parts = folder.resolve().name.split("__")
    if len(parts) != 3:
        raise ConfigError(
            f"{folder}: nnUNetv2_predict finds a model by its name TRAINER__PLANS__CONFIGURATION; rename the folder"
        )
    return parts[0], parts[1], parts[2]


def _link_images(cases: Sequence[InputCase], folder: Path, ending: str) -> Path:
    """Link the images under the names that nnU-Net wants."""
    folder.mkdir()
    for case in cases:
        for channel, file in enumerate(case.files):
            if not file.name.endswith(ending):
                raise ConfigError(f"{file}: nnUNetv2_predict reads only images of the model's kind, *{ending}")
            (folder / f"{case.case}_{channel:04d}{ending}").symlink_to(file.resolve())
    return folder


def _settings(job: PredictJob, member: Member, device: str, cases: int) -> dict[str, Any]:
    trainer, plans, configuration = _name_parts(member.folder)
    return {
        "dataset": member.plans["dataset_name"],
        "trainer": trainer,
        "plans": plans,
        "configuration": configuration,
        "folds": list(member.folds),
        "cases": cases,
        "mirroring": job.mirroring,
        "device": device,
        "backend": job.backend,
        "onnx": job.onnx,
        "repeats": job.repeats,
    }
