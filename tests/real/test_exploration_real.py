"""`explore` on the real Task04: every case measured, in less than a minute of one core."""

from __future__ import annotations

import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from hippo_nnunet.pages.exploration.page import write_exploration

pytestmark = pytest.mark.real


def test_the_whole_dataset(task04: Path, tmp_path: Path) -> None:
    start = time.process_time()
    page = write_exploration(task04, tmp_path / "exploration")
    assert time.process_time() - start < 60
    summary = json.loads((page.parent / "summary.json").read_text())
    counts = [summary[key] for key in ("training_images", "test_images", "labelled_images")]
    assert counts == [220, 40, 220]
    assert summary["problems"] == []
    assert summary["notes"] == []
    cases = pd.read_csv(page.parent / "cases.csv").set_index("case")
    label = nib.load(task04 / "labelsTr" / "hippocampus_001.nii.gz")
    array = np.asarray(label.dataobj)
    assert cases.loc["hippocampus_001", "volume_mm3_Anterior"] == np.count_nonzero(array == 1)
    assert cases.loc["hippocampus_001", "volume_mm3_total foreground"] == np.count_nonzero(array)
    # the structure's length along the file's y axis, from tail to head
    assert (cases.centre_anterior_mm_Anterior.dropna() > cases.centre_anterior_mm_Posterior.dropna()).all()
    assert page.stat().st_size < 5_000_000
