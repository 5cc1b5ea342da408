"""The variable with the precision of trainings on a CPU; torch-free."""

from __future__ import annotations

import os

from hippo_nnunet.errors import ConfigError

VARIABLE = "HIPPO_PRECISION"
"""Variable that names the precision of trainings on a CPU; unset, the processor decides."""
CHOICES = ("float32", "bfloat16")


def requested_precision() -> str | None:
    """Return one of CHOICES, or None where VARIABLE is unset or empty.

    Raises:
        ConfigError: The variable holds something else.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if value and value not in CHOICES:
        raise ConfigError(f"{VARIABLE}={value}: expected {' or '.join(CHOICES)}; correct or unset it")
    return value or None
