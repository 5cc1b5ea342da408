"""Checks that end in every way that a check can, for the tests of their isolation."""

from __future__ import annotations

import os
import time
from pathlib import Path

from hippo_nnunet.doctor.isolation import Check, CheckError, NotRunError


def _raise(error: BaseException) -> str:
    raise error


def _hang() -> str:
    time.sleep(60)
    return "too late"


def _set_variable() -> str:
    os.environ["HIPPO_CHECK"] = "changed"
    return "changed"


def checks(folder: Path) -> list[Check]:
    """Return the checks; `folder` gets a file from each process that runs one."""

    def pass_() -> str:
        (folder / str(os.getpid())).touch()
        return os.environ.get("HIPPO_CHECK", "")

    return [
        Check("first", pass_),
        Check("wrong", lambda: _raise(CheckError("expected 1, got 2"))),
        Check("elsewhere", lambda: _raise(NotRunError("needs a printer"))),
        Check("memory", lambda: _raise(MemoryError("all\ngone"))),
        Check("exit", lambda: _raise(SystemExit(3))),
        Check("change", _set_variable),
        Check("after errors", pass_),
        Check("crash", lambda: os._exit(11)),
        Check("after crash", pass_),
        Check("hang", _hang, timeout_s=1.0),
        Check("after hang", pass_),
        Check("lacking", pass_, missing="needs CUDA"),
    ]


def essential(folder: Path) -> list[Check]:
    """Return a check that fails, and one that needs it."""
    return [
        Check("dataset", lambda: _raise(CheckError("no room")), essential=True),
        Check("training", lambda: "trained"),
    ]


def meeting(folder: Path) -> list[Check]:
    """Return checks of two groups, of which the first can only pass while the second runs as well."""

    def meet(own: str, other: str) -> str:
        (folder / own).touch()
        while not (folder / other).exists():
            time.sleep(0.01)
        return str(os.getpid())

    return [
        Check("dataset", lambda: str(os.getpid()), essential=True),
        Check("a waits for b", lambda: meet("a", "b"), timeout_s=60.0, group="a"),
        Check("a again", lambda: str(os.getpid()), group="a"),
        Check("b waits for a", lambda: meet("b", "a"), timeout_s=60.0, group="b"),
    ]
