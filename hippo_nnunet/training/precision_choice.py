"""What the user's environment says about the precision of trainings on a CPU; torch-free."""

from __future__ import annotations

import os

from hippo_nnunet.errors import ConfigError

VARIABLE = "HIPPO_PRECISION"
"""Variable that names the precision of trainings on a CPU; unset, the processor decides."""
CHOICES = ("float32", "bfloat16")


def chosen_precision() -> str | None:
    """Return one of CHOICES, or None where VARIABLE is unset or empty.

    Raises:
        ConfigError: The variable holds something else.
    """
    chosen = os.environ.get(VARIABLE, "").strip()
    if chosen and chosen not in CHOICES:
        raise ConfigError(f"{VARIABLE}={chosen}: expected {' or '.join(CHOICES)}; correct or unset it")
    return chosen or None
