"""Distinguishes complete preprocessed data from what a killed process has left; torch-free.

Source: ours, because nnU-Net writes these files in place, and treats every existing file as complete.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hippo_nnunet.data.layout import AXIS_CODES, ENDINGS
from hippo_nnunet.data.nifti import check_header
from hippo_nnunet.files import atomic_path, read_object, write_json
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import data_folder, first_channels, signature, signature_file, stored_cases

UNFINISHED = "unfinished"
"""Written in place of the plan's signature while a configuration is preprocessed."""


def is_preprocessed(plans: dict[str, Any], configuration: str, cases: set[str], folders: NnunetFolders) -> bool:
    """Tell whether exactly these cases are completely preprocessed with this plan.

    Data without a signature, which nnU-Net's own command has made, counts as made with this plan.
    """
    folder = data_folder(plans, configuration, folders)
    record = signature_file(folder)
    fits = not record.is_file() or record.read_text().strip() == signature(plans, configuration)
    return fits and stored_cases(folder) == cases


def begin(plans: dict[str, Any], configuration: str, folders: NnunetFolders) -> Path:
    """Mark a configuration as incomplete, and return its folder, which need not exist."""
    folder = data_folder(plans, configuration, folders)
    folder.parent.mkdir(parents=True, exist_ok=True)
    signature_file(folder).write_text(f"{UNFINISHED}\n")
    return folder


def end(plans: dict[str, Any], configuration: str, folders: NnunetFolders) -> None:
    """Mark a configuration as preprocessed with this plan."""
    signature_file(data_folder(plans, configuration, folders)).write_text(signature(plans, configuration) + "\n")


def restore_description(dataset: str, folders: NnunetFolders) -> None:
    """Copy dataset.json beside the plans where it is missing; nnU-Net does so only when it plans."""
    target = folders.preprocessed / dataset / "dataset.json"
    if not target.is_file():
        with atomic_path(target) as temporary:
            shutil.copyfile(folders.raw / dataset / "dataset.json", temporary)


def record_axes(dataset: str, cases: Iterable[str], reader: str, folders: NnunetFolders) -> None:
    """Check the headers of a planned dataset, and count its axis codes in the preprocessed dataset.json.

    Every model gets a copy of that file.

    Args:
        dataset: Full name.
        cases: Labelled cases of the raw dataset.
        reader: nnU-Net's reader of them; nothing is recorded unless it reads NIfTI, nor where a count is there already.
        folders: nnU-Net's folders.

    Raises:
        DataError: An image cannot be opened, or an image or label has two voxel sizes: see `check_header`.
    """
    target = folders.preprocessed / dataset / "dataset.json"
    description = read_object(target)
    ending = description["file_ending"]
    if AXIS_CODES in description or ending not in ENDINGS:
        return
    images = first_channels(folders.raw / dataset, sorted(cases), ending)
    for case in images:
        label = folders.raw / dataset / "labelsTr" / f"{case}{ending}"
        if label.is_file():
            check_header(label, reader)  # evaluation would refuse it, after all trainings
    codes = Counter(check_header(path, reader) for path in images.values())
    write_json(target, {**description, AXIS_CODES: dict(codes.most_common())}, indent=4)


def delete_partial_references(dataset: str, folders: NnunetFolders) -> None:
    """Delete partly copied reference segmentations: nnU-Net would keep them, because they are newer."""
    for copied in (folders.preprocessed / dataset / "gt_segmentations").glob("[!.]*"):
        label = folders.raw / dataset / "labelsTr" / copied.name
        if label.is_file() and label.stat().st_size != copied.stat().st_size:
            copied.unlink()
