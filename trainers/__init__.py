"""nnU-Net trainers whose names are recipes: `UNetTrainer`, `AttentionUNetTrainer_flipRot_fast_seed1` and so on.

A class is created when its name is first looked up (PEP 562), and stored in this module: it pickles by reference and is
the same class at every look-up.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hippo_nnunet.training.plugins import load_trainer
from hippo_nnunet.training.recipes import is_ours, parse

_HOMES = {
    "UNetTrainer": "hippo_nnunet.trainers.recipe_trainer",
    "AttentionUNetTrainer": "hippo_nnunet.trainers.attention_unet_trainer",
    "CLIPGuidedUNetTrainer": "hippo_nnunet.trainers.clip_guided_unet_trainer",
}


def __getattr__(name: str) -> Any:
    """Create the trainer class of a recipe name.

    Raises:
        AttributeError: The name is not one of ours.
        ConfigError: It is ours, but no valid recipe; names the nearest valid one.
        DependencyError: The package that adds the base cannot be imported, or has no trainer of that kind.
    """
    if not is_ours(name):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    recipe = parse(name)
    home = _HOMES.get(recipe.base)
    if home:
        base = getattr(import_module(home), recipe.base)
    else:
        base = load_trainer(recipe.base, import_module(_HOMES["UNetTrainer"]).UNetTrainer)
    made = base if home and name == recipe.base else type(name, (base,), {"recipe": recipe, "__doc__": base.__doc__})
    made.__module__ = __name__
    globals()[name] = made
    return made
