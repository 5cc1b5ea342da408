"""The preprocessed data that both sides train on, and nnU-Net's folders while they do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hippo_nnunet.nnunet import preprocessed, splits
from hippo_nnunet.nnunet.case_files import check_cases
from hippo_nnunet.nnunet.paths import environment, folders_for
from hippo_nnunet.nnunet.plans import plans_file
from hippo_nnunet.nnunet.plans_check import check_file


def trainable(
    dataset: str, plans: str, configuration: str, fold: int | str, root: Path | None
) -> tuple[str, dict[str, Any]]:
    """Return a dataset's full name and its plans, if it is ready for training.

    Args:
        dataset: Id or name.
        plans: Name of the plans.
        configuration: Such as `2d`.
        fold: Index from 0, or `all`.
        root: nnU-Net's root folder, for those of its variables that are unset.

    Raises:
        ConfigError: No such dataset, plans, configuration or fold, or it is not preprocessed.
        DataError: Fewer cases than folds, a file that cannot be read, or plans or cases that could run code.
    """
    folders = folders_for(root)
    name = preprocessed.dataset_name(dataset, folders)
    content = preprocessed.check_preprocessed(name, plans, configuration, folders)
    check_file(content, plans_file(name, plans, folders), configuration)
    folder = preprocessed.data_folder(content, configuration, folders)
    cases = preprocessed.stored_cases(folder)
    check_cases(folder, sorted(cases))
    if isinstance(fold, int):
        splits.check_fold(name, fold, len(cases), folders)
    return name, content


@contextmanager
def scratch_environment(results: Path, root: Path | None, **variables: str) -> Iterator[None]:
    """Set nnU-Net's variables: results go to a scratch folder, and no worker process competes with the steps."""
    own = {"nnUNet_results": str(results), "nnUNet_n_proc_DA": "0", **variables}
    with patch.dict(os.environ, {**environment(root, {**os.environ, **own}), **own}):
        yield
