"""`predict --qc` with torch and with an ONNX file: the page shows what was written, and scans that failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from tiny_dataset import TEST_CASES, UNET, TinyDataset
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.pages.qc.scan_files import read_scans
from hippo_nnunet.sharing.onnx_exporting import export_onnx

pytestmark = pytest.mark.slow

LABELS = ("anterior", "posterior")
WITHOUT_TORCH = """
import sys
from hippo_nnunet.cli.main import main
try:
    main()
finally:
    unwanted = {"torch", "nnunetv2", "matplotlib", "skimage", "open_clip", "plotly", "sklearn"} & set(sys.modules)
    assert not unwanted, unwanted
"""


def test_the_page_shows_what_was_written_and_what_failed(trained: TinyDataset, tmp_path: Path) -> None:
    scans, out, qc = (tmp_path / name for name in ("scans", "out", "qc"))
    scans.mkdir()
    for case in TEST_CASES:
        (scans / f"{case}_0000.nii.gz").write_bytes((trained.images / f"{case}_0000.nii.gz").read_bytes())
    (scans / "broken_0000.nii.gz").write_bytes(b"nothing")
    options = ["--input", str(scans), "--output", str(out), "--device", "cpu", "--no-mirroring", "--backend", "torch"]
    options += ["--model", str(trained.model(UNET)), "--calibration", "none", "--qc", str(qc)]
    result = CliRunner().invoke(app, ["predict", *options, "--volumes", str(tmp_path / "v.csv")])
    assert result.exit_code == 1
    written = [str(out / f"{case}.nii.gz") for case in TEST_CASES]
    assert result.stdout.split() == [*written, str(tmp_path / "v.csv"), str(qc / "index.html")]
    first, *others = read_scans(qc)
    assert first.name == "broken"
    assert first.strips == () and "broken_0000.nii.gz" in first.flags[0]
    table = pd.read_csv(tmp_path / "v.csv").set_index(["case", "label"])
    assert sorted(scan.name for scan in others) == sorted(TEST_CASES)
    assert [scan.doubt for scan in others] == sorted((scan.doubt for scan in others), reverse=True)
    for scan in others:
        assert scan.labels == tuple(LABELS)
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"{scan.name}.nii.gz")))
        drawn = {outline.label + 1 for cut in scan.strips[0].cuts for outline in cut.outlines}
        assert drawn == set(np.unique(mask).tolist()) - {0}
        for row in scan.volumes:
            assert row.volume_mm3 == pytest.approx(table.loc[(scan.name, row.name), "volume_mm3"], abs=1e-3)
        assert scan.doubt == pytest.approx(table.loc[(scan.name, "total"), "doubt"], abs=1e-3)
    again = CliRunner().invoke(app, ["predict", *options, "--output", str(tmp_path / "other")])
    assert again.exit_code == 1
    assert "--overwrite" in str(again.exception) and not (tmp_path / "other").exists()
    replaced = CliRunner().invoke(app, ["predict", *options, "--overwrite"])
    assert str(replaced.exception).endswith("; the other 2 are done")


def test_an_onnx_file_needs_no_torch_and_the_page_may_lie_among_the_masks(trained: TinyDataset, tmp_path: Path) -> None:
    model = export_onnx(trained.model(UNET), tmp_path / "m.onnx")
    out = tmp_path / "out"
    command = [sys.executable, "-c", WITHOUT_TORCH, "predict", "-m", model, "-i", trained.images, "-o", out]
    command += ["--qc", out / "qc"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(out / "qc" / "index.html")
    assert "no intervals" in done.stderr
    assert {scan.name for scan in read_scans(out / "qc")} == set(TEST_CASES)
    done = subprocess.run([*map(str, command), "--overwrite"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run([*map(str, command[:-1]), str(out)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "--qc" in refused.stderr
