"""Bad archives: Decathlon tasks as .tar, submissions as .zip, and the address that one is fetched from."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable

from bad_input import Bad, Damage, World, cut, edited, folder, gone, text

TAR = "{base}/Task04_Phantom.tar"
CONVERT = f"data convert {TAR} --root {{base}}/new"
VERIFY = "submit --verify {zip} --images {images} --task-name Task04_Phantom"


def _tar(add: Callable[[tarfile.TarFile], object]) -> Damage:
    """Add members to the task's archive."""

    def damage(world: World) -> None:
        with tarfile.open(world.at(TAR), "a") as archive:
            add(archive)

    return damage


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 4) -> Damage:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.size = kind, target, size if kind == tarfile.REGTYPE else 0
    return _tar(lambda archive: archive.addfile(entry, io.BytesIO(b"evil" * (size // 4))))


def _claiming(size: int) -> Damage:
    """A tar of one member that claims to be large."""

    def damage(world: World) -> None:
        entry = tarfile.TarInfo("Task04_Phantom/imagesTr/large.nii.gz")
        entry.size = size
        world.at(TAR).write_bytes(entry.tobuf() + b"\0" * 10240)

    return damage


def _new_tar(world: World) -> None:
    tarfile.open(world.at(TAR), "w").close()


def _zip(add: Callable[[zipfile.ZipFile], object], mode: str = "a") -> Damage:
    def damage(world: World) -> None:
        with zipfile.ZipFile(world.at("{zip}"), mode) as archive:  # type: ignore[arg-type]
            add(archive)

    return damage


def _link() -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("Task04_Phantom/link.nii.gz")
    entry.create_system, entry.external_attr = 3, 0o120777 << 16
    return entry


def _newer_version(world: World) -> None:
    """Say in the directory of the archive that it needs a later version of the format."""
    content = bytearray(world.at("{zip}").read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 99
    world.at("{zip}").write_bytes(bytes(content))


ROWS = (
    Bad(
        "archive is missing",
        "data convert {base}/no.tar --root {base}/new",
        ("no.tar: there is no such folder", "give the folder"),
    ),
    Bad("archive is empty", CONVERT, (TAR, "no .tar or .zip, or a damaged one", "data fetch"), (text(TAR, ""),)),
    Bad(
        "archive is text",
        CONVERT,
        (TAR, "no .tar or .zip, or a damaged one", "data fetch"),
        (text(TAR, "hello" * 1000),),
    ),
    Bad("archive is cut off", CONVERT, (TAR, "no .tar or .zip, or a damaged one", "data fetch"), (cut(TAR),)),
    Bad(
        "archive with a path that leads out",
        CONVERT,
        (TAR, "unsafe", "'../evil' leads outside", "data fetch"),
        (_member("../evil"),),
    ),
    Bad(
        "archive with a link that leads out",
        CONVERT,
        (TAR, "unsafe", "it holds a link, 'Task04_Phantom/l'", "data fetch"),
        (_member("Task04_Phantom/l", tarfile.SYMTYPE, "../../evil"),),
    ),
    Bad(
        "archive with an absolute link",
        CONVERT,
        (TAR, "unsafe", "it holds a link, 'Task04_Phantom/l'", "data fetch"),
        (_member("Task04_Phantom/l", tarfile.SYMTYPE, "/etc/passwd"),),
    ),
    Bad(
        "archive with a hard link to nothing",
        CONVERT,
        (TAR, "unsafe", "it holds a link, 'Task04_Phantom/l'", "data fetch"),
        (_member("Task04_Phantom/l", tarfile.LNKTYPE, "nowhere"),),
    ),
    Bad(
        "archive with a device",
        CONVERT,
        (TAR, "unsafe", "special file", "data fetch"),
        (_member("Task04_Phantom/null", tarfile.CHRTYPE),),
    ),
    Bad(
        "archive that claims an exabyte",
        CONVERT,
        (TAR, "unsafe", "claims 1152921504606846976 bytes", "data fetch"),
        (_claiming(2**60),),
    ),
    Bad(
        "archive of two folders",
        CONVERT,
        (TAR, "holds 2 folders", "extract it and give that"),
        (_member("Other/file"),),
    ),
    Bad(
        "explore an archive without a dataset",
        f"explore {TAR} --output {{out}}",
        (TAR, "has no dataset.json", "give"),
        (
            _new_tar,
            _member("Folder/file"),
        ),
    ),
    Bad(
        "address without a file",
        "data fetch --output {out} --url https://example.org",
        ("--url 'https://example.org'", "http(s) address of a file"),
    ),
    Bad(
        "address of another kind",
        "data fetch --output {out} --url ftp://example.org/a.tar",
        ("--url 'ftp://", "http(s) address of a file"),
    ),
    Bad(
        "address that is none",
        "data fetch --output {out} --url http://[::1/a.tar",
        ("--url 'http://[::1/a.tar'", "http(s) address of a file"),
    ),
    Bad(
        "address with a port that is none",
        "data fetch --output {out} --url http://example.org:port/a.tar",
        ("--url 'http://example.org:port/a.tar'", "http(s) address of a file"),
    ),
    Bad(
        "fetched file that is another one",
        "data fetch --output {base} --url https://example.org/Task04_Phantom.tar --md5 " + "0" * 32,
        (TAR, "exists already, with another checksum", "--overwrite"),
    ),
    Bad(
        "fetched file of which no checksum is known",
        "data fetch --output {base} --url https://example.org/Task04_Phantom.tar",
        (TAR, "exists already, with no checksum to compare with", "--overwrite", "--md5"),
    ),
    Bad(
        "checksum that is none",
        "data fetch --output {out} --md5 abc",
        ("--md5 'abc'", "expected 32 hexadecimal digits"),
    ),
    Bad(
        "fetch to a file",
        "data fetch --output {base}/file --url https://example.org/a.tar",
        ("{base}/file", "could not be written", "choose another folder"),
        (text("{base}/file", ""),),
    ),
    Bad("submission is missing", VERIFY, ("{zip}: no such file", "name"), (gone("{zip}"),)),
    Bad("submission is a folder", VERIFY, ("{zip}: no such file", "name"), (folder("{zip}"),)),
    Bad("submission is text", VERIFY, ("not a readable zip archive",), (text("{zip}", "hello"),), on_stdout=True),
    Bad("submission is cut off", VERIFY, ("not a readable zip archive",), (cut("{zip}"),), on_stdout=True),
    Bad(
        "submission of a later format",
        VERIFY,
        ("not a readable zip archive", "version"),
        (_newer_version,),
        on_stdout=True,
    ),
    Bad(
        "submission with a path that leads out",
        VERIFY,
        ("leads out of the archive",),
        (_zip(lambda z: z.writestr("../evil", b"x")),),
        on_stdout=True,
    ),
    Bad(
        "submission with a link",
        VERIFY,
        ("a symbolic link",),
        (_zip(lambda z: z.writestr(_link(), "/etc/passwd")),),
        on_stdout=True,
    ),
    Bad(
        "submission without files",
        VERIFY,
        ("phantom_901.nii.gz: missing",),
        (_zip(lambda z: None, "w"),),
        on_stdout=True,
    ),
    Bad(
        "submission of another task",
        "submit --verify {zip} --images {images} --task-name Task99_Other",
        ("not expected", "Task99_Other"),
        on_stdout=True,
    ),
    Bad(
        "submission that is no zip by name",
        "submit {predictions} --images {images} --output {out}/a.tar",
        ("{out}/a.tar: a submission is a .zip file", "give such a name"),
    ),
    Bad(
        "submission that is there",
        "submit {predictions} --images {images} --output {zip} --dataset-json {raw}/dataset.json",
        ("{zip} exists already", "--overwrite"),
    ),
    Bad(
        "task name with a slash",
        "submit {predictions} --images {images} --output {out}/a.zip --task-name ../x",
        ("task name '../x'", "plain folder name"),
    ),
    Bad("submit without images", "submit {predictions} --output {out}/a.zip", ("Missing option '--images'",), code=2),
    Bad(
        "submit nothing",
        "submit --images {images} --output {out}/a.zip",
        ("either a folder of predictions or --verify",),
        code=2,
    ),
    Bad(
        "submit and verify",
        "submit {predictions} --images {images} --verify {zip}",
        ("either a folder of predictions or --verify",),
        code=2,
    ),
    Bad(
        "submit without output",
        "submit {predictions} --images {images}",
        ("name the archive to write", "--output"),
        code=2,
    ),
    Bad(
        "submit with a dataset.json of labels without end",
        "submit {predictions} --images {images} --output {out}/a.zip --dataset-json {raw}/dataset.json",
        ("dataset.json: no readable labels", "give the dataset.json of the task"),
        (text("{raw}/dataset.json", '{"labels": {"a": Infinity}}'),),
    ),
    Bad(
        "submit without dataset.json",
        "submit {predictions} --images {images} --output {out}/a.zip",
        ("no dataset.json in", "--dataset-json"),
        (gone("{raw}/dataset.json"),),
    ),
    Bad(
        "submit with a list of labels",
        "submit {predictions} --images {images} --output {out}/a.zip",
        ("dataset.json: no readable labels", "give the dataset.json"),
        (edited("{raw}/dataset.json", lambda d: d.update(labels=[0, 1])),),
    ),
)
