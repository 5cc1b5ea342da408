"""The files of a folder of predictions: what may be written into it, and what may be replaced."""

from __future__ import annotations

import errno
import json
import os
import pickle
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.data.cases import InputCase
from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.layout import ENDINGS
from hippo_nnunet.data.nifti import open_image
from hippo_nnunet.errors import DataError
from hippo_nnunet.files import read_json, read_object
from hippo_nnunet.inference.members import Member
from hippo_nnunet.nnunet.paths import folder_problem
from hippo_nnunet.outputs import check_distinct, check_target, output_file

_OTHERS = ("dataset.json", "plans.json", "predict_from_raw_data_args.json", "summary.json", ".DS_Store")
"""What else a folder of predictions may hold, of ours or of nnU-Net's."""
_PAGE = {"index.html", "scans", ".DS_Store"}
"""What a folder of `--qc` holds, which may lie among the predictions."""


@contextmanager
def segmentation_file(target: Path) -> Iterator[Path]:
    """Like `output_file`, for a segmentation that nnU-Net's reader or SimpleITK writes, and read again.

    On a full disk SimpleITK writes what fits, and says nothing.

    Raises:
        DataError: The file could not be written, or not as a whole.
    """
    with output_file(target, errors=(OSError, RuntimeError)) as path:
        yield path
        check_complete(path)


def check_complete(path: Path) -> None:
    """Read a file that was just written, if it is NIfTI.

    Raises:
        OSError: It is cut off.
    """
    if path.name.endswith(ENDINGS):
        try:
            open_image(path)
        except FoundProblem as error:
            raise OSError(errno.ENOSPC, "written in part, as on a full disk") from error


def save_probabilities(output: Path, case: str, probabilities: np.ndarray, properties: object) -> None:
    """Write `<case>.npz` and `<case>.pkl`, as nnU-Net's commands do.

    Raises:
        DataError: One cannot be written.
    """
    with output_file(output / f"{case}.npz") as path:
        np.savez_compressed(path, probabilities=probabilities)
    with output_file(output / f"{case}.pkl") as path:
        path.write_bytes(pickle.dumps(properties))


def descriptions(member: Member) -> dict[str, dict[str, Any]]:
    """Return the content of the files that tell nnU-Net's commands what a folder of predictions holds."""
    return {"dataset.json": member.dataset_json, "plans.json": member.plans}


def check_output(
    cases: Sequence[InputCase],
    output: Path,
    member: Member,
    overwrite: bool,
    save_probabilities: bool,
    others: Iterable[Path] = (),
) -> None:
    """Refuse an output folder with files that would be lost, or that belong to another model.

    Args:
        cases: What will be predicted.
        output: The folder for the segmentations.
        member: A model that predicts.
        overwrite: Replace segmentations, and nothing else.
        save_probabilities: Whether `<case>.npz` and `<case>.pkl` are written too.
        others: Other files that the same call writes.

    Raises:
        DataError: Names the file that is in the way.
    """
    try:
        dangling = output.is_symlink() and not output.exists()
        target = output.resolve()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{output}: cannot be found ({error}): choose another folder") from error
    if dangling:
        raise DataError(f"{output} is a broken link: choose another folder")
    images = [file for case in cases for file in case.files]
    if target in {folder for file in images for folder in (file.parent.resolve(), file.resolve().parent)}:
        raise DataError(f"{output} is the folder of the images: choose another one for the segmentations")
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file: choose another folder for the segmentations")
    names = [case.case for case in cases]
    masks = [output / f"{name}{member.dataset_json['file_ending']}" for name in names]
    softmax = [output / f"{name}.npz" for name in names if save_probabilities]
    properties = [output / f"{name}.pkl" for name in names if save_probabilities]
    check_distinct([*masks, *softmax, *properties, *(output / name for name in descriptions(member)), *others], images)
    values = _label_values(member.dataset_json) | _label_values_of(output / "dataset.json")
    foreign = _foreign(output)
    is_ours = not foreign and all((output / name).is_file() for name in descriptions(member))
    kinds: list[tuple[list[Path], str, Callable[[Path], bool]]] = [
        (
            masks,
            "a segmentation of 'predict' (labels of the model, beside dataset.json and plans.json)",
            lambda path: is_ours and _is_segmentation(path, values),
        ),
        (softmax, "a file of probabilities", _is_softmax),
        (properties, "a file of nnU-Net's properties", _is_properties),
    ]
    for targets, kind, is_kind in kinds:
        for target in targets:
            check_target(target, overwrite, kind, is_kind)
    for name, content in descriptions(member).items():
        path = output / name
        if not os.path.lexists(path) or _holds(path, content):
            continue
        if not overwrite:
            raise DataError(
                f"{path} exists already and is not of this model: choose another folder, or give --overwrite"
            )
        if foreign or path.is_symlink():
            why = f"{output} holds '{foreign}', so it is no folder of predictions" if foreign else "it is a link"
            raise DataError(f"{path} is not replaced, as {why}: choose another folder")


def start_output(output: Path, member: Member) -> None:
    """Create the output folder with its dataset.json and plans.json.

    Raises:
        DataError: It cannot be written to.
    """
    problem = folder_problem(output)
    if problem:
        raise DataError(
            f"{output}: cannot write there ({problem}): make room or correct its permissions, or choose another folder"
        )
    for name, content in descriptions(member).items():
        if not _holds(output / name, content):
            with output_file(output / name) as path:
                path.write_text(json.dumps(content, indent=4))


def _foreign(folder: Path) -> str | None:
    """Return the name of something in a folder that a folder of predictions does not hold; None if there is nothing."""
    if not folder.is_dir():
        return None
    endings = (*ENDINGS, ".npz", ".pkl", ".csv")
    for path in sorted(folder.iterdir()):
        inside = {one.name for one in path.iterdir()} if path.is_dir() else set()
        if inside <= _PAGE and inside & {"index.html", "scans"}:  # the page is written last
            continue
        if path.is_dir() or not (path.name.endswith(endings) or path.name in _OTHERS):
            return path.name
    return None


def _holds(path: Path, content: dict[str, Any]) -> bool:
    """Tell whether a JSON file exists and holds this content."""
    try:
        return bool(read_json(path) == content)
    except DataError:
        return False


def _label_values(dataset_json: Mapping[str, Any]) -> set[int]:
    """Return the values that a segmentation may hold."""
    values = [*dataset_json["labels"].values(), dataset_json.get("regions_class_order") or 0]
    return {0, *(int(v) for value in values for v in (value if isinstance(value, list) else [value]))}


def _label_values_of(path: Path) -> set[int]:
    """Return the values of the segmentations beside a dataset.json; none if it cannot be read."""
    try:
        return _label_values(read_object(path))
    except (DataError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _is_segmentation(path: Path, values: set[int]) -> bool:
    try:
        image = open_image(path)
        array = np.asanyarray(image.dataobj)
    except (FoundProblem, EOFError, zlib.error, MemoryError):
        return False
    return array.dtype.kind in "iu" and set(np.unique(array).tolist()) <= values


def _is_softmax(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\3\4" and b"probabilities.npy" in stream.read(64)


def _is_properties(path: Path) -> bool:
    content = path.read_bytes()
    return content[:1] == b"\x80" and b"spacing" in content
