"""Every demand of the dataset check, each against a dataset that is right but for one thing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.description import read_description
from hippo_nnunet.data.finding import Finding
from hippo_nnunet.errors import DataError

SHAPE = (6, 7, 5)
AFFINE = np.array([[0.8, 0, 0, 3.0], [0, 1.1, 0, -4.0], [0, 0, 2.5, 7.0], [0, 0, 0, 1.0]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, path)


def make_label() -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[2:4, 2:5, 1:3] = 1
    label[2:4, 2:5, 3:4] = 2
    return label


def edit_json(folder: Path, **changes: object) -> None:
    path = folder / "dataset.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.fixture
def msd(tmp_path: Path) -> Path:
    """A right MSD dataset: cases a, b, c and test image t, anisotropic."""
    folder = tmp_path / "Task04_Tiny"
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for case in "abc":
        save(folder / f"imagesTr/{case}.nii.gz", rng.normal(size=SHAPE).astype(np.float32))
        label = make_label()
        label[0, 0, "abc".index(case)] = 1
        save(folder / f"labelsTr/{case}.nii.gz", label)
    save(folder / "imagesTs/t.nii.gz", rng.normal(size=SHAPE).astype(np.float32))
    content = {
        "name": "Tiny",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": 3,
        "numTest": 1,
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in "abc"],
        "test": ["./imagesTs/t.nii.gz"],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def raw(msd: Path) -> Path:
    """The same in nnU-Net's form."""
    for part in ("imagesTr", "imagesTs"):
        for path in (msd / part).iterdir():
            path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    changes = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
    edit_json(msd, modality=None, training=None, test=None, **changes)
    return msd


def only(findings: list[Finding], problem: str, severity: str = "error") -> Finding:
    assert [(f.problem, f.severity) for f in findings] == [(problem, severity)], findings
    assert findings[0].message
    assert findings[0].remedy
    return findings[0]


def test_right_datasets_have_no_findings(msd: Path) -> None:
    assert check_dataset(msd) == []


def test_right_nnunet_dataset_has_no_findings(raw: Path) -> None:
    assert check_dataset(raw) == []


def test_check_changes_nothing(msd: Path) -> None:
    save(msd / "labelsTr/a.nii.gz", np.full(SHAPE, 3, np.uint8))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in msd.rglob("*") if path.is_file()}
    assert check_dataset(msd)
    assert before == {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in msd.rglob("*") if p.is_file()}


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_missing_half_of_a_pair(msd: Path, part: str) -> None:
    (msd / part / "b.nii.gz").unlink()
    finding = only(check_dataset(msd), "missing-file")
    assert finding.path == msd / part / "b.nii.gz"
    assert finding.case == "b"


def test_label_without_image_in_nnunet_form(raw: Path) -> None:
    (raw / "imagesTr/b_0000.nii.gz").unlink()
    assert only(check_dataset(raw), "missing-file").path == raw / "imagesTr/b_0000.nii.gz"


def test_shape_differs(msd: Path) -> None:
    save(msd / "labelsTr/a.nii.gz", make_label()[:, :-1])
    assert "(6, 6, 5)" in only(check_dataset(msd), "shape").message


@pytest.mark.parametrize("change", ["origin", "spacing", "direction"])
def test_affine_differs(msd: Path, change: str) -> None:
    affine = AFFINE.copy()
    if change == "origin":
        affine[0, 3] += 0.1
    elif change == "spacing":
        affine[0, 0] *= 1.0001  # far below a voxel, but nnU-Net refuses it
    else:
        affine[:3, :3] = affine[:3, [1, 0, 2]]
    save(msd / "labelsTr/a.nii.gz", make_label(), affine)
    assert only(check_dataset(msd), "affine").path == msd / "labelsTr/a.nii.gz"


def test_float32_rounding_of_the_affine_is_no_difference(msd: Path) -> None:
    affine = AFFINE.copy()
    affine[:3, 3] += 1e-5
    save(msd / "labelsTr/a.nii.gz", make_label(), affine)
    assert check_dataset(msd) == []


def test_qform_against_sform(msd: Path) -> None:
    image = nib.load(msd / "imagesTs/t.nii.gz")
    other = AFFINE.copy()
    other[0, 3] += 5
    image.set_qform(other, code=1)
    image.set_sform(AFFINE, code=2)  # nibabel takes the sform, SimpleITK the qform
    nib.save(image, msd / "imagesTs/t.nii.gz")
    assert "5 mm" in only(check_dataset(msd), "orientation", "warning").message


def test_oblique_geometry_is_fine(msd: Path) -> None:
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = AFFINE.copy()
    affine[:3, :3] = turn @ AFFINE[:3, :3]
    save(msd / "imagesTr/a.nii.gz", np.random.default_rng(5).normal(size=SHAPE).astype(np.float32), affine)
    save(msd / "labelsTr/a.nii.gz", make_label(), affine)
    assert check_dataset(msd) == []


def test_sheared_image_is_refused_as_simpleitk_would(msd: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 1] = 0.4
    image = nib.Nifti1Image(np.random.default_rng(5).normal(size=SHAPE).astype(np.float32), None)
    image.set_sform(affine, code=1)
    nib.save(image, msd / "imagesTs/t.nii.gz")
    assert "SimpleITK" in only(check_dataset(msd), "unreadable").message


@pytest.mark.parametrize("form", ["msd", "raw"])
def test_names_that_are_not_utf8(form: str, request: pytest.FixtureRequest) -> None:
    """SimpleITK would abort the process."""
    folder = request.getfixturevalue(form)
    image = next((folder / "imagesTs").iterdir())
    renamed = image.rename(image.with_name(os.fsdecode(b"k\xf6pf_0000.nii.gz" if form == "raw" else b"k\xf6pf.nii.gz")))
    if form == "msd":
        edit_json(folder, test=[f"./imagesTs/{renamed.name}"])
    found = only([f for f in check_dataset(folder) if f.problem != "case-id"], "name")
    assert found.path.name == renamed.name
    assert "UTF-8" in found.message and "rename" in found.remedy


@pytest.mark.parametrize("shape", [(*SHAPE, 2), (*SHAPE, 1), SHAPE[:2]])
def test_not_3d(msd: Path, shape: tuple[int, ...]) -> None:
    save(msd / "imagesTs/t.nii.gz", np.random.default_rng(5).normal(size=shape).astype(np.float32))
    assert str(shape) in only(check_dataset(msd), "not-3d").message


def test_undeclared_label_value(msd: Path) -> None:
    label = make_label()
    label[label == 2] = 3
    save(msd / "labelsTr/a.nii.gz", label)
    message = only(check_dataset(msd), "label-values").message
    assert "3" in message
    assert "0, 1, 2" in message


def test_negative_label_value(msd: Path) -> None:
    save(msd / "labelsTr/a.nii.gz", make_label().astype(np.int16) * -1)
    assert "-2, -1" in only(check_dataset(msd), "label-values").message


def test_float_labels(msd: Path) -> None:
    save(msd / "labelsTr/a.nii.gz", make_label().astype(np.float32))
    only(check_dataset(msd), "float-label", "warning")
    save(msd / "labelsTr/a.nii.gz", make_label().astype(np.float32) * 0.5)
    assert "0.5" in only(check_dataset(msd), "non-integer-label").message


def test_integer_label_with_header_scaling_is_judged_by_its_scaled_values(msd: Path) -> None:
    image = nib.Nifti1Image(make_label(), AFFINE)
    image.header.set_slope_inter(0.5, 0)
    nib.save(image, msd / "labelsTr/a.nii.gz")
    assert "0.5" in only(check_dataset(msd), "non-integer-label").message


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_not_finite(msd: Path, part: str, value: float) -> None:
    path = msd / part / "a.nii.gz"
    array = nib.load(path).get_fdata(dtype=np.float32)
    array[1, 1, 1] = value
    save(path, array)
    findings = [f for f in check_dataset(msd) if f.severity == "error"]
    assert "1 of 210" in only(findings, "non-finite").message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_label_that_is_not_finite_by_a_reader_that_keeps_it(raw: Path, value: float) -> None:
    edit_json(raw, overwrite_image_reader_writer="NibabelIO")
    array = make_label().astype(np.float32)
    array[1, 1, 1] = value
    save(raw / "labelsTr/a.nii.gz", array)
    findings = [f for f in check_dataset(raw) if f.severity == "error"]
    assert "1 of 210" in only(findings, "non-finite").message


def test_empty_label(msd: Path) -> None:
    save(msd / "labelsTr/a.nii.gz", np.zeros(SHAPE, np.uint8))
    assert only(check_dataset(msd), "empty-label", "warning").case == "a"


REGIONS = {"background": 0, "whole": [1, 2], "Posterior": [2]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": {"background": 0, "Anterior": "1", "Posterior": 2}}, "'Anterior' the label value '1'"),
        ({"labels": {"background": 0, "Anterior": 1.0, "Posterior": 2}}, "'Anterior' the label value 1.0"),
        ({"labels": {"background": False, "Anterior": 1, "Posterior": 2}}, "'background' the label value False"),
        ({"labels": {**REGIONS, "whole": [1, "2"]}, "regions_class_order": [1, 2]}, "'whole' the label value '2'"),
        ({"labels": {**REGIONS, "whole": []}, "regions_class_order": [1, 2]}, "gives 'whole' no label value"),
        ({"labels": REGIONS, "regions_class_order": [2, 1]}, "a voxel of label 1 is written as 2"),
        ({"labels": REGIONS, "regions_class_order": [1, 7]}, "a voxel of label 2 is written as 7"),
        ({"labels": REGIONS, "regions_class_order": [1, "2"]}, "regions_class_order is [1, '2']"),
        ({"labels": REGIONS, "regions_class_order": [1]}, "regions_class_order must have as many entries"),
        ({"labels": REGIONS}, "define regions_class_order"),
        ({"labels": {"background": [0], "Anterior": 1, "Posterior": 2}}, "Background label must be 0. Not a list"),
        (
            {"labels": {"background": 0, "Anterior": 1, "ignore": 2, "Posterior": 3}},
            "must have the highest label value",
        ),
        ({"labels": {"background": 0, "Anterior": 1, "Posterior": 2, "ignore": [3]}}, "has to be an integer"),
        ({"labels": {"background": 0, "mean": 1, "Posterior": 2}}, "has a label 'mean'"),
        ({"labels": {"background": 0, "total": 1, "Posterior": 2}}, "has a label 'total'"),
        ({"labels": {"background": 0, " ": 1, "Posterior": 2}}, "has a label called ' '"),
        ({"labels": {"background": 0, "a\x1b[2J": 1, "Posterior": 2}}, r"has a label called 'a\x1b[2J'"),
        ({"overwrite_image_reader_writer": None}, "overwrite_image_reader_writer is None, expected one of"),
        ({"overwrite_image_reader_writer": "SimpleITK"}, "is 'SimpleITK', expected one of"),
        ({"overwrite_image_reader_writer": "Tiff3DIO"}, "is Tiff3DIO, which reads .tif"),
        ({"channel_names": ["MRI"]}, "channel_names is ['MRI']"),
        ({"channel_names": {"0": 0}}, "channel_names is {'0': 0}"),
        ({"channel_names": {"MRI": "0"}}, "channel_names numbers the channels MRI"),
    ],
)
def test_what_nnunet_refuses_in_dataset_json_is_found(raw: Path, changes: dict[str, object], says: str) -> None:
    path = raw / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    found = [f for f in check_dataset(raw) if f.problem == "dataset-json" and f.severity == "error"]
    assert any(says in f.message for f in found), found
    with pytest.raises(DataError, match=r"dataset\.json"):
        read_description(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": REGIONS, "regions_class_order": [1, 2]},
        {"labels": {"background": 0, "Anterior": 1, "Posterior": 2, "ignore": 3}},
        {"labels": {"background": 0, "Anterior": [1], "Posterior": [2]}, "regions_class_order": [9]},
        {"labels": {"background": 0, "total": [1, 2], "Posterior": 2}, "regions_class_order": [1, 2]},
        {"overwrite_image_reader_writer": "None"},
        {"overwrite_image_reader_writer": "NibabelIO"},
        {"overwrite_image_reader_writer": "SimpleITKIOWithReorient"},
    ],
)
def test_regions_ignore_label_and_readers_of_nnunet_are_right(raw: Path, changes: dict[str, object]) -> None:
    edit_json(raw, **changes)
    assert check_dataset(raw) == []
    read_description(raw / "dataset.json")


@pytest.mark.parametrize("number", [2, 3.0, "3", None])
def test_number_of_training_cases_is_a_whole_number(raw: Path, number: object) -> None:
    path = raw / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "numTraining": number}))
    assert f"numTraining is {number!r}, but there are 3" in only(check_dataset(raw), "dataset-json").message


def test_regions_may_merge_labels(raw: Path) -> None:
    edit_json(raw, labels={"background": 0, "all": [1, 2]}, regions_class_order=[1])
    assert "hold 1 where references hold 2" in only(check_dataset(raw), "dataset-json", "warning").message
    read_description(raw / "dataset.json")


@pytest.mark.parametrize(
    "name", ["../../x.nii.gz", "/etc/x.nii.gz", "./imagesTr/../../x.nii.gz", "x.nii.gz", "imagesTr/d/x.nii.gz"]
)
@pytest.mark.parametrize("part", ["image", "label", "test"])
def test_files_outside_of_the_task_are_not_read(msd: Path, name: str, part: str) -> None:
    content = json.loads((msd / "dataset.json").read_text())
    if part == "test":
        content["test"][0] = name
    else:
        content["training"][0][part] = name
    (msd / "dataset.json").write_text(json.dumps(content))
    finding = only(check_dataset(msd), "dataset-json")
    assert f"lists {name!r}, which is no file in" in finding.message
    assert finding.path == msd / "dataset.json"


def test_modality_and_ignore_label_of_the_decathlon(msd: Path) -> None:
    edit_json(msd, modality=["MRI"])
    assert "modality is ['MRI']" in only(check_dataset(msd), "dataset-json").message
    edit_json(msd, modality={"0": "MRI"}, labels={"0": "background", "1": "ignore", "2": "Posterior"})
    assert "nnU-Net refuses its labels" in only(check_dataset(msd), "dataset-json").message


def test_label_that_no_case_holds(msd: Path) -> None:
    for case in "abc":
        path = msd / f"labelsTr/{case}.nii.gz"
        label = np.asarray(nib.load(path).dataobj).copy()
        label[label == 2] = 1
        save(path, label)
    assert "Posterior" in only(check_dataset(msd), "unused-label", "warning").message


def test_constant_image(msd: Path) -> None:
    save(msd / "imagesTr/a.nii.gz", np.full(SHAPE, 7, np.float32))
    assert "7" in only(check_dataset(msd), "constant-image").message


def test_hidden_files(msd: Path) -> None:
    (msd / "imagesTr/._a.nii.gz").write_bytes(b"x")
    only(check_dataset(msd), "hidden-file", "warning")


def test_hidden_files_break_nnunet(raw: Path) -> None:
    (raw / "imagesTr/._a_0000.nii.gz").write_bytes(b"x")
    only(check_dataset(raw), "hidden-file", "error")


def test_same_voxels_under_two_ids(msd: Path) -> None:
    array = nib.load(msd / "imagesTr/a.nii.gz").get_fdata(dtype=np.float32)
    save(msd / "imagesTs/t.nii.gz", array)  # another file, the same content: a training case to be tested on
    finding = only(check_dataset(msd), "duplicate")
    assert "imagesTr/a.nii.gz" in finding.message
    assert finding.path == msd / "imagesTs/t.nii.gz"


def test_same_label_for_two_images(msd: Path) -> None:
    (msd / "labelsTr/b.nii.gz").write_bytes((msd / "labelsTr/a.nii.gz").read_bytes())
    only(check_dataset(msd), "duplicate", "warning")


@pytest.mark.parametrize("keep", [0, 200, 0.5, -4])
def test_truncated_file(msd: Path, keep: float) -> None:
    path = msd / "imagesTr/a.nii.gz"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    assert only(check_dataset(msd), "unreadable").path == path


def test_file_damaged_in_the_middle(msd: Path) -> None:
    path = msd / "imagesTr/a.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    only(check_dataset(msd), "unreadable")


def test_whole_gzip_around_a_truncated_image(msd: Path) -> None:
    import gzip

    path = msd / "imagesTr/a.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-40]))
    assert "truncated" in only(check_dataset(msd), "unreadable").message


def test_not_a_nifti_file(msd: Path) -> None:
    (msd / "imagesTr/a.nii.gz").write_text("<html>404</html>")
    only(check_dataset(msd), "unreadable")


@pytest.mark.parametrize("name", ["a b.nii.gz", "a_0000.nii.gz", "A.nii.gz"])
def test_case_ids(msd: Path, name: str) -> None:
    rng = np.random.default_rng(9)
    save(msd / "imagesTs" / name, rng.normal(size=SHAPE).astype(np.float32))
    findings = check_dataset(msd)
    assert [f.problem for f in findings if f.severity == "error"] == ["case-id"]


def test_nnunet_image_without_channel_number(raw: Path) -> None:
    (raw / "imagesTs/t_0000.nii.gz").rename(raw / "imagesTs/t.nii.gz")
    only(check_dataset(raw), "case-id")


def test_nnunet_channels(raw: Path) -> None:
    edit_json(raw, channel_names={"0": "T1", "1": "T2"})
    assert {f.problem for f in check_dataset(raw)} == {"channels"}


def test_nnunet_regions_and_ignore_label(raw: Path) -> None:
    edit_json(raw, labels={"background": 0, "whole": [1, 2], "posterior": 2, "ignore": 3}, regions_class_order=[1, 2])
    label = make_label()
    label[0] = 3
    save(raw / "labelsTr/a.nii.gz", label)
    assert check_dataset(raw) == []


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"0": "background", "1": "Anterior", "2": "Anterior"}, "gives two labels the same name"),
        ({"0": "Background", "1": "Anterior", "2": "Posterior"}, "has no label 'background' with value 0"),
        (
            {"0": "background", "1": "Anterior", "2": "Posterior", "4": "Other"},
            "label values [0, 1, 2, 4] are not consecutive",
        ),
        ({"zero": "background"}, "is not in MSD form (ValueError: invalid literal for int() with base 10: 'zero')"),
    ],
)
def test_labels_that_nnunet_would_refuse(msd: Path, labels: dict[str, str], says: str) -> None:
    edit_json(msd, labels=labels)
    errors = [f for f in check_dataset(msd) if f.severity == "error"]
    assert {f.problem for f in errors} == {"dataset-json"}
    assert errors[0].message == says


def test_number_of_training_cases(msd: Path) -> None:
    edit_json(msd, numTraining=260)
    assert "260" in only(check_dataset(msd), "dataset-json").message


@pytest.mark.parametrize("name", ["u.nii", "u.NII.GZ", "u.nrrd"])
def test_file_with_an_ending_that_nnunet_overlooks(msd: Path, name: str) -> None:
    array = np.random.default_rng(4).normal(size=SHAPE).astype(np.float32)
    save(msd / "imagesTs/u.nii", array)
    (msd / "imagesTs/u.nii").rename(msd / "imagesTs" / name)
    assert {f.problem for f in check_dataset(msd) if f.severity == "error"} == {"file-ending"}


def test_empty_and_wrong_folders(tmp_path: Path, msd: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty" in only(check_dataset(empty), "no-dataset-json").message
    assert str(msd) in only(check_dataset(msd.parent), "no-dataset-json").remedy
    only(check_dataset(msd / "imagesTr"), "no-dataset-json")
    only(check_dataset(tmp_path / "nowhere"), "no-folder")
    only(check_dataset(msd / "dataset.json"), "no-folder")


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": 1}', '{"modality": {"0": "MRI"}}', '{"modality": {}, "training": [3]}']
)
def test_dataset_json_that_cannot_be_understood(msd: Path, text: str) -> None:
    (msd / "dataset.json").write_text(text)
    only(check_dataset(msd), "dataset-json")


def test_no_cases(msd: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        for path in (msd / part).iterdir():
            path.unlink()
    edit_json(msd, training=[], numTraining=0)
    only(check_dataset(msd), "no-cases")


def test_all_problems_are_listed_at_once(msd: Path) -> None:
    save(msd / "imagesTr/a.nii.gz", np.full(SHAPE, 7, np.float32))
    save(msd / "labelsTr/b.nii.gz", np.full(SHAPE, 9, np.uint8))
    (msd / "imagesTr/c.nii.gz").unlink()
    (msd / "imagesTs/t.nii.gz").write_bytes(b"")
    found = {(f.path.name, f.problem) for f in check_dataset(msd)}
    wanted = {("a", "constant-image"), ("b", "label-values"), ("c", "missing-file"), ("t", "unreadable")}
    assert found == {(f"{name}.nii.gz", problem) for name, problem in wanted}


def turned(path: Path) -> None:
    """Store an image with other axes: the same voxels at the same places."""
    image = nib.load(path)
    codes = nib.orientations.axcodes2ornt("PIR")
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), codes)
    moved = image.as_reoriented(turn)
    save(path, np.asarray(moved.dataobj), moved.affine)


def test_axes_that_differ_between_cases(msd: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        turned(msd / part / "b.nii.gz")
    finding = only(check_dataset(msd), "axes", "warning")
    assert finding.path == msd / "imagesTr/b.nii.gz"
    assert finding.message.startswith("axes PIR in 1 cases (b), but RAS in 3: ")


def test_readers_that_reorient_do_not_mind_the_axes(raw: Path) -> None:
    edit_json(raw, overwrite_image_reader_writer="NibabelIOWithReorient")
    turned(raw / "imagesTr/b_0000.nii.gz")
    turned(raw / "labelsTr/b.nii.gz")
    assert check_dataset(raw) == []


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (
            1e-3,
            r"its voxels of 0.0008 x 0.0011 x 0.0025 mm are resampled to the usual size of this dataset, 0.8 x 1.1 x",
        ),
        (1e4, "from 6 x 7 x 5 to 60000 x 70000 x 50000 voxels, which takes"),
    ],
)
def test_a_voxel_size_that_cannot_be_resampled_to_that_of_the_others(msd: Path, factor: float, message: str) -> None:
    affine = np.diag([factor, factor, factor, 1.0]) @ AFFINE
    for part in ("imagesTr", "labelsTr"):
        path = msd / part / "b.nii.gz"
        save(path, np.asarray(nib.load(path).dataobj), affine)
    assert message in only(check_dataset(msd), "voxel-size").message
