"""Recognise a dataset folder, Medical Segmentation Decathlon (MSD) or nnU-Net raw, and pair its images and labels."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from hippo_nnunet.data.description import label_values, value_finding
from hippo_nnunet.data.finding import Finding, FoundProblem

SIMPLE_ITK, NIBABEL = "SimpleITKIO", "NibabelIO"
"""nnU-Net's readers of NIfTI; each has a variant `...WithReorient`."""

AXIS_CODES = "axis_codes"
"""Entry of a preprocessed dataset's and a model's dataset.json: axis codes of the training images, such as `RAS`, to
their number."""

CHANNEL = re.compile(r"_(\d{4})$")
ENDINGS = (".nii.gz", ".nii")
IMAGE_ENDINGS = (*ENDINGS, ".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".hdr", ".mgz", ".mgh", ".dcm")
"""Endings of images, in lower case: in a folder of images, another one is a mistake, not something else."""


@dataclass(frozen=True)
class Case:
    """One case of a dataset; the files need not exist.

    Args:
        id: the file name without ending and, in nnU-Net's layout, without channel number.
        images: one file per channel, in the order of the channels.
        label: the label file; None for a test case.
        listed: whether dataset.json names it (always True in nnU-Net's layout, which has no list).
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    listed: bool = True


@dataclass(frozen=True)
class Dataset:
    """A dataset folder as it was found.

    Args:
        folder: the folder with dataset.json.
        form: ``msd`` or ``nnunet``.
        description: the content of dataset.json.
        labels: name of each label or region, and the values that it covers; the ignore label included.
        channels: number of image channels (files a case in nnU-Net's layout).
        file_ending: ``.nii.gz`` or ``.nii``.
        training: the cases of imagesTr and labelsTr, sorted by id.
        test: the cases of imagesTs, sorted by id.
    """

    folder: Path
    form: Literal["msd", "nnunet"]
    description: Mapping[str, Any]
    labels: Mapping[str, tuple[int, ...]]
    channels: int
    file_ending: str
    training: tuple[Case, ...]
    test: tuple[Case, ...]

    @property
    def reader(self) -> str:
        """Name of nnU-Net's class that reads the images: see `image_reader`."""
        return image_reader(self.description, self.file_ending)

    @property
    def label_values(self) -> frozenset[int]:
        """Every value that a label file may hold."""
        return frozenset(value for values in self.labels.values() for value in values)


def read_dataset(folder: Path) -> Dataset:
    """Read dataset.json and list the cases, without opening an image.

    Args:
        folder: an MSD task folder (``modality``, ``training`` and ``test`` in dataset.json) or a dataset of nnUNet_raw
            (``channel_names`` and ``file_ending``).

    Returns:
        The dataset. Hidden files (``._x``, ``.x``) are ignored. A file that is listed but missing counts as a case.

    Raises:
        FoundProblem: there is no such folder, it is empty, or its dataset.json is missing or cannot be understood.

    Source: ours; the rules are those of nnU-Net 2.8 (``utilities/utils.py``, ``dataset_conversion``).
    """
    try:
        description = _read_description(folder)
    except PermissionError as error:
        message, remedy = f"cannot be read ({error.strerror})", "correct the permissions of the folder and its files"
        raise _problem(folder, "no-permission", message, remedy) from error
    if "channel_names" in description:
        return _read_nnunet(folder, description)
    if "modality" in description:
        return _read_msd(folder, description)
    raise _problem(
        folder / "dataset.json",
        "dataset-json",
        "has neither 'modality' (MSD) nor 'channel_names' (nnU-Net v2)",
        "give the folder of a dataset in one of these two forms",
    )


def image_reader(description: Mapping[str, Any], file_ending: str) -> str:
    """Name the class with which nnU-Net reads images.

    Args:
        description: the content of dataset.json.
        file_ending: ``.nii.gz`` or ``.nii``.

    Returns:
        The class that dataset.json names, else the first of nnU-Net's for the file ending.

    Source: nnunetv2 2.8.1, ``imageio/reader_writer_registry.py``.
    """
    default = NIBABEL if file_ending == ".nii" else SIMPLE_ITK
    named = description.get("overwrite_image_reader_writer")
    return named if isinstance(named, str) and named != "None" else default


def visible_files(folder: Path) -> list[Path]:
    """List the files of a folder that are not hidden, sorted by name; a missing folder has none."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))


def _problem(path: Path, problem: str, message: str, remedy: str) -> FoundProblem:
    return FoundProblem(Finding(path, None, problem, message, remedy))


def _read_description(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "there is no such folder"
        raise _problem(folder, "no-folder", what, "give the folder that holds dataset.json, imagesTr and labelsTr")
    path = folder / "dataset.json"
    if not path.is_file():
        nested = sorted(p.parent for p in folder.glob("*/dataset.json"))
        if nested:
            message, remedy = "has no dataset.json", f"give {nested[0]} instead"
        elif any(folder.iterdir()):
            message = "has no dataset.json, so it is not a dataset folder"
            remedy = "give the folder that holds dataset.json, imagesTr and labelsTr, such as Task04_Hippocampus"
        else:
            message, remedy = "the folder is empty", "fetch the data with: hippo-nnunet data fetch"
        raise _problem(folder, "no-dataset-json", message, remedy)
    try:
        content = path.read_bytes()
        description = json.loads(content.decode("utf-8-sig"))
    except (IsADirectoryError, ValueError, RecursionError) as error:
        message = f"cannot be read as JSON ({error})"
        raise _problem(path, "dataset-json", message, "restore it from the source, as JSON in UTF-8") from error
    if not isinstance(description, dict):
        raise _problem(path, "dataset-json", "holds no JSON object", "restore it from the source")
    if content.startswith(codecs.BOM_UTF8) and "channel_names" in description:
        message = "begins with a byte order mark, with which nnU-Net cannot read it"
        raise _problem(path, "dataset-json", message, "save it as UTF-8 without BOM")
    return description


def _read_msd(folder: Path, description: dict[str, Any]) -> Dataset:
    path = folder / "dataset.json"
    try:
        pairs = [
            (_listed(path, e["image"], "imagesTr"), _listed(path, e["label"], "labelsTr"))
            for e in description["training"]
        ]
        listed = {_case_id(pair[0]): pair for pair in pairs}
        listed_test = {_case_id(entry): _listed(path, entry, "imagesTs") for entry in description.get("test", [])}
        named = {_text(name): int(value) for value, name in description["labels"].items()}
        channels = _count(description["modality"], "modality")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _problem(
            path,
            "dataset-json",
            f"is not in MSD form ({type(error).__name__}: {error})",
            "it needs modality {'0': 'MRI'}, labels {'0': 'background', ...}, training [{'image', 'label'}, ...]",
        ) from error
    if len(named) < len(description["labels"]):
        raise _problem(path, "dataset-json", "gives two labels the same name", "give each label a unique name")
    labels = _labels(path, named)
    images, label_files = _by_id(folder / "imagesTr"), _by_id(folder / "labelsTr")
    training = []
    for case in sorted({*listed, *images, *label_files}):
        names = listed.get(case, (f"imagesTr/{case}.nii.gz", f"labelsTr/{case}.nii.gz"))
        image = images.get(case, folder / names[0])
        training.append(Case(case, (image,), label_files.get(case, folder / names[1]), case in listed))
    found = _by_id(folder / "imagesTs")
    test = [
        Case(case, (found[case] if case in found else folder / listed_test[case],), None, case in listed_test)
        for case in sorted({*listed_test, *found})
    ]
    return Dataset(folder, "msd", description, labels, channels, ".nii.gz", tuple(training), tuple(test))


def _read_nnunet(folder: Path, description: dict[str, Any]) -> Dataset:
    path = folder / "dataset.json"
    try:
        channels = _count(description["channel_names"], "channel_names")
        ending = _text(description["file_ending"])
        declared = description["labels"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _problem(
            path,
            "dataset-json",
            f"is not in nnU-Net v2's form ({type(error).__name__}: {error})",
            "it needs channel_names, labels, numTraining and file_ending: see nnU-Net's dataset_format.md",
        ) from error
    labels = _labels(path, declared)
    if ending not in ENDINGS:
        raise _problem(path, "file-ending", f"names file_ending {ending!r}", "only .nii.gz and .nii are supported")
    if "dataset" in description:
        message = "lists the files one by one under 'dataset'"
        raise _problem(path, "dataset-json", message, "move them to imagesTr and labelsTr and remove that entry")
    label_files = _by_id(folder / "labelsTr")
    images = _channels_by_id(folder / "imagesTr", ending)
    training = []
    for case in sorted({*images, *label_files}):
        expected = (folder / "imagesTr" / f"{case}_{channel:04d}{ending}" for channel in range(channels))
        files = images.get(case) or tuple(expected)
        training.append(Case(case, files, label_files.get(case, folder / "labelsTr" / f"{case}{ending}")))
    test = [Case(case, files, None) for case, files in _channels_by_id(folder / "imagesTs", ending).items()]
    return Dataset(folder, "nnunet", description, labels, channels, ending, tuple(training), tuple(test))


def _count(channels: Any, entry: str) -> int:
    if not isinstance(channels, (Mapping, list)) or not channels:
        raise ValueError(f"{entry} lists no channel")
    return len(channels)


def _labels(path: Path, labels: Any) -> dict[str, tuple[int, ...]]:
    try:
        return label_values(labels)
    except ValueError as error:
        raise FoundProblem(value_finding(path, error)) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _listed(path: Path, name: Any, part: str) -> str:
    """Return a file that an MSD's dataset.json lists; refuse one outside of the folder where nnU-Net looks for it."""
    if PurePosixPath(_text(name)).parts[:-1] != (part,):
        remedy = f"list files of the task as ./{part}/CASE.nii.gz, and put them there"
        raise _problem(path, "dataset-json", f"lists {name!r}, which is no file in {part}", remedy)
    return str(name)


def _case_id(name: str) -> str:
    base = Path(_text(name)).name
    for ending in ENDINGS:
        if base.endswith(ending):
            return base[: -len(ending)]
    raise ValueError(f"{name!r} does not end in .nii.gz")


def _by_id(folder: Path) -> dict[str, Path]:
    return {_case_id(p.name): p for p in visible_files(folder) if p.name.endswith(ENDINGS)}


def _channels_by_id(folder: Path, ending: str) -> dict[str, tuple[Path, ...]]:
    cases: dict[str, list[Path]] = {}
    for path in visible_files(folder):
        stem = path.name[: -len(ending)]
        if path.name.endswith(ending) and CHANNEL.search(stem):
            cases.setdefault(CHANNEL.sub("", stem), []).append(path)
    return {case: tuple(files) for case, files in sorted(cases.items())}
