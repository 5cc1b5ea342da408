"""The jobs of the workflow: `python -m hippo_nnunet.workflow.jobs JOB ...`, run in an experiment's folder.

Each says in a file why it failed, so that `run` can repeat it in one line. nnU-Net's folders come from its variables.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.manifest import build_manifest
from hippo_nnunet.experiment.paths import DONE, RELATIVE
from hippo_nnunet.experiment.presets import preset
from hippo_nnunet.experiment.split_copy import save_split
from hippo_nnunet.files import write_json
from hippo_nnunet.locks import exclusive
from hippo_nnunet.nnunet import api
from hippo_nnunet.nnunet.paths import NnunetFolders, folders_for
from hippo_nnunet.processes import end_with_workers
from hippo_nnunet.workflow import failures, job_state, products
from hippo_nnunet.workflow.devices import one_gpu
from hippo_nnunet.workflow.log_header import log_header

log = logging.getLogger(__name__)


def data(experiment: Experiment, folders: NnunetFolders, source: Path | None) -> None:
    """Check the dataset, and convert it where it is a Decathlon task.

    Raises:
        ConfigError: The dataset is not there, and no source was named.
        DataError: The data has errors.
    """
    from hippo_nnunet.data.check import check_dataset
    from hippo_nnunet.data.convert import convert_msd

    raw = folders.raw / experiment.dataset
    if (raw / "dataset.json").is_file():
        errors = [finding for finding in check_dataset(raw) if finding.severity == "error"]
        if errors:
            raise DataError(f"{errors[0].describe(raw)} ({len(errors)} errors: see hippo-nnunet data check {raw})")
    elif source is not None:
        if raw.is_dir():
            raise DataError(f"{raw} has no dataset.json: delete {raw}, then run again: it is converted anew")
        made = convert_msd(source, folders.raw)
        if made.name != experiment.dataset:
            raise ConfigError(
                f"{source} holds {made.name}, not {experiment.dataset}; name it as the task that it holds"
            )
    elif not (folders.preprocessed / experiment.dataset / "gt_segmentations").is_dir():
        if raw.is_dir():
            raise DataError(f"{raw} has no dataset.json: delete {raw}, then run again with --task: it is made anew")
        raise ConfigError(f"{raw} is missing; name the task that it is made from with --task")


def plan(experiment: Experiment, folders: NnunetFolders) -> None:
    """Extract the fingerprint, plan, and make the splits, of which the experiment keeps a copy."""
    api.plan_and_preprocess(experiment.dataset, preset(experiment.preset).planner, ())
    save_split(experiment, folders, Path.cwd())


def preprocess(experiment: Experiment, configuration: str) -> None:
    """Preprocess one configuration."""
    api.plan_and_preprocess(experiment.dataset, preset(experiment.preset).planner, (configuration,))


def train(experiment: Experiment, cell: Cell, device: str, threads: int, gpus: str) -> None:
    """Train and validate one fold, on one of these GPUs; waits for another process that works on the same fold."""
    job = api.TrainJob(
        dataset=experiment.dataset,
        configuration=cell.configuration,
        fold=cell.fold,
        trainer=cell.trainer,
        plans=experiment.plans,
        device=device,
        threads=threads,
    )
    with one_gpu(gpus.split(",")):
        api.train_fold(job, wait=True)


def cell_of(experiment: Experiment, variant: str, configuration: str, fold: int) -> Cell:
    """Return a cell of the experiment.

    Raises:
        ConfigError: The experiment has no such cell.
    """
    for cell in experiment.cells():
        if (cell.variant, cell.configuration, cell.fold) == (variant, configuration, fold):
            return cell
    raise ConfigError(f"{RELATIVE.request} asks for no {variant} {configuration} fold {fold}")


def run_job(name: str, job: Callable[[], None], log_file: str) -> int:
    """Run a job and return its exit code; what becomes of it goes to its state file, for `run`.

    It waits for another process that does the same job: one that a killed run left behind, on a cluster for instance.

    Args:
        name: The job in words: `train UNet 2d fold 0`.
        job: The work.
        log_file: Where its output goes; without one, nothing is recorded.
    """
    path = job_state.state_file(job_state.marker_of(log_file)) if log_file else None
    recorder = job_state.Recorder(path, name, log_file) if path else None
    try:
        with exclusive(DONE / "locks" / f"{name.replace(' ', '-')}.lock", f"another process does '{name}'", wait=True):
            job()
    except Exception as error:
        traceback.print_exc()
        if recorder:
            recorder.end(failures.describe(error, failures.written_to(Path.cwd(), folders_for(None))))
        return 1
    if recorder:
        recorder.end()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line of one job and run it in the current folder."""
    parser = argparse.ArgumentParser(prog="hippo_nnunet.workflow.jobs", description=__doc__)
    parser.add_argument("--log", default="")
    parser.add_argument("job", choices=[*_JOBS])
    parser.add_argument("--source", default="")
    parser.add_argument("--variant", default="")
    parser.add_argument("--configuration", default="")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--gpus", default="")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args(arguments)
    sys.stderr.write(log_header(sys.argv[1:] if arguments is None else arguments) + "\n")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)

    def job() -> None:
        api.limit_processes()
        _JOBS[options.job](Experiment.load(RELATIVE.request), folders_for(None), options)

    words = [options.job, options.variant, options.configuration, f"fold {options.fold}" * (options.job == "train")]
    return run_job(" ".join(word for word in words if word), job, options.log)


_JOBS: dict[str, Callable[[Experiment, NnunetFolders, argparse.Namespace], object]] = {
    "data": lambda e, f, o: data(e, f, Path(o.source) if o.source else None),
    "plan": lambda e, f, o: plan(e, f),
    "preprocess": lambda e, f, o: preprocess(e, o.configuration),
    "train": lambda e, f, o: train(e, cell_of(e, o.variant, o.configuration, o.fold), o.device, o.threads, o.gpus),
    "ensemble": lambda e, f, o: products.ensemble(e, f, Path.cwd()),
    "evaluate": lambda e, f, o: products.evaluate(e, f, Path.cwd()),
    "predict": lambda e, f, o: products.predict(e, f, Path.cwd(), o.variant, o.device),
    "submission": lambda e, f, o: products.submission(e, f, Path.cwd()),
    "manifest": lambda e, f, o: write_json(RELATIVE.manifest, build_manifest(e, Path.cwd(), f, o.device), indent=2),
    "report": lambda e, f, o: products.report(Path.cwd()),
}


if __name__ == "__main__":
    end_with_workers()
    sys.exit(main())
