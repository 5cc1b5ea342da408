"""What a run notices of its experiment before it starts: files that are gone, changed, cut off or of another time."""

from __future__ import annotations

import errno
import json
import os
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pytest

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.experiment import markers, stale
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import DONE, ExperimentPaths
from hippo_nnunet.experiment.split_copy import check_split, restore_split, save_split
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet import partial
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import signature, signature_file
from hippo_nnunet.workflow import failures
from hippo_nnunet.workflow.preparation import clamp_times, prepare, restore_inputs

ASKED = Experiment("Dataset004_X", "laptop", ("UNet",), {"2d": (0, 1)}, 2)
WIDER = replace(ASKED, variants=("UNet", "UNet_noAug"))
SPLITS = [{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]


@pytest.fixture
def folders(tmp_path: Path) -> NnunetFolders:
    """A planned dataset of two cases, of which nothing else is there."""
    found = NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))
    folder = found.preprocessed / ASKED.dataset
    (folder / "gt_segmentations").mkdir(parents=True)
    for name in ("a", "b"):
        (folder / "gt_segmentations" / f"{name}.nii.gz").write_bytes(b"x")
    (folder / "splits_final.json").write_text(json.dumps(SPLITS))
    (folder / "dataset.json").write_text("{}")
    plans = {"plans_name": "CompactPlans", "dataset_name": ASKED.dataset, "configurations": {"2d": {}}}
    plans["configurations"] = {"2d": {"data_identifier": "CompactPlans_2d"}}
    (folder / "CompactPlans.json").write_text(json.dumps(plans))
    (folder / "CompactPlans_2d").mkdir()
    for name in ("a", "b"):
        (folder / "CompactPlans_2d" / f"{name}.pkl").write_bytes(b"x")
    (tmp_path / "exp" / DONE).mkdir(parents=True)
    return found


def marked(folder: Path, *names: str) -> None:
    for moment, name in enumerate(names, start=1):
        path = folder / DONE / name
        path.touch()
        os.utime(path, (moment, moment))


def test_altered_results_are_told_from_newer_ones(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / DONE).mkdir()
    table = tmp_path / "metrics" / "per_case.csv"
    table.write_text("case,dice\na,1\n")
    assert stale.altered_results(tmp_path) == set()
    hashes = {path.as_posix(): stale.file_hash(tmp_path / path) for path in stale.HASHED}
    (tmp_path / "manifest.json").write_text(json.dumps({"sha256": hashes}))
    marked(tmp_path, "evaluate", "manifest")
    assert stale.altered_results(tmp_path) == set()
    table.write_text("case,dice\na,")
    assert stale.altered_results(tmp_path) == {Path("metrics") / "per_case.csv"}
    marked(tmp_path, "manifest", "evaluate")
    assert stale.altered_results(tmp_path) == set(), "the manifest is older than the results"
    (tmp_path / "manifest.json").write_text("[]")
    assert stale.read_manifest(tmp_path) is None


@pytest.mark.parametrize(
    ("written", "asked", "again"),
    [
        (ASKED, ASKED, []),
        (
            ASKED,
            replace(ASKED, folds={"2d": (0, 1), "3d_fullres": (0, 1)}),
            ["ensemble", "evaluate", "predict/UNet", "predict/ensemble"],
        ),
        (ASKED, replace(ASKED, folds={"2d": (0, 1), "3d_fullres": (0,)}), ["evaluate"]),  # no member, no prediction
        (ASKED, WIDER, ["ensemble", "evaluate", "predict/ensemble"]),
        (WIDER, ASKED, ["ensemble", "evaluate", "manifest", "predict/ensemble"]),  # deleted from the file
    ],
)
def test_jobs_are_stale_whose_trainings_are_others_than_the_request(
    tmp_path: Path,
    folders: NnunetFolders,
    monkeypatch: pytest.MonkeyPatch,
    written: Experiment,
    asked: Experiment,
    again: list[str],
) -> None:
    folder = tmp_path / "exp"
    paths = ExperimentPaths(folder)
    monkeypatch.setattr(stale, "is_finished", lambda _: True)
    monkeypatch.setattr(stale, "lacks_descriptions", lambda _: False)
    for marker in markers.all_markers(ASKED, markers.PRODUCTS):
        (folder / marker).parent.mkdir(parents=True, exist_ok=True)
        (folder / marker).touch()
    for path in (paths.per_case, paths.summary, paths.choice, paths.submission(ASKED.task), paths.report):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("UNet", "UNet_noAug", ENSEMBLE):
        (paths.predictions / name).mkdir(parents=True)
    paths.manifest.write_text(json.dumps({"arguments": written.as_dict()}))
    paths.out_of_fold.mkdir(parents=True)
    for case in ("a", "b"):
        (paths.out_of_fold / f"{case}.nii.gz").touch()
    assert set(stale.stale_markers(asked, folder, folders)) == {DONE / name for name in again}


@pytest.mark.parametrize("arguments", [None, "none", [1], {"folds": None}, ASKED.as_dict() | {"folds": None}])
def test_a_damaged_manifest_does_not_end_the_run(tmp_path: Path, folders: NnunetFolders, arguments: object) -> None:
    (tmp_path / "exp" / "manifest.json").write_text(json.dumps({"arguments": arguments}))
    assert stale.stale_markers(ASKED, tmp_path / "exp", folders) == []


def test_preparations_are_stale_where_a_file_is_missing(folders: NnunetFolders) -> None:
    folder = folders.preprocessed / ASKED.dataset
    raw = folders.raw / ASKED.dataset / "dataset.json"
    raw.parent.mkdir(parents=True)
    raw.write_text("{}")
    assert stale.stale_preparations(ASKED, folders) == []
    plans = read_object(folder / "CompactPlans.json")
    plans["configurations"] = {"2d_wide": plans["configurations"]["2d"], "2d": {"inherits_from": "2d_wide"}}
    (folder / "CompactPlans.json").write_text(json.dumps(plans))
    assert stale.stale_preparations(ASKED, folders) == []
    split = (folder / "splits_final.json").read_text()
    (folder / "splits_final.json").unlink()
    without = replace(ASKED, folds={"3d_fullres": (0, 1)})  # the plans have no such configuration
    assert stale.stale_preparations(without, folders) == [DONE / "preprocess" / "3d_fullres"]
    (folder / "splits_final.json").write_text(split)
    (folder / "CompactPlans_2d" / "b.pkl").write_bytes(b"")
    assert stale.stale_preparations(ASKED, folders) == [DONE / "preprocess" / "2d"]
    (folder / "CompactPlans.json").unlink()
    assert stale.stale_preparations(ASKED, folders) == [DONE / "plan", DONE / "preprocess" / "2d"]
    raw.unlink()
    assert stale.stale_preparations(ASKED, folders) == [DONE / "data", DONE / "plan", DONE / "preprocess" / "2d"]


def test_missing_inputs_that_have_a_source_are_restored(tmp_path: Path, folders: NnunetFolders) -> None:
    folder, raw = tmp_path / "exp", folders.raw / ASKED.dataset
    (raw / "labelsTr").mkdir(parents=True)
    (raw / "labelsTr" / "a.nii.gz").write_bytes(b"label")
    (raw / "dataset.json").write_text('{"name": "X"}')
    save_split(ASKED, folders, folder)
    preprocessed = folders.preprocessed / ASKED.dataset
    gone = [preprocessed / name for name in ("splits_final.json", "dataset.json", "gt_segmentations/a.nii.gz")]
    for path in gone:
        path.unlink()
    prepare(ASKED, folder, folders)
    assert not any(path.exists() for path in gone), "nothing was planned yet"
    restore_inputs(ASKED, folders, folder)
    assert [path.read_bytes() for path in gone[1:]] == [b'{"name": "X"}', b"label"]
    assert json.loads(gone[0].read_text()) == SPLITS
    assert sorted(path.name for path in preprocessed.rglob("*.nii.gz")) == ["a.nii.gz", "b.nii.gz"]


def test_the_experiments_own_split_is_restored_and_no_other_accepted(tmp_path: Path, folders: NnunetFolders) -> None:
    used, folder = folders.preprocessed / ASKED.dataset / "splits_final.json", tmp_path / "exp"
    save_split(ASKED, folders, folder)
    used.unlink()
    check_split(ASKED, folders, folder)
    restore_split(ASKED, folders, folder)
    assert json.loads(used.read_text()) == SPLITS
    used.write_text(json.dumps(SPLITS[::-1]))
    save_split(ASKED, folders, folder)
    assert json.loads(ExperimentPaths(folder).split.read_text()) == SPLITS, "the first one stays"
    with pytest.raises(ConfigError, match=r"splits_final.json is not the split .* delete it and run again"):
        check_split(ASKED, folders, folder)


def test_partly_preprocessed_cases_do_not_count(folders: NnunetFolders) -> None:
    plans = json.loads((folders.preprocessed / ASKED.dataset / "CompactPlans.json").read_text())
    assert partial.is_preprocessed(plans, "2d", {"a", "b"}, folders), "by nnU-Net's own command, without a signature"
    folder = partial.begin(plans, "2d", folders)
    assert not partial.is_preprocessed(plans, "2d", {"a", "b"}, folders)
    partial.end(plans, "2d", folders)
    assert partial.is_preprocessed(plans, "2d", {"a", "b"}, folders)
    assert signature_file(folder).read_text().strip() == signature(plans, "2d")
    assert not partial.is_preprocessed(plans, "2d", {"a", "b", "c"}, folders)


def test_a_reference_that_was_copied_in_part_is_copied_again(folders: NnunetFolders) -> None:
    labels = folders.raw / ASKED.dataset / "labelsTr"
    labels.mkdir(parents=True)
    (labels / "a.nii.gz").write_bytes(b"x")
    (labels / "b.nii.gz").write_bytes(b"xyz")
    partial.delete_partial_references(ASKED.dataset, folders)
    copied = folders.preprocessed / ASKED.dataset / "gt_segmentations"
    assert [path.name for path in copied.iterdir()] == ["a.nii.gz"]


def test_a_request_that_is_cut_off_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    asked = Experiment("Dataset004_X", "laptop", ("UNet",), {"2d": (0, 1)}, 2, epochs=3, iterations=40)
    asked.save(ExperimentPaths(tmp_path).request)
    assert Experiment.load(ExperimentPaths(tmp_path).request) == asked
    content = ExperimentPaths(tmp_path).request.read_bytes()
    end = content.index(b"plans:", content.index(b"dataset:"))
    for length in range(1, end):
        ExperimentPaths(tmp_path).request.write_bytes(content[:length])
        with pytest.raises(ConfigError, match="correct or delete it"):
            Experiment.load(ExperimentPaths(tmp_path).request)


def test_markers_from_the_future_count_as_made_now(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path, moment in ((old, 1000.0), (new, time.time() + 86400)):
        path.touch()
        os.utime(path, (moment, moment))
    clamp_times([old, new, tmp_path / "gone"])
    assert old.stat().st_mtime == 1000.0
    assert new.stat().st_mtime <= time.time()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (DataError("x is wrong;\n mend it"), "x is wrong; mend it"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "/a/b: No space left on device; make room"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; make room, then run again"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "/a/b: Read-only file system; make it writable"),
        (BrokenProcessPool("terminated abruptly"), "a worker process was killed"),
        (RuntimeError("Some background worker is 6 feet under"), "a worker process was killed"),
        (ValueError("odd"), "ValueError: odd"),
        (KeyboardInterrupt(), "interrupted from the keyboard"),
    ],
)
def test_the_systems_errors_come_with_a_remedy(tmp_path: Path, error: BaseException, says: str) -> None:
    message = failures.describe(error, [tmp_path, tmp_path / "gone"])
    assert message.startswith(says)
    assert "\n" not in message


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "LEAST_FREE", 2**60)
    assert failures.full([tmp_path]) == f"the disk of {tmp_path} is full: make room, then run again"
    assert failures.describe(RuntimeError("Write failed"), [tmp_path]).startswith(
        "RuntimeError: Write failed; the disk of"
    )
