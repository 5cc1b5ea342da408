"""The submission archive: `<task>/<case>.nii.gz`, labels in the input images' own geometry.

Every file starts with the header and header extensions of its input image. Only the fields in
`nifti_header.CHANGED_FIELDS` differ, which describe storage and display of the voxels.
"""

from __future__ import annotations

import io
import json
import lzma
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection
from gzip import GzipFile
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError

from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.layout import CHANNEL
from hippo_nnunet.data.nifti import place_difference
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.data.nifti_header import InputHeader, byte_order, read_input_header
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import zip_entry
from hippo_nnunet.outputs import check_target, output_file

TASK_NAME = "Task04_Hippocampus"

_ENDING = ".nii.gz"
_SYMLINK = 0o120000
_CHUNK = 1 << 20
_READ_ERRORS = (
    OSError, EOFError, ValueError, RuntimeError, NotImplementedError, OverflowError, MemoryError,
    lzma.LZMAError, zlib.error, zipfile.BadZipFile, ImageFileError,
)  # fmt: skip


def case_images(images: Path) -> dict[str, Path]:
    """List the images of a folder by case.

    Args:
        images: Folder of `<case>.nii.gz` (MSD), or of `<case>_0000.nii.gz` (nnU-Net; the first channel is used).

    Returns:
        Case to image, sorted by case, without hidden files.

    Raises:
        DataError: No such folder, or no image in it.
    """
    stems = _stems(images)
    first = {CHANNEL.sub("", stem): path for stem, path in stems.items() if stem.endswith("_0000")}
    if first and all(CHANNEL.search(stem) for stem in stems):
        return first
    if not stems:
        raise DataError(f"{images}: no {_ENDING} image: give the folder of the test images (imagesTs)")
    return stems


def dataset_labels(dataset_json: Path) -> frozenset[int]:
    """Read a dataset's label values.

    Args:
        dataset_json: dataset.json of the MSD ("1": "Anterior") or of nnU-Net ("Anterior": 1, regions as lists).

    Returns:
        The values with background, without nnU-Net's ignore label.

    Raises:
        DataError: The file is missing or holds no labels.
    """
    try:
        labels = json.loads(dataset_json.read_text(encoding="utf-8-sig"))["labels"]
        values: set[int] = {0}
        for key, value in labels.items():
            if key != "ignore":
                entry = key if isinstance(value, str) else value
                values.update(int(v) for v in (entry if isinstance(entry, list) else [entry]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{dataset_json}: no readable labels ({error}): give the dataset.json of the task") from error
    return frozenset(values)


def nearby_labels(*folders: Path) -> frozenset[int]:
    """Return the label values of the first dataset.json found in some folders: see `dataset_labels`.

    Raises:
        DataError: No folder has one, or it has no labels.
    """
    for folder in folders:
        if (folder / "dataset.json").is_file():
            return dataset_labels(folder / "dataset.json")
    raise DataError(f"no dataset.json in {' or '.join(map(str, folders))}: name it with --dataset-json")


def write_submission(
    predictions: Path,
    images: Path,
    archive: Path,
    task_name: str = TASK_NAME,
    overwrite: bool = False,
    labels: Collection[int] | None = None,
) -> list[str]:
    """Write the archive from a folder of predictions; it replaces the target only after it has been verified.

    The same predictions and images give the same bytes (with one version of zlib).

    Args:
        predictions: Folder of `<case>.nii.gz`, exactly one for each image.
        images: See `case_images`.
        archive: Target, `.zip`.
        task_name: Folder in the archive.
        overwrite: Replace an earlier submission.
        labels: Allowed label values; None: those of dataset.json beside the predictions or above the images.

    Returns:
        The cases written, sorted.

    Raises:
        ConfigError: The target is not a `.zip` file, or the task's name is not a plain folder name.
        DataError: The archive exists; predictions are missing, extra, unreadable, on another grid than their image,
            or hold other values than labels.
    """
    if archive.suffix != ".zip" or archive.is_dir():
        raise ConfigError(f"{archive}: a submission is a .zip file: give such a name")
    if not re.fullmatch(r"\w[\w.-]*", task_name):
        raise ConfigError(f"task name {task_name!r}: give a plain folder name such as {TASK_NAME}")
    check_target(archive, overwrite, "a submission", _is_submission)
    inputs = case_images(images)
    found = _stems(predictions)
    for cases, what in ((set(inputs) - set(found), "no prediction for"), (set(found) - set(inputs), "no image for")):
        if cases:
            shown = ", ".join(sorted(cases)[:5]) + (", ..." if len(cases) > 5 else "")
            raise DataError(
                f"{predictions}: {what} {len(cases)} cases ({shown}): expected exactly the {len(inputs)} of {images}"
            )
    allowed = frozenset(labels) if labels is not None else nearby_labels(predictions, images.resolve().parent)
    with output_file(archive) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as target:
            for case, image in inputs.items():
                content = _label_image(found[case], read_input_header(image), allowed)
                target.writestr(zip_entry(f"{task_name}/{case}{_ENDING}"), content)
        problems = verify_submission(temporary, images, allowed, task_name)
        if problems:
            raise DataError(f"{archive}: not written, it fails its own verification ({problems[0]}): report this")
    return list(inputs)


def _is_submission(path: Path) -> bool:
    """Tell whether an archive is one of `write_submission`, by the fixed date and storage of its entries."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _READ_ERRORS:
        return False
    ours = zip_entry("")
    return all(
        (entry.date_time, entry.compress_type, entry.external_attr)
        == (ours.date_time, ours.compress_type, ours.external_attr)
        and re.fullmatch(rf"[^/]+/[^/]+{re.escape(_ENDING)}", entry.filename)
        for entry in entries
    )


def verify_submission(archive: Path, images: Path, labels: Collection[int], task_name: str = TASK_NAME) -> list[str]:
    """List an archive's problems; nothing is extracted, and no entry is read beyond its expected size.

    Args:
        archive: The zip file.
        images: See `case_images`.
        labels: Allowed label values.
        task_name: Folder in the archive.

    Returns:
        One line for each problem.

    Raises:
        DataError: The archive or the images do not exist, or an image is unreadable.
    """
    inputs = case_images(images)
    if not archive.is_file():
        raise DataError(f"{archive}: no such file: name the archive to verify")
    expected = {f"{task_name}/{case}{_ENDING}": read_input_header(image) for case, image in inputs.items()}
    try:
        with zipfile.ZipFile(archive) as source:
            entries = source.infolist()
            problems = _name_problems(entries, set(expected), f"{task_name}/")
            for entry in entries:
                if entry.orig_filename in expected and not _is_link(entry):
                    found = _entry_problems(source, entry, expected[entry.orig_filename], frozenset(labels))
                    problems += [f"{entry.orig_filename}: {problem}" for problem in found]
    except Exception as error:  # zipfile raises various exceptions for a damaged directory
        return [f"not a readable zip archive: {' '.join(str(error).split()) or type(error).__name__}"]
    return problems


def _stems(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(_ENDING) and not path.name.startswith("."))
    return {path.name[: -len(_ENDING)]: path for path in paths}


def _label_image(prediction: Path, header: InputHeader, allowed: frozenset[int]) -> bytes:
    try:
        image = open_image(prediction)
    except FoundProblem as error:
        if error.finding.problem == "name":
            raise
        reason = error.finding.message
        raise DataError(f"{prediction}: cannot be read ({reason}): delete it and predict this case again") from error
    if image.shape != header.shape:
        raise DataError(
            f"{prediction}: got shape {image.shape}, expected {header.shape} as {header.path}: predict from this image"
        )
    try:
        voxels = np.asanyarray(image.dataobj)
    except _READ_ERRORS as error:
        raise DataError(f"{prediction}: cannot be read ({error}): delete it and predict this case again") from error
    difference = place_difference(prediction, header.path)
    if difference:
        raise DataError(f"{prediction}: {difference}: predict from this image")
    problem = _value_problem(voxels, allowed)
    if problem:
        raise DataError(f"{prediction}: {problem}: give the segmentation, not probabilities or another task's labels")
    packed = io.BytesIO()
    with GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as stream:
        stream.write(header.label_bytes(voxels))
    return packed.getvalue()


def _value_problem(voxels: np.ndarray, allowed: frozenset[int]) -> str | None:
    unexpected = np.setdiff1d(np.unique(voxels), sorted(allowed))
    if not len(unexpected):
        return None
    return f"got the values {unexpected[:5].tolist()}, expected only the labels {sorted(allowed)}"


def _is_link(entry: zipfile.ZipInfo) -> bool:
    return (entry.external_attr >> 16) & 0o170000 == _SYMLINK


def _name_problems(entries: list[zipfile.ZipInfo], expected: set[str], folder: str) -> list[str]:
    problems = []
    for name, count in Counter(entry.orig_filename for entry in entries).items():
        if count > 1:
            problems.append(f"{name!r}: {count} entries of this name")
        if re.search(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:|\\|\0", name):
            problems.append(f"{name!r}: the path leads out of the archive or is not portable")
        elif name not in expected and name != folder:
            problems.append(f"{name!r}: not expected; the archive must hold only {folder}<case>{_ENDING}")
    problems += [f"{entry.orig_filename!r}: a symbolic link" for entry in entries if _is_link(entry)]
    problems += [f"{name}: missing" for name in sorted(expected - {entry.orig_filename for entry in entries})]
    return problems


def _read_at_most(stream: GzipFile, limit: int) -> bytes:
    """Read up to `limit` bytes in chunks, so that a small stream needs little memory."""
    content = bytearray()
    while len(content) < limit and (part := stream.read(min(_CHUNK, limit - len(content)))):
        content += part
    return bytes(content)


def _entry_problems(
    source: zipfile.ZipFile, entry: zipfile.ZipInfo, header: InputHeader, allowed: frozenset[int]
) -> list[str]:
    n_voxels = math.prod(header.shape)
    limit = len(header.prefix) + 8 * n_voxels
    if entry.file_size > limit + 2**16:
        return [f"{entry.file_size} bytes compressed, more than a label image of this shape can take"]
    try:
        with source.open(entry) as stream, GzipFile(fileobj=stream) as unpacked:
            content = _read_at_most(unpacked, limit + 1)
    except _READ_ERRORS as error:
        return [f"cannot be unpacked: {error}"]
    if len(content) > limit:
        return ["unpacks to more than a label image of this shape can take"]
    if len(content) < len(header.prefix):
        return [f"truncated: {len(content)} bytes"]
    problems = header.differences(content)
    found = nibabel.Nifti1Header(content[:348], byte_order(content), check=False)
    code = int(found.structarr["datatype"])
    dtype = nibabel.nifti1.data_type_codes.dtype.get(code, np.dtype("V1")).newbyteorder(byte_order(content))
    slope, intercept = float(found.structarr["scl_slope"]), float(found.structarr["scl_inter"])
    if dtype.kind not in "iu" or found.structarr["bitpix"] != 8 * dtype.itemsize:
        return [*problems, f"voxels of type {code} ({found.structarr['bitpix']} bit), expected integers"]
    if not (slope in (0, 1) or np.isnan(slope)) or not (intercept == 0 or np.isnan(intercept)):
        problems.append(f"voxels are scaled (slope {slope:g}, intercept {intercept:g}), expected plain labels")
    size = len(content) - len(header.prefix)
    if size != n_voxels * dtype.itemsize:
        return [*problems, f"{size} bytes of voxels, expected {n_voxels * dtype.itemsize}"]
    problem = _value_problem(np.frombuffer(content, dtype, offset=len(header.prefix)), allowed)
    return [*problems, problem] if problem else problems
