"""The `.hippo` container of a shared model: an uncompressed zip with a manifest of its members' hashes.

Nothing is extracted by name, and the whole file is checked before any member is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hippo_nnunet import outputs
from hippo_nnunet.errors import ConfigError, DataError, one_line
from hippo_nnunet.files import zip_entry
from hippo_nnunet.memory import is_out_of_memory, memory_error
from hippo_nnunet.outputs import output_file

SUFFIX = ".hippo"
MANIFEST = "MANIFEST.json"
FORMAT = "hippo_nnunet model"
VERSION = 1
"""Version of the format; a reader refuses a higher one."""

MOST_MEMBERS = 64
_MIB = 2**20
LIMITS: tuple[tuple[str, int], ...] = (
    (r"MANIFEST\.json|model\.json|dataset\.json|README\.md", _MIB),
    (r"plans\.json", 16 * _MIB),
    (r"metrics/per_case\.csv", 64 * _MIB),
    (r"example/(input_\d{4}|labels)\.nii|example/expected\.json", 64 * _MIB),
    (r"weights/fold_(0|[1-9]\d?|all)\.safetensors", 8192 * _MIB),
)
"""Allowed member names and their largest sizes in bytes. Source: ours; weights for nnU-Net's largest plans take about
0.4 GiB."""

_CHUNK = 2**20
_UNSAFE_NAME = re.compile(r"(^|[/\\])\.\.?([/\\]|$)|^[/\\]|^[A-Za-z]:|\\|//|[\x00-\x1f\x7f]")
_REGULAR = 0o100000
_READ_ERRORS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, struct.error, zipfile.BadZipFile)
REMEDY = "do not use this file, ask for it again"


@dataclass(frozen=True)
class Container:
    """A checked model file: its members are those of its manifest.

    Attributes:
        path: The file.
        members: Name to size in bytes and SHA-256, without the manifest.
    """

    path: Path
    members: Mapping[str, tuple[int, str]]

    def read(self, name: str) -> bytes:
        """Return a member's bytes.

        Raises:
            DataError: The member does not exist, or the file has changed since it was opened.
        """
        if name not in self.members:
            raise DataError(f"{self.path}: has no member {name}; {REMEDY}")
        size, expected = self.members[name]
        try:
            with zipfile.ZipFile(self.path) as source, source.open(name) as stream:
                content = stream.read(size + 1)
        except (*_READ_ERRORS, KeyError) as error:
            if is_out_of_memory(error):
                raise memory_error(str(self.path)) from error
            raise _refused(self.path, name, f"cannot be read ({error})") from error
        if hashlib.sha256(content).hexdigest() != expected:
            raise _refused(self.path, name, "has changed since the file was opened")
        return content

    def read_json(self, name: str) -> dict[str, Any]:
        """Return a member's JSON object; errors as in `read`."""
        return _json(self.path, name, self.read(name))


@contextmanager
def naming_file(path: Path, part: str = "") -> Iterator[None]:
    """Add the model file, a part of it, and the remedy to each DataError of the block that does not name the file."""
    try:
        yield
    except DataError as error:
        if str(error).startswith(str(path)):
            raise
        raise DataError(f"{path}: {part}{error}; {REMEDY}") from error


def open_container(path: Path) -> Container:
    """Check the names, types, sizes and hashes of a model file's members.

    Args:
        path: The file, with any name.

    Raises:
        DataError: It is missing, no model file, of a newer format, damaged, or has members that a model does not need:
            see docs/sharing.md.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: name a file that 'hippo-nnunet model export' wrote")
    if path.name.endswith(".onnx"):
        raise DataError(f"{path}: an ONNX file, which only 'predict' reads: name a .hippo file")
    try:
        with zipfile.ZipFile(path) as source:
            entries = source.infolist()
            names = {entry.orig_filename: entry for entry in entries}
            if MANIFEST not in names:
                raise DataError(
                    f"{path}: holds no {MANIFEST}, so it is no model of 'hippo-nnunet model export'; a checkpoint "
                    "(.pth) is given by the model folder around it"
                )
            _check_entries(path, entries, path.stat().st_size)
            members = _manifest(path, source.read(names[MANIFEST]))
            _check_members(path, set(names) - {MANIFEST}, members)
            for name, (size, expected) in members.items():
                if names[name].file_size != size:
                    raise _refused(path, name, f"has {names[name].file_size} bytes, the manifest says {size}")
                with source.open(names[name]) as stream:
                    found = _hash(stream)
                if found != expected:
                    raise _refused(path, name, f"has SHA-256 {found[:12]}..., the manifest says {expected[:12]}...")
    except _READ_ERRORS as error:
        if is_out_of_memory(error):
            raise memory_error(str(path)) from error
        reason = one_line(error)
        raise DataError(f"{path}: not a readable model file ({reason}); {REMEDY}") from error
    return Container(path, members)


def write_container(
    target: Path,
    members: Mapping[str, Callable[[], bytes]],
    overwrite: bool = False,
    check: Callable[[Path], object] = open_container,
) -> None:
    """Write a model file; equal members give equal bytes.

    Args:
        target: The file, ending in `.hippo`.
        members: Name to a function that returns its bytes, called once, in the order of the file.
        overwrite: Replace an existing file.
        check: Called with the complete temporary file before it replaces the target; raises to refuse it.

    Raises:
        ConfigError: The target does not end in `.hippo`.
        DataError: The file exists, or cannot be written.
    """
    check_target(target, overwrite)
    listed: dict[str, dict[str, Any]] = {}
    with output_file(target) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, produce in members.items():
                content = produce()
                archive.writestr(zip_entry(name), content)
                listed[name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            manifest = {"format": FORMAT, "format_version": VERSION, "members": listed}
            archive.writestr(zip_entry(MANIFEST), as_json(manifest))
        check(temporary)


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse a target that does not end in `.hippo` (ConfigError), or that exists: see `outputs.check_target`."""
    if target.suffix != SUFFIX or target.is_dir():
        raise ConfigError(f"{target}: a shared model is a {SUFFIX} file: give such a name")
    outputs.check_target(target, overwrite, "a shared model", _is_container)


def _is_container(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return _manifest(path, archive.read(MANIFEST)) is not None
    except (KeyError, *_READ_ERRORS):
        return False


def as_json(content: Any) -> bytes:
    """Return JSON in the format's fixed form: equal content gives equal bytes."""
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _refused(path: Path, name: str, problem: str) -> DataError:
    return DataError(f"{path}: member {name[:100]!r} {problem}; {REMEDY}")


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], archive_size: int) -> None:
    """Refuse unsafe or unneeded members regardless of the manifest."""
    if len(entries) > MOST_MEMBERS:
        raise DataError(f"{path}: holds {len(entries)} members, a model has at most {MOST_MEMBERS}; {REMEDY}")
    seen: set[str] = set()
    for entry in entries:
        problem = _entry_problem(entry)
        key = unicodedata.normalize("NFC", entry.orig_filename).casefold()
        if not problem and key in seen:
            problem = "is there twice, or differs from another in case only"
        if problem:
            raise _refused(path, entry.orig_filename, problem)
        seen.add(key)
    total = sum(entry.compress_size for entry in entries)
    if total > archive_size:
        raise DataError(f"{path}: {archive_size} bytes that unpack to {total}: its members overlap; {REMEDY}")


def _entry_problem(entry: zipfile.ZipInfo) -> str | None:
    kind = (entry.external_attr >> 16) & 0o170000
    if _UNSAFE_NAME.search(entry.orig_filename):
        return "has a name that leads out of the file or is not portable"
    if kind not in (0, _REGULAR) or entry.external_attr & 0x10 or entry.is_dir():
        return "is a link, a folder or a special file"
    if entry.flag_bits & 0x41:
        return "is encrypted"
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        return "is compressed, which could hide any size"
    limit = _limit(entry.orig_filename)
    if limit is not None and entry.file_size > limit:
        return f"has {entry.file_size} bytes, at most {limit} are allowed"
    return None


def _limit(name: str) -> int | None:
    return next((limit for pattern, limit in LIMITS if re.fullmatch(pattern, name, re.ASCII)), None)


def check_version(path: Path, version: int, known: int) -> None:
    """Refuse a file whose format is of a later version than this reader knows.

    Args:
        path: The file.
        version: Its version.
        known: The latest version that the reader knows.

    Raises:
        DataError: Says how to update.
    """
    if version > known:
        raise DataError(
            f"{path}: is of version {version} of the format, this hippo_nnunet reads up to {known}: update it with "
            "pip install --upgrade hippo_nnunet"
        )


def _manifest(path: Path, content: bytes) -> dict[str, tuple[int, str]]:
    manifest = _json(path, MANIFEST, content)
    version = manifest.get("format_version")
    if manifest.get("format") != FORMAT or type(version) is not int or version < 1:
        raise _refused(path, MANIFEST, f"does not say '{FORMAT}' and its version")
    check_version(path, version, VERSION)
    try:
        listed = {str(name): (row["size"], row["sha256"]) for name, row in manifest["members"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise _refused(path, MANIFEST, "does not list members with size and sha256") from error
    for name, (size, digest) in listed.items():
        if type(size) is not int or not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise _refused(path, MANIFEST, f"gives {name[:100]!r} no size and SHA-256")
    return listed


def _check_members(path: Path, found: set[str], listed: Mapping[str, tuple[int, str]]) -> None:
    for name in sorted(found | set(listed)):
        if name not in listed:
            raise _refused(path, name, "is not in the manifest")
        if name not in found:
            raise _refused(path, name, "is in the manifest, but missing")
        if _limit(name) is None:
            pickled = re.search(r"\.(pth?|pkl|bin)$", name, re.IGNORECASE)
            why = " (a pickle can run code; weights are safetensors)" if pickled else ""
            raise _refused(path, name, f"is nothing that a model holds{why}")


def _json(path: Path, name: str, content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _refused(path, name, f"is not JSON ({str(error)[:100]})") from error
    if not isinstance(parsed, dict):
        raise _refused(path, name, "is not a JSON object")
    return parsed


def _hash(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
