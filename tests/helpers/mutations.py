"""Strategies that damage something right: JSON documents, bytes, names."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

NAMES = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="_-./\\ \n\t~*?[]%$'\"²é雪\x1b\udcff", min_size=1, max_size=12),
    st.sampled_from(["", "-", "--help", "..", "../../x", ".nii.gz", "a\nb", "\x1b[2J", "NaN", "all", "9" * 5000, "🧠"]),
)
"""Names that somebody might type or find in a folder."""

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([-1, 0, 1, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), -float("inf")]),
        st.floats(),
        st.text(max_size=10),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
"""What JSON can hold, as Python reads and writes it."""


def places(content: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path of keys and indices in a document, its root left out."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path for key, value in inside for path in ((*so_far, key), *places(value, (*so_far, key)))]


@st.composite
def damaged(draw: st.DrawFn, right: Any) -> str:
    """A JSON document with some of its parts replaced, taken out or added; or with some of its text changed."""
    content = copy.deepcopy(right)
    for _ in range(draw(st.integers(1, 3))):
        found = places(content)
        if not found or draw(st.integers(0, 19)) == 0:
            content = draw(VALUES)
            continue
        *path, last = draw(st.sampled_from(found))
        inner = content
        for key in path:
            inner = inner[key]
        if draw(st.booleans()):
            inner[last] = draw(VALUES)
        elif isinstance(inner, dict) and draw(st.booleans()):
            inner[draw(st.text(max_size=6))] = inner[last]
        else:
            del inner[last]
    text = json.dumps(content)
    if draw(st.integers(0, 9)) == 0:
        text = draw(changed_bytes(text.encode())).decode(errors="surrogateescape")
    return text


@st.composite
def changed_bytes(draw: st.DrawFn, right: bytes, within: int | None = None) -> bytes:
    """Bytes with some of them replaced, taken out or doubled, or cut off; `within` the first so many."""
    content = bytearray(right)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, min(within or len(content), len(content)) - 1)))
        kind = draw(st.sampled_from(["replace", "replace", "number", "cut", "insert"]))
        if kind == "replace" and content:
            content[place] = draw(st.integers(0, 255))
        elif kind == "number":
            size = draw(st.sampled_from([2, 4, 8]))
            number = draw(st.sampled_from([0, 1, 30000, 2 ** (8 * size - 1) - 1, 2 ** (8 * size) - 1]))
            content[place : place + size] = number.to_bytes(8, "little")[:size]
        elif kind == "cut":
            del content[draw(st.integers(0, len(content))) :]
        else:
            content[place:place] = draw(st.binary(min_size=1, max_size=8))
    return bytes(content)


def write(path: Path, content: str | bytes) -> Path:
    """Write text, surrogates as the bytes that they stand for, or bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
    return path
