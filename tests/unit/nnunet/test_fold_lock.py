"""One process at a time works on a fold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.nnunet.fold_lock import LOCK, alone

HOLDER = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_fold_is_refused_while_another_process_lives_and_given_when_it_is_dead(tmp_path: Path) -> None:
    fold = tmp_path / "fold_0"
    fold.mkdir()
    command = [sys.executable, "-c", HOLDER, str(fold / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        refused = pytest.raises(
            ConfigError, match=r"fold_0: another process trains or validates this fold; wait for it"
        )
        with refused, alone(fold):
            pass
        other.kill()
    with alone(fold):
        pass


def test_who_holds_a_fold_may_enter_again_and_finds_no_half_written_files(tmp_path: Path) -> None:
    fold = tmp_path / "fold_0"
    (fold / "validation").mkdir(parents=True)
    for name in ("checkpoint_latest.pth.tmp", "validation/summary.json.tmp", "checkpoint_latest.pth"):
        (fold / name).touch()
    with alone(fold):
        assert not list(fold.rglob("*.tmp"))
        (fold / "checkpoint_final.pth.tmp").touch()
        with alone(fold):
            assert (fold / "checkpoint_final.pth.tmp").exists(), "it is being written"
    assert (fold / "checkpoint_latest.pth").exists()
    with pytest.raises(RuntimeError, match="inside"), alone(fold):
        raise RuntimeError("inside")
    with alone(fold):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = pytest.raises(DataError, match=r"file/fold_0: Not a directory: make it writable or make room")
    with refused, alone(tmp_path / "file" / "fold_0"):
        pass
