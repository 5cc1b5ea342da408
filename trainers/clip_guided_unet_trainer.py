"""CLIP-guided U-Net for nnU-Net: its network, text and guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.functional import normalize

from hippo_nnunet.clip.encoder import CLIPEncoder, load_encoder
from hippo_nnunet.clip.guidance_cache import (
    CachedGuidance,
    guidance_axis,
    other_cases,
    slice_embeddings,
    training_view,
)
from hippo_nnunet.clip.models import chosen_encoder
from hippo_nnunet.clip.prompts import training_prompts, words_of_side
from hippo_nnunet.clip.text import class_embeddings, control_embeddings, control_prompts, prompt_embeddings
from hippo_nnunet.clip.token_cache import CachedTokens, PatchMaps, position_tokens, training_tokens
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet
from hippo_nnunet.networks.cosine_head import MAX_SCALE
from hippo_nnunet.networks.dense_guidance import DenseCLIPGuidedUNet
from hippo_nnunet.networks.guidance import PLACES, position_embeddings, resample_slices
from hippo_nnunet.networks.text_head import TextHeadCLIPGuidedUNet
from hippo_nnunet.nnunet.finished import check_same_prompts
from hippo_nnunet.nnunet.loaders import add_positions
from hippo_nnunet.nnunet.network import CLIP_GUIDED, CLIP_NETWORKS, clip_network, recipe_arguments
from hippo_nnunet.nnunet.subset import stored_subjects
from hippo_nnunet.trainers.recipe_trainer import UNetTrainer
from hippo_nnunet.training.augmentation_spec import left_right_axes
from hippo_nnunet.training.memory_data import MemoryLoader
from hippo_nnunet.training.recipes import Recipe
from hippo_nnunet.training.transfer import upload


class CLIPGuidedUNetTrainer(UNetTrainer):
    """Trains `hippo_nnunet.networks.clip_guided_unet.CLIPGuidedUNet` with the plan's own network arguments.

    The arguments are those of `UNetTrainer`.

    Raises:
        ConfigError: The user's file of prompts does not fit the dataset; raised before anything is written or read.
        DependencyError: The weights of the recipe's encoder are missing; likewise.
    """

    recipe: ClassVar[Recipe] = Recipe("CLIPGuidedUNetTrainer")
    network_class: ClassVar[str | None] = CLIP_GUIDED

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Choose the network that the recipe's design names, except where a subclass names its own."""
        super().__init_subclass__(**kwargs)
        if cls.network_class in CLIP_NETWORKS:
            cls.network_class = clip_network(cls.recipe)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature, to the letter
    ) -> None:
        encoder = self.load_encoder()
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.record.encoder = {"name": encoder.name, "sha256": encoder.sha256}
        self.record.prompts = training_prompts(dataset_json) if self.recipe.uses_text else None
        self._cached_guidance: CachedGuidance | CachedTokens | None = None
        self._guidance = torch.empty(0)
        self._training_cases: list[str] = []
        self._own: dict[str, torch.Tensor] = {}
        self._guiding: dict[str, torch.Tensor] = {}

    @classmethod
    def load_encoder(cls) -> CLIPEncoder:
        """Return the recipe's encoder, which is loaded once in a process."""
        return load_encoder(chosen_encoder(cls.recipe.mini))

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> torch.nn.Module:
        """Build the network as `UNetTrainer` and attach its encoder."""
        encoder = cls.load_encoder()
        network = super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        assert isinstance(network, CLIPGuidedUNet)
        # a cascade's second stage has the first stage's labels as further channels
        images = len(configuration_manager.normalization_schemes)
        encode = encoder.encode_patches if isinstance(network, DenseCLIPGuidedUNet) else encoder.encode_image
        network.attach_encoder(lambda x: encode(x[:, :images]), encoder.sha256)
        network.use_image = cls.recipe.image_control != "noImage"
        return network

    @classmethod
    def network_arguments(cls, configuration_manager: Any) -> dict[str, Any]:
        """Return the arguments of the recipe and of the encoder."""
        encoder = cls.load_encoder()
        scale = min(encoder.logit_scale, MAX_SCALE)
        arguments = {**recipe_arguments(cls.recipe), "embed_dim": encoder.embed_dim, "initial_scale": scale}
        if cls.recipe.design == "dense" and arguments["stand_ins"]:
            arguments["token_grid"] = encoder.encode_patches(torch.zeros(1, 1, 1, 1)).shape[2:]
        return arguments

    def initialize(self) -> None:
        """Build network, optimiser and loss, and give the network its classes' text."""
        super().initialize()
        self._set_text()
        _bare(self.network).start_heads()
        if self.is_ddp:
            for parameter in self.network.parameters():  # DDP made them equal before the heads' start was drawn
                torch.distributed.broadcast(parameter.data, 0)

    def on_train_start(self) -> None:
        """Start as `UNetTrainer`.

        Raises:
            ConfigError: A training that is resumed began with other prompts, or stand-ins for embeddings are needed
                where nnU-Net validates, which does not say where in the image a patch lies.
        """
        if self.recipe.image_control in ("otherImage", "positionImage") and self.nnunet_validates:
            raise ConfigError(
                f"{type(self).__name__}: '{self.recipe.image_control}' cannot be validated in a cascade or on several "
                "GPUs: train on one, and another configuration than 3d_lowres and 3d_cascade_fullres"
            )
        if self._resumed is not None:
            check_same_prompts(self._resumed.prompts, self.record.prompts, Path(self.output_folder))
        super().on_train_start()
        self._warn_of_sides()
        if self._resumed is None:
            dataset = self.dataset_class(self.preprocessed_dataset_folder)
            axis = guidance_axis(self.configuration_manager.patch_size)
            transpose = self.plans_manager.transpose_forward
            _bare(self.network).set_view(training_view(dataset, axis, transpose, self.print_to_log_file))

    def _warn_of_sides(self) -> None:
        """Warn of prompts that say left or right if the training mirrors left and right."""
        dim = len(self.configuration_manager.patch_size)
        sides = left_right_axes(self.plans_manager.transpose_forward, dim)
        if set(sides) & set(self.inference_allowed_mirroring_axes or ()):
            for name, words in words_of_side(self.record.prompts or {}).items():
                self.print_to_log_file(
                    f"WARNING: the prompts of {name!r} say {' and '.join(words)}, but the training mirrors left and "
                    "right, so that the network cannot learn what it means: train with the word noMirror, or describe "
                    "the class without its side"
                )

    def _set_text(self) -> None:
        network = _bare(self.network)
        network.set_text(self.class_text(self.dataset_json), not self.label_manager.has_regions)
        self._prompts: list[torch.Tensor] = []
        if isinstance(network, TextHeadCLIPGuidedUNet):
            prompts = prompt_embeddings(self.load_encoder(), self.dataset_json)
            controlled = control_prompts(prompts, self.recipe.text_control, self.recipe.seed or 0)
            self._prompts = [network.centred_text(of_class.to(self.device)) for of_class in controlled]

    def _paraphrase(self) -> None:
        """Show a generator of heads texts between the mean of each class's prompts and one of them, by the step."""
        network = _bare(self.network)
        step = self.current_epoch * self.schedule.iterations + len(self.record.epoch_outputs)
        random = np.random.default_rng([self.fold_seed or 0, step])
        drawn = torch.stack([of_class[int(random.integers(len(of_class)))] for of_class in self._prompts])
        mixed = torch.lerp(network.centred_text(network.text_embeddings), drawn, float(random.random()))
        network.show_text(normalize(mixed, dim=1))

    @classmethod
    def class_text(
        cls, dataset_json: Mapping[str, Any], prompts: Mapping[str, Sequence[str]] | None = None
    ) -> torch.Tensor:
        """Return the text embeddings of the classes, or what the recipe's control puts in their place.

        Args:
            dataset_json: Content of dataset.json.
            prompts: Descriptions by class name that are given after the training; of the controls, only `rotatedText`
                applies to them.

        Returns:
            float32, shape (heads, embed_dim), unit length, on the CPU.

        Raises:
            ConfigError: A prompt for an unknown class, or an empty one.
        """
        text = class_embeddings(cls.load_encoder(), dataset_json, prompts)
        control = cls.recipe.text_control
        if prompts and control != "rotatedText":
            return text
        return control_embeddings(text, control, cls.recipe.seed or 0)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return the loaders of `UNetTrainer`; for `cached`, their batches contain the positions of the patches."""
        network = _bare(self.network)
        if self._resumed is None:
            self._set_text()  # pretrained weights may have brought the text of other data
        self._training_cases, _ = self.do_split()
        live = self.recipe.guidance == "live"
        if not network.use_image or (live and self._resumed is not None):
            return super().get_dataloaders()
        if isinstance(network, DenseCLIPGuidedUNet):
            return self._dense_loaders(network, live)
        patch_size = self.configuration_manager.patch_size
        self._take_guidance(slice_embeddings(**self._slices(), report=self.print_to_log_file, store=not live))
        loaders = super().get_dataloaders()
        if live:
            return loaders
        self._cached_guidance = CachedGuidance(self._guiding, patch_size)
        if not isinstance(loaders[0], MemoryLoader):
            add_positions(loaders)
        return loaders

    def _dense_loaders(self, network: DenseCLIPGuidedUNet, live: bool) -> tuple[Any, Any]:
        """Return the loaders of `UNetTrainer`, and for `cached` provide the maps of tokens for their batches.

        Raises:
            ConfigError: The data does not fit into memory; nnU-Net's own loaders do not tell how they augment.
        """
        if self._resumed is None:
            network.set_images(training_tokens(cases=self._training_cases, **self._slices()))
        loaders = super().get_dataloaders()
        if live:
            return loaders
        if not all(isinstance(loader, MemoryLoader) for loader in loaders):
            raise ConfigError(
                f"{type(self).__name__}: 'dense' with stored tokens needs the data in memory, and the log says why it "
                "is not there; add the word 'live' to encode each patch, or train where there is more memory"
            )
        directions = network.token_directions
        self._take_guidance(slice_embeddings(**self._slices(), report=self.print_to_log_file, directions=directions))
        shapes = {case.key: tuple(case.labels.shape) for loader in loaders for case in loader.bank.cases}
        patch_size = self.configuration_manager.patch_size
        patches = PatchMaps(patch_size, network.guidance_shape(patch_size)[1:])
        self._cached_guidance = CachedTokens(self._guiding, shapes, patches)
        return loaders

    def _slices(self) -> dict[str, Any]:
        """Return the arguments that say whose slices are encoded, how and where."""
        return {
            "dataset": self.dataset_class(self.preprocessed_dataset_folder),
            "encoder": self.load_encoder(),
            "axis": guidance_axis(self.configuration_manager.patch_size),
            "transpose": self.plans_manager.transpose_forward,
            "device": self.device,
        }

    def _take_guidance(self, own: dict[str, torch.Tensor]) -> None:
        """Set the embeddings that guide each case: its own unless the recipe replaces them.

        The network of a new training gets their mean, and what stands in for those of other images, from the fold's
        training cases alone.
        """
        network, seed, new = _bare(self.network), self.recipe.seed or 0, self._resumed is None
        self._own = own
        if new and self.recipe.image_control == "otherImage":
            network.set_stand_ins([own[case] for case in self._other_cases()])
        elif new and network.stand_ins is not None:
            positions = position_embeddings(network.embed_dim, seed)
            if isinstance(network, DenseCLIPGuidedUNet):
                side = network.stand_ins.shape[-1]
                tokens = position_tokens(PLACES, side, network.embed_dim, seed).to(network.stand_ins)
                network.set_images(tokens)
                positions = network.token_features(tokens)
            network.set_stand_ins([positions])
        replaced = network.stand_ins is not None
        self._guiding = {c: network.stand_in_embeddings(len(e)) if replaced else e for c, e in own.items()}
        self._guide_by_other_cases()
        if new and not isinstance(network, DenseCLIPGuidedUNet):
            network.set_images(torch.cat([self._guiding[case] for case in self._training_cases]))

    def _other_cases(self) -> dict[str, str]:
        """Return the case whose embeddings guide each training case in this epoch, with `otherImage`."""
        subjects = stored_subjects(Path(self.preprocessed_dataset_folder_base))
        return other_cases(self._training_cases, subjects, f"{self.recipe.seed or 0} {self.current_epoch}")

    def _guide_by_other_cases(self) -> None:
        """Pair the training cases anew: another case that stayed the same would tell which case it belongs to."""
        if self.recipe.image_control == "otherImage":
            for case, other in self._other_cases().items():
                self._guiding[case] = resample_slices(self._own[other], len(self._own[case]))

    def on_train_epoch_start(self) -> None:
        """Start the epoch as `UNetTrainer`; with `otherImage`, by embeddings of other cases than in the last one."""
        super().on_train_epoch_start()
        self._guide_by_other_cases()

    def batch_context(self, batch: dict) -> AbstractContextManager[None]:
        """Return the context in which the batch's cached embeddings guide the network."""
        if self._prompts and self.network.training:
            self._paraphrase()
        if self._cached_guidance is None:
            return super().batch_context(batch)
        guidance = upload(self._cached_guidance.of_batch(batch), self.device)
        if guidance.shape == self._guidance.shape:
            # CUDA graphs are captured again for every new address of a module's attribute
            self._guidance.copy_(guidance)
        else:
            self._guidance = guidance
        return _bare(self.network).guided(self._guidance)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Load a checkpoint as `UNetTrainer`.

        Raises:
            ConfigError: It was made with other plans or another encoder.
            DataError: The file cannot be read.
        """
        try:
            super().load_checkpoint(filename_or_checkpoint)
        except ValueError as error:  # the network compares the encoders' hashes
            raise ConfigError(f"checkpoint {filename_or_checkpoint}: {error}") from error


def _bare(network: torch.nn.Module) -> CLIPGuidedUNet:
    """Unwrap a network from distributed training."""
    network = getattr(network, "module", network)
    assert isinstance(network, CLIPGuidedUNet)
    return network
