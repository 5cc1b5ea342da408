"""Preprocessing, sliding window and labels without torch are nnU-Net's own, on random data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from hippo_nnunet.data.cases import InputCase
from hippo_nnunet.data.description import read_labels
from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.onnx_network import importance
from hippo_nnunet.inference.onnx_predict import labels_of
from hippo_nnunet.inference.preprocessing import Preprocessing, resample
from hippo_nnunet.inference.windows import padding

PLAIN = {"background": 0, "a": 1, "b": 2}
REGIONS = {"background": 0, "whole": [1, 2], "a": 2}


@pytest.mark.parametrize(
    ("shape", "found_mm", "target_mm"),
    [
        ((7, 9, 11), (1.0, 1.2, 0.9), (1.0, 1.0, 1.0)),
        ((6, 9, 11), (4.0, 1.0, 1.0), (3.0, 1.1, 0.9)),  # the first axis by itself
        ((9, 6, 11), (1.0, 4.0, 1.0), (1.1, 4.0, 0.9)),  # of equal size
        ((9, 11, 6), (1.0, 1.0, 1.5), (1.1, 1.1, 6.0)),  # by the new voxel size
        ((6, 7, 11), (4.0, 4.0, 1.0), (2.0, 2.0, 1.0)),  # two coarse axes
    ],
)
@pytest.mark.parametrize("force", [None, False, True])
@pytest.mark.parametrize(("order", "order_z"), [(3, 0), (1, 1)])
def test_resampling_is_nnunets(
    shape: tuple[int, ...], found_mm: Any, target_mm: Any, force: bool | None, order: int, order_z: int
) -> None:
    data = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    new = tuple(round(size * old / mm) for size, old, mm in zip(shape, found_mm, target_mm, strict=True))
    arguments = {"order": order, "order_z": order_z, "force_separate_z": force, "separate_z_anisotropy_threshold": 3}
    expected = resample_data_or_seg_to_shape(data.copy(), new, found_mm, target_mm, is_seg=False, **arguments)
    found = resample(data, new, found_mm, target_mm, **arguments)
    assert new != shape
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def plans(dim: int, reader: str, scheme: str, masked: bool) -> dict[str, Any]:
    function = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    one = {"mean": 90.0, "std": 30.0, "percentile_00_5": 20.0, "percentile_99_5": 170.0}
    configuration = {
        "preprocessor_name": "DefaultPreprocessor",
        "architecture": {},
        "spacing": [1.0] * dim,
        "patch_size": [8] * dim,
        "normalization_schemes": [scheme] * 2,
        "use_mask_for_norm": [masked, False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": function,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": function | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": function | {"order": 1},
    }
    return {
        "image_reader_writer": reader,
        "transpose_forward": [1, 2, 0],
        "transpose_backward": [2, 0, 1],
        "configurations": {"c": configuration},
        "foreground_intensity_properties_per_channel": {"0": one, "1": one | {"mean": 70.0}},
    }


def write_case(folder: Path, scaled: bool = False) -> InputCase:
    """Two channels of 200 and more intensities, with anisotropic oblique voxels, a rim of zeros and a hole."""
    files = []
    for channel in range(2):
        array = np.random.default_rng(channel).integers(1, 200, (9, 11, 13)).astype(np.int16)
        array[:2] = array[:, -1] = array[:, :, 0] = 0
        array[4:6, 4:6, 4:6] = 0
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.0, 1.2, 0.9))
        image.SetOrigin((10.0, -20.0, 5.0))
        image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
        files.append(folder / f"case_{channel:04d}.nii.gz")
        sitk.WriteImage(image, str(files[-1]))
        if scaled:
            made = nib.load(files[-1])
            made.header.set_slope_inter(0.5, 3.0)
            nib.save(nib.Nifti1Image(made.get_fdata() * 0.5 + 3.0, made.affine, made.header), files[-1])
    return InputCase("case", tuple(files))


SCHEMES = (
    "ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"
)  # fmt: skip


@pytest.mark.parametrize(
    ("dim", "reader", "scheme", "masked", "labels"),
    [
        *((3, "SimpleITKIO", scheme, False, PLAIN) for scheme in SCHEMES),
        (3, "SimpleITKIO", "ZScoreNormalization", True, REGIONS),
        (2, "NibabelIO", "ZScoreNormalization", True, PLAIN),
        (2, "SimpleITKIO", "CTNormalization", False, REGIONS),
    ],
)
def test_there_and_back_is_nnunets(
    tmp_path: Path, dim: int, reader: str, scheme: str, masked: bool, labels: dict[str, Any]
) -> None:
    content = plans(dim, reader, scheme, masked)
    dataset = {"labels": labels, "regions_class_order": [1, 2], "channel_names": {"0": "a", "1": "b"}}
    case = write_case(tmp_path, scaled=reader == "NibabelIO")
    manager = PlansManager(content)
    configuration = manager.get_configuration("c")
    expected, _, of_nnunet = DefaultPreprocessor(verbose=False).run_case(
        [str(file) for file in case.files], None, manager, configuration, dataset
    )
    step = Preprocessing.of(content, content["configurations"]["c"])
    image, properties = step.read(case)
    made = step.apply(image, properties)
    assert made.shape != image.shape
    np.testing.assert_array_equal(made, expected)

    logits = np.random.default_rng(5).normal(scale=3, size=(3 if labels is PLAIN else 2, *made.shape[1:]))
    logits = logits.astype(np.float32)
    label_manager = LabelManager(labels, [1, 2])
    segmentation, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
        torch.from_numpy(logits.copy()), manager, configuration, label_manager, of_nnunet, True, 1
    )
    own = read_labels(dataset)
    found = step.probabilities(logits, properties, own.regions is not None)
    np.testing.assert_allclose(found, probabilities, atol=1e-6)
    np.testing.assert_array_equal(labels_of(found, own), segmentation)

    manager.image_reader_writer_class().write_seg(segmentation, str(tmp_path / "theirs.nii.gz"), of_nnunet)
    step.write(labels_of(found, own), tmp_path / "ours.nii.gz", properties)
    theirs, ours = (nib.load(tmp_path / f"{name}.nii.gz") for name in ("theirs", "ours"))
    assert ours.header == theirs.header
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))


def test_colours_out_of_range_are_refused() -> None:
    step = Preprocessing.of(made := plans(3, "SimpleITKIO", "RGBTo01Normalization", False), made["configurations"]["c"])
    properties = {"spacing": [1.0, 1.0, 1.0]}
    with pytest.raises(DataError, match="intensities from -2 to 1, but the model takes colours"):
        step.apply(np.array([1, -2] * 8, np.float32).reshape(2, 2, 2, 2), properties)


@pytest.mark.parametrize("shape", [(9, 20, 31), (8, 6, 40), (30, 13, 12)])
@pytest.mark.parametrize("patch", [(8, 6, 12), (6, 12)])
def test_padding_is_nnunets(shape: tuple[int, ...], patch: tuple[int, ...]) -> None:
    padded, inner = pad_nd_image(np.zeros((1, *shape)), patch, return_slicer=True)
    around = padding(shape, patch)
    assert [size + sum(pads) for size, pads in zip(shape, around, strict=True)] == list(padded.shape[1:])
    assert [pads[0] for pads in around] == [part.start or 0 for part in inner[1:]]


@pytest.mark.parametrize("patch", [(8, 6, 12), (6, 12)])
def test_weights_are_nnunets(patch: tuple[int, ...]) -> None:
    weight = compute_gaussian(patch, sigma_scale=1.0 / 8, value_scaling_factor=10, device=torch.device("cpu"))
    np.testing.assert_array_equal(importance(patch), weight.float().numpy())


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        (PLAIN, None),
        (REGIONS, [1, 2]),
        ({**PLAIN, "ignore": 3}, None),
        ({"background": 0, "whole": [1, 2], "a": [2], "ignore": 3}, [1, 2]),
        ({"background": 0, "a": [1], "b": 2}, [7]),
        ({"background": 0, "a": [1, 1]}, [1]),
        ({"background": 0, "whole": [1, 2]}, [1, 2]),
        ({"background": 0, "whole": [1, 2]}, None),
        ({"background": [0], "a": 1}, None),
        ({"a": 1}, None),
        ({"background": 0, "ignore": 1, "a": 2}, None),
        ({"background": 0, "a": 1, "ignore": [2]}, None),
    ],
)
def test_labels_are_nnunets(labels: dict[str, Any], order: list[int] | None) -> None:
    description = {"labels": labels, "regions_class_order": order}
    try:
        manager = LabelManager(labels, order)
    except (AssertionError, RuntimeError):
        with pytest.raises(ValueError, match=r"abel|regions"):
            read_labels(description)
        return
    found = read_labels(description)
    assert list(found.values) == manager.all_labels
    assert found.heads == manager.num_segmentation_heads
    assert (found.regions is not None) == manager.has_regions
    if found.regions is not None:
        of_nnunet = [region if isinstance(region, tuple) else (region,) for region in manager.foreground_regions]
        assert list(found.regions) == of_nnunet
        assert list(found.order) == manager.regions_class_order
