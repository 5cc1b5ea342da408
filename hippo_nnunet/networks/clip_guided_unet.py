"""The CLIP-guided U-Net, configured by the plan kwargs of nnU-Net's own U-Net."""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from typing import Any, ClassVar, cast

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from torch.nn import functional as F

from hippo_nnunet.networks.cosine_decoder import CosineUNetDecoder
from hippo_nnunet.networks.cosine_head import MAX_SCALE, Ceiling, CosineHead, text_coordinates
from hippo_nnunet.networks.film import FiLM
from hippo_nnunet.networks.guidance import (
    GUIDANCE_SLICES,
    PLACES,
    Encode,
    FrozenEncoder,
    SliceView,
    pool_slices,
    resample_slices,
    slicing_axis,
    spaced_slices,
)
from hippo_nnunet.networks.plan_arguments import bind_plan_arguments

GUIDANCE_FEATURES = 32
"""Width of the MLP between guidance and bottleneck. Source: ours; it keeps a 2D checkpoint within 10 % of a U-Net's."""

MIN_DISTANCE = 1e-3
"""Least distance of a class's text from the mean of all that is more than rounding."""


class CLIPGuidedUNet(PlainConvUNet):
    """nnU-Net's ``PlainConvUNet``, guided by a frozen CLIP encoder at its bottleneck and in its heads, in 2D or 3D.

    CLIP's embedding of the image modulates the bottleneck (``FiLM``, the identity at the start) between the norm and
    the nonlinearity of its first convolution. A shift behind its last nonlinearity would reach the decoder as the
    checkerboard of the transposed convolution alone, because the next norm removes the rest. The heads score every
    pixel by the cosine with the text embedding of each class (``CosineHead``), times a temperature that is learned and
    never above ``MAX_SCALE``. From both embeddings the training's mean is subtracted first: CLIP's embeddings share a
    large part, which distinguishes neither images nor classes. All arguments but the last four are
    ``PlainConvUNet``'s, so the architecture kwargs of every plans file for it fit.

    The frozen encoder is not part of the network: not of its parameters, modules, state dict or pickle, and deep copies
    share it. The state dict holds the encoder's hash, and the text embeddings, so that no text encoder is
    needed after training.

    Args:
        *args: As ``PlainConvUNet``.
        embed_dim: Length of CLIP's embeddings.
        initial_scale: The temperature's start, at most ``MAX_SCALE``; CLIP's own is a good value.
        plain_head: Score by 1x1 convolutions, as ``PlainConvUNet``, without the texts.
        stand_ins: Number of tables in ``stand_ins``.
        **kwargs: As ``PlainConvUNet``.

    Attributes:
        text_embeddings: Buffer (num_classes, embed_dim); zeros until ``set_text`` or a state dict sets it.
        text_mean: Buffer (embed_dim,), subtracted from text embeddings.
        image_mean: Buffer (embed_dim,), subtracted from guidance.
        text_coordinates: What the heads see of the text, (num_classes, coordinates); not in the state dict. A plain
            head sees none.
        stand_ins: Buffer (stand_ins, ``PLACES``, embed_dim), unit embeddings by relative position along an image, which
            stand in for the embeddings of an image's own slices; None where nothing does.
        encoder_sha256: Buffer uint8 (32,), hash of the encoder; zeros until ``attach_encoder`` or a state dict sets it.
        slice_view: Buffer uint8 (3,), the fields of ``view``.
        view: How slices of the training data are shown to the encoder; as they are stored until ``set_view`` or a state
            dict sets it.
        logit_scale: Parameter, logarithm of the temperature; missing with a plain head.
        image_encoder: Holds the frozen encoder's function as ``encode``; None before ``attach_encoder``.
        use_image: While False, the guidance is zeros, and what is passed is ignored.

    Raises:
        ValueError: An argument that ``PlainConvUNet`` does not know, or one that is missing or out of its range.

    Source:
        Ours, from CLIP (arXiv:2103.00020) and FiLM (arXiv:1709.07871).
    """

    centres_regions = False
    """Whether the mean text is subtracted from the texts of regions, too."""
    starts: ClassVar[tuple[type[nn.Module], ...]] = (FiLM, CosineHead)
    """Modules with a start of their own, which ``reset_parameters`` restores."""
    text_embeddings: torch.Tensor
    text_mean: torch.Tensor
    image_mean: torch.Tensor
    stand_ins: torch.Tensor | None
    text_coordinates: torch.Tensor
    encoder_sha256: torch.Tensor
    slice_view: torch.Tensor

    def __init__(
        self,
        *args: Any,
        embed_dim: int = 512,
        initial_scale: float = 100.0,
        plain_head: bool = False,
        stand_ins: int = 0,
        **kwargs: Any,
    ) -> None:
        arguments = bind_plan_arguments("CLIPGuidedUNet", args, kwargs)
        _check_range("embed_dim", embed_dim, embed_dim >= 1, "at least 1")
        _check_range("initial_scale", initial_scale, 0 < initial_scale <= MAX_SCALE, f"above 0 and up to {MAX_SCALE:g}")
        super().__init__(**arguments)
        self.embed_dim = embed_dim
        self.use_image = True
        self.fusion: Any = FiLM(embed_dim, GUIDANCE_FEATURES, self.encoder.output_channels[-1])
        self.plain_head = plain_head
        if not plain_head:
            self.decoder = CosineUNetDecoder(
                self.encoder,
                arguments["num_classes"],
                arguments["n_conv_per_stage_decoder"],
                arguments["deep_supervision"],
                embed_dim,
                initial_scale,
                arguments["nonlin_first"],
            )
            self.logit_scale = nn.Parameter(torch.tensor(math.log(initial_scale)))
        self.register_buffer("text_embeddings", torch.zeros(arguments["num_classes"], embed_dim))
        self.register_buffer("text_mean", torch.zeros(embed_dim))
        self.register_buffer("image_mean", torch.zeros(embed_dim))
        self.register_buffer("stand_ins", torch.zeros(stand_ins, PLACES, embed_dim) if stand_ins else None)
        self.register_buffer("encoder_sha256", torch.zeros(32, dtype=torch.uint8))
        self.register_buffer("slice_view", torch.zeros(3, dtype=torch.uint8))
        self.view = SliceView()
        coordinates = 0 if plain_head else self.decoder.coordinates
        self.register_buffer("text_coordinates", torch.zeros(arguments["num_classes"], coordinates), persistent=False)
        self._has_text, self._is_prompted = False, False
        self.image_encoder = FrozenEncoder()
        self._held_guidance: torch.Tensor | None = None

    @property
    def temperature(self) -> torch.Tensor:
        """The factor of the cosines, a single number in (0, ``MAX_SCALE``], with its gradient."""
        scale: torch.Tensor = Ceiling.apply(self.logit_scale.exp(), MAX_SCALE)
        return scale

    def attach_encoder(self, encode: Encode, sha256: str) -> None:
        """Give the network the frozen encoder that makes its guidance where none is passed.

        Args:
            encode: From slices as the network gets them, (n, channels, y, x), to unit embeddings (n, embed_dim).
            sha256: Hash of the encoder's weights, 64 hexadecimal digits.

        Raises:
            ValueError: No such hash, or the network's weights belong to another encoder.
        """
        if len(sha256) != 64 or not set(sha256) <= set(string.hexdigits):
            raise ValueError(f"the encoder's SHA-256 must be 64 hexadecimal digits, got {sha256!r}")
        mine = _hex(self.encoder_sha256)
        if mine.strip("0") and mine != sha256.lower():
            raise ValueError(_mismatch("these weights were trained", mine, sha256.lower()))
        self.image_encoder = FrozenEncoder(encode)
        digits = torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8)
        self.encoder_sha256.copy_(digits)

    def set_view(self, view: SliceView) -> None:
        """Set how slices are shown to the encoder where no guidance is passed.

        Args:
            view: That of the training data.
        """
        self.view = view
        self.slice_view.copy_(torch.tensor(astuple(view), dtype=torch.uint8))

    def set_text(self, embeddings: torch.Tensor, exclusive: bool = True) -> None:
        """Set the text embeddings that the heads are to be trained with; for other text afterwards see ``prompted``.

        The mean of the texts of exclusive classes is subtracted from them, and from all later texts. Nothing is
        subtracted where that would leave nothing of a text (a single class, or equal texts), nor from the texts of
        overlapping regions, whose logits would depend on each other: those of two would be opposites.

        Args:
            embeddings: Unit vectors in the order of the heads' classes, shape (num_classes, embed_dim).
            exclusive: Whether every pixel has one class (softmax) instead of any number of regions (sigmoid).

        Raises:
            ValueError: Another shape, or a row that is not of unit norm.
        """
        self._check_text(embeddings)
        self.text_embeddings.copy_(embeddings.detach())
        mean = embeddings.detach().mean(0)
        removed = (exclusive or self.centres_regions) and bool(((embeddings - mean).norm(dim=1) > MIN_DISTANCE).all())
        self.text_mean.copy_(mean if removed else torch.zeros_like(mean))
        self._place_text()

    def set_images(self, images: torch.Tensor) -> None:
        """Set the mean of the training's images, which is subtracted from all guidance; after ``set_text``.

        Args:
            images: The encoder's embeddings of slices, shape (n, embed_dim).
        """
        self.image_mean.copy_(images.mean(0))

    @contextmanager
    def prompted(self, embeddings: torch.Tensor) -> Iterator[None]:
        """Score by other text inside the block.

        Args:
            embeddings: As for ``set_text``.

        Raises:
            ValueError: As for ``set_text``.
        """
        self._check_text(embeddings)
        try:
            self._place_text(embeddings)
            self._is_prompted = True
            yield
        finally:
            self._is_prompted = False
            self._place_text()

    def _place_text(self, embeddings: torch.Tensor | None = None) -> None:
        """Show the network texts, by default those of the training."""
        text = self.text_embeddings if embeddings is None else embeddings.to(self.text_embeddings)
        self.show_text(self.centred_text(text))
        self._has_text = bool(self.text_embeddings.any())

    def centred_text(self, text: torch.Tensor) -> torch.Tensor:
        """Subtract the mean of the training's texts from texts (classes, embed_dim)."""
        return _centred(text, self.text_mean)

    def show_text(self, text: torch.Tensor) -> None:
        """Take over what the network sees of texts.

        Args:
            text: Centred unit vectors, shape (num_classes, embed_dim).
        """
        self.text_coordinates.copy_(text_coordinates(text, self.text_coordinates.shape[1], self.text_embeddings))

    @property
    def uses_text(self) -> bool:
        """Whether the output depends on the texts."""
        return not self.plain_head

    def _check_text(self, embeddings: torch.Tensor) -> None:
        if embeddings.shape != self.text_embeddings.shape:
            raise ValueError(
                f"CLIPGuidedUNet needs text embeddings of shape {tuple(self.text_embeddings.shape)} (classes, "
                f"embed_dim), got {tuple(embeddings.shape)}: embed one text per head, by the encoder the plans name"
            )
        norms = embeddings.detach().float().norm(dim=1)
        if not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
            raise ValueError(f"text embeddings must have unit norm, got the norms {norms.tolist()}: normalise them")

    def start_heads(self) -> None:
        """Make the heads start as 1x1 convolutions do, after ``set_text``; see ``CosineHead.start_at``."""
        if not self.plain_head:
            # the texts themselves: centred ones span a dimension less
            span = text_coordinates(self.text_embeddings, self.text_coordinates.shape[1])
            for head in self.decoder.seg_layers:
                head.project_out(span)
                head.start_at(self.text_coordinates)

    @contextmanager
    def guided(self, guidance: torch.Tensor) -> Iterator[None]:
        """Use this guidance for every call inside the block that passes none.

        Args:
            guidance: Unit vectors, shape (batch, embed_dim).
        """
        before, self._held_guidance = self._held_guidance, guidance
        try:
            yield
        finally:
            self._held_guidance = before

    def forward(self, x: torch.Tensor, guidance: torch.Tensor | None = None) -> torch.Tensor | list[torch.Tensor]:
        """Segment.

        Args:
            x: Shape (batch, input_channels, *spatial).
            guidance: The encoder's unit vectors, shape (batch, embed_dim). Without it: what ``guided`` holds, else the
                attached encoder's embedding of x itself.

        Returns:
            Logits (batch, num_classes, *spatial), float32 unless a plain head is under autocast; with deep supervision
            a list of them, highest resolution first.

        Raises:
            ValueError: No text embeddings, no guidance where the encoder is missing or something stands in for its
                embeddings, or guidance of another shape.
        """
        return self.segment(x, self.given(x, guidance), None if self.plain_head else self.temperature)

    def segment(
        self, x: torch.Tensor, guidance: torch.Tensor, scale: torch.Tensor | None
    ) -> torch.Tensor | list[torch.Tensor]:
        """Segment with checked guidance.

        Args:
            x: As for ``forward``.
            guidance: Of ``given``.
            scale: The temperature; None with a plain head.
        """
        skips = self.guided_skips(x, guidance)
        logits: torch.Tensor | list[torch.Tensor] = (
            self.decoder(skips) if scale is None else self.decoder(skips, self.text_coordinates, scale)
        )
        return logits

    def similarity_maps(self, x: torch.Tensor, guidance: torch.Tensor | None = None) -> torch.Tensor:
        """Return the cosine of every pixel's embedding with every class's text, at the input's resolution.

        Args:
            x: As for ``forward``.
            guidance: As for ``forward``.

        Returns:
            Shape (batch, num_classes, *spatial), in [-1, 1], float32. Gradients are kept unless the caller disables
            them.

        Raises:
            ValueError: As ``forward``.
        """
        return self.decoder.similarities(self.guided_skips(x, self.given(x, guidance)), self.text_coordinates)

    def guided_skips(self, x: torch.Tensor, guidance: torch.Tensor) -> list[torch.Tensor]:
        """Return the encoder's outputs, highest resolution first, of which the last, the bottleneck, is modulated.

        Args:
            x: As for ``forward``.
            guidance: Of ``given``.
        """
        guidance = self.centred_guidance(guidance)
        *stages, bottleneck = self.encoder.stages
        skips = []
        for stage in stages:
            x = stage(x)
            skips.append(x)
        first, *blocks = bottleneck[-1].convs
        *linear, end = first.all_modules
        for module in linear:
            x = module(x)
        ends_in_norm = end is not getattr(first, "nonlin", None)  # without nonlinearity, or with nonlin_first
        x = self.fusion(end(x), guidance) if ends_in_norm else end(self.fusion(x, guidance))
        for block in blocks:
            x = block(x)
        return [*skips, x]

    def centred_guidance(self, guidance: torch.Tensor) -> torch.Tensor:
        """Subtract the mean of the training's images from guidance, but not from the zeros of ``use_image = False``."""
        return _centred(guidance, self.image_mean) if self.use_image else guidance

    def guidance_shape(self, patch_size: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the guidance of one patch, here (embed_dim,)."""
        return (self.embed_dim,)

    def given(self, x: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
        """Return the guidance of a forward pass: see ``forward``; zeros while ``use_image`` is False.

        Raises:
            ValueError: As ``forward``.
        """
        if not self._has_text:
            raise ValueError("CLIPGuidedUNet has no text embeddings: call set_text, or load a trained checkpoint")
        if not self.use_image:
            return x.new_zeros(len(x), *self.guidance_shape(x.shape[2:]))
        if guidance is None:
            guidance = self._held_guidance if self._held_guidance is not None else self._encode(x)
        expected = (len(x), *self.guidance_shape(x.shape[2:]))
        if guidance.shape != expected:
            raise ValueError(
                f"{type(self).__name__} needs guidance of shape {expected} (batch, embed_dim or maps), got "
                f"{tuple(guidance.shape)}: encode one image per sample, with the encoder the network was built for"
            )
        return guidance

    def set_stand_ins(self, images: Sequence[torch.Tensor]) -> None:
        """Set ``stand_ins`` from the first images, repeated where there are too few.

        Args:
            images: Unit embeddings of evenly spaced slices of each, (slices, embed_dim).
        """
        assert self.stand_ins is not None
        for number, table in enumerate(self.stand_ins):
            table.copy_(resample_slices(images[number % len(images)], PLACES))

    def stand_in_embeddings(self, slices: int) -> torch.Tensor:
        """Return what stands in for the embeddings of an image's slices, (slices, embed_dim), on the CPU.

        Args:
            slices: Number of slices of the image, which also chooses the table.
        """
        assert self.stand_ins is not None
        return resample_slices(self.stand_ins[slices % len(self.stand_ins)].cpu(), slices)

    @torch.compiler.disable  # the encoder is not compiled
    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        if self.stand_ins is not None:
            raise ValueError(
                "CLIPGuidedUNet got no guidance, and that of a recipe with otherImage or positionImage depends on "
                "where in the image a patch lies: predict with 'hippo-nnunet predict'"
            )
        if self.image_encoder.encode is None:
            raise ValueError("CLIPGuidedUNet got no guidance and has no encoder: pass guidance, or attach_encoder")
        return self.encode(x)

    @torch.no_grad()
    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Return the attached encoder's guidance of patches.

        Args:
            x: Shape (batch, input_channels, *spatial). In 3D, ``GUIDANCE_SLICES`` slices across the thinnest axis are
                encoded and pooled.
        """
        encode = self.image_encoder.encode
        assert encode is not None
        if x.dim() == 4:
            return encode(self.view.show(x))
        axis = slicing_axis(x.shape[2:])
        places = spaced_slices(x.shape[2 + axis], GUIDANCE_SLICES)
        slices = torch.stack([x.select(2 + axis, place) for place in places], dim=1)
        return pool_slices(encode(self.view.show(slices.flatten(0, 1))).unflatten(0, slices.shape[:2]))

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> np.int64:
        """Count the elements of all outputs, projection, fusion and heads included, for nnU-Net's memory estimate.

        Args:
            input_size: Spatial size of the input.
        """
        size = list(input_size)
        for stride in self.encoder.strides:
            size = [i // j for i, j in zip(size, stride, strict=True)]
        return super().compute_conv_feature_map_size(input_size) + self.fusion.compute_conv_feature_map_size(size)

    @classmethod
    def initialize(cls, module: nn.Module) -> None:
        """Initialise as ``PlainConvUNet`` does, and ``starts`` their own way; for ``network.apply``."""
        PlainConvUNet.initialize(module)
        if isinstance(module, cls.starts):  # apply() visits a module after its children, so this comes last
            cast(Any, module).reset_parameters()

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Refuse weights of another encoder; called by ``load_state_dict`` before it changes anything."""
        theirs = state_dict.get(f"{prefix}encoder_sha256")
        if theirs is not None and self.image_encoder.encode is not None:
            mine, theirs = _hex(self.encoder_sha256), _hex(theirs)
            if mine != theirs:
                raise ValueError(_mismatch("the checkpoint was trained", theirs, mine))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.view = SliceView(*map(bool, self.slice_view.tolist()))
        self._place_text()


def _centred(embeddings: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Subtract a mean from unit vectors (n, embed_dim), and normalise."""
    return F.normalize(embeddings - mean.to(embeddings), dim=-1)


def _check_range(name: str, value: float, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"CLIPGuidedUNet: {name} must be {expected}, got {value}; correct it in the plans file")


def _hex(digest: torch.Tensor) -> str:
    return bytes(digest.tolist()).hex()


def _mismatch(what: str, trained: str, attached: str) -> str:
    if trained.strip("0"):
        fault = f"{what} with the CLIP encoder of hash {trained[:12]}..., attached is {attached[:12]}..."
    else:
        fault = f"the checkpoint names no CLIP encoder, attached is that of hash {attached[:12]}..."
    return (
        f"{fault}: use the encoder of the training (HIPPO_CLIP_MODEL and HIPPO_CLIP_WEIGHTS, or the trainer word "
        "`mini` in the version of hippo_nnunet that trained), or start a new training"
    )
