"""The model that segments a box: an ONNX file with one channel and labels of a hippocampus's parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.cases import InputCase, check_images
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.known_images import KnownImages
from hippo_nnunet.inference.onnx_network import OnnxNetwork
from hippo_nnunet.inference.onnx_predict import labels_of
from hippo_nnunet.inference.prediction_files import segmentation_file
from hippo_nnunet.inference.preprocessing import Preprocessing
from hippo_nnunet.inference.scans import check_size
from hippo_nnunet.inference.suspicions import Suspicions
from hippo_nnunet.models.onnx_file import OnnxModel, open_onnx
from hippo_nnunet.segment.scan import Floats

_BOX_MM = 1.0


@dataclass(frozen=True)
class SegmentedCrop:
    """A crop around one hippocampus, all arrays (z, y, x) in the file's order of axes.

    Attributes:
        probabilities: float32 (head, z, y, x), background first.
        labels: The likeliest label.
        spacing_mm: Voxel edges.
        flags: What is suspicious about the image.
        properties: nnU-Net's, for writing.
    """

    probabilities: Floats = field(repr=False)
    labels: npt.NDArray[np.unsignedinteger] = field(repr=False)
    spacing_mm: tuple[float, ...]
    flags: tuple[str, ...]
    properties: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class BoxModel:
    """A model, ready to predict.

    Attributes:
        model: The opened file.
        parts: Names of its labels in lower case, in the order of their values 1, 2 and so on.
    """

    model: OnnxModel
    parts: tuple[str, ...]
    _network: OnnxNetwork = field(repr=False)
    _steps: Preprocessing = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> BoxModel:
        """Open a file of `hippo-nnunet model export --onnx`.

        Raises:
            DataError: See `open_onnx`; or it needs several channels, or has regions or labels that are not 1, 2, ...
            DependencyError: onnxruntime is not installed.
        """
        model = open_onnx(path)
        channels = len(model.configuration["normalization_schemes"])
        labels = model.dataset_json["labels"]
        values = {name: value for name, value in labels.items() if value != 0 and name != "ignore"}
        if channels != 1 or model.labels.regions is not None or sorted(values.values()) != [*range(1, len(values) + 1)]:
            raise DataError(
                f"{path}: takes {channels} channels and has the labels {labels}; segment needs a "
                "model of one channel with the labels 1, 2, ...: use predict with this one"
            )
        parts = tuple(name.lower() for name, _ in sorted(values.items(), key=lambda item: item[1]))
        steps = Preprocessing.of(model.plans, model.configuration)
        return cls(model, parts, OnnxNetwork(model), steps)

    def predict(self, image: Floats) -> Floats:
        """Return the probabilities (head, x, y, z), background first, of a box (x, y, z) of 1 mm voxels.

        Raises:
            DataError: The box is empty, or see `OnnxNetwork.predict`.
        """
        if not image.any():
            raise DataError("the box around the hippocampus holds nothing but zeros")
        properties: dict[str, object] = {"spacing": [_BOX_MM] * 3}
        prepared = self._steps.apply(np.ascontiguousarray(image.T)[None].copy(), properties)
        return self._steps.probabilities(self._network.predict(prepared), properties, False).transpose(0, 3, 2, 1)

    def predict_crop(self, case: InputCase, known: KnownImages | None) -> SegmentedCrop:
        """Segment a crop as stored, exactly as `predict_onnx` does.

        Args:
            case: The crop.
            known: What the model knows of its images; None: nothing is compared.

        Raises:
            DataError: See `check_images`, `Suspicions`, `check_size` and `OnnxNetwork.predict`.
        """
        model, steps = self.model, self._steps
        checked = check_images(case, steps.reader)
        suspicions = Suspicions(known, [checked])
        suspicions.refuse(case)
        check_size(checked, model.plans, model.configuration["spacing"], model.labels.heads)
        image, properties = steps.read(case)
        prepared = steps.apply(image, properties)
        suspicions.look(case, prepared[0].transpose(steps.backward))
        probabilities = steps.probabilities(self._network.predict(prepared), properties, False)
        labels = labels_of(probabilities, model.labels)
        spacing_mm = tuple(map(float, properties["spacing"]))
        return SegmentedCrop(probabilities, labels, spacing_mm, suspicions.flags(case), properties)

    def write_crop(self, crop: SegmentedCrop, path: Path) -> None:
        """Write the labels of a crop on its grid, as `predict_onnx` does.

        Raises:
            DataError: It cannot be written.
        """
        with segmentation_file(path) as temporary:
            self._steps.write(crop.labels, temporary, crop.properties)
