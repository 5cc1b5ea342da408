"""Metrics of random masks with anisotropic spacing against libraries that case_metrics does not use."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from hippo_nnunet.evaluation.metrics import case_metrics

SPACINGS = ((3.0, 1.0, 0.5), (0.7, 2.2, 1.3), (1.0, 1.0, 4.0))
LABELS = {"Anterior": 1, "Posterior": 2}


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two smooth random segmentations of three classes, alike but not equal."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=(14, 18, 22)), 2) for _ in range(3)]
    noise = [ndimage.gaussian_filter(rng.normal(size=(14, 18, 22)), 1.5) / 3 for _ in range(3)]
    reference = np.argmax(fields, axis=0)
    prediction = np.argmax(np.add(fields, noise), axis=0)
    return reference, prediction


@pytest.mark.parametrize("spacing", SPACINGS)
def test_distances_as_between_voxels(spacing: tuple[float, ...]) -> None:
    """HD95 and ASSD by scipy's distance transform of border voxels: another surface, so within a voxel's diagonal."""
    for seed in range(4):
        reference, prediction = random_case(seed)
        for row in case_metrics(reference, prediction, spacing, LABELS):
            masks = [array == LABELS[str(row["label"])] for array in (reference, prediction)]
            borders = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
            away = [ndimage.distance_transform_edt(~border, sampling=spacing) for border in borders]
            directed = away[1][borders[0]], away[0][borders[1]]
            assert row["hd95_mm"] == pytest.approx(
                max(np.percentile(d, 95) for d in directed), abs=np.linalg.norm(spacing)
            )
            assert row["assd_mm"] == pytest.approx(np.concatenate(directed).mean(), abs=np.linalg.norm(spacing) / 2)
            voxel = np.prod(spacing)
            assert (row["volume_ref_mm3"], row["volume_mm3"]) == pytest.approx([m.sum() * voxel for m in masks])


def test_monai() -> None:
    monai_metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    for seed, spacing in enumerate(SPACINGS):
        reference, prediction = random_case(seed)
        one_hot = [
            torch.stack([torch.from_numpy(array == value) for value in range(3)])[None].float()
            for array in (prediction, reference)
        ]
        rows = case_metrics(reference, prediction, spacing, LABELS)
        dice = monai_metrics.compute_dice(*one_hot, include_background=False)[0]
        assert dice.tolist() == pytest.approx([row["dice"] for row in rows], rel=1e-5)
        nsd = monai_metrics.compute_surface_dice(*one_hot, [1.0, 1.0], spacing=spacing, use_subvoxels=True)[0]
        assert nsd.tolist() == pytest.approx([row["nsd_1mm"] for row in rows], abs=0.02)
