"""Open a dataset given as a folder or as an archive."""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.layout import Dataset, read_dataset
from hippo_nnunet.errors import DataError, DependencyError

_MOST_REASON = 300


@contextmanager
def open_dataset(source: Path) -> Iterator[Dataset]:
    """Read a dataset from its folder, or from an archive that is extracted to a temporary folder.

    Args:
        source: an MSD task folder, a dataset folder of nnUNet_raw, or a ``.tar`` (also ``.tar.gz``) of one.

    Yields:
        The dataset; its paths are valid inside the block only.

    Raises:
        DataError: no such source, no dataset, or an archive that is damaged, unsafe or holds several folders.
        DependencyError: this Python cannot extract archives safely.
    """
    with task_folder(source) as folder:
        try:
            dataset = read_dataset(folder)
        except FoundProblem as problem:
            if not source.is_file():
                raise
            # The user knows the archive, not the temporary folder.
            raise DataError(f"{source}: {problem.finding.describe(folder.parent)}") from problem
        yield dataset


@contextmanager
def task_folder(source: Path) -> Iterator[Path]:
    """Yield the dataset's folder: ``source`` itself, or the archive's only folder; errors as in `open_dataset`."""
    if not source.is_file():
        yield source.absolute()
        return
    if not hasattr(tarfile, "data_filter"):
        raise DependencyError(f"Python {sys.version.split()[0]} cannot extract archives safely; update it")
    with tempfile.TemporaryDirectory(prefix="hippo-task-") as scratch:
        try:
            with tarfile.open(source) as archive:
                needed, free = sum(member.size for member in archive.getmembers()), shutil.disk_usage(scratch).free
                if needed > free:
                    raise DataError(f"it would take {needed} bytes in {Path(scratch).parent}, where {free} are free")
                archive.extractall(scratch, filter="data")
        except Exception as error:  # tarfile and the decompressors raise various exceptions for a damaged archive
            reason = " ".join(str(error).split())[:_MOST_REASON].rstrip(": ") or type(error).__name__
            remedy = "fetch it again with: hippo-nnunet data fetch"
            raise DataError(f"{source}: no archive, damaged or unsafe ({reason}); {remedy}") from error
        tops = [path for path in Path(scratch).iterdir() if path.is_dir() and not path.name.startswith(".")]
        if len(tops) != 1:
            raise DataError(f"{source}: holds {len(tops)} folders, expected one task folder; extract it and give that")
        yield tops[0]
