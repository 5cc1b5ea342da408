"""The maps of an explanation as NIfTI files in the image's geometry, and the rows of its Dice table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.nifti import small_labels
from hippo_nnunet.data.nifti_file import open_image
from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.explanation import Explanation
from hippo_nnunet.outputs import output_file


def file_names(labels: Iterable[str]) -> dict[str, str]:
    """Return each label's name without characters that a file name should not have; no two are equal in any case."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in dict.fromkeys(labels):
        base = re.sub(r"[^\w.-]+", "-", label).strip("-") or "label"
        numbered = (base, *(f"{base}-{number}" for number in range(2, 2 + len(taken))))
        names[label] = next(name for name in numbered if name.casefold() not in taken)
        taken.add(names[label].casefold())
    return names


def check_map_names(cases: Iterable[str], labels: Iterable[str]) -> None:
    """Refuse cases of which two would have a map of one name: `a` and `a_errors_b` with labels `c`, `b_errors_c`.

    Raises:
        DataError: Names both.
    """
    names = file_names(labels).values()
    of_labels = [f"{kind}_{name}" for kind in ("similarity", "probability", "errors") for name in names]
    kinds = ("prediction", "prediction_changed", *of_labels)
    written: dict[str, str] = {}
    for case in cases:
        for name in (f"{case}_{kind}" for kind in kinds):
            if name in written:
                raise DataError(
                    f"cases {written[name]} and {case}: a map of each would be called {name}.nii.gz: explain them into "
                    "different folders"
                )
            written[name] = case


def write_maps(explanation: Explanation, folder: Path) -> list[Path]:
    """Write every map of a case.

    Args:
        explanation: The case.
        folder: Gets `<case>_attention_level<N>.nii.gz` (level 1: highest resolution), `<case>_similarity_<class>`,
            `<case>_probability_<label>`, all float32; `<case>_prediction`, `<case>_prediction_changed` and
            `<case>_errors_<label>` (1 false positive, 2 false negative), uint8 or uint16.

    Returns:
        The files.

    Raises:
        DataError: A file cannot be written.
    """
    shown = file_names((*explanation.similarity, *explanation.labels))
    maps: dict[str, npt.NDArray[Any]] = {
        "prediction": small_labels(explanation.segmentation),
        **{f"attention_level{level}": m for level, m in enumerate(explanation.attention, start=1)},
        **{f"similarity_{shown[name]}": m for name, m in explanation.similarity.items()},
        **{f"probability_{shown[name]}": m for name, m in explanation.probabilities.items()},
    }
    if explanation.changed is not None:
        maps["prediction_changed"] = small_labels(explanation.changed)
    for label in explanation.labels:
        errors = explanation.errors(label)
        if errors is not None:
            maps[f"errors_{shown[label]}"] = errors
    return [
        write_nifti(array, explanation.image.path, folder / f"{explanation.case}_{name}.nii.gz")
        for name, array in maps.items()
    ]


def write_nifti(array: npt.NDArray[Any], like: Path, target: Path) -> Path:
    """Write an array with the geometry of an image: its shape, sform, qform and their codes.

    Args:
        array: (z, y, x), float32, uint8 or uint16.
        like: The NIfTI image on whose grid the array lies.
        target: The file, ending in `.nii.gz`.

    Returns:
        The target.

    Raises:
        DataError: It cannot be written.
    """
    source = open_image(like)
    header = source.header.copy()
    header.set_data_dtype(array.dtype)
    header["cal_min"] = header["cal_max"] = 0
    image = nib.Nifti1Image(np.ascontiguousarray(array.T).reshape(source.shape), None, header)
    with output_file(target) as temporary:
        nib.save(image, temporary)
    return target


def dice_rows(explanation: Explanation) -> list[dict[str, Any]]:
    """Return each label's Dice: prediction against reference, and with the changed prompts against both."""
    before, after, expected = explanation.segmentation, explanation.changed, explanation.reference
    rows: list[dict[str, Any]] = []
    for label in explanation.labels:
        row: dict[str, Any] = {"case": explanation.case, "label": label}
        if expected is not None:
            row["dice"] = explanation.dice(expected, before, label)
        if after is not None:
            row["dice_before_after"] = explanation.dice(before, after, label)
            if expected is not None:
                row["dice_changed"] = explanation.dice(expected, after, label)
        rows.append(row)
    return rows
