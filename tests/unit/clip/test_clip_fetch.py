"""`clip fetch` against a local server that speaks the hub's protocol, breaks off, and lies."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_clip import BIOMED, TINY, write_model
from typer.testing import CliRunner

from hippo_nnunet.cli.clip import app
from hippo_nnunet.clip.encoder import load_encoder
from hippo_nnunet.clip.models import encoder_choice
from hippo_nnunet.clip.weights import cached_file
from hippo_nnunet.errors import DependencyError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


class Hub:
    """What the server has, and how it misbehaves.

    Attributes:
        folders: Repository to the folder with its files.
        truncated: Names of files of which only half is sent.
        lied: Names of files whose stated hash is another.
        asked: Paths of all requests.
    """

    def __init__(self) -> None:
        self.folders: dict[str, Path] = {}
        self.truncated: set[str] = set()
        self.lied: set[str] = set()
        self.asked: list[str] = []

    def etag(self, file: Path) -> str:
        """Hash as the hub's: SHA-256 of weights, which it keeps as large files, git's of others."""
        content = b"other" if file.name in self.lied else file.read_bytes()
        if file.suffix == ".safetensors":
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def _answer(self, body: bool) -> None:
        self.hub.asked.append(self.path)
        for repository, folder in self.hub.folders.items():
            if self.path.startswith(f"/api/models/{repository}"):
                self._send(200, json.dumps(self._listing(repository, folder)).encode(), {}, body)
                return
            if self.path.startswith(f"/{repository}/resolve/"):
                self._send_file(folder / self.path.rpartition("/")[2], body)
                return
        self._send(200 if self.path == "/" else 404, b"", {"X-Error-Code": "RepoNotFound"}, body)

    def _listing(self, repository: str, folder: Path) -> object:
        files = sorted(folder.iterdir())
        if "/tree/" in self.path:
            return [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": self.hub.etag(file)}
                for file in files
            ]
        return {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]}

    def _send_file(self, file: Path, body: bool) -> None:
        if not file.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
            return
        content = file.read_bytes()
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-") or 0)
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{self.hub.etag(file)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if body:
            end = len(content) // 2 if file.name in self.hub.truncated else len(content)
            self.wfile.write(content[begin:end])
            self.close_connection = True

    def _send(self, code: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server with the repository acme/tiny."""
    served = Hub()
    served.folders["acme/tiny"] = write_model(tmp_path / "repository", TINY)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": served}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    constants = "huggingface_hub.constants"
    address = f"http://127.0.0.1:{server.server_port}"  # both are what HF_ENDPOINT sets
    monkeypatch.setattr(f"{constants}.ENDPOINT", address)
    monkeypatch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    for variable in ("HIPPO_CLIP_MODEL", "HIPPO_CLIP_WEIGHTS", "HIPPO_CLIP_PREPROCESS"):
        monkeypatch.delenv(variable, raising=False)
    yield served
    server.shutdown()
    server.server_close()
    load_encoder.cache_clear()


def fetched(model: str = "hf-hub:acme/tiny") -> Path:
    result = CliRunner().invoke(app, ["fetch", "--model", model])
    if result.exception:
        raise result.exception
    return Path(result.stdout.strip())


def left(cache: Path) -> list[str]:
    """Names of the files of the cache that hold something of a model."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and {"blobs", "snapshots"} & set(path.parts))


def test_a_repository_is_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    path = fetched()
    assert path.name == WEIGHTS
    assert path.read_bytes() == (hub.folders["acme/tiny"] / WEIGHTS).read_bytes()
    assert (tmp_path / "cache") in path.parents
    load_encoder.cache_clear()
    hub.asked.clear()
    assert fetched() == path
    assert hub.asked == []
    assert cached_file(encoder_choice("hf-hub:acme/tiny", "")) == path


def test_the_older_format_is_taken_where_there_is_no_other(hub: Hub, tmp_path: Path) -> None:
    hub.folders["acme/tiny"] = write_model(tmp_path / "older", TINY, "open_clip_pytorch_model.bin")
    assert fetched().name == "open_clip_pytorch_model.bin"


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers: the extra [hf]")
def test_tokenizer_and_text_tower_come_from_their_own_repository(hub: Hub, tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole", BIOMED)
    hub.folders = {"acme/biomed": tmp_path / "biomed", "acme/tiny-bert": tmp_path / "bert"}
    for folder in hub.folders.values():
        folder.mkdir()
    for name in (CONFIG, WEIGHTS):
        (whole / name).rename(tmp_path / "biomed" / name)
    for file in list(whole.iterdir()):
        file.rename(tmp_path / "bert" / file.name)
    (tmp_path / "bert" / "pytorch_model.bin").write_bytes(b"weights that nobody needs")
    fetched("hf-hub:acme/biomed")
    assert not [path for path in hub.asked if "pytorch_model.bin" in path]
    load_encoder.cache_clear()
    hub.asked.clear()
    assert load_encoder(encoder_choice("hf-hub:acme/biomed", "")).embed_dim == 8
    assert hub.asked == []


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_download_that_breaks_off_leaves_nothing(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.truncated = {name}
    with pytest.raises(DependencyError) as caught:
        fetched()
    message = str(caught.value)
    assert "CLIP weights hf-hub:acme/tiny: acme/tiny is not in" in message
    assert "the download failed (" in message and "hippo-nnunet clip fetch --model hf-hub:acme/tiny" in message
    assert "\n" not in message
    assert name not in left(tmp_path / "cache")
    assert not [part for part in left(tmp_path / "cache") if part.endswith(".incomplete")]
    hub.truncated = set()
    assert fetched().name == WEIGHTS


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_file_with_another_hash_is_deleted(hub: Hub, tmp_path: Path, name: str) -> None:
    hub.lied = {name}
    with pytest.raises(DependencyError, match=rf"the download failed \({name} has hash .*, the hub says .*; deleted\)"):
        fetched()
    assert name not in left(tmp_path / "cache")
    assert cached_file(encoder_choice("hf-hub:acme/tiny", "")) is None
    hub.lied = set()
    assert fetched().name == WEIGHTS


def test_a_repository_that_is_none_and_one_without_weights(hub: Hub) -> None:
    with pytest.raises(DependencyError, match=r"acme/nothing is not in .*, and the download failed \("):
        fetched("hf-hub:acme/nothing")
    (hub.folders["acme/tiny"] / WEIGHTS).unlink()
    with pytest.raises(DependencyError, match=rf"acme/tiny has no {WEIGHTS} or open_clip_pytorch_model\.bin"):
        fetched()
