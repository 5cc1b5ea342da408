"""NIfTI files with damaged headers, and the readers that meet them first."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fuzzing import Fuzz, refusal
from hypothesis import strategies as st
from mutations import changed_bytes, write

from hippo_nnunet.data.cases import InputCase, check_images
from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.exploration_case import load_case
from hippo_nnunet.data.layout import read_dataset
from hippo_nnunet.data.nifti import open_image, read_volume
from hippo_nnunet.data.nifti_header import read_input_header
from hippo_nnunet.inference.submission import write_submission

pytestmark = pytest.mark.fuzz


def _image(shape: tuple[int, ...], dtype: type, cls: type = nib.Nifti1Image) -> bytes:
    array = (np.arange(np.prod(shape)) % 3).astype(dtype).reshape(shape)
    return bytes(cls(array, np.diag([1.0, 2.0, 3.0, 1.0])).to_bytes())


PLAIN = [
    _image((3, 4, 5), np.uint8),
    _image((3, 4, 5), np.float32),
    _image((3, 4, 5, 2), np.int16),
    _image((3, 4, 5), np.int16, nib.Nifti2Image),
]
HEADERS = st.sampled_from(PLAIN).flatmap(lambda right: changed_bytes(right, within=560))
FILES = st.one_of(
    HEADERS.map(lambda content: (".nii", content)),
    HEADERS.map(lambda content: (".nii.gz", gzip.compress(content, 1))),
    changed_bytes(gzip.compress(PLAIN[0], 1)).map(lambda content: (".nii.gz", content)),
)


def test_images(fuzz: Fuzz, tmp_path: Path) -> None:
    number = itertools.count()

    def check(file: tuple[str, bytes]) -> None:
        path = write(tmp_path / f"{next(number)}{file[0]}", file[1])
        refusal(lambda: open_image(path))
        refusal(lambda: read_volume(path))
        refusal(lambda: check_images(InputCase("a", (path,))))
        if file[0] == ".nii.gz":
            refusal(lambda: read_input_header(path))
        path.unlink()

    fuzz(check, FILES, 150)


@pytest.mark.parametrize("channels", [1, 2])
def test_datasets_of_damaged_images(fuzz: Fuzz, tmp_path: Path, channels: int) -> None:
    names = ", ".join(f'"{channel}": "MRI"' for channel in range(channels))
    write(
        tmp_path / "dataset.json",
        f'{{"modality": {{{names}}}, "labels": {{"0": "background", "1": "a", "2": "b"}}, "numTraining": 1,'
        '"training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]}',
    )

    def check(contents: tuple[bytes, bytes]) -> None:
        write(tmp_path / "imagesTr" / "a.nii.gz", gzip.compress(contents[0], 1))
        write(tmp_path / "labelsTr" / "a.nii.gz", gzip.compress(contents[1], 1))
        check_dataset(tmp_path)
        dataset = read_dataset(tmp_path)
        load_case(dataset, dataset.training[0])

    fuzz(check, st.tuples(HEADERS, HEADERS), 60)


def test_predictions_to_submit(fuzz: Fuzz, tmp_path: Path) -> None:
    image = write(tmp_path / "images" / "a.nii.gz", gzip.compress(PLAIN[1], 1))
    prediction = write(tmp_path / "predictions" / "a.nii.gz", b"")
    target = tmp_path / "a.zip"

    def check(contents: tuple[bytes, bytes]) -> None:
        for path, content in zip((image, prediction), contents, strict=True):
            path.write_bytes(gzip.compress(content, 1))
        refusal(
            lambda: write_submission(prediction.parent, image.parent, target, "Task04_X", True, frozenset({0, 1, 2}))
        )

    fuzz(check, st.one_of(st.tuples(st.just(PLAIN[1]), HEADERS), st.tuples(HEADERS, st.just(PLAIN[0]))), 60)
