"""Small networks as nnU-Net builds them from plans."""

from __future__ import annotations

from typing import Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def plan_kwargs(
    strides: list[list[int]], kernel_sizes: list[list[int]] | None = None, **changes: Any
) -> dict[str, Any]:
    """Architecture kwargs as nnU-Net's planner writes them, with few features."""
    dim, n_stages = len(strides[0]), len(strides)
    kwargs = {
        "n_stages": n_stages,
        "features_per_stage": [min(2 * 2**i, 6) for i in range(n_stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{dim}d",
        "kernel_sizes": kernel_sizes or [[3] * dim] * n_stages,
        "strides": strides,
        "n_conv_per_stage": [2] * n_stages,
        "n_conv_per_stage_decoder": [2] * (n_stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dim}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {**kwargs, **changes}


def build_network(network: str, kwargs: dict[str, Any], deep_supervision: bool = True, classes: int = 3) -> Any:
    """Build as nnU-Net does, initialisation included: one channel."""
    imports = ("conv_op", "norm_op", "dropout_op", "nonlin")
    return get_network_from_plans(
        network, kwargs, imports, 1, classes, allow_init=True, deep_supervision=deep_supervision
    )
