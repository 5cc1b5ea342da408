"""A folder as `hippo_nnunet/models/hippocampus`, with made-up calibration."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.evaluation.volume_calibration import LabelCalibration, VolumeCalibration, calibration_json
from hippo_nnunet.models.packaged import DESCRIPTION, FORMAT, LICENCE, MODEL, SUMS, VERSION


def made_calibration() -> VolumeCalibration:
    """39 subjects with residuals of -19 to 19 mm3 for each label."""
    residuals = tuple(np.arange(-19.0, 20.0).tolist())
    of_label = LabelCalibration(
        residuals, (1 / 40,) * 39, (7.0, 0.2), (0.5, 0.05), doubt=0.1, disagreement=None, off_border=True
    )
    labels: dict[str, Any] = {"anterior": 1, "posterior": 2, "total": (1, 2)}
    return VolumeCalibration(labels, dict.fromkeys(labels, of_label))


def made_description(**changed: Any) -> dict[str, Any]:
    """A description; keywords replace entries."""
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "name": "test model",
        "version": "7",
        "licence": "CC-BY-SA-4.0",
        "attribution": "made by a test",
        "calibration": calibration_json(made_calibration()),
    } | changed


def write_files(folder: Path, model: bytes = b"model", **changed: Any) -> Path:
    """Write the files with right hashes; keywords replace entries of the description."""
    folder.mkdir(exist_ok=True)
    contents = {MODEL: model, DESCRIPTION: json.dumps(made_description(**changed)).encode(), LICENCE: b"licence\n"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in contents.items()]
    (folder / SUMS).write_text("\n".join(sums) + "\n")
    return folder
