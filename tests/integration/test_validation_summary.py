"""`summary.json` is the file that nnU-Net's own evaluation writes, byte for byte."""

from __future__ import annotations

import json
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from hippo_nnunet.inference.validation import write_summary


def write(folder: Path, case: str, labels: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(labels.astype(np.uint8)), str(folder / f"{case}.nii.gz"))


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize(("labels", "ignore"), [([1, 2, 3], None), ([(1, 2), 2], None), ([1, 2], 3)])
def test_summary_is_nnunets(
    tmp_path: Path, labels: list[Any], ignore: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Label 3 is in no case, label 2 in one; a case without a reference in `predictions` is not asked for."""
    rng = np.random.default_rng(0)
    references, predictions = tmp_path / "references", tmp_path / "predictions"
    for case, top in (("b", 3), ("a", 2), ("c", 1)):
        write(references, case, rng.integers(0, top, (4, 5, 6)))
        if case != "c":
            write(predictions, case, rng.integers(0, top, (4, 5, 6)))
    reader: Any = SimpleITKIO()
    monkeypatch.setattr("multiprocessing.get_context", lambda _: SimpleNamespace(Pool=ThreadPool))
    theirs = compute_metrics_on_folder(
        str(references), str(predictions), str(tmp_path / "theirs.json"), reader, ".nii.gz", labels, ignore, 1
    )
    ours = write_summary(references, predictions, reader, ".nii.gz", labels, ignore)
    assert (predictions / "summary.json").read_bytes() == (tmp_path / "theirs.json").read_bytes()
    assert json.dumps(ours["foreground_mean"]) == json.dumps(theirs["foreground_mean"])
    assert {path.name for path in predictions.iterdir()} == {"a.nii.gz", "b.nii.gz", "summary.json"}
