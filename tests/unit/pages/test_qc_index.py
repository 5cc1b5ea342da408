"""Records on disk and the index made from them: order, names, damage, an interrupted run."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from hippo_nnunet.errors import DataError
from hippo_nnunet.pages.qc.page import render, write_index
from hippo_nnunet.pages.qc.records import Registration, ScanRecord, Side, VolumeRow
from hippo_nnunet.pages.qc.scan_files import check_folder, read_scans, write_scan

HOSTILE = "<script>alert('1')</script>&\"/../.."


def record(name: str = "a", doubt: float = 0.1, **more) -> ScanRecord:
    labels = np.zeros((9, 10, 11), np.uint8)
    labels[3:6, 3:6, 3:6] = 1
    labels[3:6, 6:8, 3:6] = 2
    image = np.arange(labels.size, dtype=float).reshape(labels.shape)
    values = {
        "sides": [Side(image, labels, (1, 1, 1.5), "left"), Side(image, labels, (1, 1, 1.5), "right")],
        "volumes": [VolumeRow("left anterior", 1234.4, 1100.0, 1300.0, 0), VolumeRow("total", 2000.0, None, 2100.0)],
        "registration": Registration(image, labels > 0, (2, 2, 2)),
        "level": 0.9,
        "details": {"image": f"{name}.nii.gz"},
    }
    return ScanRecord(name, ("anterior", "posterior"), doubt=doubt, **{**values, **more})


def test_a_record_comes_back_as_it_was_written(tmp_path):
    path = write_scan(tmp_path, record("sub-01_T1w", flags=["total: in more than one piece"]))
    assert path == tmp_path / "scans" / "sub-01_T1w.json"
    with Image.open(path.with_suffix(".png")) as picture:
        assert picture.width == 720
    (scan,) = read_scans(tmp_path)
    assert (scan.name, scan.doubt, scan.level) == ("sub-01_T1w", 0.1, 0.9)
    assert scan.volumes[1] == VolumeRow("total", 2000.0, None, 2100.0)
    assert scan.flags == ("total: in more than one piece",)
    assert [strip.title for strip in scan.strips] == [
        "left",
        "right",
        "registration: the template's outline over the head",
    ]
    assert isinstance(scan.strips[0].cuts[0].outlines[0].label, int)


def test_the_most_doubtful_scan_comes_first_and_one_of_unknown_doubt_before_all(tmp_path):
    for name, doubt in [("b", 0.2), ("c", math.nan), ("a", 0.2), ("d", 0.3)]:
        write_scan(tmp_path, record(name, doubt))
    assert [scan.name for scan in read_scans(tmp_path)] == ["c", "d", "a", "b"]
    page = write_index(tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'data-name="(\w)"', page) == ["c", "d", "a", "b"]


@pytest.mark.parametrize("name", [HOSTILE, ".hidden", "..", "ä\u202e\U0001f9e0", "x" * 300, "", "a\udcffb", "a b.c"])
def test_any_name_is_a_file_inside_the_folder_and_comes_back(tmp_path, name):
    path = write_scan(tmp_path / "qc", record(name))
    assert path.parent == tmp_path / "qc" / "scans"
    assert path.is_file()
    assert not path.name.startswith(".")
    assert [scan.name for scan in read_scans(tmp_path / "qc")] == [name]
    write_index(tmp_path / "qc")
    assert {file.name for file in tmp_path.iterdir()} == {"qc"}


def test_names_flags_and_details_are_escaped(tmp_path):
    write_scan(tmp_path, record(HOSTILE, flags=[HOSTILE], details={HOSTILE: HOSTILE}))
    page = render(read_scans(tmp_path), HOSTILE)
    assert "alert(" in page
    assert "<script>alert" not in page
    assert not re.search(r"""='[^']*alert\('1""", page)


def test_the_page_requests_nothing(tmp_path):
    write_scan(tmp_path, record())
    page = write_index(tmp_path).read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)


def test_open_ends_of_intervals_are_written_in_words(tmp_path):
    write_scan(tmp_path, record())
    page = write_index(tmp_path).read_text(encoding="utf-8")
    assert "1\u202f100 to 1\u202f300" in page
    assert "at most 2\u202f100" in page
    assert "90 % interval" in page


def test_the_index_takes_up_what_an_interrupted_run_left(tmp_path, monkeypatch):
    write_scan(tmp_path, record("a"))
    assert write_index(tmp_path).read_text(encoding="utf-8").count("<article") == 1
    monkeypatch.setattr("hippo_nnunet.files.json.dumps", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_scan(tmp_path, record("b"))
    monkeypatch.undo()
    # killed in the middle of a write: the temporary file stays
    (tmp_path / "scans" / ".1.abcd.c.json").write_text("{")
    assert [scan.name for scan in read_scans(tmp_path)] == ["a"]
    write_scan(tmp_path, record("b"))
    assert write_index(tmp_path).read_text(encoding="utf-8").count("<article") == 2


def test_an_answer_is_tied_to_what_was_seen(tmp_path):
    def digest() -> str:
        return read_scans(tmp_path)[0].digest

    write_scan(tmp_path, record())
    first = digest()
    write_scan(tmp_path, record())
    assert digest() == first
    write_scan(tmp_path, record(doubt=0.11))
    assert digest() != first


def test_a_scan_that_failed_has_no_picture_and_loses_an_earlier_one(tmp_path):
    path = write_scan(tmp_path, record())
    assert path.with_suffix(".png").exists()
    write_scan(tmp_path, ScanRecord("a", flags=["registration failed"]))
    assert not path.with_suffix(".png").exists()
    assert "registration failed" in write_index(tmp_path).read_text(encoding="utf-8")


def test_a_full_disk_is_one_line_and_leaves_the_earlier_record(tmp_path, monkeypatch):
    write_scan(tmp_path, record(doubt=0.1))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(DataError, match="No space left"):
        write_scan(tmp_path, record(doubt=0.2))
    monkeypatch.undo()
    assert read_scans(tmp_path)[0].doubt == 0.1
    assert {file.suffix for file in (tmp_path / "scans").iterdir()} == {".png", ".json"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no JSON object"),
        ("{}", "no record of a QC page"),
        (json.dumps({"format": "hippo_nnunet QC scan 1", "name": "a"}), "damaged record"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, content, message):
    path = write_scan(tmp_path, record())
    path.write_text(content)
    with pytest.raises(DataError, match=f"{re.escape(str(path))}.*{message}"):
        write_index(tmp_path)


def test_nothing_foreign_is_replaced(tmp_path):
    page = tmp_path / "index.html"
    page.write_text("my own page")
    with pytest.raises(DataError, match="no page of hippo_nnunet"):
        check_folder(tmp_path)
    with pytest.raises(DataError, match="no page of hippo_nnunet"):
        write_index(tmp_path)
    assert page.read_text() == "my own page"
    page.unlink()
    write_scan(tmp_path, record("a"))
    check_folder(tmp_path, ["b"])
    check_folder(tmp_path, ["a"], overwrite=True)
    with pytest.raises(DataError, match=r"a QC record of a \(and 1 more\): .*--overwrite"):
        write_scan(tmp_path, record("b"))
        check_folder(tmp_path, ["a", "b"])
    with pytest.raises(DataError, match="is a file"):
        check_folder(tmp_path / "scans" / "a.png")
