"""Check plans of others: nnU-Net imports and calls the classes and functions that plans name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet.preprocessed import configuration_of

_NETWORK = r"(dynamic_network_architectures\.architectures|hippo_nnunet\.networks)\.[a-z0-9_]+\.[A-Z]\w*"
_LAYER = r"(torch\.nn(\.modules\.[a-z0-9_]+)?|dynamic_network_architectures\.building_blocks\.[a-z0-9_]+)\.[A-Z]\w*"
_HOMES = ("torch.nn.", "dynamic_network_architectures.", "hippo_nnunet.networks.")

READERS = ("SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient")
"""nnU-Net's readers of NIfTI."""
_RESAMPLING = ("resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack")
_NAMES: dict[str, tuple[str, ...]] = {
    "preprocessor_name": ("DefaultPreprocessor",),
    "normalization_schemes": (
        "ZScoreNormalization",
        "CTNormalization",
        "NoNormalization",
        "RescaleTo01Normalization",
        "RGBTo01Normalization",
    ),
    "resampling_fn_data": _RESAMPLING,
    "resampling_fn_seg": _RESAMPLING,
    "resampling_fn_probabilities": _RESAMPLING,
}
"""Allowed names of a configuration's entries, which nnU-Net 2.8 looks up among its own modules without a check."""

MOST_PATCH_VOXELS = 512**3
MOST_IN_ARCHITECTURE = 4096
"""Largest number in an architecture's arguments: channels, layers, kernel sizes."""


def check_plans(plans: Mapping[str, Any]) -> None:
    """Refuse plans that name code outside nnU-Net and this package, or have excessive sizes.

    Raises:
        DataError: Names the entry; the caller adds the file.
    """
    try:
        _one_of("image_reader_writer", plans["image_reader_writer"], READERS)
        _one_of("label_manager", plans.get("label_manager", "LabelManager"), ("LabelManager",))
        for key in ("transpose_forward", "transpose_backward"):
            if sorted(plans[key]) != [0, 1, 2]:
                raise DataError(f"{key} is {plans[key]!r}, expected an order of the axes 0, 1, 2")
        for name, configuration in plans["configurations"].items():
            try:
                _check_configuration(configuration)
            except DataError as error:
                raise DataError(f"configuration {name!r}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DataError(f"not nnU-Net's plans ({type(error).__name__}: {str(error)[:100]})") from error


def check_classes(plans: Mapping[str, Any], configuration: str) -> None:
    """Refuse classes that are not networks or layers; imports torch and nnU-Net's networks.

    Args:
        plans: Plans checked by `check_plans`.
        configuration: The configuration to use.

    Raises:
        DataError: Names the entry.
    """
    from pydoc import locate

    from torch import nn

    try:
        resolved = configuration_of(plans, configuration)
    except ConfigError as error:
        raise DataError(str(error)) from error
    for key, path in _dotted(resolved):
        try:
            found = locate(path)
        except Exception as error:  # pydoc wraps whatever an import raises
            raise DataError(f"{key} {path!r} cannot be imported ({error})") from error
        is_layer = isinstance(found, type) and issubclass(found, nn.Module)
        if not is_layer or not getattr(found, "__module__", "").startswith(_HOMES):
            raise DataError(f"{key} {path!r} is no network or layer that is installed here")


def _check_configuration(configuration: Mapping[str, Any]) -> None:
    for key, allowed in _NAMES.items():
        named = configuration.get(key, ())
        for value in named if isinstance(named, (list, tuple)) else [named]:
            _one_of(key, value, allowed)
    patch = configuration.get("patch_size", (1, 1))
    counts = all(type(n) is int and n > 0 for n in patch)
    if len(patch) not in (2, 3) or not counts or prod(patch) > MOST_PATCH_VOXELS:
        raise DataError(f"patch_size is {patch!r}, expected 2 or 3 numbers of voxels, {MOST_PATCH_VOXELS} at most")
    if not all(0 < step < float("inf") for step in configuration.get("spacing", ())):
        raise DataError(f"spacing is {configuration['spacing']!r}, expected mm above 0")
    for key, path in _dotted(configuration):
        pattern = _NETWORK if key == "network_class_name" else _LAYER
        if not isinstance(path, str) or not re.fullmatch(pattern, path, re.ASCII):
            raise DataError(
                f"{key} is {str(path)[:100]!r}, but plans may name networks of dynamic_network_architectures and "
                "hippo_nnunet.networks and layers of torch.nn only: nnU-Net would import and call it"
            )
    for value in _numbers(configuration.get("architecture", {}).get("arch_kwargs", {})):
        if not -MOST_IN_ARCHITECTURE <= value <= MOST_IN_ARCHITECTURE:
            raise DataError(f"the architecture has the number {value}, at most {MOST_IN_ARCHITECTURE} makes sense")


def _dotted(configuration: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the dotted paths that nnU-Net imports: the network's class and the arguments marked in the plans."""
    architecture = configuration.get("architecture")
    if architecture is None:  # inherited, or of an old nnU-Net without dotted paths
        return
    yield "network_class_name", architecture["network_class_name"]
    arguments = architecture["arch_kwargs"]
    for key in architecture["_kw_requires_import"]:
        if arguments[key] is not None:
            yield key, arguments[key]


def _one_of(key: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(f"{key} is {str(value)[:100]!r}, expected {' or '.join(allowed)}, as nnU-Net has them")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
