"""nnU-Net's augmentation in batches, held against batchgeneratorsv2: operations, what is drawn, the whole chain."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy.stats import chi2_contingency, ks_2samp

from hippo_nnunet.training import intensity
from hippo_nnunet.training.augmentation import BatchRandom, augment_batch, draw_geometry, draw_volumes
from hippo_nnunet.training.augmentation_spec import AugmentationSpec, Operation, stock_spec
from hippo_nnunet.training.spatial import centre_crop, resample, rotation_and_scale

PATCH, CUT, ANGLE = (28, 20), (33, 32), math.pi
SPEC = stock_spec((-ANGLE, ANGLE), CUT, (0, 1))


def changed(spec: AugmentationSpec, changes: dict[str, dict[str, Any]]) -> AugmentationSpec:
    return replace(spec, **{name: replace(getattr(spec, name), **change) for name, change in changes.items()})


def stock_transforms(patch=PATCH, angle=ANGLE, in_plane=False, masked: list[bool] | None = None) -> list:
    axes = tuple(range(len(patch)))
    return nnUNetTrainer.get_training_transforms(
        patch, (-angle, angle), None, axes, in_plane, use_mask_for_norm=masked
    ).transforms


def patches(n: int, *size: int, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Blobs of two classes in a noisy image, a strip outside the image on one side."""
    rng = np.random.default_rng(1)
    grids = np.meshgrid(*[np.arange(s) - s / 2 for s in size], indexing="ij")
    images = rng.normal(0, 0.4, (n, channels, *size))
    labels = np.zeros((n, 1, *size), np.int16)
    for sample in range(n):
        centre, radius = rng.uniform(-1, 1, len(size)) * np.minimum(4, np.array(size) / 6), rng.uniform(4, 9)
        distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)))
        labels[sample, 0][distance < radius] = 1
        labels[sample, 0][(distance < radius) & (grids[0] > centre[0])] = 2
        images[sample] += rng.uniform(0.5, 2) * np.sqrt(labels[sample]) + rng.normal(
            0, 0.5, (channels, *[1] * len(size))
        )
        strip = int(rng.integers(0, 1 + min(5, size[0] // 4)))
        labels[sample, 0, :strip], images[sample, :, :strip] = -1, 0
    return torch.from_numpy(images.astype(np.float32)), torch.from_numpy(labels)


# -- numbers and order -------------------------------------------------------------------------------------------------


def test_nnunets_recipe_has_our_numbers_in_our_order():
    """Contract: fails when nnU-Net changes its augmentation."""
    spatial, noise, blur, bright, contrast, coarse, inverted, gamma, mirror, mask, remove = stock_transforms(
        masked=[True]
    )
    spec = SPEC
    assert (spatial.p_rotation, spatial.rotation, spatial.p_rot_per_axis) == (spec.rotation.p, spec.rotation.bounds, 1)
    assert (spatial.p_scaling, spatial.scaling) == (spec.scaling.p, spec.scaling.bounds)
    assert spatial.p_synchronize_scaling_across_axes == 1 and spatial.p_elastic_deform == 0
    assert (spatial.mode_image, spatial.mode_seg, spatial.padding_mode_image) == ("bilinear", "bilinear", "zeros")
    assert (spatial.border_mode_seg, spatial.padding_value_seg) == ("constant", -1)
    assert not spatial.random_crop and not spatial.align_corners

    def inner(random: Any, name: str, operation: Operation, parameter: str, **attributes: Any) -> None:
        assert random.apply_probability == operation.p
        assert type(random.transform).__name__ == name
        assert operation.per_channel != random.transform.synchronize_channels
        attributes |= {parameter: operation.bounds, "p_per_channel": operation.p_channel}
        for key, value in attributes.items():
            found = getattr(random.transform, key)
            assert getattr(found, "contrast_range", found) == value, (name, key)
            assert operation.balanced == hasattr(getattr(random.transform, parameter), "contrast_range")

    inner(noise, "GaussianNoiseTransform", spec.noise, "noise_variance")
    inner(blur, "GaussianBlurTransform", spec.blur, "blur_sigma", synchronize_axes=False)
    inner(bright, "MultiplicativeBrightnessTransform", spec.brightness, "multiplier_range")
    inner(contrast, "ContrastTransform", spec.contrast, "contrast_range", preserve_range=True)
    coarsening = {"ignore_axes": None, "synchronize_axes": True, "allowed_channels": None}
    inner(coarse, "SimulateLowResolutionTransform", spec.low_resolution, "scale", **coarsening)
    inner(inverted, "GammaTransform", spec.inverted_gamma, "gamma", p_retain_stats=1, p_invert_image=1)
    inner(gamma, "GammaTransform", spec.gamma, "gamma", p_retain_stats=1, p_invert_image=0)
    assert mirror.allowed_axes == spec.mirror_axes
    assert "torch.rand(1) < 0.5" in inspect.getsource(MirrorTransform)
    assert (mask.apply_to_channels, mask.set_outside_to) == ([0], 0)
    assert type(remove).__name__ == "RemoveLabelTransform"
    flat = stock_transforms((4, 28, 20), in_plane=True)
    assert [type(t).__name__[:9] for t in flat[:3]] == ["Convert3D", "SpatialTr", "Convert2D"]
    assert flat[7].transform.ignore_axes == (0,)


# -- one operation with given parameters -------------------------------------------------------------------------------


def turned_by_theirs(image, labels, patch, angles, scale):
    transform = SpatialTransform(
        patch, patch_center_dist_from_border=0, random_crop=False, p_rotation=1,
        rotation=lambda image, dim: float(angles[dim]), p_scaling=1, scaling=(scale, scale),
        p_synchronize_scaling_across_axes=1, border_mode_seg="constant", padding_value_seg=-1,
    )  # fmt: skip
    out = transform(image=image.clone(), segmentation=labels.clone())
    return out["image"], out["segmentation"]


@pytest.mark.parametrize(
    ("cut", "patch", "in_plane"),
    [((33, 32), (28, 20), False), ((13, 17, 16), (12, 14, 13), False), ((6, 33, 32), (6, 28, 20), True)],
)
def test_a_given_rotation_and_zoom_agrees_voxel_by_voxel(cut, patch, in_plane):
    rng = np.random.default_rng(0)
    count = 6
    image, labels = patches(count, *cut, channels=2)
    angles, scales = rng.uniform(-3, 3, (count, 3)), rng.uniform(0.7, 1.4, count)
    own = angles if len(patch) == 3 and not in_plane else angles[:, -1:]
    matrices = rotation_and_scale(torch.from_numpy(own), torch.from_numpy(scales))
    ours, seg = resample(image, labels, patch, matrices, (-1, 0, 1, 2))
    assert torch.equal(seg, resample(image, labels, patch, matrices)[1])
    agreeing = []
    for sample in range(count):
        x, y = image[sample], labels[sample]
        if in_plane:
            x, y = x.flatten(0, 1), y.flatten(0, 1)
        turn = angles[sample] if own.shape[1] == 3 else angles[sample, -1:].repeat(3)
        theirs, segmentation = turned_by_theirs(x, y, patch[1:] if in_plane else patch, turn, scales[sample])
        assert torch.allclose(ours[sample].view_as(theirs), theirs, atol=2e-4)
        agreeing.append((seg[sample].view_as(segmentation) == segmentation).float().mean().item())
    assert min(agreeing) > 0.999
    assert (seg == -1).any() and (seg == 2).any()


@pytest.mark.parametrize(("cut", "patch"), [((33, 32), (28, 20)), ((32, 33), (27, 21)), ((9, 13, 12), (6, 10, 11))])
def test_a_sample_left_alone_is_cut_as_theirs_is(cut, patch):
    image, labels = patches(1, *cut)
    transform = SpatialTransform(patch, 0, False)
    theirs = transform(image=image[0], segmentation=labels[0])
    assert torch.equal(centre_crop(image, patch)[0], theirs["image"])
    assert torch.equal(centre_crop(labels, patch)[0], theirs["segmentation"])


@pytest.mark.parametrize("size", [(28, 20), (5, 14, 12)])
def test_each_intensity_operation_agrees_with_theirs(size):
    images, _ = patches(8, *size)
    volumes = images[:, 0]
    one, channel = torch.ones(1), torch.tensor([0])

    def against(ours: torch.Tensor, transform: Any, atol: float = 2e-5, **parameters: Any) -> None:
        for sample, volume in enumerate(volumes):
            given = {key: value(sample) for key, value in parameters.items()}
            theirs = transform._apply_to_image(volume[None].clone(), **given)[0]
            assert torch.allclose(ours[sample], theirs, atol=atol), (type(transform).__name__, sample)
            assert not torch.allclose(volume, theirs, atol=1e-3)

    factor = torch.tensor([0.75, 0.8, 0.9, 0.97, 1.03, 1.1, 1.2, 1.25])
    bright = MultiplicativeBrightnessTransform((0.75, 1.25), False)
    multipliers = {"apply_to_channel": lambda i: channel, "multipliers": lambda i: factor[i : i + 1]}
    against(intensity.brighten(volumes, factor), bright, **multipliers)
    against(intensity.change_contrast(volumes, factor), ContrastTransform((0.75, 1.25), True, False), **multipliers)
    for inverted in (False, True):
        exponent = torch.tensor([0.7, 0.8, 0.9, 0.95, 1.1, 1.2, 1.35, 1.5])
        against(
            intensity.change_gamma(volumes, exponent, inverted), GammaTransform((0.7, 1.5), 0, False, 1, 1),
            apply_to_channel=lambda i: channel, retain_stats=lambda i: one, gamma=lambda i, e=exponent: e[i : i + 1],
            invert_image=lambda i, inverted=inverted: one * inverted,
        )  # fmt: skip
    # kernels of three, five and seven voxels, on both sides of where batchgeneratorsv2 changes from one to the next
    sigma = torch.tensor([0.5, 0.58, 0.59, 0.7, 0.91, 0.92, 0.99, 1.0])
    sigmas = torch.stack([sigma, *[sigma.flip(0)] * (len(size) - 1)], dim=1)
    against(
        intensity.blur(volumes, sigmas), GaussianBlurTransform((0.5, 1.0), False, False, 1, benchmark=False),
        apply_to_channel=lambda i: one > 0, sigmas=lambda i: [sigmas[i].tolist()],
    )  # fmt: skip
    scale = torch.tensor([0.5, 0.55, 0.62, 0.7, 0.77, 0.83, 0.9, 0.94])
    scales = torch.stack([torch.ones(8) if len(size) == 3 else scale, *[scale] * (len(size) - 1)], dim=1)
    coarse = torch.tensor([[round(n * s) for n, s in zip(size, row, strict=True)] for row in scales.double().tolist()])
    against(
        intensity.lower_resolution(volumes, coarse.float()),
        SimulateLowResolutionTransform((0.5, 1), False, True, None),
        apply_to_channel=lambda i: channel, scales=lambda i: scales[i : i + 1],
    )  # fmt: skip
    noise = intensity.add_noise(volumes, torch.full((8,), 0.1), BatchRandom(0).noise) - volumes
    assert noise.std().item() == pytest.approx(0.1, rel=0.06) and abs(noise.mean().item()) < 0.01


# -- what is drawn -----------------------------------------------------------------------------------------------------


def their_draws(patch: tuple[int, ...], angle: float, n: int) -> dict[str, tuple[int, np.ndarray]]:
    """How many of n samples each operation touches (with two channels: channels), and the values of its parameter."""
    np.random.seed(3)
    torch.manual_seed(3)
    image = torch.zeros(2, *patch)
    spatial, *others = stock_transforms(patch, angle)
    affine = [a for a in (spatial.get_parameters(image=image)["affine"] for _ in range(n)) if a is not None]
    scale = np.array([abs(np.linalg.det(a)) ** (1 / len(patch)) for a in affine])
    turns = [a / s for a, s in zip(affine, scale, strict=True)]
    drawn = {"scale": scale[np.abs(scale - 1) > 1e-9]}
    for name, angles in zip("abc", euler(np.array(turns)).T, strict=False):
        drawn[f"angle {name}"] = angles[np.abs(angles) > 1e-9]
    keys = ("sigmas", "sigmas", "multipliers", "multipliers", "scales", "gamma", "gamma")
    names = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
    for name, key, random in zip(names, keys, others, strict=False):
        found: list = []
        for _ in range(n):
            if random.get_parameters(image=image)["apply_transform"]:
                values = random.transform.get_parameters(image=image)[key]
                values = np.asarray(values, dtype=float)
                if name in ("low_resolution", "blur"):
                    values = values.reshape(-1, len(patch))[:, -1] if values.size else values
                found.extend(np.atleast_1d(values).tolist())
        drawn[name] = np.array(found)
    return {name: (len(values), values) for name, values in drawn.items()}


def euler(turns: np.ndarray) -> np.ndarray:
    """Angles of rotation matrices, (n, 1) or (n, 3); unique within plus or minus 90 degrees."""
    if turns.shape[1] == 2:
        return np.arctan2(turns[:, 1, 0], turns[:, 0, 0])[:, None]
    about = [np.arctan2(turns[:, 2, 1], turns[:, 2, 2]), -np.arcsin(np.clip(turns[:, 2, 0], -1, 1))]
    return np.stack([*about, np.arctan2(turns[:, 1, 0], turns[:, 0, 0])], axis=1)


def our_draws(spec: AugmentationSpec, dim: int, n: int) -> dict[str, tuple[int, np.ndarray]]:
    random = BatchRandom(5)
    geometry = draw_geometry(spec, n, dim, False, random)
    turns = rotation_and_scale(geometry.angles, torch.ones(len(geometry.moved))).double().numpy()
    scales = geometry.scales.numpy()
    drawn = {"scale": scales[scales != 1]}
    for name, angles in zip("abc", euler(turns).T, strict=False):
        drawn[f"angle {name}"] = angles[np.abs(angles) > 1e-6]
    for name in ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma"):
        chosen = draw_volumes(getattr(spec, name), n, 2, random, *[dim] * (name == "blur"))
        assert len(set(chosen.rows.tolist())) == len(chosen.rows) == len(chosen.values)
        values = (chosen.values[:, -1] if chosen.values.ndim == 2 else chosen.values).numpy()
        # one value for all channels of a sample
        drawn[name] = values[::2] if name == "noise" else values
    return {name: (len(values), values) for name, values in drawn.items()}


def least_likely(spec: AugmentationSpec, dim: int, theirs: dict, n: int, ours_n: int = 12000) -> tuple[float, str]:
    """The smallest probability, of all counts and distributions, that ours come from where theirs do."""
    ours = our_draws(spec, dim, ours_n)
    assert ours.keys() == theirs.keys()
    found = []
    for name, (count, values) in ours.items():
        most = 2 if name in ("blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma") else 1
        table = [[count, most * ours_n - count], [theirs[name][0], most * n - theirs[name][0]]]
        # the two channels of a sample are chosen together: half as many independent choices at the worst
        found.append((chi2_contingency(np.array(table) / most)[1], f"share of {name}"))
        found.append((ks_2samp(values, theirs[name][1])[1], name))
    return min(found)


DRAWN = 2500


@pytest.fixture(scope="module")
def drawn_by_nnunet() -> dict[int, dict]:
    return {2: their_draws((6, 6), ANGLE, DRAWN), 3: their_draws((4, 4, 4), math.pi / 6, DRAWN)}


@pytest.mark.parametrize("dim", [2, 3])
def test_parameters_come_from_their_distributions(drawn_by_nnunet, dim):
    spec = SPEC if dim == 2 else stock_spec((-math.pi / 6, math.pi / 6), (6, 6, 6), (0, 1, 2))
    probability, where = least_likely(spec, dim, drawn_by_nnunet[dim], DRAWN)
    assert probability > 1e-3, where


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"scaling": {"bounds": (0.8, 1.4)}}, "scale"),
        ({"rotation": {"bounds": (-2.2, 2.2)}}, "angle"),
        ({"rotation": {"p": 0.26}}, "angle"),
        ({"noise": {"p": 0.15}}, "noise"),
        ({"noise": {"bounds": (0, 0.14)}}, "noise"),
        ({"blur": {"bounds": (0.5, 0.8)}}, "blur"),
        ({"blur": {"p_channel": 0.7}}, "blur"),
        ({"brightness": {"bounds": (0.8, 1.25)}}, "brightness"),
        ({"contrast": {"bounds": (0.75, 1.15)}}, "contrast"),
        ({"low_resolution": {"bounds": (0.6, 1)}}, "low_resolution"),
        ({"low_resolution": {"p": 0.32}}, "low_resolution"),
        ({"gamma": {"bounds": (0.7, 1.3)}}, "gamma"),
        ({"gamma": {"balanced": False}}, "gamma"),
        ({"inverted_gamma": {"p": 0.16}}, "inverted_gamma"),
    ],
)
def test_a_wrong_number_would_be_noticed(drawn_by_nnunet, change, where):
    probability, found = least_likely(changed(SPEC, change), 2, drawn_by_nnunet[2], DRAWN)
    assert probability < 1e-3
    assert where in found


def test_within_slices_nothing_is_turned_or_coarsened_across_them():
    geometry = draw_geometry(SPEC, 3000, 3, True, BatchRandom(0))
    assert geometry.angles.shape == (len(geometry.moved), 1)
    shares = [len(rows) / 3000 for rows in geometry.mirrored.values()]
    assert list(geometry.mirrored) == [0, 1] and shares == pytest.approx([0.5, 0.5], abs=0.03)
    coarse = AugmentationSpec(low_resolution=Operation(1.0, (0.5, 0.6)))
    image = torch.arange(6.0).view(1, 1, 6, 1, 1) + torch.arange(8.0).view(1, 1, 1, 8, 1).expand(1, 1, 6, 8, 8)
    labels = torch.zeros(image.shape, dtype=torch.int16)
    flat, _ = augment_batch(image, labels, (6, 8, 8), coarse, BatchRandom(0), in_plane=True)
    assert torch.equal(flat.diff(dim=2), torch.ones(1, 1, 5, 8, 8))
    solid, _ = augment_batch(image, labels, (6, 8, 8), coarse, BatchRandom(0))
    assert not torch.equal(solid.diff(dim=2), torch.ones(1, 1, 5, 8, 8))


# -- the whole chain ---------------------------------------------------------------------------------------------------

SAMPLES = 350


def features(image: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
    """Moments, sharpness and class volumes of each sample of (n, 1, y, x)."""
    flat, classes = image.flatten(1), labels.flatten(1)
    found = {
        "mean": flat.mean(1), "deviation": flat.std(1), "least": flat.amin(1), "most": flat.amax(1),
        "skew": ((flat - flat.mean(1, True)) ** 3).mean(1) / flat.std(1) ** 3,
        "sharpness": image.diff(dim=-1).abs().flatten(1).mean(1) / flat.std(1),
        "halves": image[..., :10].flatten(1).mean(1) - image[..., 10:].flatten(1).mean(1),
    }  # fmt: skip
    found |= {f"volume {v}": (classes == v).sum(1) for v in (-1, 0, 1, 2)}
    inside = classes == 1
    found["brightness of class 1"] = (flat * inside).sum(1) / inside.sum(1).clamp(min=1)
    return {name: values.double().numpy() for name, values in found.items()}


@pytest.fixture(scope="module")
def augmented_by_nnunet() -> dict[str, np.ndarray]:
    np.random.seed(11)
    torch.manual_seed(11)
    image, labels = patches(SAMPLES, *CUT)
    transforms = stock_transforms()[:-1]  # the last one turns -1 into 0
    for t in transforms:
        if isinstance(getattr(t, "transform", None), GaussianBlurTransform):
            t.transform.benchmark = False  # times every kernel; the result is the same
    out, seg = [], []
    for x, y in zip(image, labels, strict=True):
        sample = {"image": x.clone(), "segmentation": y.clone()}
        for t in transforms:
            sample = t(**sample)
        out.append(sample["image"])
        seg.append(sample["segmentation"])
    return features(torch.stack(out), torch.stack(seg))


def augmented(spec: AugmentationSpec, times: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    image, labels = (t.repeat(times, 1, 1, 1) for t in patches(SAMPLES, *CUT))
    return augment_batch(image, labels, PATCH, spec, BatchRandom(7), values=(-1, 0, 1, 2))


def test_the_whole_chain_gives_the_same_moments_and_class_volumes(augmented_by_nnunet):
    image, labels = augmented(SPEC)
    assert image.dtype == torch.float32 and image.shape[1:] == (1, *PATCH)
    assert set(labels.unique().tolist()) == {-1, 0, 1, 2}
    ours = features(image, labels)
    for name, theirs in augmented_by_nnunet.items():
        assert ks_2samp(ours[name], theirs)[1] > 1e-3, name


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"scaling": {"p": 1.0, "bounds": (1.2, 1.4)}}, "volume 1"),
        ({"contrast": {"p": 1.0, "bounds": (0.1, 1.0)}}, "deviation"),
        ({"low_resolution": {"p": 0.9, "p_channel": 1.0}}, "sharpness"),
        ({"noise": {"p": 1.0, "bounds": (0.5, 0.5)}}, "sharpness"),
    ],
)
def test_a_wrong_chain_would_be_noticed(augmented_by_nnunet, change, where):
    ours = features(*augmented(changed(SPEC, change)))
    assert ks_2samp(ours[where], augmented_by_nnunet[where])[1] < 1e-3


@pytest.mark.parametrize(
    ("cut", "patch", "in_plane"), [((11, 16, 15), (8, 12, 10), False), ((4, 20, 18), (4, 14, 12), True)]
)
def test_3d_batches_keep_their_labels_and_touch_the_share_of_samples_that_they_should(cut, patch, in_plane):
    image, labels = (t.repeat(60, 1, 1, 1, 1) for t in patches(10, *cut, channels=2))
    spec = stock_spec((-0.5, 0.5), cut, ())
    geometry = draw_geometry(spec, 600, 3, in_plane, BatchRandom(1))
    before = image.clone()
    out, seg = augment_batch(image, labels, patch, spec, BatchRandom(1), in_plane, (-1, 0, 1, 2))
    assert torch.equal(image, before)
    assert out.shape == (600, 2, *patch) and seg.shape == (600, 1, *patch) and torch.isfinite(out).all()
    assert set(seg.unique().tolist()) == {-1, 0, 1, 2}
    moved = torch.tensor([not torch.equal(a, b) for a, b in zip(seg, centre_crop(labels, patch), strict=True)])
    turned = torch.zeros(600, dtype=torch.bool)
    turned[geometry.moved] = True
    assert turned.float().mean().item() == pytest.approx(1 - 0.8 * 0.8, abs=0.06)
    assert not moved[~turned].any() and moved[turned].float().mean() > 0.5
    touched = torch.stack([(a != b).flatten(1).any(1) for a, b in zip(out, centre_crop(image, patch), strict=True)])
    alone = (0.8 * 0.8) * 0.9 * (1 - 0.2 * 0.5) * 0.85 * 0.85 * (1 - 0.25 * 0.5) * 0.9 * 0.7
    assert 1 - touched.float().mean().item() == pytest.approx(alone, abs=0.05)
