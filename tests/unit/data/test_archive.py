"""Archives of a dataset: every usual form is read, and nothing that one holds reaches outside of the scratch folder."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hippo_nnunet.data import archive as module
from hippo_nnunet.data.archive import open_dataset
from hippo_nnunet.errors import DataError

DESCRIPTION = json.dumps(
    {"modality": {"0": "MRI"}, "labels": {"0": "background"}, "training": [], "numTraining": 0}
).encode()
FILES = {"Task04_X/dataset.json": DESCRIPTION, "Task04_X/imagesTr/a.nii.gz": b"x" * 600}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, which has to be empty again at the end."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def tar(path: Path, files: dict[str, bytes], mode: str = "w", **entry: object) -> Path:
    """Write a tar of files, and of one more entry that `entry` describes."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if entry:
            info = tarfile.TarInfo(str(entry.pop("name")))
            for key, value in entry.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(b"e" * info.size))
    return path


def zipped(path: Path, files: dict[str, bytes], mode: int = 0) -> Path:
    """Write a ZIP; `mode` is what the last entry is, as in `stat`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, content) in enumerate(files.items(), 1):
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode if number == len(files) else 0) << 16
            archive.writestr(info, content)
    return path


ENDINGS = ("tar", "tar.gz", "tgz", "tar.bz2", "tar.xz", "zip")


@pytest.mark.parametrize(
    ("ending", "folder"),
    [*((ending, folder) for ending in ENDINGS for folder in ("Task04_X/", "", "./")), ("zip", "Task04_X\\")],
)
def test_archives_with_and_without_a_folder(tmp_path: Path, scratch: Path, ending: str, folder: str) -> None:
    files = {name.replace("Task04_X/", folder): content for name, content in FILES.items()}
    path = tmp_path / f"Task04_X.{ending}"
    mode = {"tar": "w", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}.get(ending, "w:gz")
    zipped(path, files) if ending == "zip" else tar(path, files, mode)
    with open_dataset(path) as dataset:
        assert dataset.folder.name == "Task04_X"
        assert [case.id for case in dataset.training] == ["a"]
        assert dataset.training[0].images[0].read_bytes() == b"x" * 600
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("write", [tar, zipped])
def test_what_macos_adds_is_no_folder(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(tmp_path / "x", {**FILES, "__MACOSX/Task04_X/._dataset.json": b"x", ".DS_Store": b"x"})
    with open_dataset(path) as dataset:
        assert dataset.folder.name == "Task04_X"


def refused(path: Path, says: str, scratch: Path) -> None:
    with pytest.raises(DataError) as caught, open_dataset(path):
        pass
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message, message
    assert "data fetch" in message
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"name": "Task04_X/l", "type": tarfile.SYMTYPE, "linkname": "dataset.json"}, "it holds a link, 'Task04_X/l'"),
        ({"name": "Task04_X/l", "type": tarfile.LNKTYPE, "linkname": "Task04_X/dataset.json"}, "it holds a link"),
        ({"name": "Task04_X/p", "type": tarfile.FIFOTYPE}, "it holds a special file"),
        ({"name": "Task04_X/p", "type": tarfile.CHRTYPE}, "it holds a special file"),
        ({"name": "Task04_X/p", "type": b"9"}, "it holds a special file"),
        ({"name": "/etc/x", "size": 4}, "'/etc/x' leads outside"),
        ({"name": "Task04_X/../../x", "size": 4}, "leads outside"),
        ({"name": "..", "type": tarfile.DIRTYPE}, "'..' leads outside"),
        ({"name": "Task04_X\\..\\..\\x", "size": 4}, "leads outside"),
        ({"name": "C:x", "size": 4}, "leads outside"),
        ({"name": "Task04_X/dataset.json", "size": 4}, "'Task04_X/dataset.json' twice"),
        ({"name": "Task04_X/" + "a" * 256, "size": 4}, "is too long"),
        ({"name": "a/" * 600 + "a", "size": 4}, "is too long"),
    ],
)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_entries_that_are_refused(
    tmp_path: Path, scratch: Path, entry: dict[str, object], says: str, form: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tarfile.TarFile, "format", form)
    refused(tar(tmp_path / "x.tar", FILES, **entry), says, scratch)


def test_links_beyond_the_longest_path_write_nothing_outside(tmp_path: Path, scratch: Path) -> None:
    """CVE-2025-4517: tarfile's own filter follows this chain, and then overwrites what the links lead to."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "old").write_text("precious")
    path = tar(tmp_path / "x.tar", FILES)
    with tarfile.open(path, "a") as archive:

        def add(name: str, kind: bytes, target: str = "", content: bytes = b"") -> None:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.mode = kind, target, len(content), 0o755
            archive.addfile(info, io.BytesIO(content))

        folder, steps, below = "." + "d" * 246, [f".{letter}" for letter in "abcdefghijklmnop"], ""
        for step in steps:
            add(below + folder, tarfile.DIRTYPE)
            add(below + step, tarfile.SYMTYPE, folder)
            below += f"{folder}/"
        last = "/".join(steps) + "/." + "l" * 253
        add(last, tarfile.SYMTYPE, "../" * 16)
        add(".e", tarfile.SYMTYPE, f"{last}{'/..' * 8}{victim}")
        add(".e/new", tarfile.REGTYPE, content=b"created")
        add(".f", tarfile.LNKTYPE, ".e/old")
        add(".f", tarfile.REGTYPE, content=b"overwritten")
    refused(path, "it holds a link", scratch)
    assert [p.name for p in victim.iterdir()] == ["old"]
    assert (victim / "old").read_text() == "precious"


@pytest.mark.parametrize(("mode", "says"), [(0o120777, "a link"), (0o010644, "a special file")])
def test_links_and_pipes_in_a_zip(tmp_path: Path, scratch: Path, mode: int, says: str) -> None:
    refused(zipped(tmp_path / "x.zip", {**FILES, "Task04_X/l": b"/etc"}, mode), says, scratch)


@pytest.mark.parametrize("name", ["../x", "/x", "Task04_X/../../x", "C:\\x"])
def test_paths_that_lead_out_of_a_zip(tmp_path: Path, scratch: Path, name: str) -> None:
    refused(zipped(tmp_path / "x.zip", {**FILES, name: b"x"}), "leads outside", scratch)


def test_headers_that_claim_too_much(tmp_path: Path, scratch: Path) -> None:
    """A size below zero makes tarfile loop, an extension of gigabytes is read into memory whole."""
    for kind, size in ((tarfile.XHDTYPE, 2**30), (tarfile.GNUTYPE_LONGNAME, 2**30), (tarfile.REGTYPE, -1024)):
        info = tarfile.TarInfo("Task04_X/a")
        info.type, info.size = kind, size
        path = tmp_path / "x.tar"
        path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10240)
        refused(path, f"claims {size} bytes", scratch)


def test_more_content_than_the_disk_has_room_for(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Room:
        free = 1000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Room)
    bomb = {**FILES, "Task04_X/b": b"\0" * 2**20}
    refused(zipped(tmp_path / "x.zip", bomb), "'Task04_X/b' claims 1048576 bytes", scratch)
    refused(tar(tmp_path / "x.tar", {**FILES, "Task04_X/b": b"\0" * 400}), "claims 400 bytes", scratch)


def test_more_entries_than_a_dataset_has(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_ENTRIES", 1)
    refused(tar(tmp_path / "x.tar", FILES), "more than 1 files", scratch)


def test_encrypted_and_damaged_archives(tmp_path: Path, scratch: Path) -> None:
    content = bytearray(zipped(tmp_path / "x.zip", FILES).read_bytes())
    for start in (content.index(b"PK\3\4") + 6, content.index(b"PK\1\2") + 8):
        content[start] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", "it is encrypted", scratch)
    content = bytearray(zipped(tmp_path / "x.zip", FILES).read_bytes())
    content[60] ^= 255
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", "or a damaged one", scratch)


def test_a_description_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tar(tmp_path / "x.tar", {"Task04_X/dataset.json": b"\xef\xbb\xbf" + DESCRIPTION})
    with open_dataset(path) as dataset:
        assert dataset.labels == {"background": (0,)}
    nnunet = {"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz", "numTraining": 0}
    path = tar(tmp_path / "y.tar", {"Dataset004_X/dataset.json": b"\xef\xbb\xbf" + json.dumps(nnunet).encode()})
    with pytest.raises(DataError, match=r"byte order mark.* save it as UTF-8 without BOM"), open_dataset(path):
        pass
