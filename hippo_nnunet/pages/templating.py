"""How pages are rendered from their templates and written as a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from hippo_nnunet import __version__
from hippo_nnunet.errors import DataError
from hippo_nnunet.outputs import staged

PAGE = "index.html"
_SIGN = b"hippo_nnunet"


def render_template(page: str, name: str, filters: dict[str, Callable[..., str]] | None = None, **values: Any) -> str:
    """Render a page's template; everything is escaped, and an undefined name is an error.

    Args:
        page: Package below `hippo_nnunet.pages` whose `templates` are used, with those that all pages share.
        name: File name of the template.
        filters: Further filters by name.
        values: What the template shows, beside the `version` of this package.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(f"hippo_nnunet.pages.{page}"), PackageLoader("hippo_nnunet.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    return environment.get_template(name).render(version=__version__, **values)


def read_template(page: str, name: str) -> str:
    """Read a style sheet or script of a page."""
    return (files(f"hippo_nnunet.pages.{page}") / "templates" / name).read_text(encoding="utf-8")


def is_own_page(page: Path) -> bool:
    """Tell whether a page may be written there: nothing exists, or a page that this package wrote."""
    if not os.path.lexists(page):
        return True
    return page.is_file() and not page.is_symlink() and _SIGN in page.read_bytes()


@contextmanager
def page_folder(output: Path, content: str, overwrite: bool) -> Iterator[Path]:
    """Yield a path that becomes the output folder if the block ends without an error; see `staged`.

    Args:
        output: The folder to create.
        content: What an earlier output may hold beside the page, figures and tables: see `staged`.
        overwrite: Replace an earlier output.

    Raises:
        DataError: The output exists and is not to be replaced, or it cannot be written.
    """
    page = output / PAGE
    if overwrite and page.is_file() and not is_own_page(page):
        raise DataError(f"{page} is no page of hippo_nnunet, so {output} is not replaced: choose another folder")
    with staged(output, overwrite, rf"{re.escape(PAGE)}|figures/[^/]+\.(png|svg|pdf)|{content}") as fresh:
        yield fresh
