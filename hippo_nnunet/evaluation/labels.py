"""Names and values of a dataset's labels, as nnU-Net's label manager reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hippo_nnunet.data.description import label_values, read_labels
from hippo_nnunet.errors import DataError, one_line

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    from hippo_nnunet.evaluation.metrics import Label


def label_manager_of(dataset_json: Mapping[str, Any]) -> LabelManager:
    """Build nnU-Net's label manager from the content of a dataset.json.

    Args:
        dataset_json: Content of nnU-Net's dataset.json (`labels`, with regions also `regions_class_order`).

    Returns:
        The label manager: labels, regions, ignore label, and how probabilities become labels.

    Raises:
        DataError: nnU-Net refuses these labels.
    """
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    try:
        return LabelManager(dict(dataset_json["labels"]), dataset_json.get("regions_class_order"))
    except (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _refused(dataset_json, error) from error


def named_labels(dataset_json: Mapping[str, Any]) -> tuple[dict[str, Label], int | None]:
    """Foreground labels (or regions) by name, and the ignore label.

    Returns:
        The labels in the order of dataset.json, each a value or, for a region, a tuple of values; and the value of
        the ignore label, None if there is none. Background and ignore label are not among the labels.

    Raises:
        DataError: nnU-Net refuses these labels.
    """
    try:
        ignore = read_labels(dataset_json).ignore
    except ValueError as error:
        raise _refused(dataset_json, error) from error
    names: dict[str, Label] = {}
    for name, values in label_values(dataset_json["labels"], any_name=True).items():
        if name != "ignore" and set(values) != {0}:
            names[name] = values[0] if len(values) == 1 else values
    return names, ignore


def _refused(dataset_json: Mapping[str, Any], error: Exception) -> DataError:
    reason = one_line(error)
    return DataError(
        f"dataset.json: nnU-Net refuses its labels {dataset_json.get('labels')!r} ({reason}): "
        'write them as {"background": 0, "name": 1, ...}'
    )
