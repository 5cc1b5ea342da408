"""nnU-Net's planning, preprocessing and training from Python, with checks that nnU-Net omits.

nnU-Net and torch are imported inside the functions, because nnU-Net reads its number of worker processes at import.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from hippo_nnunet.data.description import read_description
from hippo_nnunet.data.subjects import NONE
from hippo_nnunet.errors import ConfigError, DataError, DependencyError, HippoError, one_line
from hippo_nnunet.files import read_object
from hippo_nnunet.locks import exclusive
from hippo_nnunet.nnunet import folds, partial, preprocessed, splits
from hippo_nnunet.nnunet.case_files import check_cases
from hippo_nnunet.nnunet.finished import check_finished, is_finished, lacks_descriptions
from hippo_nnunet.nnunet.fold_lock import fold_lock
from hippo_nnunet.nnunet.paths import folders_for
from hippo_nnunet.nnunet.plans import plans_file, read_plans
from hippo_nnunet.nnunet.plans_check import check_file
from hippo_nnunet.nnunet.subset import stored_subjects, trained_split
from hippo_nnunet.nnunet.train_job import TrainJob
from hippo_nnunet.processes import python_command, run_watched
from hippo_nnunet.progress import counted
from hippo_nnunet.threads import cpu_count

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

STOCK_PROCESSES, STOCK_AUGMENTERS = 8, 12
"""nnU-Net's default numbers of worker processes, in general and for augmentation."""


def limit_processes() -> None:
    """Limit nnU-Net's default number of worker processes to the CPUs; call this before nnU-Net is imported.

    Variables that the user has set are unchanged.

    Raises:
        ConfigError: The user's variable is not a number.
    """
    for variable, stock in (("nnUNet_def_n_proc", STOCK_PROCESSES), ("nnUNet_n_proc_DA", STOCK_AUGMENTERS)):
        number = os.environ.setdefault(variable, str(min(stock, cpu_count())))
        least = 0 if variable == "nnUNet_n_proc_DA" else 1
        if not re.fullmatch(r"[0-9]{1,6}", number.strip()) or int(number) < least:
            raise ConfigError(f"{variable}={number}: expected a whole number of processes; correct or unset it")


def worker_processes() -> int:
    """Return the number of nnU-Net's worker processes: `nnUNet_def_n_proc`, else the CPUs, at most 8."""
    limit_processes()
    return int(os.environ["nnUNet_def_n_proc"])  # noqa: SIM112


def resolve_device(device: str) -> str:
    """Return `cpu`, `cuda` or `mps`; `auto` becomes `cuda` if available, else `cpu`.

    Raises:
        ConfigError: The name is unknown.
        DependencyError: The requested device is not available.
    """
    if device not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"device '{device}' is unknown; take auto, cpu, cuda or mps")
    if device == "cpu" or (device == "auto" and not _has_gpu_driver()):
        return "cpu"
    import torch  # seconds, and half a GB of memory

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise DependencyError("device 'cuda' is not available to torch; pass --device cpu, or see doctor")
    if device == "mps" and not torch.backends.mps.is_available():
        raise DependencyError("device 'mps' is not available to torch; pass --device cpu")
    return device


def _has_gpu_driver() -> bool:
    """Tell whether torch could find a CUDA or ROCm device at all, without importing it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return False
    if Path("/dev/kfd").exists():  # ROCm
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return sys.platform == "win32"
    return True


def planner_class(name: str) -> type:
    """Find an experiment planner by its class name, ours first.

    Raises:
        ConfigError: The planner is unknown.
    """
    limit_processes()
    import nnunetv2
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    found = getattr(importlib.import_module("hippo_nnunet.planners"), name, None) or recursive_find_python_class(
        str(Path(nnunetv2.__path__[0]) / "experiment_planning"), name, current_module="nnunetv2.experiment_planning"
    )
    if not (isinstance(found, type) and issubclass(found, ExperimentPlanner)):
        raise ConfigError(f"planner '{name}' is unknown; see 'hippo-nnunet list', or take ExperimentPlanner")
    return found


def trainer_class(name: str) -> type:
    """Find a trainer by its class name, as nnU-Net does.

    Raises:
        ConfigError: The trainer is unknown or an invalid recipe; the message suggests a name.
    """
    limit_processes()
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from hippo_nnunet.training import recipes

    if recipes.is_ours(name):
        recipes.parse(name)
    try:
        return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ConfigError(
            f"trainer '{name}' is unknown to nnU-Net and to us; did you mean '{recipes.suggest(name)}'? "
            "'hippo-nnunet list' shows the names"
        ) from error


def plan_and_preprocess(
    dataset_id: int | str,
    planner: str = "ExperimentPlanner",
    configurations: Sequence[str] = ("2d",),
    num_processes: int | None = None,
    trust: bool = False,
    subjects: str | None = None,
    checked: bool = False,
) -> str:
    """Run the missing steps of nnUNetv2_plan_and_preprocess, and write the cross-validation splits.

    Existing fingerprint, plans, splits and complete preprocessed data are kept.

    Args:
        dataset_id: Id or full name of a dataset in `nnUNet_raw`.
        planner: Class name of an experiment planner, ours or nnU-Net's.
        configurations: Configurations to preprocess; empty: plan only.
        num_processes: Worker processes; None: `nnUNet_def_n_proc`, else the number of CPUs, at most 8.
        trust: Use existing plans that could run code.
        subjects: `auto`, `none` or the path of a table: see `find_subjects`. None keeps existing splits as they are,
            and else makes nnU-Net's own.
        checked: The dataset has passed `check_dataset`, so that nnU-Net's integrity check would find nothing.

    Returns:
        The name of the plans.

    Raises:
        ConfigError: No such dataset, planner or configuration, or existing splits or trained folds that contradict the
            subjects.
        DataError: nnU-Net's integrity check fails, there are fewer cases than folds, or existing plans could run code.
    """
    limit_processes()
    from nnunetv2.experiment_planning import plan_and_preprocess_api as upstream

    folders = folders_for(None)
    name = preprocessed.dataset_name(dataset_id, folders)
    number = int(name[7:10])
    processes = num_processes or worker_processes()
    bars = sys.stderr.isatty()
    found_planner = planner_class(planner)
    cases = preprocessed.raw_cases(name, folders)
    read_description(folders.raw / name / "dataset.json")
    if splits.read_splits(name, folders) is None:
        splits.check_number_of_cases(name, len(cases))
    splits.check_split_cases(name, cases, folders)
    found = folds.find_subjects(name, subjects, folders) if subjects else None
    if found:
        folds.check_subject_folds(name, found, subjects != NONE, folders)

    lock = folders.preprocessed / name / "hippo_plan.lock", f"{name}: another process plans or preprocesses it"
    fingerprint = folders.preprocessed / name / "dataset_fingerprint.json"
    plans_name = str(inspect.signature(found_planner).parameters["plans_name"].default)
    planned = plans_file(name, plans_name, folders).is_file()
    if not planned or not fingerprint.is_file():
        with exclusive(*lock, wait=True):
            if not fingerprint.is_file():
                if not checked:
                    _check_integrity(folders.raw / name, processes)
                upstream.extract_fingerprint_dataset(
                    number, num_processes=processes, verbose=False, show_progress_bar=bars
                )
            if not plans_file(name, plans_name, folders).is_file():
                read_object(fingerprint)  # nnU-Net's error would not name the file
                _, plans_name = upstream.plan_experiment_dataset(number, found_planner)
    plans = read_plans(name, plans_name, folders)
    for configuration in configurations if planned else ():  # the planner itself may name what it likes
        check_file(plans, plans_file(name, plans_name, folders), configuration, trust)
    partial.restore_description(name, folders)
    partial.record_axes(name, cases, plans["image_reader_writer"], folders)
    missing = [c for c in configurations if not partial.is_preprocessed(plans, c, cases, folders)]
    preprocessed.check_sizes(name, plans, missing, cases, folders)
    with exclusive(*lock, wait=True) if missing else nullcontext():
        missing = [c for c in missing if not partial.is_preprocessed(plans, c, cases, folders)]
        _preprocess(name, plans, missing, len(cases), processes)
    folds.make_splits(name, cases, folders, None if subjects == NONE else found)
    return plans_name


def _preprocess(name: str, plans: dict[str, Any], configurations: Sequence[str], cases: int, processes: int) -> None:
    """Preprocess a dataset's cases for configurations that are missing or incomplete."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as upstream

    folders = folders_for(None)
    targets = [partial.begin(plans, configuration, folders) for configuration in configurations]
    partial.delete_partial_references(name, folders)

    def stored() -> int:
        return sum(len(preprocessed.stored_cases(target)) for target in targets)

    with counted(stored, "preprocessing", cases * len(configurations)):
        upstream.preprocess_dataset(
            int(name[7:10]),
            plans["plans_name"],
            configurations,
            [processes] * len(configurations),
            show_progress_bar=sys.stderr.isatty(),
        )
    for configuration in configurations:
        partial.end(plans, configuration, folders)


_STDERR = 2
_INTEGRITY_CHECK = """
import sys
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
if __name__ == "__main__":
    try:
        verify_dataset_integrity(sys.argv[1], int(sys.argv[2]))
    except (AssertionError, RuntimeError, OSError) as error:
        sys.exit((str(error).strip() or repr(error)).splitlines()[0])
"""


def _check_integrity(folder: Path, processes: int) -> None:
    """Let nnU-Net check every case of a dataset.

    Args:
        folder: A dataset in `nnUNet_raw`.
        processes: Worker processes.

    Raises:
        DataError: It finds something wrong; holds the first line of it. The rest is on stderr.
        UpstreamError: A worker process was killed.
    """
    code, errors = run_watched(python_command("-c", _INTEGRITY_CHECK, str(folder), str(processes)), stdout=_STDERR)
    if code:
        first = errors.strip().splitlines()[-1] if errors.strip() else f"exit code {code}"
        raise DataError(
            f"{folder}: nnU-Net's integrity check failed: {first}; find every problem with "
            f"'hippo-nnunet data check {folder}'"
        )


def train_fold(job: TrainJob, validation_only: bool = False, wait: bool = False) -> Path:
    """Train and validate one fold.

    A finished fold is skipped, a trained one only validated, an interrupted one resumed.

    Args:
        job: What to train.
        validation_only: Repeat the validation of a trained fold.
        wait: Wait for another process that trains this fold, instead of refusing.

    Returns:
        The folder of the fold.

    Raises:
        ConfigError: An unknown dataset, configuration, fold, trainer, plans or device, or preprocessed data that is
            missing or made with other plans.
        DataError: Fewer cases than folds, a file that cannot be read, or plans or a checkpoint that could run code and
            are not trusted.
        DependencyError: The device is not available.
    """
    limit_processes()
    job.check()
    folders = folders_for(None)
    name = preprocessed.dataset_name(job.dataset, folders)
    plans = preprocessed.check_preprocessed(name, job.plans, job.configuration, folders)
    split = None
    if job.fold != "all":
        cases = preprocessed.stored_cases(preprocessed.data_folder(plans, job.configuration, folders))
        if not isinstance(job.fold, int):
            raise ConfigError(f"fold '{job.fold[:60]}' is neither a number nor 'all'")
        split = splits.check_fold(name, job.fold, len(cases), folders)
        if split is not None:
            split = trained_split(job.trainer, job.fold, split, stored_subjects(folders.preprocessed / name))
    folder = folders.results / name / f"{job.trainer}__{job.plans}__{job.configuration}" / f"fold_{job.fold}"
    trained = (folder / "checkpoint_final.pth").is_file()
    if trained:
        check_finished(folder, job.trainer, plans, job.configuration, split)
    if validation_only and not trained:
        raise ConfigError(f"{folder} is not trained completely, so it cannot be validated; train it first")
    if not validation_only and is_finished(folder, job.npz) and not lacks_descriptions(folder):
        log.info("%s is finished", folder)
        if job.validate_best:
            log.warning("--validate-best: give --validation-only, too, to validate a finished fold again")
        return folder
    device = resolve_device(job.device)
    if job.num_gpus > 1:
        _check_gpus(job.num_gpus, device)
    trainer_class(job.trainer)
    check_file(plans, plans_file(name, job.plans, folders), job.configuration, job.trust_checkpoint)
    read_description(folders.preprocessed / name / "dataset.json")
    # in distributed training, the first process holds the lock
    with fold_lock(folder, wait) if job.num_gpus == 1 else nullcontext():
        if validation_only or not is_finished(folder, job.npz):  # another process may have finished it meanwhile
            if not job.trust_checkpoint:
                _check_code(folder, preprocessed.data_folder(plans, job.configuration, folders), job.validate_best)
            _train(job, name, folder, device)
        else:
            from hippo_nnunet.nnunet.checkpoints import restore_descriptions

            restore_descriptions(folder, _torch_device(device), job.trust_checkpoint)
    return folder


def _check_code(folder: Path, data: Path, validate_best: bool) -> None:
    """Refuse preprocessed cases and checkpoints of a fold that could run code when nnU-Net loads them."""
    from hippo_nnunet.nnunet.checkpoints import read_record

    check_cases(data, sorted(preprocessed.stored_cases(data)))
    checkpoints = [folder / f"checkpoint_{which}.pth" for which in ("final", "latest", "best")]
    there = [path for path in checkpoints if path.is_file()]
    for path in {*there[:1], *(there[-1:] if validate_best else ())}:
        read_record(path)


def _train(job: TrainJob, dataset: str, folder: Path, device: str) -> None:
    """Train unless the final checkpoint exists, and validate."""
    from nnunetv2.run import run_training as upstream

    _set_threads(device, job.threads)
    trained = (folder / "checkpoint_final.pth").is_file()
    started = any((folder / f"checkpoint_{which}.pth").is_file() for which in ("latest", "best"))
    pretrained = job.pretrained_weights if not started else None
    if started and job.pretrained_weights:
        log.warning("%s was begun before: it goes on from its checkpoint, not from --pretrained-weights", folder)
    try:
        with _readable(pretrained, device, job.trust_checkpoint) as weights:
            upstream.run_training(
                dataset,
                job.configuration,
                job.fold,
                job.trainer,
                job.plans,
                pretrained_weights=str(weights) if weights else None,
                num_gpus=job.num_gpus,
                export_validation_probabilities=job.npz,
                continue_training=started and not trained,
                only_run_validation=trained,
                disable_checkpointing=job.disable_checkpointing,
                val_with_best=job.validate_best,
                device=_torch_device(device),
            )
    except Exception as error:
        _raise_ours(error)
        in_loading = any(frame.name == "load_pretrained_weights" for frame in extract_tb(error.__traceback__))
        if not in_loading:
            raise
        reason = one_line(error)
        raise DataError(
            f"--pretrained-weights {pretrained}: are not of the network of {job.trainer} with {job.plans} "
            f"{job.configuration} ({reason}); name a checkpoint of the same network"
        ) from error


@contextmanager
def _readable(weights: Path | None, device: str, trust: bool) -> Iterator[Path | None]:
    """Yield pretrained weights for nnU-Net, which loads tensors to where they were saved: without CUDA, a copy."""
    if weights is None or device == "cuda":
        yield weights
        return
    import torch

    from hippo_nnunet.nnunet.trust import read_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / weights.name
        torch.save(read_checkpoint(weights, trust), copy)
        yield copy


def _raise_ours(error: Exception) -> None:
    """Raise an error of ours that a process of a distributed training has passed on as text."""
    last = str(error).rstrip().rpartition("\n")[2]
    name, _, text = last.removeprefix(f"{HippoError.__module__}.").partition(": ")
    own = {cls.__name__: cls for cls in HippoError.__subclasses__()}
    if type(error).__name__ == "ProcessRaisedException" and name in own:
        raise own[name](text) from error


def _check_gpus(number: int, device: str) -> None:
    """Refuse more GPUs than there are."""
    import torch

    if device != "cuda":
        raise ConfigError(f"--num-gpus {number}: on {device} it is one; leave it out, or take --device cuda")
    if number > torch.cuda.device_count():
        raise ConfigError(f"--num-gpus {number}: this machine has {torch.cuda.device_count()}; take at most that many")


def _torch_device(device: str) -> torch.device:
    import torch

    return torch.device(device)


def _set_threads(device: str, threads: int | None) -> None:
    """Set torch's threads as nnUNetv2_train does, but for `OMP_NUM_THREADS`, which it ignores."""
    import torch

    chosen = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(1 if device == "cuda" else threads or (int(chosen) if chosen.isdigit() else 0) or cpu_count())
