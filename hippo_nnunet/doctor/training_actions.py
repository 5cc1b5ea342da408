"""What the lines of the training check do: train for a few steps, interrupt, resume, predict, and compare.

Imports torch and nnU-Net, whose variables have to be set before.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

from hippo_nnunet.doctor.isolation import CheckError, NotRunError
from hippo_nnunet.doctor.training_data import DATASET, PLANS, make_dataset
from hippo_nnunet.doctor.training_recorder import Recorder
from hippo_nnunet.doctor.training_spec import EAGER, Settings, Training
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.files import read_json, read_object, write_json
from hippo_nnunet.inference.batched_predictor import BatchedPredictor
from hippo_nnunet.inference.loading import load_model
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.inference.sliding_window import PreprocessedImage
from hippo_nnunet.nnunet.memory_cases import read_case
from hippo_nnunet.nnunet.paths import FOLDER_VARIABLES
from hippo_nnunet.processes import python_command
from hippo_nnunet.training import step
from hippo_nnunet.training.precision_choice import VARIABLE as PRECISION

LENGTH = "2epochs_5iters"
STEPS = 10
INTERRUPTED_AFTER = 7
"""Steps before the interruption: within the second epoch, and enough for CUDA graphs to be captured and replayed."""

LOSS_TOLERANCE = {"float32": 0.02, "bfloat16": 0.1, "float16": 0.1}
"""Largest difference of a step's loss, about 1, between two modes."""
REPEAT_TOLERANCE = 1e-5
"""The same between two trainings with one seed on a GPU, which sums the loss in no fixed order."""
PROBABILITY_TOLERANCE = 0.02
AGREEING_SHARE = {"the CPU": 0.999, "nnU-Net's predictor": 0.98, "a second time": 1.0}
"""Share of the probabilities that have to lie within the tolerance, by what they are compared with.

nnU-Net sums in half precision, which is coarse in the corners of a 3D image, where patches have little weight.
"""

SEED = 0
_CHILD = (
    "import json, sys; from hippo_nnunet.nnunet.api import TrainJob, train_fold; "
    "train_fold(TrainJob(**json.loads(sys.argv[1])))"
)


def prepare(settings: Settings) -> str:
    """Make the dataset that all other lines train on."""
    make_dataset(settings.work)
    return f"{DATASET}, {PLANS}"


def train(settings: Settings, training: Training) -> str:
    """Train in eager mode without an interruption, validate, and keep model and losses for the other lines."""
    trainer = _trainer(settings, training, "eager")
    seen: list[torch.dtype] = []
    recorder = Recorder(trainer, EAGER)
    trainer.initialize()
    first = next(m for m in trainer.network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Conv3d)))
    hook = first.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    losses = recorder.run()
    hook.remove()
    expected = torch.float16 if settings.cuda else torch.float32
    if set(seen) != {expected}:
        raise CheckError(f"convolutions gave {sorted(map(str, set(seen)))}, expected {expected}")
    write_json(_losses_file(settings, training), losses)
    trainer.perform_actual_validation(save_probabilities=True)
    summary = read_object(Path(trainer.output_folder) / "validation" / "summary.json")
    return f"{_words(losses)}, {expected}, mean Dice {float(summary['foreground_mean']['Dice']):.3f}"


def relay(settings: Settings, training: Training, modes: Sequence[str]) -> str:
    """Train in one mode, interrupt by SIGTERM, resume in the next, and compare the losses with those of `train`."""
    expected = _eager_losses(settings, training)
    losses: list[float] = []
    for number, mode in enumerate(modes):
        trainer = _trainer(settings, training, "relay", resume=number > 0)
        if number:
            _check_scaler(trainer)
        losses += Recorder(trainer, mode, None if number == len(modes) - 1 else INTERRUPTED_AFTER).run()
    if not (Path(trainer.output_folder) / "checkpoint_final.pth").is_file():
        raise CheckError("the training ended without checkpoint_final.pth")
    difference = _largest_difference(losses, expected)
    tolerance = LOSS_TOLERANCE[trainer.record.precision]
    if not difference <= tolerance:
        raise CheckError(f"losses {_numbers(losses)}; eager {_numbers(expected)}; tolerance {tolerance}")
    return f"{_words(losses)}, at most {difference:.1g} from eager"


def compare_predictions(settings: Settings, training: Training) -> str:
    """Compare our predictor on the device with itself on the CPU, and with nnU-Net's own on the device."""
    trainer = _trainer(settings, training, "eager", keep=True)
    model = Path(trainer.output_folder_base)
    if not (model / "fold_0" / "checkpoint_final.pth").is_file():
        raise NotRunError("needs the model of the line before")
    trainer.initialize()
    _, keys = trainer.do_split()
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, keys[:1])
    image = torch.from_numpy(read_case(dataset, keys[0])[0].astype(np.float32))
    device = torch.device(settings.device)
    ours = _our_probabilities(model, image, device)
    found = []
    if settings.cuda:
        found.append(_agreement("the CPU", ours, _our_probabilities(model, image, torch.device("cpu"))))
    if training.network != "CLIPGuidedUNet cached":  # nnU-Net's predictor would encode every patch
        theirs = nnUNetPredictor(device=device, perform_everything_on_device=True, allow_tqdm=False)
        theirs.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
        logits = theirs.predict_logits_from_preprocessed_data(image)
        found.append(_agreement("nnU-Net's predictor", ours, torch.softmax(logits.float().cpu(), 0)))
    if not found:
        again = _our_probabilities(model, image, device)
        found.append(_agreement("a second time", ours, again))
    return "; ".join(found)


def predict_files(settings: Settings, training: Training) -> str:
    """Predict an image from its file, as the command does."""
    trainer = _trainer(settings, training, "eager", keep=True)
    images = settings.work / "nnUNet_raw" / DATASET / "imagesTs"
    output = settings.work / "predicted"
    shutil.rmtree(output, ignore_errors=True)
    written = predict(images, output, [Path(trainer.output_folder_base)], PredictOptions(device=settings.device))
    return f"{len(written)} segmentation"


def measure_modes(settings: Settings, training: Training) -> str:
    """Let a training measure all modes and take the fastest; every mode has to work."""
    os.environ[step.COMPILE_VARIABLE] = "t"
    with _collected(step.log) as records:
        losses = Recorder(_trainer(settings, training, "measured"), None).run()
    if faults := [record.getMessage() for record in records if record.levelno >= logging.WARNING]:
        raise CheckError("; ".join(faults))
    measured = [record.getMessage() for record in records if record.levelno == logging.INFO]
    return "; ".join([_words(losses), *measured])


def repeat(settings: Settings, training: Training) -> str:
    """Train twice with one seed word: the losses are equal, on a CPU to the last bit."""
    seeded = replace(training, seed=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first, second = (Recorder(_trainer(settings, seeded, "seeded"), None).run() for _ in range(2))
    torch.use_deterministic_algorithms(False)
    difference = _largest_difference(first, second)
    random = sorted({str(w.message).split()[0] for w in caught if "deterministic implementation" in str(w.message)})
    note = f"; without a deterministic kernel: {', '.join(random)}" if random else ""
    if not difference <= (REPEAT_TOLERANCE if settings.cuda else 0):
        raise CheckError(f"losses {_numbers(first)}, then {_numbers(second)}{note}")
    return f"largest difference {difference:.1g}{note}"


def step_without_waiting(settings: Settings, training: Training) -> str:
    """Take steps while torch raises an error for every operation that would make the host wait for the GPU."""
    trainer = _trainer(settings, training, "waiting")
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    for _ in range(3):
        trainer.train_step(next(trainer.dataloader_train))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return _words([float(output["loss"]) for output in outputs])


def change_precision(settings: Settings, training: Training) -> str:
    """Train on the CPU in bfloat16; resuming that in float32 has to be refused."""
    on_cpu = replace(settings, device="cpu")
    os.environ[PRECISION] = "bfloat16"
    losses = Recorder(_trainer(on_cpu, training, "precision"), EAGER, INTERRUPTED_AFTER).run()
    os.environ[PRECISION] = "float32"
    return f"{_words(losses)}; resuming {_refused(on_cpu, training, 'precision')}"


def change_device(settings: Settings, training: Training) -> str:
    """Train on the GPU in float16; resuming that on the CPU has to be refused."""
    losses = Recorder(_trainer(settings, training, "device"), EAGER, INTERRUPTED_AFTER).run()
    return f"{_words(losses)}; resuming {_refused(replace(settings, device='cpu'), training, 'device')}"


def train_two(settings: Settings, training: Training) -> str:
    """Train and validate two folds in two processes on one device."""
    folders = _train_apart(settings, training, [{"fold": 0}, {"fold": 1}], "two")
    dice = [read_object(folder / "validation" / "summary.json")["foreground_mean"]["Dice"] for folder in folders]
    return f"mean Dice {', '.join(f'{float(value):.3f}' for value in dice)}"


def train_distributed(settings: Settings, training: Training) -> str:
    """Train and validate one fold on two GPUs."""
    (folder,) = _train_apart(settings, training, [{"fold": 0, "num_gpus": 2}], "distributed")
    dice = read_object(folder / "validation" / "summary.json")["foreground_mean"]["Dice"]
    return f"mean Dice {float(dice):.3f}"


def _train_apart(settings: Settings, training: Training, jobs: list[dict[str, Any]], name: str) -> list[Path]:
    """Train in a process for each job, all at once, and return the folders of the folds."""
    results = settings.work / "results" / name
    shutil.rmtree(results, ignore_errors=True)
    os.environ[FOLDER_VARIABLES[2]] = str(results)
    trainer = f"{training.base}_1epochs_5iters"
    common = {
        "dataset": DATASET,
        "configuration": training.configuration,
        "trainer": trainer,
        "plans": PLANS,
        "device": settings.device,
        "threads": 1,
    }
    running = [subprocess.Popen(python_command("-c", _CHILD, json.dumps(common | job))) for job in jobs]
    codes = [process.wait() for process in running]
    if any(codes):
        raise CheckError(f"exit codes {codes}; see the log")
    model = results / DATASET / f"{trainer}__{PLANS}__{training.configuration}"
    return [model / f"fold_{job['fold']}" for job in jobs]


def _trainer(settings: Settings, training: Training, results: str, resume: bool = False, keep: bool = False) -> Any:
    """Return a trainer as nnU-Net makes it.

    Args:
        settings: Those of the check.
        training: What is trained.
        results: Name of the folder in which nnU-Net's results are; emptied unless a training is resumed or kept.
        resume: Whether the trainer resumes from its last checkpoint.
        keep: Whether the folder stays as it is.
    """
    folder = settings.work / "results" / results
    os.environ[FOLDER_VARIABLES[2]] = str(folder)
    seed = f"_seed{training.seed}" if training.seed is not None else ""
    name = f"{training.base}_{LENGTH}{seed}"
    if not (resume or keep):
        shutil.rmtree(folder / DATASET / f"{name}__{PLANS}__{training.configuration}", ignore_errors=True)
    device = torch.device(settings.device)
    trainer = get_trainer_from_args(
        DATASET, training.configuration, 0, name, PLANS, continue_training=resume, device=device
    )
    if trainer.seed is None:  # the same batches in all modes
        trainer.seed = SEED
    maybe_load_checkpoint(trainer, resume, False)
    torch.backends.cudnn.benchmark = settings.cuda  # as nnU-Net sets it here
    return trainer


def _check_scaler(trainer: Any) -> None:
    if trainer.grad_scaler is None:
        return
    stored = torch.load(Path(trainer.output_folder) / "checkpoint_latest.pth", map_location="cpu", weights_only=False)
    expected, found = stored["grad_scaler_state"]["scale"], trainer.grad_scaler.get_scale()
    if found != expected:
        raise CheckError(f"the loss is scaled by {found} after resuming, by {expected} before")


def _refused(settings: Settings, training: Training, results: str) -> str:
    try:
        Recorder(_trainer(settings, training, results, resume=True), EAGER).run()
    except ConfigError:
        return "refused"
    raise CheckError("a training that began in another precision was resumed")


def _our_probabilities(model: Path, image: torch.Tensor, device: torch.device) -> torch.Tensor:
    predictor = BatchedPredictor(device, backend="torch")
    predictor.manual_initialization(**load_model(model, (0,), "checkpoint_final.pth"))
    return torch.softmax(predictor.predict_image(PreprocessedImage(image)), 0)


def _agreement(other: str, ours: torch.Tensor, theirs: torch.Tensor) -> str:
    difference = (ours - theirs).abs()
    share = float((difference <= PROBABILITY_TOLERANCE).float().mean())
    largest = float(difference.max())
    words = f"{other}: {share:.2%} of the probabilities within {PROBABILITY_TOLERANCE}, largest {largest:.2g}"
    if not share >= AGREEING_SHARE[other]:
        raise CheckError(f"{words}; expected {AGREEING_SHARE[other]:.1%}")
    return words


def _losses_file(settings: Settings, training: Training) -> Path:
    return settings.work / f"losses_{training.base}_{training.configuration}.json"


def _eager_losses(settings: Settings, training: Training) -> list[float]:
    file = _losses_file(settings, training)
    if not file.is_file():
        raise NotRunError("needs the losses of the eager line")
    return [float(loss) for loss in read_json(file)]


def _largest_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    if len(losses) != len(others):
        raise CheckError(f"{len(losses)} steps were taken, expected {len(others)}")
    return max(abs(loss - other) for loss, other in zip(losses, others, strict=True))


def _words(losses: Sequence[float]) -> str:
    return f"loss {losses[0]:.3f} to {losses[-1]:.3f}"


def _numbers(losses: Sequence[float]) -> str:
    return " ".join(f"{loss:.4f}" for loss in losses)


@contextmanager
def _collected(logger: logging.Logger) -> Iterator[list[logging.LogRecord]]:
    records: list[logging.LogRecord] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler, level = Collect(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
