"""nnU-Net's check of a dataset, in a supervised process."""

from __future__ import annotations

from pathlib import Path

from hippo_nnunet.errors import DataError
from hippo_nnunet.processes import python_command, run_watched

_STDERR = 2
_CHECK = """
import sys
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
if __name__ == "__main__":
    try:
        verify_dataset_integrity(sys.argv[1], int(sys.argv[2]))
    except (AssertionError, RuntimeError, OSError) as error:
        sys.exit((str(error).strip() or repr(error)).splitlines()[0])
"""


def check_integrity(folder: Path, processes: int) -> None:
    """Let nnU-Net check every case of a dataset.

    Args:
        folder: A dataset in `nnUNet_raw`.
        processes: Worker processes.

    Raises:
        DataError: It finds something wrong; holds the first line of it. The rest is on stderr.
        UpstreamError: A worker process was killed.
    """
    code, errors = run_watched(python_command("-c", _CHECK, str(folder), str(processes)), stdout=_STDERR)
    if code:
        first = errors.strip().splitlines()[-1] if errors.strip() else f"exit code {code}"
        raise DataError(
            f"{folder}: nnU-Net's integrity check failed: {first}; find every problem with "
            f"'hippo-nnunet data check {folder}'"
        )
