"""Print where the time of a training step on the CPU goes, loading included, by torch's profiler.

python -m benchmarks.profile_step --root nnunet --dataset Dataset004_Hippocampus --trainer UNetTrainer

`nnUNet_compile=t` in front compiles the step where that is faster, as a long training does by itself.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from benchmarks.epochs_process import make_trainer, set_up
from hippo_nnunet.nnunet.api import limit_processes
from hippo_nnunet.nnunet.paths import environment


def main() -> None:
    """Set up a training in a scratch folder and profile its steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="nnU-Net's root folder; only read")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--configuration", default="2d")
    parser.add_argument("--plans", default="nnUNetPlans")
    parser.add_argument("--trainer", default="UNetTrainer")
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.update(environment(options.root, {"nnUNet_results": scratch}))
        profile_step(options)


def profile_step(options: argparse.Namespace) -> None:
    """Time a few steps, then profile one."""
    from torch.profiler import ProfilerActivity, profile

    limit_processes()
    options.fold, options.epochs, options.iterations = 0, 1, options.steps + 1
    trainer = make_trainer(options, set_up("cpu"))
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()
    for _ in range(options.steps):
        start = time.perf_counter()
        batch = next(trainer.dataloader_train)
        loaded = time.perf_counter()
        trainer.train_step(batch)
        print(f"loading {loaded - start:.3f} s, step {time.perf_counter() - loaded:.3f} s", flush=True)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        trainer.train_step(next(trainer.dataloader_train))
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=60))


if __name__ == "__main__":
    main()
