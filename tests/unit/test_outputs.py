"""A command replaces nothing but what it writes itself, and its outputs and inputs are different files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.document import write_document
from hippo_nnunet.analysis.volume_preparation import NO_CALIBRATION, prepare_volumes
from hippo_nnunet.cli.main import app
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import atomic_path
from hippo_nnunet.inference.submission import write_submission
from hippo_nnunet.models.container import write_container
from hippo_nnunet.outputs import check_distinct, check_target, staged
from hippo_nnunet.pages.explanation.earlier import earlier_files
from hippo_nnunet.workflow.preparation import check_folder


def check(target: Path, overwrite: bool = True) -> None:
    check_target(target, overwrite, "a poem", lambda path: path.read_text().startswith("O "))


def test_only_files_of_the_same_kind_are_replaced(tmp_path: Path) -> None:
    poem, prose, binary = tmp_path / "poem", tmp_path / "prose", tmp_path / "binary"
    poem.write_text("O Captain")
    prose.write_text("Chapter 1")
    binary.write_bytes(b"\xff")
    check(poem)
    check(tmp_path / "new")
    with pytest.raises(DataError, match="poem exists already: choose another name, or give --overwrite"):
        check(poem, overwrite=False)
    for other in (prose, binary):
        with pytest.raises(DataError, match=f"{other.name} is not a poem, so it is not replaced"):
            check(other)


def test_links_pipes_and_folders_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "poem").write_text("O Captain")
    (tmp_path / "link").symlink_to("poem")
    (tmp_path / "broken").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe")
    for name, problem in (("link", "link to .*poem"), ("broken", "link to .*nothing"), ("pipe", "no regular file")):
        with pytest.raises(DataError, match=f"{name} is (a )?{problem}, which is never replaced"):
            check(tmp_path / name)
    with pytest.raises(DataError, match="is a folder: name a file"):
        check(tmp_path)
    for special in (tmp_path / "pipe", tmp_path, Path(os.devnull)):
        with pytest.raises(DataError, match="is no regular file"), atomic_path(special):
            pytest.fail("the file would be written")


def test_outputs_and_inputs_are_different_files(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    scan = tmp_path / "real" / "a.nii.gz"
    scan.touch()
    links = tmp_path / "links"
    links.symlink_to("real")
    check_distinct([tmp_path / "o" / "a.nii.gz", tmp_path / "o" / "v.csv"], [scan])
    with pytest.raises(DataError, match=r"real/a\.nii\.gz is the input .*links/a\.nii\.gz"):
        check_distinct([scan], [links / "a.nii.gz"])
    with pytest.raises(DataError, match=r"links/new would be written twice, also as .*real/new"):
        check_distinct([tmp_path / "real" / "new", links / "new"])
    for first, second in (("o/x", "o"), ("o", "o/x")):
        with pytest.raises(DataError, match=r"o/x would be inside .*o, which is a file"):
            check_distinct([tmp_path / first, tmp_path / second])


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "t"
    for name in ("a.txt", "sub/a.txt", ".DS_Store"):
        (target / name).parent.mkdir(exist_ok=True, parents=True)
        (target / name).write_text("old")
    (target / "empty").mkdir()
    other = pytest.raises(DataError, match=r"holds 'sub/a\.txt', which this command does not write")
    with other, staged(target, True, r"[^/]+\.txt"):
        pytest.fail("the folder would be replaced")
    with staged(target, True, r"(sub/)?a\.txt") as fresh:
        fresh.mkdir()
    assert not list(target.iterdir())
    (tmp_path / "f").touch()
    with pytest.raises(DataError, match="f: is no folder"), staged(tmp_path / "f", True, ""):
        pytest.fail("the file would be replaced")


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "v.csv": lambda target, tmp_path: prepare_volumes(target, [tmp_path], None, NO_CALIBRATION, overwrite=True),
    "m.hippo": lambda target, tmp_path: write_container(target, {}, overwrite=True),
    "b.json": lambda target, tmp_path: write_document(target, {}, [], overwrite=True),
    "s.zip": lambda target, tmp_path: write_submission(tmp_path, tmp_path, target, overwrite=True),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_command_keeps_files_that_it_does_not_write(name: str, tmp_path: Path) -> None:
    target = tmp_path / name
    for content in (b"a scan", b"{}", b"PK\3\4", b"case,fold\n"):
        target.write_bytes(content)
        with pytest.raises(DataError, match=f"{name} is not a .* so it is not replaced"):
            WRITERS[name](target, tmp_path)
        assert target.read_bytes() == content


def test_an_archive_of_scans_is_no_submission(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("Task04_Hippocampus/a.nii.gz", b"a scan")
    with pytest.raises(DataError, match="is not a submission"):
        write_submission(tmp_path, tmp_path, tmp_path / "s.zip", overwrite=True)


def test_the_training_check_keeps_what_it_did_not_write(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "mine.json").write_text("{}")
    command = ["doctor", "--training", "--device", "cpu"]
    found = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "mine.json")])
    assert isinstance(found.exception, DataError) and "is not a report of 'doctor --training'" in str(found.exception)
    found = CliRunner().invoke(app, [*command, "--work", str(tmp_path)])
    assert isinstance(found.exception, ConfigError) and "holds other files" in str(found.exception)


def test_a_run_keeps_the_files_of_a_folder_that_is_no_experiment(tmp_path: Path) -> None:
    check_folder(tmp_path)
    (tmp_path / "predictions").mkdir()
    with pytest.raises(ConfigError, match=r"predictions exists, though .* is no experiment"):
        check_folder(tmp_path)
    (tmp_path / "experiment.yaml").touch()
    check_folder(tmp_path)


def explained(output: Path, case: str, *maps: str) -> set[Path]:
    """Write what `explain` writes for a case, and return it."""
    files = {output / f"{case}_{name}.nii.gz" for name in ("prediction", *maps)}
    files |= {output / "figures" / f"{case}_{name}" for name in ("probability.png", "probability.svg")}
    (output / "figures").mkdir(parents=True, exist_ok=True)
    for file in files:
        file.touch()
    return files


def test_explain_replaces_only_the_same_cases(tmp_path: Path) -> None:
    """Names of cases are no patterns, and may begin with the name of another case."""
    from hippo_nnunet.data.cases import InputCase

    output = tmp_path / "out"
    names = ("*", "scan[1]", "scan1", "scan1_errors_x", "a")
    files = {name: explained(output, name, "probability_left", "errors_left") for name in names}
    kept = explained(output, "a_similarity_left", "similarity_left")
    for name in names:
        case = InputCase(name, (tmp_path / "in" / f"{name}.nii.gz",))
        assert earlier_files([case], ["left"], output, True) == files[name]
        with pytest.raises(DataError, match="exists already"):
            earlier_files([case], ["left"], output, False)
    assert earlier_files([InputCase("a_similarity_left", ())], ["left"], output, True) == kept


def test_explain_keeps_files_of_others(tmp_path: Path) -> None:
    from hippo_nnunet.data.cases import InputCase

    case = InputCase("a", (tmp_path / "links" / "a.nii.gz",))
    (tmp_path / "a_prediction.nii.gz").touch()
    with pytest.raises(DataError, match=r"is of no earlier explanation, as .*figures has no figure of a"):
        earlier_files([case], ["left"], tmp_path, True)
    (tmp_path / "a_prediction.nii.gz").unlink()
    (tmp_path / "dice.csv").write_text("mine\n")
    with pytest.raises(DataError, match=r"dice\.csv is not a table of explanations"):
        earlier_files([case], ["left"], tmp_path, True)
    (tmp_path / "links").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.nii.gz").touch()
    (tmp_path / "links" / "a.nii.gz").symlink_to(tmp_path / "real" / "a.nii.gz")
    with pytest.raises(DataError, match="real is the folder of the images"):
        earlier_files([case], ["left"], tmp_path / "real", True)
