"""Check plans of others before nnU-Net uses them: it imports and calls the classes and functions that plans name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from math import inf, prod
from pathlib import Path
from typing import Any

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet.plans import configuration_of

_NETWORK = r"(dynamic_network_architectures\.architectures|hippo_nnunet\.networks)\.[a-z0-9_]+\.[A-Z]\w*"
_LAYER = r"(torch\.nn(\.modules\.[a-z0-9_]+)?|dynamic_network_architectures\.building_blocks\.[a-z0-9_]+)\.[A-Z]\w*"
_HOMES = ("torch.nn.", "dynamic_network_architectures.", "hippo_nnunet.networks.")

_READERS = (
    "SimpleITKIO",
    "SimpleITKIOWithReorient",
    "NibabelIO",
    "NibabelIOWithReorient",
    "NaturalImage2DIO",
    "Tiff3DIO",
)
_NORMALIZATIONS = (
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
_RESAMPLING: dict[str, dict[str, type | tuple[type, ...]]] = {
    "resample_data_or_seg_to_shape": {
        "is_seg": bool,
        "order": int,
        "order_z": int,
        "force_separate_z": (bool, type(None)),
        "separate_z_anisotropy_threshold": (int, float),
    },
    "resample_torch_fornnunet": {
        "is_seg": bool,
        "num_threads": int,
        "memefficient_seg_resampling": bool,
        "force_separate_z": (bool, type(None)),
        "separate_z_anisotropy_threshold": (int, float),
        "mode": str,
        "aniso_axis_mode": str,
    },
    "no_resampling_hack": {},
}
"""nnU-Net's resampling functions with the arguments that plans may give, and their types."""

MOST_PATCH_VOXELS = 512**3
MOST_IN_ARCHITECTURE = 4096
"""Largest number in an architecture's arguments: channels, layers, kernel sizes."""
_MOST_ORDER = 5
"""Largest order of scipy's spline interpolation."""


def check_file(plans: Mapping[str, Any], path: Path, configuration: str, trust: bool = False) -> None:
    """Refuse a plans file that could run code, or names what is not installed; imports torch and nnU-Net's networks.

    Args:
        plans: Its content.
        path: Named in the error.
        configuration: The configuration to use.
        trust: Accept names outside nnU-Net and this package; they have to be installed all the same.

    Raises:
        DataError: Names the entry.
    """
    if not trust:
        try:
            check_plans(plans)
        except DataError as error:
            remedy = "correct the file, or give --trust-checkpoint if you trust its author"
            raise DataError(f"{path}: {error}; {remedy}") from error
    try:
        check_classes(plans, configuration, trust)
    except DataError as error:
        raise DataError(f"{path}: {error}; correct the file") from error


def check_reader(plans: Mapping[str, Any]) -> None:
    """Refuse plans whose image reader or label manager is not one of nnU-Net's own.

    Raises:
        DataError: Names the entry; the caller adds the file.
    """
    _one_of("image_reader_writer", plans.get("image_reader_writer"), _READERS)
    _one_of("label_manager", plans.get("label_manager", "LabelManager"), ("LabelManager",))


def check_plans(plans: Mapping[str, Any]) -> None:
    """Refuse plans that name code outside nnU-Net and this package, are malformed, or have excessive sizes.

    Imports nothing of what they name.

    Raises:
        DataError: Names the entry; the caller adds the file.
    """
    try:
        check_reader(plans)
        forward, backward = (plans[f"transpose_{way}"] for way in ("forward", "backward"))
        for way, order in (("forward", forward), ("backward", backward)):
            if not (_whole_numbers(order) and sorted(order) == [0, 1, 2]):
                raise DataError(f"transpose_{way} is {order!r}, expected an order of the axes 0, 1, 2")
        if [forward[axis] for axis in backward] != [0, 1, 2]:
            raise DataError(f"transpose_backward is {backward}, which does not undo transpose_forward, {forward}")
        for name, configuration in plans["configurations"].items():
            try:
                _check_names(configuration)
                _check_form(configuration_of(plans, name))
            except (DataError, ConfigError) as error:
                raise DataError(f"configuration {name!r}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DataError(f"not nnU-Net's plans ({type(error).__name__}: {str(error)[:100]})") from error


def check_classes(plans: Mapping[str, Any], configuration: str, trust: bool = False) -> None:
    """Refuse classes that are not installed, or are not networks or layers; imports torch and nnU-Net's networks.

    nnU-Net leaves out a layer whose name it does not find.

    Args:
        plans: Plans, checked by `check_plans` unless they are trusted.
        configuration: The configuration to use.
        trust: Accept any object that can be imported.

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
        known = is_layer and getattr(found, "__module__", "").startswith(_HOMES)
        if found is None or not (known or trust):
            near = get_close_matches(path.rpartition(".")[2], dir(nn), n=1) if path.startswith("torch.nn.") else []
            hint = f"; did you mean torch.nn.{near[0]}?" if near else ""
            raise DataError(f"{key} {path!r} is no network or layer that is installed here{hint}")


def _check_names(configuration: Mapping[str, Any]) -> None:
    """Check the names in a configuration, which nnU-Net 2.8 looks up without a check, and its sizes."""
    if "preprocessor_name" in configuration:
        _one_of("preprocessor_name", configuration["preprocessor_name"], ("DefaultPreprocessor",))
    for value in configuration.get("normalization_schemes", ()):
        _one_of("normalization_schemes", value, _NORMALIZATIONS)
    for what in ("data", "seg", "probabilities"):
        if f"resampling_fn_{what}" in configuration:
            _one_of(f"resampling_fn_{what}", configuration[f"resampling_fn_{what}"], tuple(_RESAMPLING))
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


def _check_form(configuration: Mapping[str, Any]) -> None:
    """Check sizes and arguments of a configuration whose inheritance is resolved."""
    patch = configuration.get("patch_size", (1, 1))
    counts = len(patch) in (2, 3) and _whole_numbers(patch) and all(n > 0 for n in patch)
    if not counts or prod(patch) > MOST_PATCH_VOXELS:
        raise DataError(f"patch_size is {patch!r}, expected 2 or 3 numbers of voxels, {MOST_PATCH_VOXELS} at most")
    spacing = configuration.get("spacing", [1.0] * len(patch))
    if len(spacing) not in (2, 3) or not all(_is_number(step) and 0 < step < inf for step in spacing):
        raise DataError(f"spacing is {spacing!r}, expected 2 or 3 numbers of mm above 0")
    schemes = configuration.get("normalization_schemes", ["NoNormalization"])
    masked = configuration.get("use_mask_for_norm", [False] * len(schemes))
    if not isinstance(schemes, (list, tuple)) or not schemes:
        raise DataError(f"normalization_schemes is {schemes!r}, expected one for each channel")
    if len(masked) != len(schemes) or not all(isinstance(value, bool) for value in masked):
        raise DataError(f"use_mask_for_norm is {masked!r}, expected true or false for each of {len(schemes)} channels")
    for what in ("data", "seg", "probabilities"):
        _check_resampling(configuration, f"resampling_fn_{what}")


def _check_resampling(configuration: Mapping[str, Any], key: str) -> None:
    arguments = configuration.get(f"{key}_kwargs", {})
    allowed = _RESAMPLING.get(configuration.get(key, ""), {})
    for name, value in arguments.items() if key in configuration else ():
        expected = allowed.get(name)
        right = expected is not None and isinstance(value, expected) and (expected is bool or value is not True)
        if not right or (name.startswith("order") and not 0 <= value <= _MOST_ORDER):
            raise DataError(
                f"{key}_kwargs has {str(name)[:60]}={str(value)[:60]}, which {configuration[key]} does not take; its "
                f"arguments are {', '.join(allowed) or 'none'}"
            )


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


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(type(value) is int for value in values)


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _numbers(part)
