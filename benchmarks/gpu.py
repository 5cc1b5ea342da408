"""Every benchmark that needs a GPU, one after the other, from a dataset to the figures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.document import STOCK, Result
from benchmarks.epochs import EpochsJob, benchmark_epochs
from benchmarks.prediction import PredictJob, benchmark_predict
from benchmarks.steps import StepsJob, benchmark_steps
from hippo_nnunet.data.convert import convert_msd
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.experiment.request import dataset_of_task
from hippo_nnunet.nnunet import preprocessed
from hippo_nnunet.nnunet.api import plan_and_preprocess
from hippo_nnunet.nnunet.paths import activate
from hippo_nnunet.training.recipe_words import BASES

log = logging.getLogger(__name__)

PLANS = "nnUNetPlans"
CONFIGURATIONS = {"2d": "2d", "3d": "3d_fullres"}
PARTS = ("train-2d", "train-3d", "predict-2d", "predict-3d", "step-2d", "step-3d")


@dataclass(frozen=True)
class GpuJob:
    """What is measured, and how long.

    Attributes:
        work: Folder that keeps the models, which prediction needs; nnU-Net's folders go below it where its variables
            are unset.
        dataset: Id or name of a dataset in nnU-Net's raw folder; not needed with a task to convert.
        device: `cuda`, or `cpu` for a rehearsal.
        parts: Which of PARTS; `predict-*` needs `train-*` before it, in this run or an earlier one.
        epochs: Epochs of each training, of 250 iterations; all are followed by the final validation.
        repeats: Trainings of each side; predictions are repeated once more.
        quick: A rehearsal: two epochs of two iterations, two cases, two steps. Its figures mean nothing.
    """

    work: Path
    dataset: str = "4"
    device: str = "cuda"
    parts: tuple[str, ...] = PARTS
    epochs: int = 20
    repeats: int = 2
    quick: bool = False


def prepare(job: GpuJob, task: Path | None = None) -> str:
    """Convert the data where a Decathlon task is named, plan it with nnU-Net's own planner, and preprocess it.

    Returns:
        The dataset's full name.

    Raises:
        ConfigError: Unknown parts, no such dataset, or a folder that cannot be made.
        DataError: The data has errors.
    """
    unknown = [part for part in job.parts if part not in PARTS]
    if unknown:
        raise ConfigError(f"--parts {','.join(unknown)}: unknown; take some of {','.join(PARTS)}")
    try:
        job.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{job.work}: {error.strerror}: choose another --work") from error
    folders = activate(job.work)
    name = dataset_of_task(task) if task is not None else preprocessed.dataset_name(job.dataset, folders)
    if task is not None and not (folders.raw / name / "dataset.json").is_file():
        convert_msd(task, folders.raw)
    plan_and_preprocess(name, "ExperimentPlanner", tuple(CONFIGURATIONS.values()))
    return name


def benchmark_gpu(job: GpuJob, dataset: str) -> Iterator[Result]:
    """Yield one result after the other, so that what is measured is kept if a later part fails.

    Args:
        job: What to measure.
        dataset: The name that `prepare` returned.

    Raises:
        ConfigError: No such device, or a model that is to predict is not trained.
        HippoError: A program failed; its last lines are in the log.
    """
    for part in (part for part in PARTS if part in job.parts):
        kind, _, dim = part.partition("-")
        log.info("part %s", part)
        yield {"train": _train, "predict": _predict, "step": _step}[kind](job, dataset, CONFIGURATIONS[dim])


def _train(job: GpuJob, dataset: str, configuration: str) -> Result:
    return benchmark_epochs(
        EpochsJob(
            dataset,
            configuration,
            PLANS,
            epochs=2 if job.quick else job.epochs,
            iterations=2 if job.quick else 250,
            device=job.device,
            repeats=1 if job.quick else job.repeats,
            validate=True,
            keep=job.work / "trained" / configuration,
        ),
        job.work,
    )


def _predict(job: GpuJob, dataset: str, configuration: str) -> Result:
    model = job.work / "trained" / configuration / STOCK / dataset / f"nnUNetTrainer__{PLANS}__{configuration}"
    if not model.is_dir():
        part = next(dim for dim, name in CONFIGURATIONS.items() if name == configuration)
        raise ConfigError(f"{model} is missing: run the part train-{part} first, with the same --work")
    return benchmark_predict(
        PredictJob(
            model,
            activate(job.work).raw / dataset / "imagesTs",
            (0,),
            job.device,
            limit=2 if job.quick else None,
            repeats=1 if job.quick else job.repeats + 1,
            warm_up=not job.quick,
        )
    )


def _step(job: GpuJob, dataset: str, configuration: str) -> Result:
    trainers = tuple(f"{base}_mini_fast" if base.startswith("CLIP") else f"{base}_fast" for base in BASES)
    quick = {"repeats": 2, "warm_up": 1} if job.quick else {}
    return benchmark_steps(StepsJob(dataset, trainers, configuration, PLANS, device=job.device, **quick), job.work)
