"""nnU-Net's predictor with the patches of a case batched."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian

VOXELS_PER_BATCH = 2**18
"""Voxels of a batch of patches. Source: ours; larger batches were not faster on two CPU cores."""


class BatchedPredictor(nnUNetPredictor):
    """`nnUNetPredictor` that sends many patches (in 2D: many slices) through the network at once.

    Sums are kept in single precision where nnU-Net keeps them in half precision; nothing else differs.
    """

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: torch.Tensor, slicers: list[tuple[Any, ...]], do_on_device: bool = True
    ) -> torch.Tensor:
        """Predict logits.

        Args:
            data: Image (channel, z, y, x), padded to the patch at least.
            slicers: Index of each patch into `data`.
            do_on_device: Whether sums are kept on the prediction device.

        Returns:
            Float tensor (class, z, y, x).

        Raises:
            RuntimeError: The network returned an infinite number.
        """
        where = self.device if do_on_device else torch.device("cpu")
        data = data.to(where)
        patch_size = tuple(self.configuration_manager.patch_size)
        logits = torch.zeros((self.label_manager.num_segmentation_heads, *data.shape[1:]), device=where)
        weight_sum = torch.zeros(data.shape[1:], device=where)
        weight = torch.ones(1, device=where)
        if self.use_gaussian:
            weight = compute_gaussian(patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=where).float()
        size = max(1, VOXELS_PER_BATCH // int(torch.tensor(patch_size).prod()))
        for first in range(0, len(slicers), size):
            chunk = slicers[first : first + size]
            patches = torch.stack([data[s] for s in chunk]).to(self.device)
            predicted = self._internal_maybe_mirror_and_predict(patches).to(where)
            for patch, s in zip(predicted, chunk, strict=True):
                logits[s] += patch * weight
                weight_sum[s[1:]] += weight
        logits /= weight_sum
        if torch.isinf(logits).any():
            raise RuntimeError("the network returned an infinite number: train in single precision, or longer")
        return logits
