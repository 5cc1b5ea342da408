"""How the pages' templates are read."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined


def page_environment(page: str) -> Environment:
    """Return the environment of a page's own templates: all is escaped, and a missing name is an error."""
    return Environment(
        loader=PackageLoader(f"hippo_nnunet.pages.{page}"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
