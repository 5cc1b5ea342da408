"""A synthetic image in a model file, with the model's expected output, to verify that it works on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.nifti import nifti_bytes, read_volume, small_labels
from hippo_nnunet.data.phantom import make_case
from hippo_nnunet.errors import DataError, HippoError
from hippo_nnunet.models.container import as_json

if TYPE_CHECKING:
    from hippo_nnunet.inference.batched_predictor import BatchedPredictor

LABELS, EXPECTED = "example/labels.nii", "example/expected.json"

SAMPLES = 128
"""Voxels whose probabilities are kept: half where the model is least certain, half evenly spaced."""
_DIGITS = 7
_SEED = 6
_MOST_VOXELS = 2**22


@dataclass(frozen=True)
class Output:
    """Actual or expected output for the example.

    Attributes:
        labels: (z, y, x), integers.
        voxels: Flat indices of the voxels whose probabilities are kept.
        probabilities: (voxel, head), in [0, 1].
    """

    labels: npt.NDArray[np.int64]
    voxels: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]


def input_member(channel: int) -> str:
    """Return the name of a channel's image in the file."""
    return f"example/input_{channel:04d}.nii"


def make_inputs(plans: Mapping[str, Any], channels: int, normalization: Sequence[str]) -> dict[str, bytes]:
    """Make the example's images: a phantom with the median spacing and intensities of the plans.

    Args:
        plans: Content of plans.json.
        channels: Number of images, all of the same structure.
        normalization: The plans' scheme of each channel.

    Returns:
        Member name to an uncompressed NIfTI file, float32.
    """
    image = make_case(np.random.default_rng(_SEED)).image.astype(np.float64)
    scores = (image - image.mean()) / image.std()
    known = plans.get("foreground_intensity_properties_per_channel", {})
    inputs = {}
    for channel in range(channels):
        of_channel = known.get(str(channel), {})
        mean, std = (float(of_channel.get(key, default)) for key, default in (("mean", 100.0), ("std", 20.0)))
        values = mean + std * scores
        if normalization[channel] == "RGBTo01Normalization":  # expects 8-bit values
            values = values.clip(0, 255)
        inputs[input_member(channel)] = nifti_bytes(values.astype(np.float32), _affine(plans))
    return inputs


def run_example(predictor: BatchedPredictor, images: Sequence[Path], voxels: npt.NDArray[np.int64] | None) -> Output:
    """Predict the example.

    Args:
        predictor: The model, with the torch backend.
        images: The example's files, one for each channel.
        voxels: Flat indices whose probabilities to keep; None: choose them.

    Raises:
        DataError: Probabilities are NaN or infinite.
    """
    image, properties = predictor.preprocess(images)
    segmentation, probabilities = predictor.to_image_grid(predictor.predict_image(image), properties)
    if not np.isfinite(probabilities).all():
        raise DataError("the model's probabilities of its example are NaN or infinite: its weights hold extreme values")
    flat = np.asarray(probabilities, dtype=np.float64).reshape(len(probabilities), -1)
    voxels = _sample_voxels(flat) if voxels is None else voxels
    return Output(np.asarray(segmentation, dtype=np.int64), voxels, flat[:, voxels].T.round(_DIGITS))


def pack_output(output: Output, plans: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the members of the expected output: a label image on the input's grid, and the probabilities."""
    content = {"voxels": output.voxels.tolist(), "probabilities": output.probabilities.tolist()}
    return {LABELS: nifti_bytes(small_labels(output.labels).T, _affine(plans)), EXPECTED: as_json(content)}


def unpack_output(labels: Path, content: Mapping[str, Any]) -> Output:
    """Read an expected output.

    Args:
        labels: The label image.
        content: Content of EXPECTED.

    Raises:
        DataError: It is invalid.
    """
    try:
        array = np.asarray(read_volume(labels).array)
        voxels = np.asarray(content["voxels"], dtype=np.int64)
        probabilities = np.asarray(content["probabilities"], dtype=np.float64)
        fits = voxels.ndim == 1 and probabilities.ndim == 2 and len(voxels) == len(probabilities) > 0
        if not fits or voxels.min() < 0 or voxels.max() >= array.size or array.dtype.kind not in "iu":
            raise ValueError(f"{len(voxels)} voxels, probabilities of shape {probabilities.shape}")
    except HippoError as error:
        raise DataError(f"{LABELS}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{EXPECTED}: not an expected output ({str(error)[:100]})") from error
    return Output(array.astype(np.int64), voxels, probabilities)


def check_input(path: Path) -> None:
    """Raise DataError if the example is not a small, valid image; the caller adds the model file's name."""
    try:
        volume = read_volume(path)
    except HippoError as error:
        raise DataError(str(error).replace(str(path), path.name)) from error
    if volume.non_finite or volume.array.size > _MOST_VOXELS:
        raise DataError(f"{path.name}: {volume.non_finite} voxels are NaN or infinite, of {volume.array.size}")


def _sample_voxels(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Choose voxels that reveal a changed model: the least certain ones, and evenly spaced ones."""
    surest = np.sort(probabilities, axis=0)[::-1]
    margin = surest[0] - surest[1] if len(surest) > 1 else np.abs(surest[0] - 0.5)
    unsure = np.argsort(margin, kind="stable")[: SAMPLES // 2]
    spread = np.linspace(0, probabilities.shape[1] - 1, SAMPLES // 2).astype(np.int64)
    return np.unique(np.concatenate([unsure, spread]))


def _affine(plans: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Return an affine with the median spacing (x, y, z), which plans hold as transposed (z, y, x)."""
    turned = plans["original_median_spacing_after_transp"]
    return np.diag([*(float(turned[axis]) for axis in reversed(plans["transpose_backward"])), 1.0])
