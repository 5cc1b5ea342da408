"""The arguments of nnU-Net's ``PlainConvUNet`` as plans give them, by name and checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from dynamic_network_architectures.architectures.unet import PlainConvUNet

_PER_STAGE = ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage")


def bind_plan_arguments(network: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of ``PlainConvUNet``'s arguments by name, defaults included.

    Args:
        network: Class that is being made, for messages; its planner is ``<network>Planner``.
        args: Positional arguments as ``PlainConvUNet``'s.
        kwargs: Keyword arguments as ``PlainConvUNet``'s.

    Raises:
        ValueError: An argument that ``PlainConvUNet`` does not know, or one that is missing or has the wrong length.
    """
    signature = inspect.signature(PlainConvUNet)
    unknown = sorted(set(kwargs) - set(signature.parameters))
    if unknown:
        raise ValueError(
            f"{network} got the argument {', '.join(unknown)}, which PlainConvUNet's plans do not have (other "
            f"networks' plans, such as ResidualEncoderUNet's, do not fit): plan with {network}Planner, e.g. "
            f"`nnUNetv2_plan_experiment -d DATASET -pl {network}Planner`"
        )
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ValueError(f"{network}: {error}; plan with {network}Planner to get all of them") from error
    bound.apply_defaults()
    arguments = bound.arguments
    n_stages = arguments["n_stages"]
    for name, expected in [*((name, n_stages) for name in _PER_STAGE), ("n_conv_per_stage_decoder", n_stages - 1)]:
        value = arguments[name]
        if not isinstance(value, int) and len(value) != expected:
            raise ValueError(
                f"{network}: {name} must have {expected} entries (n_stages = {n_stages}), got {len(value)}: {value}; "
                f"correct it in the plans file or plan again with {network}Planner"
            )
    return arguments
