"""nnU-Net's preprocessing and its way back to the image's grid, without torch and nnU-Net.

Source: nnunetv2 2.8.1, ``preprocessing/preprocessors/default_preprocessor.py``,
``preprocessing/normalization/default_normalization_schemes.py``, ``preprocessing/resampling/default_resampling.py`` and
``inference/export_prediction.py``; tests compare with these. scipy is imported where it is needed only: that takes as
long as the prediction of a small image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.cases import InputCase, bounding_box
from hippo_nnunet.data.layout import NIBABEL
from hippo_nnunet.data.nifti import itk_geometry, read_volume
from hippo_nnunet.data.resampling import resampled_shape
from hippo_nnunet.errors import DataError

Floats = npt.NDArray[np.float32]

_ANISOTROPIC = 3.0
"""nnU-Net's ANISO_THRESHOLD."""
_LEAST_DEVIATION = 1e-8


@dataclass(frozen=True)
class Preprocessing:
    """What a configuration of the plans says on preprocessing.

    Attributes:
        reader: nnU-Net's reader, `SimpleITKIO` or `NibabelIO`.
        forward: Order of the file's axes (z, y, x) for the network.
        backward: Its inverse.
        spacing_mm: Voxel size in the network's order of axes; two numbers for slices.
        schemes: Normalization of each channel.
        masked: Whether each channel is normalized within its non-zero region.
        intensities: Statistics of the training images, for each channel.
        of_image: Arguments of resampling of images.
        of_logits: Arguments of resampling of logits.
    """

    reader: str
    forward: tuple[int, ...]
    backward: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    schemes: tuple[str, ...]
    masked: tuple[bool, ...]
    intensities: tuple[Mapping[str, float], ...]
    of_image: Mapping[str, Any]
    of_logits: Mapping[str, Any]

    @classmethod
    def of(cls, plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> Preprocessing:
        """Read plans and a configuration with resolved inheritance, both checked by `check_description`."""
        key = "foreground_intensity_properties_per_channel"
        intensities = plans.get(key, plans.get("foreground_intensity_properties_by_modality"))
        assert intensities is not None
        schemes = tuple(configuration["normalization_schemes"])
        return cls(
            plans["image_reader_writer"],
            tuple(plans["transpose_forward"]),
            tuple(plans["transpose_backward"]),
            tuple(configuration["spacing"]),
            schemes,
            tuple(configuration["use_mask_for_norm"]),
            tuple(intensities[str(channel)] for channel in range(len(schemes))),
            _resampling(configuration["resampling_fn_data_kwargs"]),
            _resampling(configuration["resampling_fn_probabilities_kwargs"]),
        )

    def read(self, case: InputCase) -> tuple[Floats, dict[str, Any]]:
        """Read a case's images.

        Returns:
            float32 (channel, z, y, x), and nnU-Net's properties, which `write` needs.

        Raises:
            DataError: See `read_volume`.
        """
        volumes = [read_volume(path, case.case, self.reader) for path in case.files]
        array = np.stack([volume.array for volume in volumes]).astype(np.float32)
        spacing = list(np.abs(volumes[0].spacing_mm[::-1]))
        if self.reader == NIBABEL:
            return array, {
                "nibabel_stuff": {"original_affine": volumes[0].affine},
                "spacing": list(map(float, spacing)),
            }
        return array, {"sitk_stuff": itk_geometry(case.files[0]), "spacing": spacing}

    def apply(self, image: Floats, properties: dict[str, Any]) -> Floats:
        """Transpose, crop to the non-zero region, normalize and resample.

        Args:
            image: float32 (channel, z, y, x), as `read` returns it; it is overwritten.
            properties: Gets the shapes and the crop.

        Returns:
            float32 (channel, z, y, x), in the network's order of axes.
        """
        image = image.transpose([0, *(axis + 1 for axis in self.forward)])
        nonzero = np.any(image != 0, axis=0)
        box = z, y, x = bounding_box(nonzero)
        properties["shape_before_cropping"] = image.shape[1:]
        properties["bbox_used_for_cropping"] = [[part.start, part.stop] for part in box]
        mask = _filled(nonzero)[box] if any(self.masked) else nonzero[box]
        image = image[:, z, y, x]
        properties["shape_after_cropping_and_before_resampling"] = image.shape[1:]
        for channel, (scheme, masked) in enumerate(zip(self.schemes, self.masked, strict=True)):
            _NORMALIZATIONS[scheme](image[channel], mask if masked else None, self.intensities[channel])
        found_mm, target_mm = self._spacings(properties)
        shape = resampled_shape(image.shape[1:], found_mm, target_mm)
        return resample(image, shape, found_mm, target_mm, **self.of_image)

    def probabilities(self, logits: Floats, properties: Mapping[str, Any], regions: bool) -> Floats:
        """Return probabilities on the image's grid.

        Args:
            logits: float32 (head, z, y, x), on the preprocessed grid.
            properties: See `apply`.
            regions: A sigmoid for each head; else a softmax over the heads.

        Returns:
            float32 (head, z, y, x). Outside of the crop, the background has 1, or each region 0.
        """
        found_mm, target_mm = self._spacings(properties)
        shape = properties["shape_after_cropping_and_before_resampling"]
        resampled = resample(logits, shape, target_mm, found_mm, **self.of_logits)
        inside = _sigmoid(resampled) if regions else _softmax(resampled)
        whole = np.zeros((len(inside), *properties["shape_before_cropping"]), np.float32)
        if not regions:
            whole[0] = 1
        z, y, x = (slice(start, stop) for start, stop in properties["bbox_used_for_cropping"])
        whole[:, z, y, x] = inside
        return whole.transpose([0, *(axis + 1 for axis in self.backward)])

    def write(self, labels: npt.NDArray[np.unsignedinteger], path: Path, properties: Mapping[str, Any]) -> None:
        """Write labels (z, y, x) on the image's grid, as nnU-Net's reader does: 8 bits, or 16 from label 255 on."""
        labels = labels.astype(np.uint8 if labels.max() < 255 else np.uint16, copy=False)
        if self.reader == NIBABEL:
            import nibabel

            nibabel.save(nibabel.Nifti1Image(labels.T, affine=properties["nibabel_stuff"]["original_affine"]), path)
            return
        import SimpleITK

        image = SimpleITK.GetImageFromArray(labels)
        geometry = properties["sitk_stuff"]
        image.SetSpacing(geometry["spacing"])
        image.SetOrigin(geometry["origin"])
        image.SetDirection(geometry["direction"])
        SimpleITK.WriteImage(image, str(path), True)

    def _spacings(self, properties: Mapping[str, Any]) -> tuple[list[float], list[float]]:
        """Return the voxel sizes of the image and of the network's input, in the network's order of axes."""
        found = [properties["spacing"][axis] for axis in self.forward]
        return found, [*found[: 3 - len(self.spacing_mm)], *self.spacing_mm]  # slices keep their distance


def resample(
    volumes: Floats,
    shape: Sequence[int],
    found_mm: Sequence[float],
    target_mm: Sequence[float],
    order: int = 3,
    order_z: int = 0,
    force_separate_z: bool | None = False,
    separate_z_anisotropy_threshold: float = _ANISOTROPIC,
) -> Floats:
    """Resample to another size by splines: along the coarsest axis by itself if the voxels are much longer there.

    Args:
        volumes: float32 (channel, z, y, x).
        shape: New size (z, y, x).
        found_mm: Voxel size of the volumes.
        target_mm: New voxel size.
        order: Of the splines, 0 to 5.
        order_z: Of the splines along the coarsest axis.
        force_separate_z: Treat the coarsest axis by itself or not; None: by the threshold.
        separate_z_anisotropy_threshold: Ratio of voxel sizes above which it is treated by itself.

    Returns:
        float32 (channel, *shape); the argument if that has this size.
    """
    if tuple(volumes.shape[1:]) == tuple(shape):
        return volumes
    axis = _separate_axis(force_separate_z, found_mm, target_mm, separate_z_anisotropy_threshold)
    resampled = np.empty((len(volumes), *shape), np.float32)
    for channel, volume in enumerate(volumes.astype(np.float64)):
        resampled[channel] = (
            _resized(volume, shape, order) if axis is None else _by_slices(volume, shape, axis, order, order_z)
        )
    return resampled


def _by_slices(volume: npt.NDArray[Any], shape: Sequence[int], axis: int, order: int, order_z: int) -> npt.NDArray[Any]:
    inner = [size for number, size in enumerate(shape) if number != axis]
    slices = np.stack([_resized(one, inner, order) for one in np.moveaxis(volume, axis, 0)], axis)
    if slices.shape[axis] == shape[axis]:
        return slices
    scales = [size / new for size, new in zip(slices.shape, shape, strict=True)]
    grid = np.mgrid[tuple(slice(size) for size in shape)]
    from scipy.ndimage import map_coordinates

    places = np.stack([scale * (places + 0.5) - 0.5 for scale, places in zip(scales, grid, strict=True)])
    return np.asarray(map_coordinates(slices, places, order=order_z, mode="nearest"))


def _resized(volume: npt.NDArray[Any], shape: Sequence[int], order: int) -> npt.NDArray[Any]:
    """Source: scikit-image 0.26, ``transform.resize`` with mode "edge" and without anti-aliasing."""
    from scipy.ndimage import zoom

    factors = [1 / factor for factor in np.divide(volume.shape, shape)]
    resized = zoom(volume, factors, order=order, mode="nearest", grid_mode=True)
    return np.asarray(np.clip(resized, volume.min(), volume.max(), out=resized))


def _separate_axis(
    force: bool | None, found_mm: Sequence[float], target_mm: Sequence[float], threshold: float
) -> int | None:
    if force is False:
        return None
    anisotropic = [mm for mm in (found_mm, target_mm) if max(mm) / min(mm) > threshold]
    spacing = found_mm if force else next(iter(anisotropic), None)
    if spacing is None:
        return None
    coarsest = [axis for axis, size in enumerate(spacing) if max(spacing) / size == 1]
    return coarsest[0] if len(coarsest) == 1 else None


def _resampling(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "is_seg"}


def _filled(nonzero: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    from scipy.ndimage import binary_fill_holes

    return np.asarray(binary_fill_holes(nonzero))


_Mask = npt.NDArray[np.bool_] | None


def _z_score(image: Floats, mask: _Mask, _: Mapping[str, float]) -> None:
    if mask is None:
        mean, deviation = image.mean(), image.std()
        image -= mean
        image /= max(deviation, _LEAST_DEVIATION)
    else:
        mean, deviation = image[mask].mean(), image[mask].std()
        image[mask] = (image[mask] - mean) / max(deviation, _LEAST_DEVIATION)


def _ct(image: Floats, _: _Mask, of_training: Mapping[str, float]) -> None:
    np.clip(image, of_training["percentile_00_5"], of_training["percentile_99_5"], out=image)
    image -= of_training["mean"]
    image /= max(of_training["std"], _LEAST_DEVIATION)


def _rescale(image: Floats, _: _Mask, __: Mapping[str, float]) -> None:
    image -= image.min()
    image /= np.clip(image.max(), a_min=_LEAST_DEVIATION, a_max=None)


def _rgb(image: Floats, _: _Mask, __: Mapping[str, float]) -> None:
    if image.min() < 0 or image.max() > 255:
        raise DataError(
            f"intensities from {image.min():g} to {image.max():g}, but the model takes colours from 0 to 255: "
            "rescale the image"
        )
    image /= 255.0


_NORMALIZATIONS: dict[str, Callable[[Floats, _Mask, Mapping[str, float]], None]] = {
    "ZScoreNormalization": _z_score,
    "CTNormalization": _ct,
    "NoNormalization": lambda image, mask, of_training: None,
    "RescaleTo01Normalization": _rescale,
    "RGBTo01Normalization": _rgb,
}


def _softmax(logits: Floats) -> Floats:
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def _sigmoid(logits: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp of a large number is infinity, and the probability 0
        return np.asarray(1 / (1 + np.exp(-logits)), np.float32)
