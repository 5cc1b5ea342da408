"""Files are written completely or not at all, and read with an error that names file and remedy."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import (
    atomic_path,
    is_utf8,
    read_csv,
    read_json,
    read_object,
    read_table,
    write_json,
    write_table,
    write_text,
    zip_entry,
)
from hippo_nnunet.outputs import output_file


def test_a_failed_write_leaves_the_earlier_content(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("earlier")
    with pytest.raises(ValueError, match="broken"), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ValueError("broken")
    assert target.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_file_has_the_suffixes_of_the_target(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "new" / "a.nii.gz") as temporary:
        temporary.write_bytes(b"1")
        assert temporary.name.endswith(".nii.gz")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.nii.gz"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    """Threads, or processes with the same id on two hosts."""
    target = tmp_path / "a.txt"
    with atomic_path(target) as first:
        first.write_text("first")
        with atomic_path(target) as second:
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_an_output_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    with pytest.raises(DataError, match=r"a\.txt: could not be written \(full\): make room"), output_file(target):
        raise OSError("full")
    assert not (tmp_path / "new").exists(), "folders created for the file are removed"
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be written"), output_file(tmp_path / "file" / "a.txt"):
        pass


def test_an_output_file_passes_other_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^wrong$"), output_file(tmp_path / "a.txt"):
        raise ConfigError("wrong")
    with pytest.raises(RuntimeError, match=r"^itk$"), output_file(tmp_path / "a.txt"):
        raise RuntimeError("itk")
    with pytest.raises(DataError, match="itk"), output_file(tmp_path / "a.txt", errors=(OSError, RuntimeError)):
        raise RuntimeError("itk")


def test_an_output_file_keeps_its_new_folders(tmp_path: Path) -> None:
    with output_file(tmp_path / "new" / "folder" / "a.txt") as temporary:
        temporary.write_text("1")
    assert (tmp_path / "new" / "folder" / "a.txt").read_text() == "1"


def test_json(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"a": [1, 2.5]})
    assert read_object(path) == {"a": [1, 2.5]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": [1, 2.5]}


@pytest.mark.parametrize("content", ["{", "\xff", "[" * 100_000], ids=["cut off", "no UTF-8", "nested"])
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match=r"a\.json cannot be read as JSON \(.*\); restore it, or delete it"):
        read_json(path)
    with pytest.raises(DataError, match=r"; plan again$"):
        read_json(path, "plan again")


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    """In notes of pages and in tables, where they may be read from dataset.json."""
    bad = "k\udcf6pf"
    assert not is_utf8(bad) and is_utf8("köpf")
    assert write_text(tmp_path / "a.txt", bad).read_text() == r"k\udcf6pf"
    assert r"k\udcf6pf" in write_table(pd.DataFrame({"case": [bad]}), tmp_path / "a.csv").read_text()
    assert str(DataError(f"{bad}\n\x1b[2J: missing")) == f"{bad}  [2J: missing"


def test_json_that_is_missing_or_no_object(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.json is missing; plan again$"):
        read_object(tmp_path / "a.json", "plan again")
    write_json(tmp_path / "a.json", [1])
    with pytest.raises(DataError, match=r"a\.json holds no JSON object but a list; plan again$"):
        read_object(tmp_path / "a.json", "plan again")


def test_equal_content_gives_equal_zip_files(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(zip_entry("x/y"), b"content")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    (entry,) = zipfile.ZipFile(tmp_path / "a.zip").infolist()
    assert (entry.external_attr >> 16, entry.compress_type) == (0o100644, zipfile.ZIP_STORED)


@pytest.mark.parametrize("name", ["NA", "None", "nan", "null", "N/A", "007", "1e3", "True", "-inf"])
def test_names_in_tables_stay_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / "table.csv"
    table = pd.DataFrame({"case": [name, "b"], "label": ["x", name], "dice": [0.5, np.nan]})
    write_table(table, path)
    read = read_table(path, ["case", "label", "dice"])
    assert read is not None
    assert read["case"].tolist() == [name, "b"]
    assert read["label"].tolist() == ["x", name]
    assert read["dice"].tolist()[0] == 0.5
    assert read["dice"].isna().tolist() == [False, True]


def test_tables_without_names(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("case,dice\n,0.5\n")
    assert read_csv(path)["case"].isna().all()
    path.write_text("dice\nNA\n0.5\n")
    assert read_csv(path)["dice"].tolist()[1] == 0.5
    assert read_table(tmp_path / "other.csv", ["dice"]) is None
