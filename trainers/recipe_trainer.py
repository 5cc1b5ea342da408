"""The nnU-Net trainer behind every recipe: a few hooks that call `hippo_nnunet.training`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.inference.validation import validate_fold
from hippo_nnunet.nnunet.checkpoints import TrainingRecord, check_same_loader, write_missing_descriptions
from hippo_nnunet.nnunet.fold_lock import trainer_lock
from hippo_nnunet.nnunet.loaders import memory_loaders, recipe_transforms, seed_workers
from hippo_nnunet.nnunet.network import baseline_class, build_network
from hippo_nnunet.nnunet.teachers import check_same_teachers, load_teachers
from hippo_nnunet.threads import AdaptiveThreads, limit_threads
from hippo_nnunet.trainers.resumable_trainer import ResumableTrainer
from hippo_nnunet.training.augmentation_spec import (
    PUBLISHED,
    SHORT_SCHEDULE,
    AugmentationSpec,
    left_right_axes,
    sampled_patch_size,
)
from hippo_nnunet.training.distillation import Teachers
from hippo_nnunet.training.losses import apply_loss_word
from hippo_nnunet.training.memory_data import MemoryLoader
from hippo_nnunet.training.one_cycle import CycleSchedule, one_cycle
from hippo_nnunet.training.partial_labels import with_partial_labels
from hippo_nnunet.training.precision import autocast, exact_outputs, precision_name
from hippo_nnunet.training.recipes import Recipe
from hippo_nnunet.training.schedule import schedule_for
from hippo_nnunet.training.step import (
    EAGER,
    StepMode,
    build,
    fastest,
    make_deterministic,
    to_device,
    update,
    zero_momentum,
)

SEEDS_BETWEEN_FOLDS = 2**20


class UNetTrainer(ResumableTrainer):
    """nnU-Net's own network, trained with the recipe in the class name.

    Args:
        plans: nnU-Net plans, with the key `continue_training`, which is removed.
        configuration: For example `2d` or `3d_fullres`.
        fold: Fold number, or `all`.
        dataset_json: The dataset's dataset.json.
        device: Where to train.

    Raises:
        ConfigError: A word for adjacent slices with a 3D configuration, or on several devices; raised before anything
            is written.

    Attributes:
        recipe: The parsed class name.
        network_class: Dotted path of the network's class; None for nnU-Net's own network.
    """

    recipe: ClassVar[Recipe] = Recipe("UNetTrainer")
    network_class: ClassVar[str | None] = None

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature, to the letter
    ) -> None:
        self._check_slices(plans, configuration)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.schedule = schedule_for(self.recipe, len(self.configuration_manager.patch_size))
        self.num_epochs = self.schedule.epochs
        self.num_iterations_per_epoch = self.schedule.iterations
        self.num_val_iterations_per_epoch = self.schedule.validation_iterations
        if self.schedule.fast:
            self.initial_lr, self.weight_decay = self.schedule.max_lr, self.schedule.weight_decay
        self.seed = self.recipe.seed if self.recipe.seed is not None else 0 if self.recipe.fast else None
        self.augmentation = self._augmentation()
        self.record = TrainingRecord(asdict(self.schedule), self.seed, precision=precision_name(self.half))
        # sums over another number of threads are rounded differently, but a seed word promises identical results
        self.threads = AdaptiveThreads(device, fixed=self.recipe.seed is not None, report=self.print_to_log_file)
        self._teachers: Teachers | None = None

    @property
    def fold_seed(self) -> int | None:
        """What the fold's training is seeded with: `seed` in fold 0, another number in each other fold.

        With one number for all folds, initial weights and the order of patches would be the same in all of them: a
        lucky seed would raise the whole cross-validation, which the test over folds takes for a better recipe.
        """
        return None if self.seed is None else self.seed + SEEDS_BETWEEN_FOLDS * (self.fold if self.fold != "all" else 0)

    def _check_slices(self, plans: dict, configuration: str) -> None:
        word = self.recipe.words.get("slices")
        if word and len(PlansManager(plans).get_configuration(configuration).patch_size) != 2:
            raise ConfigError(
                f"{type(self).__name__}: '{word}' goes with 2d, not {configuration}: train 2d, or leave the word out"
            )
        if word and torch.distributed.is_available() and torch.distributed.is_initialized():
            raise ConfigError(
                f"{type(self).__name__}: '{word}' trains and validates on one device: leave out -num_gpus"
            )

    def _augmentation(self) -> AugmentationSpec | None:
        """Return what the recipe does to a patch; None for nnU-Net's own augmentation."""
        if self.recipe.augmentation is not None:
            return PUBLISHED.get(self.recipe.augmentation)
        return replace(SHORT_SCHEDULE, mirror_axes=self._mirror_axes()) if self.recipe.fast else None

    def _mirror_axes(self) -> tuple[int, ...] | None:
        """Return the patch axes that are mirrored in training and prediction; None for nnU-Net's choice."""
        dim = len(self.configuration_manager.patch_size)
        if self.recipe.augmentation is not None:
            published = PUBLISHED.get(self.recipe.augmentation)
            return published.axes(dim) if published else None
        if self.schedule.mirroring is None:
            return None
        left_right = self.schedule.mirroring == "mirrorLR"
        return left_right_axes(self.plans_manager.transpose_forward, dim) if left_right else ()

    # -- network, loss, optimiser ---------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Seed, then build network, optimiser and loss as nnU-Net does; a seed word also requests determinism."""
        if self.fold_seed is not None:
            torch.manual_seed(self.fold_seed)
        if self.recipe.seed is not None:
            make_deterministic(self.device)
        super().initialize()
        self._forward_loss = build(self.network, self.loss, EAGER)

    def _do_i_compile(self) -> bool:
        """Keep nnU-Net from compiling network and loss: only `fastest` decides what is compiled."""
        return False

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> torch.nn.Module:
        """Build the network with the plan's arguments; called for training and, without deep supervision, inference.

        nnU-Net's own network is the plan's class, or PlainConvUNet if the plan names one of ours.
        """
        return build_network(
            cls.network_class or baseline_class(configuration_manager),
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            cls.network_arguments(configuration_manager),
            cls.recipe.slices,
        )

    @classmethod
    def network_arguments(cls, configuration_manager: Any) -> dict[str, Any]:
        """Return the network's arguments beyond the plan's, which they override; for subclasses."""
        return {}

    def _build_loss(self) -> torch.nn.Module:
        loss = super()._build_loss()
        labels = self.label_manager
        loss = apply_loss_word(loss, self.recipe.loss, labels.has_regions, labels.ignore_label)
        return with_partial_labels(loss, self.dataset_json).to(self.device)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return AdamW with one cycle for `fast`, nnU-Net's SGD with polynomial decay otherwise; fused on a GPU."""
        fused = self.device.type == "cuda" or None
        if self.schedule.fast:
            return one_cycle(self.network.parameters(), self.schedule, fused)
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            self.initial_lr,
            momentum=0.99,
            weight_decay=self.weight_decay,
            nesterov=True,
            fused=fused,
        )
        if fused:
            zero_momentum(optimizer)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    # -- data -----------------------------------------------------------------------------------------------------

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802 - nnU-Net's name
        """Return nnU-Net's four augmentation settings, adapted to the recipe; sets the axes mirrored at inference."""
        rotation, in_plane, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        ours = self._mirror_axes()
        if ours is not None:
            mirror_axes = ours
            self.inference_allowed_mirroring_axes = ours or None
        if self.augmentation is not None:
            patch_size = self.configuration_manager.patch_size
            initial_patch_size = sampled_patch_size(self.augmentation, patch_size, in_plane)
        return rotation, in_plane, initial_patch_size, mirror_axes

    @classmethod
    def get_training_transforms(
        cls,
        patch_size: Any,
        rotation_for_DA: Any,  # noqa: N803 - nnU-Net's name
        deep_supervision_scales: Any,
        mirror_axes: Any,
        do_dummy_2d_data_aug: bool,
        **kwargs: Any,
    ) -> Any:
        """Return nnU-Net's transforms, with their augmentation replaced if the recipe has an augmentation word."""
        stock = nnUNetTrainer.get_training_transforms(
            patch_size, rotation_for_DA, deep_supervision_scales, mirror_axes, do_dummy_2d_data_aug, **kwargs
        )
        published = PUBLISHED.get(cls.recipe.augmentation or "")
        return recipe_transforms(stock, published, patch_size, do_dummy_2d_data_aug) if published else stock

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return the in-memory loaders where the data fits, nnU-Net's own otherwise.

        Raises:
            ConfigError: A word for adjacent slices, and nnU-Net's loader, which draws single ones, is needed; or a
                training that is resumed began with the other loader and its augmentation.
        """
        loaders = memory_loaders(self)
        self.record.loader = "nnU-Net" if loaders is None else "memory"
        if self.schedule.fast and self.recipe.augmentation is None and self._resumed is not None:
            check_same_loader(self._resumed.loader, self.record.loader, self.output_folder)
        if loaders is not None:
            return loaders
        if self.recipe.slices > 1:
            raise ConfigError(
                f"{type(self).__name__}: adjacent slices need the data in memory, and the log says why it is not "
                "there: leave the word out, or train where there is more memory"
            )
        if self.schedule.fast and self.recipe.augmentation is None:
            self.augmentation = None
        loaders = super().get_dataloaders()
        if self.recipe.seed is not None:
            done = len(self.record.epoch_outputs)
            seed_workers(loaders, [self.fold_seed or 0, self.local_rank, self.current_epoch, done])
        return loaders

    # -- training -------------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Train with the fold locked; SIGTERM ends the training after a checkpoint."""
        if self.device.type == "cpu":
            limit_threads()  # nnUNetv2_train takes all of the machine's CPUs, whatever a container may use
        with trainer_lock(self), self.termination, self.threads:
            super().run_training()

    def on_train_start(self) -> None:
        """Choose the mode of the training step, and defer SIGTERM from now on."""
        if self.recipe.seed is not None:
            make_deterministic(self.device)  # again: after loading a checkpoint, nnU-Net turns cuDNN's benchmark on
        super().on_train_start()
        if self.recipe.taught:
            self._teachers, self.record.teachers = load_teachers(self)
            if self._resumed is not None:
                check_same_teachers(self._resumed.teachers, self.record.teachers, Path(self.output_folder))
        if self.recipe.seed is None and not self.is_ddp:
            self.set_step_mode(self._fastest_mode())
        elif self.recipe.taught:
            self.set_step_mode(EAGER)
        self.termination.begin()

    def _fastest_mode(self) -> StepMode:
        """Return the mode of the training step that is fastest on this machine, compiling included."""
        batch = next(self.dataloader_train)
        left = self.schedule.iterations * (self.num_epochs - self.current_epoch)
        with self.threads.step("choice of the mode"), self.batch_context(batch):
            return fastest(self.network, self.loss, *to_device(batch, self.device), left, self.half)

    def set_step_mode(self, mode: StepMode) -> None:
        """Compute the following training steps in a mode of `hippo_nnunet.training.step.step_modes`."""
        self._forward_loss = build(self.network, self.loss, mode, self.optimizer, self._teachers)
        self.print_to_log_file(f"Training step: {mode.name}")

    def on_train_epoch_start(self) -> None:
        """Set the in-memory loader to the epoch's first batch that is not trained yet."""
        super().on_train_epoch_start()
        if isinstance(self.dataloader_train, MemoryLoader):
            done = len(self.record.epoch_outputs)
            self.dataloader_train.step = self.current_epoch * self.schedule.iterations + done

    def train_step(self, batch: dict) -> dict:
        """Do nnU-Net's training step, advance the cycle, and write a checkpoint when it is due.

        Returns:
            `loss`: 0-d tensor on the device, which is not synchronised before the epoch's end.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with self.threads.step("training"):
            with self.batch_context(batch), autocast(self.device, self.half):
                loss = self._forward_loss(*to_device(batch, self.device))
            update(loss, self.network, self.optimizer, self.grad_scaler)
        output = {"loss": loss.detach().clone()}  # CUDA graphs write the next step's loss to the same memory
        self.record.epoch_outputs.append(output)
        if isinstance(self.lr_scheduler, CycleSchedule):
            self.lr_scheduler.advance()
        self.checkpoint_when_due()
        return output

    def validation_step(self, batch: dict) -> dict:
        """Run nnU-Net's validation step, and write a checkpoint when it is due; a resume repeats the validation."""
        amp = autocast(self.device, self.half)
        with self.threads.step("validation"), self.batch_context(batch), amp, exact_outputs(self.network):
            output = super().validation_step(batch)
        self.checkpoint_when_due()
        return output

    def batch_context(self, batch: dict) -> AbstractContextManager[None]:
        """Return the context of a batch's forward pass; for subclasses whose network takes more than images."""
        return nullcontext()

    def on_validation_epoch_start(self) -> None:
        """Draw the epoch's validation batches from the in-memory loader; for `fast` the same ones in every epoch."""
        super().on_validation_epoch_start()
        if isinstance(self.dataloader_val, MemoryLoader):
            epoch = 0 if self.schedule.fast else self.current_epoch
            self.dataloader_val.step = epoch * self.num_val_iterations_per_epoch

    def on_train_end(self) -> None:
        """Write the final checkpoint and `hippo_training.json`."""
        super().on_train_end()
        if self.local_rank == 0:
            with self.threads.restored():
                self.record.write_summary(Path(self.output_folder), self.device)

    @property
    def nnunet_validates(self) -> bool:
        """Whether nnU-Net's own final validation is needed: of several processes, or for and in a cascade."""
        return bool(self.is_ddp or self.is_cascaded or self.configuration_manager.next_stage_names)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate with batched slices; nnU-Net's own way where processes share the work or a next stage follows."""
        with trainer_lock(self), self.threads:
            write_missing_descriptions(self, self._resumed or self.record)
            if self.nnunet_validates:
                super().perform_actual_validation(save_probabilities)
            else:
                validate_fold(self, save_probabilities)
