"""Guidance of CLIP-guided networks at prediction, from the image as in training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hippo_nnunet.clip.guidance_cache import CachedGuidance, guidance_axis
from hippo_nnunet.clip.orientation import slice_view
from hippo_nnunet.clip.token_cache import PatchMaps
from hippo_nnunet.inference.sliding_window import OpenImage, PreprocessedImage
from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.networks.dense_guidance import DenseCLIPGuidedUNet
from hippo_nnunet.networks.guidance import SliceView


class Guide:
    """Computes the guidance of patches.

    Args:
        network: Any fold, its encoder attached; folds share the encoder.
        patch_size: Patch in voxels; two numbers for slices along the first axis.
        cached: Encode each slice of the image once for all its patches, mirrors and folds (recipe word `cached`); else
            encode each input of the network.
    """

    def __init__(self, network: CLIPGuidedUNet, patch_size: Sequence[int], cached: bool) -> None:
        self._network = network
        self._patch_size = patch_size
        self._axis = guidance_axis(patch_size)
        self._cached = cached

    def patches(
        self, image: PreprocessedImage, opened: OpenImage, device: torch.device
    ) -> list[torch.Tensor] | list[None]:
        """Return the guidance of each patch of an image, on the CPU; None unless cached.

        Args:
            image: The image.
            opened: The same image, padded, with its patches.
            device: Device for encoding slices that no other model has encoded yet.
        """
        if not self._cached:
            return [None] * len(opened.windows)
        shape = image.voxels.shape[1:]
        if self._network.stand_ins is not None:
            embeddings = self._network.stand_in_embeddings(shape[self._axis])
        else:
            embeddings = self._measured(self._embeddings(image, device), device)
        starts = [[place.start if isinstance(place, slice) else place for place in w[1:]] for w in opened.windows]
        return list(self._of_patches(embeddings, shape, torch.tensor(starts) - torch.tensor(opened.padding)))

    def _measured(self, embeddings: torch.Tensor, device: torch.device) -> torch.Tensor:
        return embeddings

    def _of_patches(self, embeddings: torch.Tensor, shape: Sequence[int], corners: torch.Tensor) -> torch.Tensor:
        """Return the guidance (patches, embed_dim) of patches of an image of this shape, by their lower corners."""
        of_image = CachedGuidance({"": embeddings}, self._patch_size)
        return of_image([""] * len(corners), corners)

    def _embeddings(self, image: PreprocessedImage, device: torch.device) -> torch.Tensor:
        """Return the embeddings of the image's slices, (slices, embed_dim), on the CPU; encoded once."""
        view = slice_view(image.directions, self._axis) if image.directions else self._network.view
        sha256 = bytes(self._network.encoder_sha256.tolist()).hex()
        key = (f"{sha256} {type(self).__name__}", self._axis, view)
        if key not in image.embeddings:
            slices = image.voxels.movedim(self._axis + 1, 0).contiguous().to(device)
            image.embeddings[key] = self._embed(slices, view).float().cpu()
        return image.embeddings[key]

    def live(self, patches: torch.Tensor) -> torch.Tensor:
        """Return the guidance (batch, *guidance_shape) of a network's input (batch, channel, *patch).

        The input is shown as the training data's slices are; an orientation of its own is not known here.
        """
        return self._network.encode(patches)

    def _embed(self, slices: torch.Tensor, view: SliceView) -> torch.Tensor:
        encode = self._network.image_encoder.encode
        assert encode is not None, "a trainer attaches the encoder when it builds the network"
        return encode(view.show(slices))


class DenseGuide(Guide):
    """Computes the maps that guide patches of networks with dense guidance; the arguments are those of `Guide`."""

    def __init__(self, network: DenseCLIPGuidedUNet, patch_size: Sequence[int], cached: bool) -> None:
        super().__init__(network, patch_size, cached)
        self._dense = network
        self._maps = PatchMaps(patch_size, network.guidance_shape(patch_size)[1:])

    def _measured(self, embeddings: torch.Tensor, device: torch.device) -> torch.Tensor:
        return self._dense.token_features(embeddings.to(device)).cpu()

    def _of_patches(self, embeddings: torch.Tensor, shape: Sequence[int], corners: torch.Tensor) -> torch.Tensor:
        return self._maps([embeddings] * len(corners), [shape] * len(corners), corners)

    def _embed(self, slices: torch.Tensor, view: SliceView) -> torch.Tensor:
        return view.restore(super()._embed(slices, view))
