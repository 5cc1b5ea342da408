"""How the pages' templates are read."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment() -> Environment:
    """Return Jinja's environment: everything is escaped, and a name that is missing is an error."""
    return Environment(
        loader=PackageLoader("hippo_nnunet.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
