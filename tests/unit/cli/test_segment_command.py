"""`segment` from the command line: options, what is printed, and what is not imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from head_phantom import BrightModel, balls, mask_of, save
from typer.testing import CliRunner

from hippo_nnunet.cli.main import app
from hippo_nnunet.errors import DataError
from hippo_nnunet.segment.network import BoxModel

WITHOUT_TORCH = """
import sys
import hippo_nnunet.cli.segment, hippo_nnunet.segment.run, hippo_nnunet.pages.qc.segmented
unwanted = {"torch", "nnunetv2", "onnx", "skimage", "matplotlib", "open_clip", "snakemake"} & set(sys.modules)
assert not unwanted, unwanted
"""


@pytest.fixture
def bright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model file that stands for the model of bright voxels."""
    path = tmp_path / "bright.onnx"
    path.write_bytes(b"")

    def opened(of: Path) -> BrightModel:
        model = BrightModel(of)
        model.dataset_json = {"labels": {"background": 0, "Anterior": 1, "Posterior": 2}}
        return model

    monkeypatch.setattr(BoxModel, "open", opened)
    return path


def run(*options: object):
    return CliRunner().invoke(app, ["segment", *map(str, options)])


def test_a_head_with_its_page(tmp_path: Path, bright: Path, caplog: pytest.LogCaptureFixture) -> None:
    scan = save(balls(), tmp_path / "in" / "sub<1>_T1w.nii.gz")
    roi = save(mask_of(balls()), tmp_path / "aseg.nii.gz")
    output = tmp_path / "out"
    done = run(scan, "-o", output, "--model", bright, "--roi", roi)
    assert done.exit_code == 0, done.output
    printed = [Path(line) for line in done.stdout.splitlines() if line.startswith(str(output))]
    assert printed == [
        output / "sub<1>_desc-hippocampus_dseg.nii.gz",
        output / "volumes.csv",
        output / "qc" / "index.html",
    ]
    page = printed[2].read_text()
    assert "sub&lt;1&gt;" in page
    assert "sub<1>" not in page
    assert run(scan, "-o", tmp_path / "bare", "--model", bright, "--roi", roi, "--no-qc").exit_code == 0
    assert not (tmp_path / "bare" / "qc").exists()
    done = run(scan, "-o", tmp_path / "bare", "--model", bright, "--roi", roi)
    assert "1 scans, first sub<1>, are not on the page: give --overwrite to make it" in caplog.text


def test_a_failed_attempt_keeps_the_earlier_record(tmp_path: Path, bright: Path) -> None:
    scan = save(balls(), tmp_path / "in" / "scan.nii.gz")
    roi = save(mask_of(balls()), tmp_path / "aseg.nii.gz")
    words = (scan, "-o", tmp_path / "out", "--model", bright)
    assert run(*words, "--roi", roi).exit_code == 0
    record = tmp_path / "out" / "qc" / "scans" / "scan.json"
    before = record.read_bytes()
    done = run(*words)  # without the mask: another result
    assert done.exit_code == 1
    assert "was made with another roi" in str(done.exception)
    assert record.read_bytes() == before


def test_a_damaged_page_costs_no_table(tmp_path: Path, bright: Path) -> None:
    good, bad = save(balls(), tmp_path / "in" / "good.nii.gz"), tmp_path / "in" / "bad.nii.gz"
    roi = save(mask_of(balls()), tmp_path / "aseg.nii.gz")
    output = tmp_path / "out"
    damaged = output / "qc" / "scans" / "other.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    done = run(good, "-o", output, "--model", bright, "--roi", roi)
    assert done.exit_code == 1
    assert f"{damaged} cannot be read as JSON" in str(done.exception)
    assert (output / "volumes.csv").read_text().count("\ngood,") == 7
    assert str(output / "volumes.csv") in done.stdout
    bad.write_bytes(b"no image")
    (output / "volumes.csv").unlink()
    done = run(good, bad, "-o", output, "--model", bright, "--kind", "head")  # both fail: another roi, and no image
    assert done.exit_code == 1
    assert "cannot be read as JSON" in str(done.exception)
    assert (output / "volumes.csv").exists()


def test_a_bids_dataset_makes_a_derivative(tmp_path: Path, bright: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "sub-1/anat/sub-1_T1w.nii.gz"
    save(balls(), tmp_path / "raw" / name)
    monkeypatch.setattr("hippo_nnunet.segment.head.register", lambda scan: (_ for _ in ()).throw(DataError("no head")))
    done = run(tmp_path / "raw", "-o", tmp_path / "out", "--model", bright)
    assert done.exit_code == 1
    assert "no head" in str(done.exception)
    assert "no head" in (tmp_path / "out" / "qc" / "index.html").read_text()
    assert (tmp_path / "out" / "dataset_description.json").exists()
    assert (tmp_path / "out" / "volumes.csv").read_text().startswith("scan,side,label,")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kind", "brain"), "give one of auto, head, crop"),
        (("--roi", __file__), "it is for one scan"),
        (("--roi", "missing.nii.gz"), "does not exist"),
    ],
)
def test_wrong_options(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(balls((4.0, 4.0, 4.0)), tmp_path / f"{name}.nii.gz")
    done = run(tmp_path, "-o", tmp_path / "out", *options)
    assert done.exit_code == 2
    assert message in done.output


def test_neither_torch_nor_nnunet_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
