"""Open a dataset given as a folder or as an archive.

An archive may come from anywhere. Only its folders and regular files are extracted, each by its own checked name below
the scratch folder. tarfile's filter for untrusted archives is not enough: with a chain of links it writes outside
(CVE-2025-4517, in Python before 3.13.4, 3.12.11, 3.11.13, 3.10.18).
"""

from __future__ import annotations

import errno
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import IO

from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.layout import Dataset, read_dataset
from hippo_nnunet.errors import DataError

_ENDINGS = (".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".tar", ".zip")
_MACOS = "__MACOSX"
"""Folder that macOS adds to ZIP files; it holds no data."""
_MOST_REASON = 300
_MOST_ENTRIES = 100_000
_LONGEST_PART, _LONGEST_NAME = 255, 1000  # bytes; what the usual file systems allow
_LARGEST_EXTENSION = 2**20
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _RefusedError(Exception):
    """An archive holds something that is not extracted."""


@dataclass(frozen=True)
class _Entry:
    """A folder or file of an archive.

    Args:
        name: Its path, separated by slashes.
        size: Bytes that it unpacks to, as the archive says.
        kind: What it is if it is neither a folder nor a regular file.
        open: Opens its content; None for a folder.
    """

    name: str
    size: int
    kind: str | None
    open: Callable[[], IO[bytes] | None] | None


def archived_name(name: str) -> str:
    """Return the name of an archive without its ending: that of the folder that it should hold."""
    return next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)


@contextmanager
def open_dataset(source: Path) -> Iterator[Dataset]:
    """Read a dataset from its folder, or from an archive that is extracted to a temporary folder.

    Args:
        source: an MSD task folder, a dataset folder of nnUNet_raw, or a ``.tar`` (also compressed) or ``.zip`` of one,
            with or without a folder around it.

    Yields:
        The dataset; its paths are valid inside the block only.

    Raises:
        DataError: no such source, no dataset, an archive that is damaged, unsafe or holds several folders, or no room
            for its content.
    """
    with task_folder(source) as folder:
        try:
            dataset = read_dataset(folder)
        except FoundProblem as problem:
            if not source.is_file():
                raise
            # The user knows the archive, not the temporary folder.
            raise DataError(f"{source}: {problem.finding.describe(folder.parent)}") from problem
        yield dataset


@contextmanager
def task_folder(source: Path) -> Iterator[Path]:
    """Yield the dataset's folder: ``source`` itself, or that of the extracted archive; errors as in `open_dataset`."""
    if not source.is_file():
        yield source.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="hippo-task-") as scratch:
        folder = Path(scratch) / (archived_name(source.name).strip(".") or "task")
        folder.mkdir()
        with _errors_of(source):
            _extract(source, folder)
        if (folder / "dataset.json").is_file():
            yield folder
            return
        tops = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        if len(tops) != 1:
            raise DataError(f"{source}: holds {len(tops)} folders, expected one task folder; extract it and give that")
        yield tops[0]


def task_files(source: Path) -> list[PurePath]:
    """List the files in the folders of a task, or those of its archive without extracting it; none if it is missing.

    Raises:
        DataError: The archive is damaged or unsafe.
    """
    if not source.is_file():
        return list(source.glob("*/*"))
    with _errors_of(source):
        return [PurePosixPath(*_parts(entry.name)) for entry in _entries(source) if entry.open is not None]


@contextmanager
def _errors_of(source: Path) -> Iterator[None]:
    """Name the archive in what reading it raises."""
    try:
        yield
    except _RefusedError as error:
        remedy = "take it from a source that you trust, such as: hippo-nnunet data fetch"
        raise DataError(f"{source}: an unsafe archive ({error}); {remedy}") from error
    except Exception as error:  # tarfile, zipfile and the decompressors raise various exceptions for a damaged file
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            scratch = tempfile.gettempdir()
            raise DataError(f"{source}: {error.strerror} in {scratch}: make room, or set TMPDIR") from error
        reason = " ".join(str(error).split())[:_MOST_REASON].rstrip(": ") or type(error).__name__
        remedy = "unpack it and give the folder, or fetch it again with: hippo-nnunet data fetch"
        raise DataError(f"{source}: no .tar or .zip, or a damaged one ({reason}); {remedy}") from error


def _entries(source: Path) -> Iterator[_Entry]:
    """Yield the entries of an archive; refuse one that is neither a folder nor a regular file, and too many."""
    with source.open("rb") as stream:
        is_zip = stream.read(4) in (b"PK\3\4", b"PK\5\6")
    for number, entry in enumerate(_zip_entries(source) if is_zip else _tar_entries(source)):
        if entry.kind is not None:
            raise _RefusedError(f"it holds {entry.kind}, {_quoted(entry.name)}, expected files and folders only")
        if number >= _MOST_ENTRIES:
            raise _RefusedError(f"it holds more than {_MOST_ENTRIES} files")
        yield entry


def _extract(source: Path, folder: Path) -> None:
    """Extract an archive's folders and regular files.

    Raises:
        _RefusedError: It holds something else, a name that is unsafe or used twice, too many entries, or more bytes
            than the disk has room for.
    """
    room = shutil.disk_usage(folder).free
    for entry in _entries(source):
        parts = _parts(entry.name)
        if _MACOS in parts:
            continue
        target = folder.joinpath(*parts)
        if entry.open is None:
            target.mkdir(parents=True, exist_ok=True)
            continue
        if not 0 <= entry.size <= room:
            reason = f"{_quoted(entry.name)} claims {entry.size} bytes, where {room} are free in {folder.parent.parent}"
            raise _RefusedError(reason)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = entry.open()
        if content is None:
            raise _RefusedError(f"{_quoted(entry.name)} has no content")
        try:
            with content, target.open("xb") as file:
                shutil.copyfileobj(content, file)
                room -= max(entry.size, file.tell())
        except FileExistsError:
            raise _RefusedError(f"it holds {_quoted(entry.name)} twice") from None


def _parts(name: str) -> tuple[str, ...]:
    """Split an entry's name; refuse one that leads elsewhere or that no file system takes."""
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or ".." in path.parts or windows.anchor or len(windows.parts) != len(path.parts):
        raise _RefusedError(f"{_quoted(name)} leads outside of its folder")
    longest = max((len(part.encode(errors="surrogateescape")) for part in path.parts), default=0)
    if longest > _LONGEST_PART or len(name.encode(errors="surrogateescape")) > _LONGEST_NAME:
        raise _RefusedError(f"the name {_quoted(name)} is too long")
    if "\0" in name:
        raise _RefusedError(f"the name {_quoted(name)} holds a null byte")
    return path.parts


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 60 else f"{name[:60]}...")


class _Header(tarfile.TarInfo):
    """A header of a tar; its extensions, such as long names, are bounded, because tarfile reads them into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        largest = _LARGEST_EXTENSION if header.type in _EXTENSIONS else sys.maxsize
        if not 0 <= header.size <= largest:
            raise _RefusedError(f"{_quoted(header.name)} claims {header.size} bytes")
        return header


def _tar_entries(source: Path) -> Iterator[_Entry]:
    with tarfile.open(source, tarinfo=_Header) as archive:
        for member in archive:
            kind = None
            if member.issym() or member.islnk():
                kind = "a link"
            elif not (member.isdir() or member.isreg()) or member.issparse():
                kind = "a special file"
            opener = None if member.isdir() else partial(archive.extractfile, member)
            yield _Entry(member.name, member.size, kind, opener)


def _zip_entries(source: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            form = stat.S_IFMT(info.external_attr >> 16)
            kind = None
            if form == stat.S_IFLNK:
                kind = "a link"
            elif form not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a special file"
            if info.flag_bits & 1:
                raise ValueError("it is encrypted")
            name = info.filename.replace("\\", "/")  # some programs of Windows write backslashes
            opener = None if name.endswith("/") else partial(archive.open, info)
            yield _Entry(name, info.file_size, kind, opener)
