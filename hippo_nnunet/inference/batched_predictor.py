"""nnU-Net's predictor with the patches of many images batched, and its folds loaded once."""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, combinations
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import nn

from hippo_nnunet.inference.backends import Run, choose_runs
from hippo_nnunet.inference.loading import load_model
from hippo_nnunet.inference.sliding_window import OpenImage, PreprocessedImage, Window
from hippo_nnunet.training.recipes import CLIP_BASE, is_ours, parse

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    from hippo_nnunet.inference.guidance import Guide

log = logging.getLogger(__name__)

VOXELS_PER_BATCH = {"cpu": 2**18, "cuda": 2**21, "mps": 2**18}
"""Voxels of a batch of patches, where the memory allows. Source: ours; on two CPU cores more were not faster."""

MEMORY_SHARE = 0.4
"""Part of the free memory that a batch's feature maps may take."""

CHECKED_PATCHES = 2
"""Patches of the first batch by which OpenVINO is compared with torch."""


class BatchedPredictor:
    """Predicts as `nnUNetPredictor` does, and is set up by the same two methods.

    The patches of an image, and of the next ones, go through the network together; each batch meets every mirroring
    and every fold, whose logits are averaged before they are put together to an image's. Sums are kept in single
    precision, where nnU-Net keeps them in half precision. Nothing else differs.

    Args:
        device: Where the network computes.
        use_mirroring: Whether logits are averaged over the mirrorings that the training allowed.
        backend: See `choose_runs`.

    Attributes:
        networks: One for each fold.
        plans_manager: nnU-Net's view of the plans; `configuration_manager`, `label_manager`, `dataset_json`,
            `trainer_name` and `allowed_mirroring_axes` are nnU-Net's as well.
    """

    networks: list[nn.Module]
    plans_manager: PlansManager
    configuration_manager: ConfigurationManager
    label_manager: Any
    dataset_json: dict[str, Any]
    trainer_name: str
    allowed_mirroring_axes: Sequence[int] | None

    def __init__(self, device: torch.device, use_mirroring: bool = True, backend: str = "auto") -> None:
        self.device = device
        self.use_mirroring = use_mirroring
        self.backend = backend
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str | Path,
        use_folds: Sequence[int | str],
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load a model's folds.

        Args:
            model_training_output_dir: nnU-Net's `{trainer}__{plans}__{configuration}`.
            use_folds: The folds whose logits are averaged.
            checkpoint_name: File in each fold's folder.

        Raises:
            Exception: What nnU-Net, torch and our trainers raise where a file or the trainer is missing or wrong.
        """
        self.manual_initialization(**load_model(Path(model_training_output_dir), use_folds, checkpoint_name))

    def manual_initialization(
        self,
        network: nn.Module,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        parameters: Sequence[dict[str, torch.Tensor]] | None,
        dataset_json: dict[str, Any],
        trainer_name: str,
        inference_allowed_mirroring_axes: Sequence[int] | None,
    ) -> None:
        """Take a network that is there.

        Args:
            network: The network; a compiled one is taken as it was before.
            plans_manager: nnU-Net's.
            configuration_manager: nnU-Net's.
            parameters: State dicts of the folds, of which the network gets copies; None: the network is the only fold.
            dataset_json: Content of dataset.json.
            trainer_name: Class name; a recipe of ours says how CLIP guides.
            inference_allowed_mirroring_axes: Spatial axes, from 0.
        """
        network = getattr(network, "_orig_mod", network)
        self.networks = [network]
        if parameters is not None:
            self.networks = [copy.deepcopy(network) for _ in parameters[1:]] + [network]
            for fold, state in zip(self.networks, parameters, strict=True):
                fold.load_state_dict(state)
        for fold in self.networks:
            fold.to(self.device).eval()
        self.plans_manager = plans_manager
        self.configuration_manager = configuration_manager
        self.label_manager = plans_manager.get_label_manager(dataset_json)
        self.dataset_json = dataset_json
        self.trainer_name = trainer_name
        self.allowed_mirroring_axes = inference_allowed_mirroring_axes
        self._patch_size = tuple(int(n) for n in configuration_manager.patch_size)
        self._guide = self._guide_of(network)
        self._runs: list[Run] | None = None

    @torch.inference_mode()
    def predict_logits_from_preprocessed_data(self, data: torch.Tensor) -> torch.Tensor:
        """Predict one image.

        Args:
            data: float32 (channel, z, y, x), preprocessed.

        Returns:
            Logits (head, z, y, x), float32, on the CPU.
        """
        (logits,) = self.predict_images([PreprocessedImage(data)], data[0].numel())
        return logits

    @torch.inference_mode()
    def predict_images(self, images: Iterable[PreprocessedImage], voxels: int | None = None) -> Iterator[torch.Tensor]:
        """Predict images one after the other; as many are taken ahead as it takes to fill a batch.

        Args:
            images: The images.
            voxels: About how many voxels they have together; None for many.

        Yields:
            Logits of each, float32 (head, z, y, x), on the CPU.

        Raises:
            RuntimeError: A network returned an infinite number.
            UpstreamError: See `choose_runs`.
        """
        size = self._patches_per_batch()
        copies = len(self._mirrorings())
        total = None if voxels is None else voxels * copies
        opened: deque[OpenImage] = deque()
        waiting: deque[tuple[OpenImage, Window, torch.Tensor | None]] = deque()
        for image in images:
            one = self._open(image)
            opened.append(one)
            rows = self._guide.patches(image, one, self.device) if self._guide else [None] * len(one.windows)
            waiting.extend((one, window, row) for window, row in zip(one.windows, rows, strict=True))
            while len(waiting) >= size:
                self._predict_batch([waiting.popleft() for _ in range(size)], total)
            yield from _complete(opened)
        if waiting:
            self._predict_batch(list(waiting), total)
        yield from _complete(opened)

    def _guide_of(self, network: Any) -> Guide | None:
        recipe = parse(self.trainer_name) if is_ours(self.trainer_name) else None
        if recipe is None or recipe.base != CLIP_BASE or not network.use_image:
            return None
        from hippo_nnunet.inference.guidance import Guide

        return Guide(network, self._patch_size, recipe.guidance == "cached")

    def _patches_per_batch(self) -> int:
        wanted = VOXELS_PER_BATCH.get(self.device.type, VOXELS_PER_BATCH["cpu"]) // prod(self._patch_size)
        count = getattr(self.networks[0], "compute_conv_feature_map_size", None)
        if count is not None:
            cuda = self.device.type == "cuda"
            free = torch.cuda.mem_get_info(self.device)[0] if cuda else psutil.virtual_memory().available
            wanted = min(wanted, int(MEMORY_SHARE * free / (4 * int(count(self._patch_size)))))
        return max(1, wanted)

    def _open(self, image: PreprocessedImage) -> OpenImage:
        """Put an image on the device where it takes a small part of its memory, else leave it on the CPU."""
        heads, where = self.label_manager.num_segmentation_heads, torch.device("cpu")
        if self.device.type == "cuda":
            needed = 4 * image.voxels[0].numel() * (len(image.voxels) + 2 * heads + 1)
            if needed < MEMORY_SHARE * torch.cuda.mem_get_info(self.device)[0]:
                where = self.device
        weight = compute_gaussian(self._patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=where)
        return OpenImage(image.voxels, self._patch_size, heads, weight.float())

    def _predict_batch(
        self, batch: Sequence[tuple[OpenImage, Window, torch.Tensor | None]], voxels: int | None
    ) -> None:
        patches = torch.stack([image.patch(window).to(self.device) for image, window, _ in batch])
        rows = [row for _, _, row in batch if row is not None]
        guidance = torch.stack(rows).to(self.device) if rows else None
        if self._runs is None:
            few = patches[:CHECKED_PATCHES]
            shown = guidance[: len(few)] if guidance is not None else self._guide.live(few) if self._guide else None
            self._runs = choose_runs(self.backend, self.networks, self.device, voxels, few, shown)
        predicted = self._forward_in_parts(self._runs, patches, guidance)
        for (image, window, _), logits in zip(batch, predicted, strict=True):
            image.add(window, logits)

    def _forward_in_parts(
        self, runs: Sequence[Run], patches: torch.Tensor, guidance: torch.Tensor | None
    ) -> torch.Tensor:
        """Predict a batch; where the GPU's memory does not hold it, in halves."""
        try:
            return self._forward(runs, patches, guidance)
        except torch.cuda.OutOfMemoryError:
            if len(patches) == 1:
                raise
            torch.cuda.empty_cache()
            log.warning("%d patches at once do not fit into the GPU's memory: predicting half of them", len(patches))
        halves = zip(patches.chunk(2), guidance.chunk(2) if guidance is not None else (None, None), strict=True)
        return torch.cat([self._forward_in_parts(runs, part, of_part) for part, of_part in halves])

    def _forward(self, runs: Sequence[Run], patches: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
        """Return the mean logits over mirrorings and folds."""
        total: torch.Tensor | None = None
        for axes in self._mirrorings():
            seen = patches.flip(axes) if axes else patches
            given = self._guide.live(seen) if guidance is None and self._guide is not None else guidance
            for run in runs:
                logits = run(seen, given)
                logits = logits.flip(axes) if axes else logits
                total = logits if total is None else total.add_(logits)
        assert total is not None
        return total.div_(len(runs) * len(self._mirrorings()))

    def _mirrorings(self) -> list[tuple[int, ...]]:
        """Return the axes of a batch to flip, for each mirrored copy; none for the first."""
        axes = [axis + 2 for axis in self.allowed_mirroring_axes or ()] if self.use_mirroring else []
        return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


def _complete(opened: deque[OpenImage]) -> Iterator[torch.Tensor]:
    while opened and opened[0].waiting == 0:
        yield opened.popleft().logits()
