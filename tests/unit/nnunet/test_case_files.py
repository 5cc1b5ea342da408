"""Pickles and arrays of a case: nnU-Net's are read as they are, others run nothing."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import blosc2
import numpy as np
import pytest

from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.ensembling import _properties
from hippo_nnunet.nnunet.case_files import check_cases, read_properties
from hippo_nnunet.nnunet.example_case import stored_case


def properties() -> dict[str, Any]:
    """What nnU-Net's readers and preprocessor note of a case."""
    return {
        "sitk_stuff": {"spacing": (1.0, 0.5, 2.0), "origin": (0.0, -3.0, 4.0), "direction": tuple(np.eye(3).ravel())},
        "nibabel_stuff": {"original_affine": np.eye(4), "order": np.asfortranarray(np.arange(6.0).reshape(2, 3))},
        "spacing": [2.0, 0.5, np.float64(1.0)],
        "shape_before_cropping": (34, np.int64(50), 35),
        "bbox_used_for_cropping": [[0, 34], [np.int32(0), 50], [0, 35]],
        "class_locations": {1: np.arange(12).reshape(3, 4), (1, 2): np.zeros((0, 4), np.int64), 2: []},
        "dtype": OrderedDict(big=np.ones((2, 2), ">i2"), flag=np.ones(3, bool)),
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    same_type = getattr(one, "dtype", type(one)) == getattr(other, "dtype", type(other))
    return same_type and np.array_equal(one, other)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_nnunets_properties_are_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "case.pkl"
    path.write_bytes(pickle.dumps(properties(), protocol))
    read = read_properties(path)
    assert equal(read, pickle.loads(path.read_bytes()))
    assert isinstance(read["class_locations"][1], np.ndarray)


class Calling:
    """Pickles as a call of one's choice."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


EMPTY = np.ones(1).__reduce__()[:2]
HOSTILE = {
    "system": lambda canary: Calling(os.system, (f"touch {canary}",)),
    "open": lambda canary: Calling(open, (str(canary), "w")),
    "numpy.load": lambda canary: Calling(np.load, ("x.npy",)),
    "getattr": lambda canary: Calling(getattr, ("text", "format")),
    "objects": lambda canary: np.array([{}, None], dtype=object),
    "structure": lambda canary: np.zeros(2, dtype="i4,f4"),
    "too many": lambda canary: Calling(*EMPTY, (1, (10**9,), np.dtype("f8"), False, b"")),
    "negative": lambda canary: Calling(*EMPTY, (1, (-1, -1), np.dtype("u1"), False, b"1")),
    "array type called": lambda canary: Calling(np.ndarray, ((10**12,),)),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_hostile_pickle_runs_nothing(name: str, protocol: int, tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "case.pkl"
    path.write_bytes(pickle.dumps({**properties(), "more": HOSTILE[name](canary)}, protocol))
    with pytest.raises(DataError) as error:
        check_cases(tmp_path, ["case"])
    assert str(path) in str(error.value)
    assert "preprocess again" in str(error.value)
    with pytest.raises(DataError, match="validate the fold again"):
        _properties(path.with_suffix(".npz"))
    assert not canary.exists()


@pytest.mark.parametrize("content", [b"", b"x", pickle.dumps([1]), pickle.dumps(properties())[:-9]])
def test_a_damaged_pickle_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "case.pkl").write_bytes(content)
    with pytest.raises(DataError, match=r"preprocessed case 'case' cannot be read \(.*case.pkl: "):
        check_cases(tmp_path, ["case"])


@pytest.mark.parametrize("name", ["case.b2nd", "case_seg.b2nd"])
def test_an_array_that_is_computed_when_it_is_opened_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "case.pkl").write_bytes(pickle.dumps(properties()))
    blosc2.asarray(np.ones((1, 4, 4, 4), np.float32), urlpath=str(tmp_path / "case.b2nd"))
    blosc2.asarray(np.ones((1, 4, 4, 4), np.int16), urlpath=str(tmp_path / "case_seg.b2nd"), mode="w")
    check_cases(tmp_path, ["case"])
    (tmp_path / name).unlink()
    operand = blosc2.asarray(np.ones(8, np.float32), urlpath=str(tmp_path / "operand.b2nd"))
    (operand + 1).save(str(tmp_path / name))
    with pytest.raises(DataError, match=rf"{name}: it could run code"):
        check_cases(tmp_path, ["case"])


def test_explore_reads_preprocessed_cases_without_running_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary, folder = tmp_path / "canary", tmp_path / "pre" / "Dataset004_X"
    (folder / "P_2d").mkdir(parents=True)
    configuration = {"data_identifier": "P_2d", "spacing": [1.0, 1.0]}
    plans = {"plans_name": "P", "dataset_name": folder.name, "transpose_forward": [0, 1, 2]}
    (folder / "P.json").write_text(json.dumps({**plans, "configurations": {"2d": configuration}}))
    (folder / "P_2d" / "case.pkl").write_bytes(pickle.dumps(Calling(os.mkdir, (str(canary),))))
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    dataset: Any = SimpleNamespace(form="nnunet", folder=tmp_path / "raw" / folder.name)
    case: Any = SimpleNamespace(id="case", spacing_mm=(1.0, 1.0, 1.0))
    with pytest.raises(DataError, match=r"it could run code: it names \w+\.mkdir"):
        stored_case(dataset, case)
    assert not canary.exists()
