"""Tables of subjects, cases of one scan, and folds by subject."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import sklearn
from sklearn.model_selection import StratifiedGroupKFold

from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.same_scan import distinct_values, find_same_scan, same_scan_cases, subjects_of_groups
from hippo_nnunet.data.subjects import (
    broken_subject,
    dataset_subjects,
    grouped_splits,
    read_subjects,
    write_subjects,
)
from hippo_nnunet.errors import DataError

CASES = [f"c_{number:03d}" for number in range(1, 13)]


def crops(rng: np.random.Generator, scans: int, factor: float | None = None) -> list[np.ndarray]:
    """Two crops of each scan: whole numbers times the scan's factor, as a scanner stores them."""
    factors = [factor or rng.uniform(4, 9) for _ in range(scans)]
    return [(rng.integers(0, 150, (10, 12, 8)) * f).astype(np.float32) for f in factors for _ in range(2)]


def values(images: list[np.ndarray], cases: list[str] = CASES) -> dict[str, np.ndarray | None]:
    return dict(zip(cases, map(distinct_values, images), strict=True))


def test_crops_of_one_scan_are_found_and_named_with_the_evidence() -> None:
    found = find_same_scan(values(crops(np.random.default_rng(0), 6), [c[::-1] for c in CASES]))  # no number at the end
    assert found is not None
    assert len(found.groups) == 6
    assert all(abs(int(a[:3][::-1]) - int(b[:3][::-1])) == 1 for a, b in found.groups)
    assert "6 pairs of cases" in found.describe()
    assert "other cases at most 1%" in found.describe()


def test_the_numbering_pairs_whole_numbered_volumes_only_if_the_others_confirm_it() -> None:
    rng = np.random.default_rng(1)
    images = [*crops(rng, 5), *(rng.integers(0, 150, (10, 12, 8)).astype(np.uint8) for _ in range(2))]
    found = find_same_scan(values(images))
    assert found is not None
    assert found.groups[-1] == ("c_011", "c_012")
    assert len(found.shares) == 5
    assert "1 more pairs hold whole numbers" in found.describe()
    moved = find_same_scan(values([*images[1:], images[0]]))  # now 2k and 2k+1
    assert moved is not None
    assert moved.groups == (("c_001", "c_012"), *((f"c_{n:03d}", f"c_{n + 1:03d}") for n in (2, 4, 6, 8)))


def test_a_pair_against_the_numbering_counts_as_chance() -> None:
    rng = np.random.default_rng(2)
    same_factor = crops(rng, 1, 5.25)[0]
    images = [*crops(rng, 1, 5.25), *crops(rng, 20), same_factor]
    cases = [f"c_{number:03d}" for number in (*range(1, 43), 60)]  # 60 is not a partner of any
    found = find_same_scan(values(images, cases))
    assert found is not None
    assert found.contradicting == (("c_001", "c_060"), ("c_002", "c_060"))
    assert ("c_001", "c_002") in found.groups
    assert not any("c_060" in group for group in found.groups)
    assert "c_001 and c_060" in found.describe()


@pytest.mark.parametrize(
    "images",
    [
        [np.random.default_rng(n).integers(0, 200, (9, 9, 9)).astype(np.int16) for n in range(12)],
        [np.random.default_rng(n).integers(0, 200, (9, 9, 9)).astype(np.float32) for n in range(12)],
        [(np.random.default_rng(n).integers(0, 256, (9, 9, 9)) / 255).astype(np.float32) for n in range(12)],
        [np.random.default_rng(n).normal(size=(9, 9, 9)).astype(np.float32) for n in range(12)],
        [np.random.default_rng(n).normal(size=(30, 30, 30)).astype(np.float32) for n in range(12)],
        [np.full((9, 9, 9), n + 0.5, np.float32) for n in range(12)],
        [(np.random.default_rng(n).permutation(400)[:200] * 0.1).astype(np.float32) for n in range(12)],
    ],
    ids=["integers", "whole floats", "8 bits scaled to 1", "unrelated", "continuous", "constant", "half shared"],
)
def test_values_that_are_shared_by_chance_prove_nothing(images: list[np.ndarray]) -> None:
    assert find_same_scan(values(images)) is None


def test_two_cases_alone_have_nothing_to_compare_with() -> None:
    assert find_same_scan(values(crops(np.random.default_rng(3), 1), CASES[:2])) is None


def table(folder: Path, text: str) -> Path:
    path = folder / "subjects.csv"
    path.write_bytes(text.encode())
    return path


def test_a_table_is_read_and_written(tmp_path: Path) -> None:
    path = table(tmp_path, "\ufeffsite,subject,case\r\nA,x y,c1\r\nA,x y,c2\r\nB,007,c3\r\n")
    subjects = read_subjects(path, ["c1", "c2", "c3"])
    assert subjects == {"c1": "x y", "c2": "x y", "c3": "007"}
    odd = {**subjects, "c4": 'with "quotes", and a comma'}
    assert read_subjects(write_subjects(odd, path)) == odd
    assert read_subjects(path, ["c1", "c2", "c3"], ["c4"]) == subjects  # a test case may have a row


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("case,subject\nc1,a\nc2,a\nc9,b\n", "names 1 unknown cases, first 'c9'; expected cases such as 'c1'"),
        ("case,subject\nc1,a\n", "lacks 1 of 2 cases, first 'c2'"),
        ("case,subject\nc1,a\nc2,\n", "row 3 has no subject"),
        ("case,subject\nc1,a\n ,b\n", "row 3 has no case"),
        ("case,subject\nc1,a\nc2\n", "row 3 has no subject"),
        ("case,subject\nc1,a\nc2,a\nc1,b\n", "case 'c1' stands twice"),
        ("id,subject\nc1,a\nc2,a\n", "got id, subject, expected the columns case and subject"),
        ("", "got no column, expected the columns case and subject"),
        ("case,subject\n", "holds no case"),
        ('case,subject\nc1,"a\n', "cannot be read as a CSV file"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(FoundProblem) as caught:
        read_subjects(path, ["c1", "c2"])
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00case"])
def test_a_table_that_is_missing_or_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "subjects.csv"
    if content:
        path.write_bytes(content)
    with pytest.raises(DataError, match="no such file" if content is None else "cannot be read as a CSV file"):
        read_subjects(path)


def as_published(numbers: list[int]) -> dict[str, str]:
    """Subjects of cases of which 2k-1 and 2k are one subject."""
    return {f"hippocampus_{n:03d}": f"scan {(n + 1) // 2}" for n in numbers}


def scikit_folds(subjects: dict[str, str], groups: list[int]) -> list[list[str]]:
    cases, sizes = sorted(subjects), Counter(subjects.values())
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=12345)
    folds = splitter.split(cases, [sizes[subjects[case]] for case in cases], groups)
    return [[cases[i] for i in val] for _, val in folds]


def test_folds_are_those_of_scikit_learn_for_subjects_numbered_in_order() -> None:
    numbers = sorted(np.random.default_rng(4).choice(np.arange(1, 200), 110, replace=False).tolist())
    subjects = as_published(numbers)
    splits = grouped_splits(subjects, 5)
    if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8):  # older versions shuffle in another way
        expected = scikit_folds(subjects, [(n + 1) // 2 for n in numbers])
        assert [split["val"] for split in splits] == expected
        # other increasing numbers give the same folds, numbers in another order do not
        assert expected == scikit_folds(subjects, [10 * ((n + 1) // 2) + 3 for n in numbers])
        assert expected != scikit_folds(subjects, [-((n + 1) // 2) for n in numbers])
    renamed = {case: f"{hash(subject)}" for case, subject in subjects.items()}
    assert grouped_splits(renamed, 5) == splits  # so the names of subjects do not matter here
    assert np.ptp([len(split["val"]) for split in splits]) <= 2


def test_folds_keep_subjects_together_and_hold_every_case_once() -> None:
    rng = np.random.default_rng(5)
    for subjects in range(5, 30):
        sizes = rng.integers(1, 5, subjects)
        names = rng.permutation(np.repeat(np.arange(subjects), sizes))
        of_case = {f"c{i:03d}": str(name) for i, name in enumerate(names)}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            splits = grouped_splits(of_case, 5)
        assert broken_subject(of_case, splits) is None
        assert sorted(case for split in splits for case in split["val"]) == sorted(of_case)
        assert all(split["val"] and sorted(split["train"] + split["val"]) == sorted(of_case) for split in splits)


def test_fewer_subjects_than_folds_are_refused() -> None:
    with pytest.raises(DataError, match=r"12 cases of 4 subjects, fewer than the 5 folds.*--subjects none"):
        grouped_splits({f"c{i}": str(i % 4) for i in range(12)}, 5)


def test_a_split_that_breaks_a_subject_apart_is_described() -> None:
    splits = [{"train": ["a1", "b1"], "val": ["c1"]}, {"train": ["a1", "c1"], "val": ["a2", "b1"]}]
    subjects = {case: case[0] for case in ("a1", "a2", "b1", "c1")}
    expected = "fold 1 validates 'a2' and trains on 'a1' of the same subject"
    assert broken_subject(subjects, splits) == expected


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A dataset of nnUNet_raw whose twelve cases are crops of six scans."""
    folder = tmp_path / "Dataset004_Crops"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    label = np.zeros((10, 12, 8), np.uint8)
    label[3:6, 3:6, 3:6] = 1
    for number, (case, image) in enumerate(zip(CASES, crops(np.random.default_rng(6), 6), strict=True)):
        label[0, number, 0] = 1
        for path, array in ((f"imagesTr/{case}_0000.nii.gz", image), (f"labelsTr/{case}.nii.gz", label)):
            written = nib.Nifti1Image(array, np.eye(4))
            written.set_qform(np.eye(4), code=1)
            nib.save(written, folder / path)
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "x": 1},
        "numTraining": 12,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_a_datasets_subjects_come_from_its_table_or_else_from_its_images(raw: Path) -> None:
    found = dataset_subjects(raw, CASES, ".nii.gz")
    assert found == {case: f"c_{number - 1 + number % 2:03d}" for number, case in enumerate(CASES, start=1)}
    table(raw, "case,subject\n" + "".join(f"{case},{case[-1]}\n" for case in CASES))
    assert dataset_subjects(raw, CASES, ".nii.gz") == {case: case[-1] for case in CASES}
    (raw / "subjects.csv").write_text("case,subject\nc_001,a\n")
    with pytest.raises(DataError, match="lacks 11 of 12 cases"):
        dataset_subjects(raw, CASES, ".nii.gz")


def test_images_that_cannot_be_read_prove_nothing(raw: Path) -> None:
    images = {case: raw / f"imagesTr/{case}_0000.nii.gz" for case in CASES}
    images["c_001"].write_bytes(b"x")
    found = same_scan_cases({**images, "c_013": raw / "no.nii.gz"})
    assert found is not None and len(found.shares) == 5
    assert subjects_of_groups(found.groups, CASES)["c_012"] == "c_011"


def test_the_check_warns_of_cases_of_one_scan_until_there_is_a_table(raw: Path) -> None:
    (warning,) = check_dataset(raw)
    assert (warning.problem, warning.severity) == ("same-scan", "warning")
    assert "6 pairs of cases are crops of one scan each, such as c_001 and c_002" in warning.message
    assert "subjects.csv" in warning.remedy
    table(raw, "case,subject\n" + "".join(f"{case},{case}\n" for case in CASES))
    assert check_dataset(raw) == []
    table(raw, "case,subject\nc_001,a\n")
    (error,) = check_dataset(raw)
    assert (error.path, error.problem, error.severity) == (raw / "subjects.csv", "subjects", "error")
