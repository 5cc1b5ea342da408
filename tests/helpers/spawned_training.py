"""Run as a script: trains and validates one fold of the tiny dataset where worker processes are spawned, not forked.

`python spawned_training.py DATASET TRAINER` with nnU-Net's variables set. Prints the fold's folder.
"""

from __future__ import annotations

import multiprocessing
import sys


def main() -> None:
    multiprocessing.set_start_method("spawn")
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args
    from tiny_dataset import PLANS

    from hippo_nnunet.nnunet import memory_cases

    memory_cases.free_memory = lambda *_: 0  # so that nnU-Net's own loader and its workers serve
    dataset, name = sys.argv[1:]
    trainer = get_trainer_from_args(dataset, "2d", 0, name, PLANS, device=torch.device("cpu"))
    trainer.run_training()
    trainer.perform_actual_validation(save_probabilities=True)
    sys.stdout.write(f"{trainer.output_folder}\n")


if __name__ == "__main__":
    main()
