"""Many scans: what is written, what is kept, and what a failure leaves behind."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from head_phantom import BALLS_MM, ORDERS, RADIUS_MM, BrightModel, balls, mask_of, save

from hippo_nnunet.errors import DataError, DependencyError
from hippo_nnunet.evaluation.segmentation_shape import Segmentation
from hippo_nnunet.evaluation.volume_calibration import uncalibrated, with_total
from hippo_nnunet.files import write_text
from hippo_nnunet.inference.scans import FailedScans
from hippo_nnunet.segment import head, outputs
from hippo_nnunet.segment.inputs import Input
from hippo_nnunet.segment.outputs import ScanFiles, check_output
from hippo_nnunet.segment.registration import Registration
from hippo_nnunet.segment.run import SegmentOptions, kind_of, segment_scans
from hippo_nnunet.segment.tables import check_table, read_intracranial, write_table
from hippo_nnunet.segment.volumes import Judge, both_sides

JUDGE = Judge(uncalibrated(with_total({"Anterior": 1, "Posterior": 2})))
BALL_MM3 = 4 / 3 * np.pi * RADIUS_MM**3


@pytest.fixture
def model(tmp_path: Path) -> BrightModel:
    (tmp_path / "model").write_bytes(b"a model")
    return BrightModel(tmp_path / "model")


@pytest.fixture(autouse=True)
def known_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The phantom has no brain to register: the registration is given."""

    def registered(scan) -> Registration:
        matrix = np.eye(4)
        matrix[:3, 3] = -scan.origin_mm
        return Registration(matrix, 0.9, 0.6, 1.0)

    monkeypatch.setattr("hippo_nnunet.segment.head.register", registered)


def scan(folder: Path, name: str = "scan", edges: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> Input:
    return Input(save(balls(edges), folder / f"{name}.nii.gz"), name)


def rows(output: Path) -> list[dict[str, str]]:
    with write_table(output).open() as stream:
        return list(csv.DictReader(stream))


def test_labels_lie_on_the_balls(tmp_path: Path, model: BrightModel) -> None:
    one = scan(tmp_path / "in")
    (path,) = segment_scans([one], tmp_path / "out", model, JUDGE)
    image, written = nib.load(one.path), nib.load(path)
    np.testing.assert_array_equal(written.affine, image.affine)
    assert written.get_data_dtype() == np.uint8
    labels = np.asarray(written.dataobj)
    for side, values in {"left": (1, 2), "right": (3, 4)}.items():
        world = np.argwhere(np.isin(labels, values)) @ image.affine[:3, :3].T + image.affine[:3, 3]
        np.testing.assert_allclose(world.mean(axis=0), BALLS_MM[side], atol=0.7)
        front, back = (np.argwhere(labels == value)[:, 1].mean() for value in values)
        assert front > back  # anterior is in front
    assert path.with_name("scan_desc-hippocampus_dseg.tsv").read_text().splitlines()[:2] == [
        "index\tname\tcolor",
        "1\tleft anterior\t#1b9e77",
    ]


def test_both_boxes_look_alike_to_the_model(tmp_path: Path, model: BrightModel) -> None:
    segment_scans([scan(tmp_path / "in")], tmp_path / "out", model, JUDGE)
    left, right = model.seen[1], model.seen[3]  # the second pass of each side
    assert abs((left > 350).sum() - (right > 350).sum()) < 0.05 * (left > 350).sum()


@pytest.mark.parametrize("edges", [(1.5, 1.5, 1.5), (1.0, 1.0, 3.0)])
def test_every_axis_order_gives_the_same_voxels(edges, tmp_path: Path, model: BrightModel) -> None:
    image = balls(edges)
    expected = None
    for number in (0, 5, 17, 22, 31, 47):
        stored = image.as_reoriented(ORDERS[number])
        one = Input(save(stored, tmp_path / f"{number}.nii.gz"), str(number))
        (path,) = segment_scans([one], tmp_path / "out", model, JUDGE)
        labels = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
        expected = labels if expected is None else expected
        np.testing.assert_array_equal(labels, expected)
    assert set(np.unique(expected)) == {0, 1, 2, 3, 4}


def test_the_table(tmp_path: Path, model: BrightModel) -> None:
    output = tmp_path / "out"
    options = SegmentOptions(intracranial_mm3={"scan": 1_500_000.0})
    segment_scans([scan(tmp_path / "in", edges=(1.0, 1.0, 1.0))], output, model, JUDGE, options)
    found = rows(output)
    assert [(row["side"], row["label"]) for row in found] == [
        (side, label) for side in ("left", "right") for label in ("anterior", "posterior", "total")
    ] + [("both", "total")]
    for row in found[2], found[5]:
        assert float(row["volume_mm3"]) == pytest.approx(BALL_MM3, rel=0.05)
        assert float(row["mask_mm3"]) == pytest.approx(BALL_MM3, rel=0.05)
    left, right, both = (float(found[number]["volume_mm3"]) for number in (2, 5, 6))
    assert both == pytest.approx(left + right)
    assert float(found[6]["asymmetry_percent"]) == pytest.approx(200 * (left - right) / (left + right), abs=1e-3)
    assert float(found[6]["intracranial_percent"]) == pytest.approx(both / 15_000, abs=1e-3)
    assert found[2]["low_mm3"] == ""


def test_a_missing_side_is_flagged_or_refused(tmp_path: Path, model: BrightModel) -> None:
    image = balls()
    voxels = np.asarray(image.dataobj).copy()
    voxels[: voxels.shape[0] // 2 - 2] = 100
    one = Input(save(nib.Nifti1Image(voxels, image.affine), tmp_path / "half.nii.gz"), "half")
    with pytest.raises(FailedScans, match="no left hippocampus was found"):
        segment_scans([one], tmp_path / "out", model, JUDGE)
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_very_different_sides_are_flagged(tmp_path: Path, model: BrightModel) -> None:
    image = balls()
    voxels = np.asarray(image.dataobj).copy()
    world = np.indices(voxels.shape).reshape(3, -1).T @ image.affine[:3, :3].T + image.affine[:3, 3]
    far = np.linalg.norm(world - BALLS_MM["left"], axis=1).reshape(voxels.shape) > 6
    voxels[far & (world[:, 0].reshape(voxels.shape) < 0)] = 100
    one = Input(save(nib.Nifti1Image(voxels, image.affine), tmp_path / "small.nii.gz"), "small")
    segment_scans([one], tmp_path / "out", model, JUDGE)
    record = json.loads(ScanFiles(tmp_path / "out", one).record.read_text())
    assert any("left and right differ" in flag for flag in record["flags"])
    assert rows(tmp_path / "out")[-1]["flags"] == "asymmetry"


def test_flags_of_the_whole_head_are_in_the_table(
    tmp_path: Path, model: BrightModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = head.register
    monkeypatch.setattr(head, "register", lambda one: replace(register(one), inside=0.85))
    segment_scans([scan(tmp_path / "in")], tmp_path / "out", model, JUDGE)
    assert rows(tmp_path / "out")[-1]["flags"] == "head"


def test_probability_maps(tmp_path: Path, model: BrightModel) -> None:
    one = Input(save(balls().as_reoriented(ORDERS[30]), tmp_path / "in.nii.gz"), "in")
    (path,) = segment_scans([one], tmp_path / "out", model, JUDGE, SegmentOptions(probabilities=True))
    maps = nib.load(ScanFiles(tmp_path / "out", one).probabilities)
    labels = np.asarray(nib.load(path).dataobj)
    assert maps.shape == (*labels.shape, 4)
    np.testing.assert_array_equal(maps.affine, nib.load(path).affine)
    values = np.asarray(maps.dataobj)
    for value in range(1, 5):
        assert values[labels == value, value - 1].min() > 1 / 3
    names = json.loads(ScanFiles(tmp_path / "out", one).of_probabilities.read_text())
    assert names == {"LabelMap": ["left anterior", "left posterior", "right anterior", "right posterior"]}


@pytest.mark.parametrize("kind", ["aseg", "both", "each", "soft", "sides"])
def test_boxes_of_masks(kind: str, tmp_path: Path, model: BrightModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hippo_nnunet.segment.head.register", lambda scan: pytest.fail("must not be registered"))
    one = scan(tmp_path / "in")
    mask = mask_of(balls((3.0, 3.0, 3.0)))  # another grid
    values = np.asarray(mask.dataobj)
    wanted = {"aseg": [values], "both": [(values > 0) * 255], "each": [values == 17, values == 53]}.get(kind)
    if kind == "sides":
        wanted = [np.select([values == 17, values == 53], [1, 2])]
    if wanted is None:  # probabilities, among which are those numbers
        wanted = [(values > 0) * 100]
        for number, place in zip((17, 53), np.argwhere(values == 17)[:2], strict=True):
            wanted[0][tuple(place)] = number
    rois = [
        save(nib.Nifti1Image(np.asarray(array, np.uint8), mask.affine), tmp_path / f"{number}.nii.gz")
        for number, array in enumerate(wanted)
    ]
    (path,) = segment_scans([one], tmp_path / "out", model, JUDGE, SegmentOptions(rois=rois))
    labels = nib.load(path)
    world = np.argwhere(np.isin(labels.dataobj, (1, 2))) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
    np.testing.assert_allclose(world.mean(axis=0), BALLS_MM["left"], atol=0.7)


def test_a_mask_on_the_grid_of_a_scan_without_orientation(tmp_path: Path, model: BrightModel) -> None:
    """Its header says as little as the scan's: both are taken as --assume-ras says."""
    image = balls()
    voxels = np.asarray(mask_of(image).dataobj)
    one, roi = Input(tmp_path / "scan.nii.gz", "scan"), tmp_path / "roi.nii.gz"
    for array, path in ((np.asarray(image.dataobj), one.path), (voxels, roi)):
        without = nib.Nifti1Image(array, None)
        without.header.set_zooms(image.header.get_zooms())
        nib.save(without, path)
    options = SegmentOptions(rois=[roi], assume_ras=True)
    (path,) = segment_scans([one], tmp_path / "out", model, JUDGE, options)
    found = np.asarray(nib.load(path).dataobj)
    for value, parts in ((17, (1, 2)), (53, (3, 4))):
        assert np.isin(found[voxels == value], parts).mean() > 0.5


def test_masks_that_are_no_hippocampi(tmp_path: Path, model: BrightModel) -> None:
    one = scan(tmp_path / "in")
    image = nib.load(one.path)
    only = np.asarray(mask_of(image).dataobj) == 17
    far = image.affine.copy()
    far[:3, 3] += 500
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0]) @ image.affine
    for voxels, affine, message in (
        (only, image.affine, "1 pieces of 300 to 20000 mm3, expected two"),
        (np.zeros(image.shape), image.affine, "expected a 3D mask"),
        (np.asarray(mask_of(image).dataobj), far, "lies outside of"),
        (
            np.asarray(mask_of(image).dataobj),
            mirrored,
            r"its left hippocampus \(17\) lies to the right of the right one",
        ),
    ):
        roi = save(nib.Nifti1Image(voxels.astype(np.uint8), affine), tmp_path / "roi.nii.gz")
        with pytest.raises(FailedScans, match=message):
            segment_scans([one], tmp_path / "out", model, JUDGE, SegmentOptions(rois=[roi]))
    aseg = tmp_path / "aseg.mgz"
    aseg.write_bytes(b"\x1f\x8b")
    with pytest.raises(FailedScans, match=r"convert it, such as mri_convert .*aseg\.mgz roi\.nii\.gz"):
        segment_scans([one], tmp_path / "out", model, JUDGE, SegmentOptions(rois=[aseg]))


def test_finished_scans_are_kept(tmp_path: Path, model: BrightModel) -> None:
    scans, output = [scan(tmp_path / "in", name) for name in ("a", "b")], tmp_path / "out"
    first = segment_scans(scans, output, model, JUDGE)
    written, boxes = [path.stat().st_mtime_ns for path in first], len(model.seen)
    assert segment_scans(scans, output, model, JUDGE) == first
    assert len(model.seen) == boxes
    ScanFiles(output, scans[1]).record.unlink()  # killed before it was complete
    segment_scans(scans, output, model, JUDGE)
    assert len(model.seen) == boxes + 4
    assert first[0].stat().st_mtime_ns == written[0]
    segment_scans(scans, output, model, JUDGE, SegmentOptions(overwrite=True))
    assert len(model.seen) == boxes + 12


def test_a_damaged_result_is_made_again(tmp_path: Path, model: BrightModel, caplog: pytest.LogCaptureFixture) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    (path,) = segment_scans([one], output, model, JUDGE)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    segment_scans([one], output, model, JUDGE)
    assert path.read_bytes() == whole
    assert "truncated or damaged" in caplog.text and "segmented again" in caplog.text


def test_results_of_another_version_are_named(
    tmp_path: Path, model: BrightModel, caplog: pytest.LogCaptureFixture
) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    segment_scans([one], output, model, JUDGE)
    record = ScanFiles(output, one).record
    record.write_text(json.dumps(json.loads(record.read_text()) | {"version": "0.0.1"}))
    segment_scans([one], output, model, JUDGE)
    assert "as version 0.0.1 of this program made it" in caplog.text


def test_records_that_another_process_adds_meanwhile(
    tmp_path: Path, model: BrightModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    first, second = (scan(tmp_path / "in", name) for name in ("a", "b"))
    segment_scans([second], output, model, JUDGE)
    later = ScanFiles(output, second).record
    content = later.read_text()
    later.unlink()
    segment_scans([first], output, model, JUDGE)

    def written(path: Path, text: str) -> Path:
        later.write_text(content)  # after the records were listed
        return write_text(path, text)

    monkeypatch.setattr("hippo_nnunet.segment.tables.write_text", written)
    assert {row["scan"] for row in rows(output)} == {"a", "b"}


def test_results_of_something_else_are_not_taken_for_these(tmp_path: Path, model: BrightModel) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    segment_scans([one], output, model, JUDGE)
    model.path.write_bytes(b"another one")
    with pytest.raises(FailedScans, match="was made with another model: give --overwrite"):
        segment_scans([one], output, model, JUDGE)
    segment_scans([one], output, model, JUDGE, SegmentOptions(overwrite=True))
    save(balls((2.0, 2.0, 2.1)), one.path)
    with pytest.raises(FailedScans, match="was made with another scan"):
        segment_scans([one], output, model, JUDGE)


def test_probabilities_of_an_earlier_result_are_removed(tmp_path: Path, model: BrightModel) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    segment_scans([one], output, model, JUDGE, SegmentOptions(probabilities=True))
    files = ScanFiles(output, one)
    assert files.probabilities.exists() and files.of_probabilities.exists()
    segment_scans([one], output, model, JUDGE, SegmentOptions(overwrite=True))
    assert not files.probabilities.exists() and not files.of_probabilities.exists()


def test_intracranial_volumes_can_be_given_later(tmp_path: Path, model: BrightModel) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    segment_scans([one], output, model, JUDGE)
    assert rows(output)[-1]["intracranial_mm3"] == ""
    boxes = len(model.seen)
    segment_scans([one], output, model, JUDGE, SegmentOptions(intracranial_mm3={"scan": 1_000_000.0}))
    assert len(model.seen) == boxes
    last = rows(output)[-1]
    assert float(last["intracranial_percent"]) == pytest.approx(float(last["volume_mm3"]) / 10_000, abs=1e-3)


def test_killed_before_the_record_was_written(tmp_path: Path, model: BrightModel) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    (path,) = segment_scans([one], output, model, JUDGE)
    files = ScanFiles(output, one)
    files.record.unlink()
    assert segment_scans([one], output, model, JUDGE) == [path]
    files.record.unlink()
    files.lookup.unlink()
    with pytest.raises(FailedScans, match="is not a file of segment"):
        segment_scans([one], output, model, JUDGE)


def test_an_earlier_result_stays_until_there_is_a_new_one(tmp_path: Path, model: BrightModel) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    (path,) = segment_scans([one], output, model, JUDGE)
    before = path.read_bytes()
    save(nib.Nifti1Image(np.asarray(balls().dataobj) / 100, balls().affine), one.path)  # nothing is bright
    with pytest.raises(FailedScans, match="no left hippocampus was found"):
        segment_scans([one], output, model, JUDGE, SegmentOptions(overwrite=True))
    assert path.read_bytes() == before
    assert {row["scan"] for row in rows(output)} == {"scan"}


def test_foreign_files_are_not_replaced(tmp_path: Path, model: BrightModel) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    target = ScanFiles(output, one).labels
    save(balls(), target)
    before = target.read_bytes()
    for options in (SegmentOptions(), SegmentOptions(overwrite=True)):
        with pytest.raises(FailedScans, match="is not a file of segment"):
            segment_scans([one], output, model, JUDGE, options)
    assert target.read_bytes() == before


def test_left_over_temporary_files_are_no_scans(tmp_path: Path, model: BrightModel) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    segment_scans([one], output, model, JUDGE)
    before, record = rows(output), ScanFiles(output, one).record
    record.with_name(f".12.ab.{record.name}").write_bytes(record.read_bytes())
    assert rows(output) == before


def test_a_model_of_one_label_has_no_total(tmp_path: Path, model: BrightModel) -> None:
    judge = Judge(uncalibrated(with_total({"Hippocampus": 1})))
    segmentation = Segmentation("a", np.ones((3, 3, 3), np.uint8), (1.0, 1.0, 1.0), np.ones((2, 3, 3, 3), np.float32))
    found = [row | {"mask_mm3": 27.0} for side in ("left", "right") for row in judge.side(side, segmentation)[0]]
    row, _ = both_sides("a", found, None)
    assert (row["volume_mm3"], row["mask_mm3"], row["asymmetry_percent"]) == (pytest.approx(54), 54, pytest.approx(0))


def test_a_bad_scan_does_not_stop_the_others(tmp_path: Path, model: BrightModel) -> None:
    scans = [scan(tmp_path / "in", name) for name in ("a", "b", "c")]
    scans[1].path.write_bytes(scans[1].path.read_bytes()[:500])
    with pytest.raises(FailedScans, match=r"1 of 3 scans failed: .*b\.nii\.gz.*truncated") as raised:
        segment_scans(scans, tmp_path / "out", model, JUDGE)
    assert [path.name[0] for path in raised.value.written] == ["a", "c"]


def test_a_full_disk_stops_and_loses_nothing(
    tmp_path: Path, model: BrightModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, output = [scan(tmp_path / "in", name) for name in ("a", "b", "c")], tmp_path / "out"
    real: Callable = outputs.nib.save

    def full(image, path) -> None:
        if "b_desc" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(outputs.nib, "save", full)
        with pytest.raises(DependencyError, match="the disk is full after 1 of 3 scans"):
            segment_scans(scans, output, model, JUDGE)
    assert sorted(path.name for path in output.glob("*.nii.gz")) == ["a_desc-hippocampus_dseg.nii.gz"]
    assert {row["scan"] for row in rows(output)} == {"a"}
    boxes = len(model.seen)
    assert len(segment_scans(scans, output, model, JUDGE)) == 3
    assert len(model.seen) == boxes + 8
    assert {row["scan"] for row in rows(output)} == {"a", "b", "c"}


def test_observers_see_a_scan_before_it_counts_as_complete(tmp_path: Path, model: BrightModel) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"

    def observe(segmented) -> None:
        assert segmented.source == one
        assert segmented.doubt == pytest.approx(0.1, abs=1e-5)
        raise DataError("the page cannot be written")

    with pytest.raises(FailedScans, match="the page cannot be written"):
        segment_scans([one], output, model, JUDGE, SegmentOptions(observe=observe))
    assert not ScanFiles(output, one).record.exists()


def test_the_field_of_view_tells_heads_from_crops(tmp_path: Path) -> None:
    head = scan(tmp_path).path
    assert kind_of(head) == "head"
    assert kind_of(head, "crop") == "crop"
    crop = save(nib.Nifti1Image(np.ones((35, 50, 35), np.float32), np.eye(4)), tmp_path / "crop.nii.gz")
    assert kind_of(crop) == "crop"
    metres = balls()
    metres.header.set_xyzt_units("meter")
    metres.affine[:3] /= 1000
    metres.header["pixdim"][1:4] /= 1000
    assert kind_of(save(metres, tmp_path / "metres.nii.gz")) == "head"
    slab = save(nib.Nifti1Image(np.ones((200, 200, 60), np.float32), np.eye(4)), tmp_path / "slab.nii.gz")
    with pytest.raises(DataError, match=r"200 x 200 x 60 mm is neither .* --kind head or --kind crop"):
        kind_of(slab)


def test_output_folders(tmp_path: Path) -> None:
    one = scan(tmp_path / "in")
    check_output(tmp_path / "out", [one])
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "volumes.csv").write_text("my,own,table\n")
    with pytest.raises(DataError, match="is not a table of segment"):
        check_table(tmp_path / "out")
    with pytest.raises(DataError, match=r"is where scan\.nii\.gz lies"):
        check_output(tmp_path / "in", [one])
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file: choose a folder"):
        check_output(tmp_path / "file", [one])


def test_intracranial_volumes(tmp_path: Path) -> None:
    path = tmp_path / "icv.csv"
    path.write_text("scan,intracranial_mm3\na,1400000\n")
    assert read_intracranial(path) == {"a": 1_400_000}
    for text, message in (
        ("scan,volume\na,1\n", "expected scan and intracranial_mm3"),
        ("scan,intracranial_mm3\na,none\n", "intracranial volume of a is 'none'"),
        ("scan,intracranial_mm3\na,1450\n", "intracranial volume of a is '1450': expected mm3"),
        ("scan,intracranial_mm3\na,1400000\na ,1500000\n", "names a twice"),
        ("", "nothing"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_intracranial(path)


def test_options_are_part_of_what_was_made(tmp_path: Path, model: BrightModel) -> None:
    one, output = scan(tmp_path / "in"), tmp_path / "out"
    segment_scans([one], output, model, JUDGE)
    with pytest.raises(FailedScans, match="was made with another probabilities"):
        segment_scans([one], output, model, JUDGE, replace(SegmentOptions(), probabilities=True))
