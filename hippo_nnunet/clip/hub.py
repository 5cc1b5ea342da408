"""The Hugging Face hub: its cache on this machine, and downloads compared with its hashes. Imports no torch."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hippo_nnunet.clip.models import MODEL_VARIABLE, WEIGHTS_VARIABLE, EncoderChoice
from hippo_nnunet.errors import DependencyError
from hippo_nnunet.files import hash_file

logger = logging.getLogger(__name__)

# A tokenizer of transformers needs one of these; a download takes all the small files beside them.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece*.model")
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_PROBE_S = 3.0


def cache_folder() -> Path:
    """Return the folder of downloaded weights; the variables HF_HOME and HF_HUB_CACHE move it."""
    import huggingface_hub.constants

    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def hub_file(choice: EncoderChoice, repository: str, names: Sequence[str], fetch: bool) -> Path | None:
    """Return the first of some files that a repository has, from the cache if it is there.

    Args:
        choice: Encoder, for messages.
        repository: ORG/MODEL.
        names: Names of files, the preferred one first.
        fetch: Whether to download it.

    Returns:
        The file; None if it is not in the cache and is not to be fetched.

    Raises:
        DependencyError: The hub does not answer within 3 seconds, or the download failed or was damaged.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        found = try_to_load_from_cache(repository, name, cache_dir=cache_folder())
        if isinstance(found, str) and Path(found).is_file():
            return Path(found)
    if not fetch:
        return None
    with _downloading(choice, repository):
        for name in names:
            try:
                path = Path(hf_hub_download(repository, name, cache_dir=cache_folder()))
            except EntryNotFoundError as error:
                if isinstance(error, LocalEntryNotFoundError):  # the connection failed
                    raise
                continue
            _check_content(path)
            return path
        raise FileNotFoundError(f"{repository} has no {' or '.join(names)}")


def hub_tokenizer(choice: EncoderChoice, repository: str, fetch: bool) -> Path | None:
    """Return a folder with the small files of a repository, the vocabulary among them; arguments as `hub_file`'s."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    for name in ("tokenizer_config.json", "tokenizer.json", "vocab.txt"):
        found = try_to_load_from_cache(repository, name, cache_dir=cache_folder())
        if isinstance(found, str) and has_vocabulary(Path(found).parent):
            return Path(found).parent
    if not fetch:
        return None
    with _downloading(choice, repository):
        folder = Path(snapshot_download(repository, allow_patterns=[*_SMALL_FILES], cache_dir=cache_folder()))
        for file in folder.glob("*"):
            _check_content(file)
        if has_vocabulary(folder):
            return folder
        raise FileNotFoundError(f"{repository} has no tokenizer")


@contextmanager
def _downloading(choice: EncoderChoice, repository: str) -> Iterator[None]:
    """Check that the hub answers, and turn whatever its client raises into one line."""
    import huggingface_hub.constants

    address = str(huggingface_hub.constants.ENDPOINT)
    reason = _unreachable(address)
    if reason:
        raise DependencyError(_missing(choice, repository, f"{address} cannot be reached ({reason})"))
    logger.info("CLIP encoder %s: downloading from %s/%s", choice.name, address, repository)
    try:
        yield
    except Exception as error:  # whatever the hub's client or the disk may raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DependencyError(_missing(choice, repository, f"the download failed ({reason})")) from error


def _check_content(path: Path) -> None:
    """Compare a downloaded file with the hash by which the hub names it; a damaged one is deleted.

    The cache names a file's content by its ETag: the SHA-256 of large files, git's hash of small ones. The hub's client
    compares sizes only.
    """
    content = path.resolve()
    kinds = {64: hashlib.sha256(), 40: hashlib.sha1(f"blob {content.stat().st_size}\0".encode(), usedforsecurity=False)}
    digest = kinds.get(len(content.name))
    if content == path or digest is None:
        return
    found = hash_file(content, digest)
    if found != content.name:
        path.unlink()
        content.unlink()
        raise OSError(f"{path.name} has hash {found[:12]}..., the hub says {content.name[:12]}...; deleted")


def has_vocabulary(folder: Path) -> bool:
    """Return whether a folder has what a tokenizer of transformers needs."""
    return any(any(folder.glob(name)) for name in _VOCABULARIES)


def _unreachable(address: str) -> str:
    """Return why an address does not answer; empty if it does.

    Runs in a separate thread, because name resolution has no time limit.
    """
    import huggingface_hub.constants

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome = [f"no answer within {_PROBE_S:g} s"]

    def ask() -> None:
        import requests

        try:
            requests.head(address, timeout=_PROBE_S)
            outcome[0] = ""
        except (requests.RequestException, OSError) as error:
            outcome[0] = type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    return outcome[0]


def _missing(choice: EncoderChoice, repository: str, reason: str) -> str:
    if choice.hub or choice.folder:
        other = f"set {MODEL_VARIABLE} to local-dir:FOLDER, a copy of the repository with its tokenizer"
    else:
        other = (
            f"set {WEIGHTS_VARIABLE} to a checkpoint file and {MODEL_VARIABLE} to its architecture "
            "(ViT-B-32-quickgelu for OpenAI's)"
        )
    return (
        f"CLIP weights {choice.name}: {repository} is not in {cache_folder()}, and {reason}. Either connect and run "
        f"once: {choice.fetch}; or {other}; or use the bundled encoder by the recipe word mini"
    )
