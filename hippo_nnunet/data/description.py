"""What nnU-Net reads in a dataset.json: channels, labels, regions, and the reader of the images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hippo_nnunet.data.finding import Finding, FoundProblem
from hippo_nnunet.files import read_object

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

LARGEST_LABEL = 65535
"""Largest value of a label file: 16 bits."""
MEAN, TOTAL = "mean", "total"
"""What tables of results call the mean over labels, and all labels together; no other label may be called so."""

_LONGEST = 60


@dataclass(frozen=True)
class Labels:
    """Labels as nnU-Net's label manager reads them, without importing torch.

    Attributes:
        values: Label values without that of the ignore label, sorted.
        regions: Values of each region that the network has a head for, in the heads' order; None without regions.
        order: The label that each region is written as; later ones overwrite earlier ones. Empty without regions.
        ignore: Value of the ignore label; None if there is none.
    """

    values: tuple[int, ...]
    regions: tuple[tuple[int, ...], ...] | None
    order: tuple[int, ...] = ()
    ignore: int | None = None

    @property
    def heads(self) -> int:
        """Number of the network's outputs."""
        return len(self.values if self.regions is None else self.regions)


def read_labels(description: Mapping[str, Any]) -> Labels:
    """Read the labels of a dataset.json.

    Args:
        description: Content of nnU-Net's dataset.json (`labels`, with regions also `regions_class_order`).

    Raises:
        ValueError: nnU-Net refuses these labels, or see `label_values`; names may be any.

    Source: nnunetv2 2.8.1, ``utilities/label_handling/label_handling.py``.
    """
    entries = description.get("labels")
    covered = label_values(entries, any_name=True)
    assert entries is not None
    if isinstance(entries.get("background", []), (list, tuple)):
        raise ValueError("Background label must be 0. Not a list, and not missing")
    if isinstance(entries.get("ignore"), (list, tuple)):
        raise ValueError("the ignore label has to be an integer, not a region")
    (ignore,) = covered.pop("ignore", (None,))
    values = tuple(sorted({value for of_label in covered.values() for value in of_label}))
    if ignore is not None and ignore != values[-1] + 1:
        raise ValueError("the ignore label must have the highest label value")
    if all(len(of_label) == 1 for of_label in covered.values()):
        return Labels(values, None, ignore=ignore)
    regions = tuple(of_region for of_region in covered.values() if set(of_region) != {0})
    order = description.get("regions_class_order")
    if not isinstance(order, (list, tuple)):
        raise ValueError("with regions, define regions_class_order: the label that each region is written as")
    if len(order) != len(regions):
        raise ValueError(f"regions_class_order must have as many entries as there are regions: {len(regions)}")
    return Labels(values, regions, tuple(order), ignore)


def read_description(path: Path) -> dict[str, Any]:
    """Read a dataset.json of nnU-Net, and refuse what nnU-Net would refuse late, or misread.

    Args:
        path: The file; file ending and number of cases are not checked.

    Raises:
        DataError: It cannot be read, or see `description_findings`.
    """
    description = read_object(path)
    try:
        labels = label_values(description.get("labels"))
    except ValueError as error:
        raise FoundProblem(value_finding(path, error)) from error
    for finding in description_findings(path, description, labels):
        if finding.severity == "error":
            raise FoundProblem(finding)
    return description


def label_values(labels: Any, any_name: bool = False) -> dict[str, tuple[int, ...]]:
    """Return the values that each label or region covers, the ignore label included.

    Args:
        labels: The entry `labels`: name to value, or to the list of a region's values.
        any_name: Accept names that cannot be printed, which nnU-Net does too.

    Raises:
        ValueError: No labels, a name that cannot be printed, a value that is no whole number from 0 to
            LARGEST_LABEL, or two plain labels that share a value.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError("names no labels")
    found: dict[str, tuple[int, ...]] = {}
    names: dict[int, str] = {}
    for name, value in labels.items():
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if not any_name and (not name.strip() or not name.isprintable()):
            raise ValueError(f"has a label called {_short(name)}")
        if not values:
            raise ValueError(f"gives {name!r} no label value")
        for one in values:
            if type(one) is not int or not 0 <= one <= LARGEST_LABEL:  # nnU-Net accepts "1", 1.0 and true at first
                raise ValueError(f"gives {name!r} the label value {_short(one)}")
        other = names.setdefault(values[0], name) if len(values) == 1 else name
        if other != name:
            raise ValueError(f"gives the labels {other!r} and {name!r} the same value {values[0]}")
        found[name] = values
    return found


def value_finding(path: Path, error: ValueError) -> Finding:
    """Return the finding of a dataset.json whose labels `label_values` refuses."""
    number = f"a whole number from 0 to {LARGEST_LABEL} without quotes or decimal point"
    remedy = f"give each label a name and a unique value, {number}"
    return Finding(path, None, "dataset-json", str(error), remedy)


def description_findings(
    path: Path, description: Mapping[str, Any], labels: Mapping[str, tuple[int, ...]]
) -> Iterator[Finding]:
    """List what nnU-Net refuses or misreads in a dataset.json.

    Args:
        path: The file.
        description: Its content in nnU-Net's form, or that of the Decathlon in nnU-Net's form.
        labels: See `label_values`.
    """

    def finding(message: str, remedy: str, severity: Literal["error", "warning"] = "error") -> Finding:
        return Finding(path, None, "dataset-json", message, remedy, severity)

    entry = "modality" if "modality" in description else "channel_names"
    channels = description.get("channel_names")
    if (
        not channels
        or not isinstance(channels, Mapping)
        or not all(isinstance(name, str) for name in channels.values())
    ):
        yield finding(f"{entry} is {_short(channels)}", 'write each channel\'s number and name: {"0": "MRI"}')
    elif list(channels) != (numbers := [str(number) for number in range(len(channels))]):
        message = f"{entry} numbers the channels {', '.join(map(str, channels))}"
        yield finding(message, f"number them {', '.join(numbers)}, in this order")
    if 0 not in labels.get("background", ()):
        yield finding("has no label 'background' with value 0", "nnU-Net needs it by exactly this name")
    values = sorted({value for covered in labels.values() for value in covered})
    if values != list(range(len(values))):
        yield finding(f"label values {_short(values)} are not consecutive", "nnU-Net needs 0, 1, 2, ... without a gap")
    structures = [{*covered} for name, covered in labels.items() if name not in ("background", "ignore")]
    every = set().union(*structures)
    if MEAN in labels or (TOTAL in labels and every not in structures):
        name = MEAN if MEAN in labels else TOTAL
        yield finding(f"has a label {name!r}, as tables call that of all labels", "give the label another name")
    if "overwrite_image_reader_writer" in description:
        problem = _reader_problem(description["overwrite_image_reader_writer"], description.get("file_ending"))
        if problem:
            yield finding(f"overwrite_image_reader_writer {problem}", "take the entry out, or name a reader of nnU-Net")
    try:
        of_nnunet = read_labels(description)
    except ValueError as error:
        yield finding(
            f"nnU-Net refuses its labels ({error})", "see labels, regions and ignore label in nnU-Net's documentation"
        )
        return
    if of_nnunet.regions is not None:
        yield from (finding(*problem) for problem in _region_problems(of_nnunet, of_nnunet.regions))


def nnunet_readers() -> dict[str, type[BaseReaderWriter]]:
    """Return nnU-Net's readers by name, in the order in which it tries them."""
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIOWithReorient  # nnU-Net finds it by name only

    return {reader.__name__: reader for reader in (*LIST_OF_IO_CLASSES, SimpleITKIOWithReorient)}


def _reader_problem(name: Any, file_ending: Any) -> str | None:
    """Return why nnU-Net cannot use the reader that a dataset.json names; None if it can."""
    readers = nnunet_readers()
    if name == "None":
        return None
    if not isinstance(name, str) or name not in readers:
        return f"is {_short(name)}, expected one of {', '.join(readers)}"
    endings = readers[name].supported_file_endings
    return None if file_ending in endings else f"is {name}, which reads {', '.join(endings)}, not {file_ending}"


def _region_problems(
    labels: Labels, regions: tuple[tuple[int, ...], ...]
) -> Iterator[tuple[str, str, Literal["error", "warning"]]]:
    """List the labels that, turned into regions and back by `regions_class_order`, end in other regions."""
    order = list(labels.order)
    if any(type(value) is not int for value in order):
        yield f"regions_class_order is {_short(order)}", "give label values, without quotes", "error"
        return
    for value in labels.values:
        inside = [value in region for region in regions]
        written = ([0, *(last for last, holds in zip(order, inside, strict=True) if holds)])[-1]
        if [written in region for region in regions] != inside:
            message = f"with regions_class_order {order}, a voxel of label {value} is written as {written}"
            remedy = "list one value for each region, in the order of labels: one that no later region holds"
            yield message, remedy, "error"
        elif written != value:
            message = f"with regions_class_order {order}, predictions hold {written} where references hold {value}"
            yield message, "expected only if the regions are to merge these labels", "warning"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
