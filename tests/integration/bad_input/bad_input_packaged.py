"""Bad input of the packaged model: its files, and images that it does not know."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from bad_input import Bad, World, cut, gone, image, text
from packaged_files import write_files

from hippo_nnunet.models.packaged import FOLDER

SCAN = "{base}/scan.nii.gz"
PREDICT = "predict --input {images} --output {out}"
PREDICT_SCAN = f"predict --input {SCAN} --output {{out}}"
AGAIN = "install hippo_nnunet again"
COPY = "{base}/packaged"
REPLACED: dict[str, Callable[[World], object]] = {"hippo_nnunet.models.packaged.FOLDER": lambda world: world.at(COPY)}
CROP = np.random.default_rng(0).integers(0, 200, (36, 50, 34)).astype(np.int16)
HEAD = np.random.default_rng(0).integers(0, 200, (90, 120, 100)).astype(np.int16)


def _copied(world: World) -> None:
    shutil.copytree(FOLDER, world.at(COPY))


def _made(**changed: Any) -> Callable[[World], Path]:
    return lambda world: write_files(world.at(COPY), (FOLDER / "hippocampus.onnx").read_bytes(), **changed)


def _without_orientation(world: World) -> None:
    nib.save(nib.Nifti1Image(CROP, None), world.at(SCAN))


ROWS = (
    Bad("packaged model that is missing", PREDICT, (COPY, "missing", AGAIN), replaced=REPLACED),
    Bad(
        "packaged model without its weights",
        PREDICT,
        (f"{COPY}/hippocampus.onnx", "missing", AGAIN),
        (_copied, gone(f"{COPY}/hippocampus.onnx")),
        replaced=REPLACED,
    ),
    Bad(
        "packaged model that is truncated",
        PREDICT,
        (f"{COPY}/hippocampus.onnx", "damaged or of another version", AGAIN),
        (_copied, cut(f"{COPY}/hippocampus.onnx")),
        replaced=REPLACED,
    ),
    Bad(
        "packaged model with another description",
        "model info",
        (f"{COPY}/hippocampus.json", "damaged or of another version", AGAIN),
        (_copied, text(f"{COPY}/hippocampus.json", "{}")),
        replaced=REPLACED,
    ),
    Bad(
        "packaged model of a newer format",
        PREDICT,
        (f"{COPY}/hippocampus.json", "version 99 of the format, expected", AGAIN),
        (_made(format_version=99),),
        replaced=REPLACED,
    ),
    Bad(
        "packaged model without calibration",
        PREDICT + " --volumes {base}/v.csv",
        (f"{COPY}/hippocampus.json", "calibration cannot be read", AGAIN),
        (_made(calibration={}),),
        replaced=REPLACED,
    ),
    Bad("packaged model and folds", PREDICT + " --folds 0", ("--folds: not with",), code=2),
    Bad("packaged model and a coverage of 1", PREDICT + " --volumes {base}/v.csv --coverage 1", ("coverage 1",)),
    Bad("model to describe that is missing", "model info {base}/no.onnx", ("{base}/no.onnx: no such file",)),
    Bad("model to describe that is text", "model info {task}/dataset.json", ("{task}/dataset.json", "not a readable")),
    Bad(
        "head for the packaged model",
        PREDICT_SCAN,
        (SCAN, "180 x 240 x 200 mm, but the model knows crops", "hippo-nnunet segment"),
        (image(SCAN, HEAD, np.diag([2, 2, 2, 1])),),
    ),
    Bad(
        "other axes for the packaged model",
        PREDICT_SCAN,
        (SCAN, "its axes are LPS", "knows RAS", "as_closest_canonical"),
        (image(SCAN, CROP, np.diag([-1, -1, 1, 1])),),
    ),
    Bad(
        "crop without orientation for the packaged model",
        PREDICT_SCAN,
        (SCAN, "no orientation: sform_code and qform_code are 0", "correct the header"),
        (_without_orientation,),
    ),
    Bad(
        "flat image for the packaged model",
        PREDICT_SCAN,
        (SCAN, "every voxel is 7", "replace the file"),
        (image(SCAN, 0 * CROP + 7),),
    ),
    Bad("scan to segment that is missing", "segment {base}/no -o {out}", ("{base}/no: no such file or folder",)),
)
