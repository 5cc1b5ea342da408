"""nnU-Net's predictor with batches of patches of several images, and its folds loaded once."""

from __future__ import annotations

import copy
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import nn

from hippo_nnunet.clip.orientation import axis_directions
from hippo_nnunet.inference.backends import Run, choose_runs
from hippo_nnunet.inference.sliding_window import OpenImage, PreprocessedImage, check_finite
from hippo_nnunet.inference.windows import Window, mirrorings
from hippo_nnunet.nnunet.memory_cases import free_device_memory
from hippo_nnunet.threads import AdaptiveThreads
from hippo_nnunet.training.neighbours import slices_of, with_neighbours
from hippo_nnunet.training.recipe_words import CLIP_BASE
from hippo_nnunet.training.recipes import is_ours, parse

if TYPE_CHECKING:
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

    from hippo_nnunet.inference.guidance import Guide

log = logging.getLogger(__name__)

VOXELS_PER_BATCH = {"cpu": 2**18, "cuda": 2**21}
"""Voxels of a batch of patches, memory permitting. Source: ours; larger batches were not faster on two CPU cores."""

MEMORY_SHARE = 0.4
"""Largest share of the free memory for a batch's feature maps."""

CHECKED_PATCHES = 2
"""Patches of the first batch on which OpenVINO is compared with torch."""


class BatchedPredictor:
    """Predicts as `nnUNetPredictor` does, with batches of patches.

    A batch holds patches of one or several images. Its logits are averaged over mirrorings and folds, then added to
    their images. Sums are kept in single precision, in nnU-Net in half precision. Nothing else differs.

    Args:
        device: The network's device.
        use_mirroring: Whether to average over the mirrorings that the training allowed.
        backend: See `choose_runs`.

    Attributes:
        networks: One for each fold.
        plans_manager: nnU-Net's view of the plans; `configuration_manager`, `label_manager`, `dataset_json`,
            `trainer_name` and `allowed_mirroring_axes` are nnU-Net's as well.
        guide: Computes the guidance of a CLIP-guided network; None for others.
        threads: Adapts torch's number of threads between batches, once the caller has replaced and entered it.
    """

    networks: list[nn.Module]
    plans_manager: PlansManager
    configuration_manager: ConfigurationManager
    label_manager: Any
    guide: Guide | None
    dataset_json: dict[str, Any]
    trainer_name: str
    allowed_mirroring_axes: Sequence[int] | None

    def __init__(self, device: torch.device, use_mirroring: bool = True, backend: str = "auto") -> None:
        self.device = device
        self.use_mirroring = use_mirroring
        self.backend = backend
        self.threads = AdaptiveThreads(device, fixed=True)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True

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
        """Set the network and its folds' weights.

        Args:
            network: The network; of a compiled one the original module is used.
            plans_manager: nnU-Net's.
            configuration_manager: nnU-Net's.
            parameters: State dict of each fold, loaded into copies of the network; None: the network is the only fold.
            dataset_json: Content of dataset.json.
            trainer_name: Class name; a recipe of ours determines the CLIP guidance.
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
        self.guide = self._guide_of(network)
        self._runs: list[Run] | None = None

    @classmethod
    def of_trainer(cls, trainer: Any) -> BatchedPredictor:
        """Return a predictor with a trainer's network, on its device; the weights are those of the moment."""
        predictor = cls(trainer.device)
        predictor.threads = trainer.threads
        predictor.manual_initialization(
            trainer.network,
            trainer.plans_manager,
            trainer.configuration_manager,
            None,
            trainer.dataset_json,
            type(trainer).__name__,
            trainer.inference_allowed_mirroring_axes,
        )
        return predictor

    def preprocess(self, files: Sequence[Path]) -> tuple[PreprocessedImage, dict[str, Any]]:
        """Read and preprocess an image as the plans prescribe.

        Args:
            files: One for each channel.

        Returns:
            The image, and nnU-Net's properties of it, which `to_image_grid` needs.
        """
        data, _, properties = self.configuration_manager.preprocessor_class(verbose=False).run_case(
            [str(file) for file in files], None, self.plans_manager, self.configuration_manager, self.dataset_json
        )
        directions = axis_directions(properties, self.plans_manager.transpose_forward)
        return PreprocessedImage(torch.from_numpy(data), directions=directions), properties

    def to_image_grid(self, logits: torch.Tensor, properties: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Resample logits to the original image.

        Args:
            logits: float32 (head, z, y, x), on the preprocessed grid.
            properties: nnU-Net's, of `preprocess`.

        Returns:
            Labels (z, y, x) and probabilities (head, z, y, x), on the image's grid.
        """
        segmentation, probabilities = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            self.plans_manager,
            self.configuration_manager,
            self.label_manager,
            properties,
            return_probabilities=True,
            num_threads_torch=self.threads.current,
        )
        return np.asarray(segmentation), probabilities

    @torch.inference_mode()
    def predict_image(self, image: PreprocessedImage) -> torch.Tensor:
        """Predict one image.

        Returns:
            Logits (head, z, y, x), float32, on the CPU.

        Raises:
            DataError: They hold infinity or NaN.
        """
        (logits,) = self.predict_images([image], image.voxels[0].numel())
        return check_finite(logits)

    @torch.inference_mode()
    def predict_images(self, images: Iterable[PreprocessedImage], voxels: int | None = None) -> Iterator[torch.Tensor]:
        """Predict images in order; as many are read ahead as a batch needs.

        Args:
            images: The images.
            voxels: Their approximate total number of voxels; None for many.

        Yields:
            Logits of each, float32 (head, z, y, x), on the CPU; not checked for infinity and NaN: see `check_finite`.

        Raises:
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
            rows = self.guide.patches(image, one, self.device) if self.guide else [None] * len(one.windows)
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
        from hippo_nnunet.inference.guidance import DenseGuide, Guide

        kind = DenseGuide if recipe.design == "dense" else Guide
        return kind(network, self._patch_size, recipe.guidance == "cached")

    def _patches_per_batch(self) -> int:
        wanted = VOXELS_PER_BATCH.get(self.device.type, VOXELS_PER_BATCH["cpu"]) // prod(self._patch_size)
        count = getattr(self.networks[0], "compute_conv_feature_map_size", None)
        if count is not None:
            free = free_device_memory(self.device)
            wanted = min(wanted, int(MEMORY_SHARE * free / (4 * int(count(self._patch_size)))))
        return max(1, wanted)

    def seen(self, image: PreprocessedImage) -> torch.Tensor:
        """Return an image's voxels with the channels that the network sees: those of adjacent slices, too."""
        slices = slices_of(self.networks[0])
        return with_neighbours(image.voxels, slices) if slices > 1 else image.voxels

    def _open(self, image: PreprocessedImage) -> OpenImage:
        """Move an image to the GPU if it takes a small part of its memory, else keep it on the CPU."""
        heads, where = self.label_manager.num_segmentation_heads, torch.device("cpu")
        voxels = self.seen(image)
        if self.device.type == "cuda":
            needed = 4 * voxels[0].numel() * (len(voxels) + 2 * heads + 1)
            if needed < MEMORY_SHARE * free_device_memory(self.device):
                where = self.device
        weight = compute_gaussian(self._patch_size, sigma_scale=1.0 / 8, value_scaling_factor=10, device=where)
        return OpenImage(voxels, self._patch_size, heads, weight.float())

    def _predict_batch(
        self, batch: Sequence[tuple[OpenImage, Window, torch.Tensor | None]], voxels: int | None
    ) -> None:
        patches = torch.stack([image.patch(window).to(self.device) for image, window, _ in batch])
        rows = [row for _, _, row in batch if row is not None]
        guidance = torch.stack(rows).to(self.device) if rows else None
        if self._runs is None:
            few = patches[:CHECKED_PATCHES]
            shown = guidance[: len(few)] if guidance is not None else self.guide.live(few) if self.guide else None
            with self.threads.restored():  # OpenVINO keeps this number; its threads do not spin
                self._runs = choose_runs(self.backend, self.networks, self.device, voxels, few, shown)
        with self.threads.step(self, len(batch)):  # models of an ensemble take different times
            predicted = self._forward_in_parts(self._runs, patches, guidance)
        for (image, window, _), logits in zip(batch, predicted, strict=True):
            image.add(window, logits)

    def _forward_in_parts(
        self, runs: Sequence[Run], patches: torch.Tensor, guidance: torch.Tensor | None
    ) -> torch.Tensor:
        """Predict a batch, in halves if the GPU runs out of memory."""
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
            if guidance is None:
                given = self.guide.live(seen) if self.guide else None
            else:
                given = guidance.flip(axes) if axes and guidance.dim() > 2 else guidance  # maps are mirrored, too
            for run in runs:
                logits = run(seen, given)
                logits = logits.flip(axes) if axes else logits
                total = logits if total is None else total.add_(logits)
        assert total is not None
        return total.div_(len(runs) * len(self._mirrorings()))

    def _mirrorings(self) -> list[tuple[int, ...]]:
        return mirrorings(self.allowed_mirroring_axes or () if self.use_mirroring else ())


def _complete(opened: deque[OpenImage]) -> Iterator[torch.Tensor]:
    while opened and opened[0].waiting == 0:
        yield opened.popleft().logits()
