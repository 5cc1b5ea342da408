"""Whether a scan fits a model's grid, and the summary of failures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hippo_nnunet.data import resampling
from hippo_nnunet.data.cases import CheckedCase, InputCase
from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.scans import Attempts, FailedScans, check_size, warn_of_axes

CASE = InputCase("a", (Path("a.nii.gz"),))


def size(
    checked: CheckedCase, spacing: list[float], reader: str = "SimpleITKIO", forward: tuple[int, ...] = (0, 1, 2)
) -> int:
    return check_size(checked, {"image_reader_writer": reader, "transpose_forward": list(forward)}, spacing, 3)


def scan(shape: tuple[int, ...], spacing_mm: tuple[float, ...], axes: str = "LPS") -> CheckedCase:
    return CheckedCase(CASE, shape, shape, spacing_mm, axes, 0.0, 1.0)


def test_the_size_on_the_models_grid() -> None:
    assert size(scan((10, 20, 30), (2.0, 1, 1)), [1.0, 1.0, 1.0]) == 20 * 20 * 30
    assert size(scan((10, 20, 30), (2.0, 1, 1)), [0.5, 0.5]) == 10 * 40 * 60
    assert size(scan((10, 20, 30), (2.0, 1, 1)), [0.5, 0.5], forward=(1, 0, 2)) == 40 * 20 * 60
    # on a file of axes AIL the reader that reorients to RAS returns (superior, anterior, right): file axes y, x, z
    reorient = "NibabelIOWithReorient"
    assert size(scan((8, 20, 30), (1.0, 1, 1), "AIL"), [1.0, 1.0, 4.0], reorient) == 20 * 30 * 8  # never below its own
    assert size(scan((8, 20, 30), (4.0, 2, 1), "AIL"), [1.0, 1.0, 1.0], reorient) == 32 * 40 * 30


@pytest.mark.parametrize(
    ("checked", "spacing", "message"),
    [
        (scan((1, 20, 20), (0.4, 0.4, 0.4)), [1.0, 1.0, 1.0], "from 20 x 20 x 1 to 8 x 8 x 0 voxels"),
        (scan((40, 40, 40), (0.01, 0.01, 0.01)), [1.0, 1.0], "from 40 x 40 x 40 to 0 x 0 x 40 voxels"),
        (scan((20, 20, 20), (1000.0, 1000, 1000)), [1.0, 1.0, 1.0], r"20000 x 20000 x 20000 voxels.* GiB of memory"),
    ],
)
def test_scans_that_vanish_or_explode_are_named(
    checked: CheckedCase, spacing: list[float], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "free_memory", lambda: 2**34)
    with pytest.raises(DataError, match=rf"^a\.nii\.gz: its voxels of .* mm are resampled to .*{message}"):
        size(checked, spacing)


def failing() -> None:
    raise DataError("b.nii.gz: bad: replace it")


def crashing() -> None:
    raise ValueError("zero-size\narray")


def test_failures_are_kept_and_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    attempts = Attempts(8)
    assert attempts.run(CASE, lambda: 3) == 3
    assert attempts.run(InputCase("b", (Path("b.nii.gz"),)), failing) is None
    assert attempts.run(InputCase("c", (Path("c.nii.gz"),)), crashing) is None
    assert "case b is left out: b.nii.gz: bad" in caplog.text
    text = str(FailedScans(attempts))
    assert text == (
        "2 of 8 scans failed: b.nii.gz: bad: replace it; c.nii.gz: cannot be predicted (ValueError: zero-size array); "
        "the other 6 are done"
    )
    for number in range(5):
        attempts.run(InputCase(str(number), (Path("x"),)), failing)
    assert "; and 2 more: see the warnings above; the other 1 are done" in str(FailedScans(attempts))
    only = Attempts(1)
    only.run(CASE, failing)
    assert str(FailedScans(only)) == "b.nii.gz: bad: replace it"


def test_axes_unknown_to_the_model_are_told(caplog: pytest.LogCaptureFixture) -> None:
    def told(known: object, reader: str = "SimpleITKIO") -> str:
        caplog.clear()
        member: Any = SimpleNamespace(dataset_json={"axis_codes": known}, plans={"image_reader_writer": reader})
        warn_of_axes([scan((3, 3, 3), (1.0, 1, 1), codes) for codes in ("RAS", "PIR")], member)
        return caplog.text

    assert "1 scans have the axes PIR (a), but the training images LAS, RAS" in told({"RAS": 3, "LAS": 1})
    assert told({"RAS": 3, "PIR": 1}) == ""
    assert told({"RAS": 3}, "SimpleITKIOWithReorient") == ""
    for unknown in (None, [], {}, "RAS"):  # a model of an older version, or of somebody else's making
        assert told(unknown) == ""
