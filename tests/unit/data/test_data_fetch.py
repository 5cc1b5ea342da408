"""The download against a local server that misbehaves in every way that servers do."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hippo_nnunet.data.fetch import TASK04_URL, Retry, fetch_task04, published_md5
from hippo_nnunet.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 1200
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server does, request by request; the last entry holds for all that follow."""

    url: str = ""
    behaviour: list[str] = field(default_factory=lambda: ["right"])
    ranges: list[str | None] = field(default_factory=list)

    @property
    def starts(self) -> list[int]:
        return [int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0 for asked in self.ranges]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            turn = len(state.ranges)
            how = state.behaviour[min(turn, len(state.behaviour) - 1)]
            asked = self.headers.get("Range")
            state.ranges.append(asked)
            start = int(asked.split("=")[1].rstrip("-")) if asked and how != "ignores-range" else 0
            if how.isdigit():
                self.send_error(int(how))
                return
            body = b"<html>Sign in</html>" if how == "something-else" else CONTENT
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            rest = body[start:]
            length = {"claims-more": len(rest) + 500, "claims-less": len(rest) - 500}.get(how, len(rest))
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", "text/html" if how == "something-else" else "application/x-tar")
            if how != "no-length":
                stated = {"odd-length": "²", "long-length": "9" * 5000}
                self.send_header("Content-Length", stated.get(how, str(length)))
            if start:
                claimed = start + 7 if how == "wrong-range" else start
                self.send_header("Content-Range", f"bytes {claimed}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            self.wfile.write(rest[: len(rest) // 3] if how == "breaks-off" else rest)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/data/Task04_Hippocampus.tar"
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def fetch(server: Server, folder: Path, *behaviour: str, **options: object) -> Path:
    server.behaviour = list(behaviour) or ["right"]
    retry = Retry(attempts=options.pop("attempts", 4), pause_s=0.0, timeout_s=5.0)  # type: ignore[arg-type]
    return fetch_task04(folder, server.url, retry=retry, **{"md5": MD5, **options})  # type: ignore[arg-type]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "Task04_Hippocampus.tar"
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["Task04_Hippocampus.tar"]


def test_second_call_asks_nothing(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert server.ranges == [None]


def test_broken_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path, "breaks-off", "breaks-off", "right").read_bytes() == CONTENT
    assert [start > 0 for start in server.starts] == [False, True, True]


def test_resumes_in_a_later_call(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the command again"):
        fetch(server, tmp_path, "breaks-off", attempts=1)
    assert names(tmp_path) == ["Task04_Hippocampus.tar.part"]
    kept = (tmp_path / "Task04_Hippocampus.tar.part").stat().st_size
    server.ranges.clear()
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.starts == [kept]
    assert kept > 0


def test_server_that_ignores_the_range(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path, "breaks-off", "ignores-range").read_bytes() == CONTENT


def test_server_that_sends_another_range(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path, "breaks-off", "wrong-range", "right").read_bytes() == CONTENT
    assert server.ranges[-1] is None


def test_server_that_claims_more_than_it_sends(server: Server, tmp_path: Path) -> None:
    """urllib3 2 withholds the last bytes of such an answer, so it gives up; urllib3 1 hands them out: all is there."""
    try:
        archive = fetch(server, tmp_path, "claims-more")
    except DataError as error:
        assert "after 4 attempts" in str(error)
        assert names(tmp_path) == ["Task04_Hippocampus.tar.part"]
        archive = fetch(server, tmp_path)
    assert archive.read_bytes() == CONTENT


def test_server_that_claims_less_than_it_has(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"got {len(CONTENT) - 500} bytes.*expected MD5 {MD5}"):
        fetch(server, tmp_path, "claims-less")
    assert names(tmp_path) == []


def test_server_that_states_no_length(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path, "no-length").read_bytes() == CONTENT


@pytest.mark.parametrize("how", ["odd-length", "long-length"])
def test_server_that_states_no_number_as_length(server: Server, tmp_path: Path, how: str) -> None:
    assert fetch(server, tmp_path, how).read_bytes() == CONTENT


def test_server_that_serves_something_else(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="20 bytes of text/html"):
        fetch(server, tmp_path, "something-else")
    assert names(tmp_path) == []


def test_part_of_another_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Task04_Hippocampus.tar.part").write_bytes(b"x" * 1000)
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    (tmp_path / "Task04_Hippocampus.tar").unlink()
    (tmp_path / "Task04_Hippocampus.tar.part").write_bytes(b"x" * 2 * len(CONTENT))
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_part_that_is_complete_already(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Task04_Hippocampus.tar.part").write_bytes(CONTENT)
    assert fetch(server, tmp_path).read_bytes() == CONTENT


def test_missing_file_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"404.*--url"):
        fetch(server, tmp_path, "404")
    assert len(server.ranges) == 1
    assert names(tmp_path) == []


def test_overloaded_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path, "503", "503", "right").read_bytes() == CONTENT


def test_gives_up(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"after 4 attempts.*503"):
        fetch(server, tmp_path, "503")
    assert len(server.ranges) == 4


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="connection failed"):
        fetch_task04(tmp_path, "http://127.0.0.1:1/a.tar", MD5, retry=Retry(attempts=2, pause_s=0))


def test_length_alone_where_there_is_no_checksum(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path, "breaks-off", "right", md5=None).read_bytes() == CONTENT
    with pytest.raises(DataError, match="no checksum"):
        fetch(server, tmp_path, md5=None)


def test_checksum_that_is_none(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--md5 'abc': expected 32 hexadecimal digits"):
        fetch(server, tmp_path, md5="abc")
    assert server.ranges == []


def test_a_wrong_checksum_is_answered_by_the_option(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"wrong content: .* give the checksum of that file with --md5"):
        fetch(server, tmp_path, md5="0" * 32)


def test_a_download_without_a_checksum_says_which_it_has(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(server, tmp_path, md5=None)
    assert f"has the MD5 {MD5}, compared with nothing: --md5 verifies it" in caplog.text


def test_only_task04_has_a_published_checksum() -> None:
    assert published_md5(TASK04_URL) == published_md5("http://mirror/Task04_Hippocampus.tar") is not None
    assert published_md5("http://mirror/Task05_Prostate.tar") is None


def test_other_file_of_this_name_stays(server: Server, tmp_path: Path) -> None:
    (tmp_path / "Task04_Hippocampus.tar").write_text("mine")
    with pytest.raises(DataError, match="--overwrite"):
        fetch(server, tmp_path)
    assert (tmp_path / "Task04_Hippocampus.tar").read_text() == "mine"
    assert fetch(server, tmp_path, overwrite=True).read_bytes() == CONTENT


def test_a_link_is_not_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "Task04_Hippocampus.tar").symlink_to("mine")
    with pytest.raises(DataError, match=r"is a link to .*mine, which is never replaced"):
        fetch(server, tmp_path, overwrite=True)


def test_target_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be written"):
        fetch(server, tmp_path / "file")


@pytest.mark.parametrize("url", ["", "ftp://a/b.tar", "https://host", "https://host/", "/tmp/a.tar", "https://host/.."])
def test_address_that_cannot_be_right(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match="--url"):
        fetch_task04(tmp_path, url, MD5)
