"""nnU-Net experiment planners, one module each; this module itself imports neither torch nor nnU-Net.

nnU-Net looks a planner up by asking every module for its name. Foreign names are answered at once; only our own names
import a planner's module.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

PLANNERS: dict[str, str] = {
    "AttentionUNetPlanner": "AttentionUNetPlans: nnU-Net's default, for AttentionUNet, gates in the memory estimate",
    "CLIPGuidedUNetPlanner": "CLIPGuidedUNetPlans: nnU-Net's default, for CLIPGuidedUNet, fusion and heads included",
    "CompactPlanner": "CompactPlans: 16 to 128 features, batches of at most 32 (2d) and 2 (3d); for CPUs and laptops",
    "CompactPad64Planner": "CompactPad64Plans: Pad64Plans in CompactPlans' width and batches",
    "Pad64Planner": "Pad64Plans: the published 64x64x64 padding (64x64 in 2d) and z-score normalization",
}
"""Name and one-line description of each planner."""

_MODULES = {
    "AttentionUNetPlanner": "attention_unet_planner",
    "CLIPGuidedUNetPlanner": "clip_guided_unet_planner",
    "CompactPlanner": "compact_planner",
    "CompactPad64Planner": "compact_planner",
    "Pad64Planner": "pad64_planner",
}


def __getattr__(name: str) -> Any:
    """Resolve a planner's class by name (PEP 562)."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
