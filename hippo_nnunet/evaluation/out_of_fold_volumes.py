"""Volume, shape and doubt of out-of-fold predictions and their references, on which new cases are calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hippo_nnunet.evaluation.labels import label_manager_of, named_labels
from hippo_nnunet.evaluation.postprocessing import postprocess
from hippo_nnunet.evaluation.probabilities import load_probabilities
from hippo_nnunet.evaluation.reading import find_reader, read_segmentation
from hippo_nnunet.evaluation.segmentation_shape import MEASURES, Segmentation, measure_labels
from hippo_nnunet.evaluation.volume_calibration import with_total

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

OF_REFERENCE = {"volume_mm3": "volume_ref_mm3", "elongation": "elongation_ref", "border": "border_ref"}
"""What is measured of references too, and what it is called there."""
COLUMNS = ("case", "fold", "label", *MEASURES, *OF_REFERENCE.values())
"""The columns of `ensemble/volumes.csv`."""


class OutOfFoldVolumes:
    """Measures the out-of-fold predictions of one model, or of an ensemble of models.

    Args:
        references: Folder of reference segmentations, `<case><file_ending>`.
        dataset_json: Content of nnU-Net's dataset.json: labels, regions, ignore label, file ending.

    Raises:
        DataError: nnU-Net refuses the labels.
    """

    def __init__(self, references: Path, dataset_json: Mapping[str, Any]) -> None:
        labels, self._ignore_label = named_labels(dataset_json)
        self._labels = with_total(labels)
        self._manager = label_manager_of(dataset_json)
        self._references = references
        self._ending = str(dataset_json["file_ending"])
        self._preferred_reader = dataset_json.get("overwrite_image_reader_writer")
        self._reader: BaseReaderWriter | None = None

    def measure(self, case: str, fold: int, files: Sequence[Path], postprocessing: str) -> pd.DataFrame:
        """Measure one case.

        Voxels whose reference is the ignore label count as background, and the columns of the reference are NaN then:
        its volume is not known.

        Args:
            case: Its name.
            fold: The fold that validated it.
            files: Its probabilities, one `<case>.npz` for each model of that fold.
            postprocessing: One of POSTPROCESSINGS.

        Returns:
            A row for each label and for their total: COLUMNS.

        Raises:
            DataError: A file cannot be read, or a model's probabilities do not fit the reference.
        """
        path = self._references / f"{case}{self._ending}"
        self._reader = self._reader or find_reader(self._ending, path, self._preferred_reader)
        reference, properties = read_segmentation(self._reader, path)
        spacing = properties["spacing"]
        expected_shape = (self._manager.num_segmentation_heads, *reference.shape)
        probabilities = [load_probabilities(file, expected_shape) for file in files]
        mean = sum(probabilities[1:], probabilities[0]) / len(files)
        ignored = np.zeros(reference.shape, dtype=bool)
        if self._ignore_label is not None:
            ignored = reference == self._ignore_label
        unprocessed = self._segmentation(mean)
        predicted = Segmentation(
            case,
            np.where(ignored, 0, postprocess(unprocessed, postprocessing, self._manager)),
            spacing,
            mean,
            unprocessed,
            [self._segmentation(of_model) for of_model in probabilities],
            self._manager.has_regions,
        )
        found = measure_labels(predicted, self._labels)
        expected = measure_labels(Segmentation(case, np.where(ignored, 0, reference), spacing), self._labels)
        rows = []
        for one, other in zip(found, expected, strict=True):
            of_reference = {name: np.nan if ignored.any() else other[key] for key, name in OF_REFERENCE.items()}
            rows.append({"fold": fold, **one, **of_reference})
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _segmentation(self, probabilities: np.ndarray) -> np.ndarray:
        return np.asarray(self._manager.convert_probabilities_to_segmentation(probabilities))
