"""Trainers that other packages add, through entry points of the group `hippo_nnunet.trainers`. Imports no torch.

A package declares `AcmeUNetTrainer = "acme_unets:AcmeUNetTrainer"` in that group; the class is a subclass of
`hippo_nnunet.trainers.UNetTrainer`, and its name becomes a base that takes every recipe word. The package is not
imported until such a trainer is requested.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hippo_nnunet.errors import DependencyError

GROUP = "hippo_nnunet.trainers"

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def external_trainers() -> dict[str, EntryPoint]:
    """Return the bases that other packages add, by name; one whose name cannot be a base is reported and left out."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if not re.fullmatch(r"[A-Z][A-Za-z0-9]*Trainer", point.name):
            problem = "a base is CamelCase, without underscores, and ends in Trainer"
        elif point.name in found and found[point.name].value != point.value:
            problem = f"{found[point.name].value} has that name already"
        else:
            found[point.name] = point
            continue
        log.warning("entry point '%s = %s' of %s is left out: %s", point.name, point.value, GROUP, problem)
    return found


def load_trainer(name: str, parent: type) -> Any:
    """Import the class of a base that another package adds.

    Args:
        name: One of `external_trainers`.
        parent: The class that it has to inherit from: recipe words would have no effect on another one.

    Raises:
        DependencyError: The package cannot be imported, or holds no such class; names the entry point.
    """
    point = external_trainers()[name]
    try:
        found = point.load()
        if not (isinstance(found, type) and issubclass(found, parent)):
            raise TypeError(f"it is no subclass of {parent.__name__}")
        return found
    except Exception as error:  # whatever a foreign package raises
        raise DependencyError(
            f"trainer '{name}': the entry point '{point.value}' cannot be loaded ({type(error).__name__}: {error}); "
            "reinstall or remove the package that declares it"
        ) from error
