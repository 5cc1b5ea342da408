"""nnU-Net's default planner for the CLIP-guided U-Net."""

from __future__ import annotations

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet


class CLIPGuidedUNetPlanner(ExperimentPlanner):
    """Plan as nnU-Net's default planner does, for ``CLIPGuidedUNet``; fusion and heads count in the memory estimate.

    Args:
        dataset_name_or_id: As nnU-Net's planner.
        gpu_memory_target_in_gb: As nnU-Net's planner, in GB.
        preprocessor_name: As nnU-Net's planner.
        plans_name: Name of the plans file.
        overwrite_target_spacing: As nnU-Net's planner, in mm.
        suppress_transpose: As nnU-Net's planner.
    """

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = 8,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str = "CLIPGuidedUNetPlans",
        overwrite_target_spacing: list[float] | tuple[float, ...] | None = None,
        suppress_transpose: bool = False,
    ) -> None:
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name,
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.UNet_class = CLIPGuidedUNet
