"""Download the published Task04 archive: resumed, retried, its length and checksum verified."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from hippo_nnunet.errors import ConfigError, DataError, DependencyError
from hippo_nnunet.files import hash_file
from hippo_nnunet.outputs import check_target
from hippo_nnunet.progress import counted

logger = logging.getLogger(__name__)

TASK04_URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar"

_TASK04_MD5 = "9d24dba78a72977dbd1d2e110310f31b"
_CHUNK = 1 << 16
_LONGEST_NAME = 200
_NUMBER = "[0-9]{1,18}"
_RANGE = re.compile(rf"bytes (?:({_NUMBER})-{_NUMBER}|\*)/({_NUMBER}|\*)")
_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)


class _RetryableError(Exception):
    """The connection failed or ended early; the received part is kept, and trying again may help."""


@dataclass(frozen=True)
class Retry:
    """Number of attempts, pauses and time limit of a download.

    Args:
        attempts: attempts before giving up.
        pause_s: pause before the second attempt; doubles with each further one.
        timeout_s: how long the server may stay silent.
    """

    attempts: int = 5
    pause_s: float = 1.0
    timeout_s: float = 30.0


@dataclass(frozen=True)
class _Answer:
    """What the server's headers say about the body."""

    content_type: str
    total: int | None


def fetch_task04(
    target_dir: Path,
    url: str,
    md5: str | None,
    overwrite: bool = False,
    retry: Retry | None = None,
) -> Path:
    """Download an archive into a folder.

    The received bytes are kept in ``NAME.part``: a later attempt or call requests only the rest. The archive gets its
    name after length and checksum are verified, so a file of that name is always complete.

    Args:
        target_dir: the folder to download to; created if missing.
        url: http or https address of the archive.
        md5: the archive's MD5 in hexadecimal; None checks the length only.
        overwrite: replace a file of the same name that has another checksum.
        retry: how often to try.

    Returns:
        The archive's path; no request is made if it exists with the right checksum.

    Raises:
        ConfigError: the address is not an http address of a file, or the checksum is not an MD5.
        DataError: the server refuses, serves something else or keeps closing the connection, or the folder cannot be
            written.
        DependencyError: the disk has too little space.

    Source: ours; ranges and status codes after RFC 9110, section 14.
    """
    target = target_dir / _file_name(url)
    if md5 is not None and not re.fullmatch("[0-9a-fA-F]{32}", md5):
        raise ConfigError(f"--md5 {md5!r}: expected 32 hexadecimal digits, as md5sum prints them")
    if _is_complete(target, md5, overwrite):
        return target
    part = target.with_name(f"{target.name}.part")
    resumed = part.exists()
    retry = retry or Retry()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        problem = _mismatch(part, md5, _download(url, part, retry))
        if resumed and problem:
            logger.warning("%s: the part of an earlier download belongs to another file; starting again", part)
            part.unlink()
            problem = _mismatch(part, md5, _download(url, part, retry))
        if problem:
            part.unlink()
            remedy = "check the address, or give the checksum of that file with --md5" if md5 else "check the address"
            raise DataError(f"{url}: {problem}; {remedy}, or try again later")
        if md5 is None:
            logger.warning("%s has the MD5 %s, compared with nothing: --md5 verifies it", target, _md5(part))
        part.replace(target)
    except OSError as error:
        remedy = "choose another folder or correct its permissions"
        raise DataError(f"{target}: could not be written ({error}); {remedy}") from error
    return target


def published_md5(url: str) -> str | None:
    """Return the MD5 of the file that an address names, if it is the published Task04, from any mirror; else None."""
    return _TASK04_MD5 if _file_name(url) == _file_name(TASK04_URL) else None


def _file_name(url: str) -> str:
    """Return the last part of an address that can be one of a file."""
    try:
        requests.Request("GET", url).prepare()
        parts = urlsplit(url)
    except ValueError as error:  # requests' errors are ValueErrors
        raise ConfigError(f"--url {url!r}: expected the http(s) address of a file ({error})") from error
    name = unquote(parts.path).rsplit("/", 1)[-1]
    fits = 0 < len(name.encode(errors="replace")) <= _LONGEST_NAME and name.isprintable()
    if parts.scheme not in ("http", "https") or not parts.netloc or name in (".", "..") or not fits:
        raise ConfigError(f"--url {url!r}: expected the http(s) address of a file")
    return name


def _is_complete(target: Path, md5: str | None, overwrite: bool) -> bool:
    if not target.exists():
        return False
    if target.is_file() and md5 is not None and _md5(target) == md5.lower():
        logger.info("%s exists already, with the right checksum", target)
        return True
    if not overwrite:
        known = "another checksum" if md5 is not None else "no checksum to compare with"
        raise DataError(
            f"{target}: exists already, with {known}; move it, pass --overwrite to replace it, or its --md5"
        )
    check_target(target, overwrite, "a file", Path.is_file)  # no link, folder or device
    return False


def _mismatch(part: Path, md5: str | None, answer: _Answer) -> str | None:
    size = part.stat().st_size
    got = f"got {size} bytes of {answer.content_type or 'unknown type'}"
    if md5 is not None:
        found = _md5(part)
        return None if found == md5.lower() else f"wrong content: {got} with MD5 {found}, expected MD5 {md5.lower()}"
    return None if answer.total in (None, size) else f"wrong length: {got}, expected {answer.total} bytes"


def _md5(path: Path) -> str:
    return hash_file(path, hashlib.md5(usedforsecurity=False))


def _download(url: str, part: Path, retry: Retry) -> _Answer:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as progress:
        for attempt in range(1, retry.attempts + 1):
            try:
                return _request(url, part, retry.timeout_s, progress)
            except _RetryableError as error:
                size = part.stat().st_size if part.exists() else 0
                logger.warning("attempt %d of %d: %s; %s keeps %d bytes", attempt, retry.attempts, error, part, size)
                last = error
            if attempt < retry.attempts:
                time.sleep(retry.pause_s * 2 ** (attempt - 1))
    raise DataError(f"{url}: gave up after {retry.attempts} attempts ({last}); run the command again to resume {part}")


def _request(url: str, part: Path, timeout_s: float, progress: Progress) -> _Answer:
    have = part.stat().st_size if part.exists() else 0
    # Without "identity" a server may send compressed bytes, whose length and offsets are not the file's.
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
            content_type = response.headers.get("Content-Type", "")
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status_code == 416:
                # No bytes after ours: the part is complete, or is of another file.
                if match and match[2] != "*":
                    return _Answer(content_type, int(match[2]))
                part.unlink(missing_ok=True)
                raise _RetryableError("the server cannot resume this file")
            if response.status_code in _RETRIED_STATUS:
                raise _RetryableError(f"the server answered {response.status_code} {response.reason}")
            if response.status_code not in (200, 206):
                answer = f"the server answered {response.status_code} {response.reason}"
                raise DataError(f"{url}: {answer}; check the address, or give a mirror with --url")
            if response.status_code == 206 and not (match and match[1] and int(match[1]) == have):
                part.unlink()
                raise _RetryableError(f"asked for bytes from {have}, got {response.headers.get('Content-Range')!r}")
            start = have if response.status_code == 206 else 0
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if re.fullmatch(_NUMBER, length) else None
            needed, free = (total or 0) - start, shutil.disk_usage(part.parent).free
            if needed > free:
                raise DependencyError(
                    f"{part.parent}: {needed} bytes needed, {free} free; make room or choose another folder"
                )
            task = progress.add_task(part.stem, total=total, completed=start)
            logged: AbstractContextManager[None] = nullcontext()
            if total is not None:  # log progress if there is no terminal for a bar
                logged = counted(lambda: part.stat().st_size - start, f"bytes of {part.stem}", total - start)
            with part.open("ab" if start else "wb") as stream, logged:
                for chunk in response.iter_content(_CHUNK):
                    stream.write(chunk)
                    progress.advance(task, len(chunk))
            size = part.stat().st_size
    except requests.RequestException as error:
        raise _RetryableError(f"the connection failed: {type(error).__name__}") from error
    if total is not None and size < total:
        raise _RetryableError(f"the connection ended after {size} of {total} bytes")
    return _Answer(content_type, total)
