"""What `data check` passes, goes through the readers and checks of all later commands; also with odd headers."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from hippo_nnunet.data.cases import check_images, find_cases
from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.exploration_case import load_case, measure_case
from hippo_nnunet.data.layout import read_dataset
from hippo_nnunet.data.nifti import check_header, read_volume
from hippo_nnunet.evaluation.tables import evaluate_folder
from hippo_nnunet.inference.explanation_files import write_nifti
from hippo_nnunet.inference.submission import write_submission

LABELS = {"background": 0, "one": 1}
FIELDS = nib.Nifti1Header.template_dtype.fields


@st.composite
def headers(draw: st.DrawFn) -> dict[str, Any]:
    """Draw what a header says: the affine, which forms hold it, its unit and type, and single fields that are wrong."""
    spacing = draw(st.sampled_from([(1.0, 1.0, 1.0), (0.9, 1.2, 3.0), (0.01, 0.01, 0.02), (20.0, 30.0, 20.0)]))
    axes = np.eye(3)[list(draw(st.permutations(range(3))))] * draw(st.sampled_from([1, -1]))
    affine = np.eye(4)
    affine[:3, :3] = (axes @ _turn(draw(st.sampled_from([0, 0, 0.3])))) * spacing
    affine[0, 1] += draw(st.sampled_from([0, 0, 0, 0.05])) * spacing[1]
    affine[:3, 3] = draw(st.sampled_from([(0, 0, 0), (-90.5, 126, 72.25)]))
    patches = st.sampled_from(
        [
            {},
            {"xyzt_units": 1},
            {"xyzt_units": 3},
            {"xyzt_units": 10},
            {"quatern_b": 0.70710, "quatern_c": 0.70712, "quatern_d": 0.0},
            {"srow_x": (1, 0, 0, 0), "srow_y": (0, 1, 0, 0), "srow_z": (0, 0, 1, 0)},
            {"pixdim": (1, 1, 1, 1, 0, 0, 0, 0)},
            {"pixdim": (-1, *spacing, 0, 0, 0, 0)},
            {"cal_max": 7.0, "descrip": b"scanner"},
        ]
    )
    return {
        "affine": affine,
        "codes": draw(st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from([0, 1, 4]))),
        "dtype": draw(st.sampled_from([np.uint8, np.int16, np.float32, np.float64])),
        "slope": draw(st.sampled_from([None, None, (2.0, 1.0)])),
        "order": draw(st.sampled_from("<<<>")),
        "patch": draw(patches),
    }


DATASETS = st.fixed_dictionaries(
    {
        "image": headers(),
        "label": st.sampled_from([1, 1, 1, 1, 0]).flatmap(lambda same: st.none() if same else headers()),
        "moved": st.sampled_from([0, 0, 0, 0.004, 0.02]),
        "channels": st.sampled_from([1, 2]),
        "format": st.sampled_from(
            [
                (".nii.gz", None),
                (".nii.gz", "NibabelIO"),
                (".nii.gz", "SimpleITKIOWithReorient"),
                (".nii.gz", "NibabelIOWithReorient"),
                (".nii", None),
            ]
        ),
    }
)


def _turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def write(path: Path, voxels: np.ndarray, header: dict[str, Any], moved: float, plain: bool = False) -> None:
    """Write an image, shifted along its first axis by a share of a voxel."""
    affine = header["affine"].copy()
    affine[:3, 3] += moved * affine[:3, 0]
    made = nib.Nifti1Header(endianness=header["order"])
    made.set_data_dtype(np.uint8 if plain else header["dtype"])
    image = nib.Nifti1Image(voxels.astype(made.get_data_dtype()), affine, made)
    image.set_qform(affine, header["codes"][0], strip_shears=True)
    image.set_sform(affine, header["codes"][1])
    if header["slope"] and not plain:
        image.header.set_slope_inter(*header["slope"])
    content = bytearray(image.to_bytes())
    for field, values in header["patch"].items():
        dtype, offset = FIELDS[field][:2]
        stored = np.array(values, dtype.base.newbyteorder(header["order"])).tobytes()
        content[offset : offset + len(stored)] = stored
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(bytes(content), 1) if path.suffix == ".gz" else bytes(content))


def make(folder: Path, drawn: dict[str, Any]) -> None:
    """Write a dataset of two cases whose headers are equal."""
    rng, (ending, reader) = np.random.default_rng(0), drawn["format"]
    for case in "ab":
        for channel in range(drawn["channels"]):
            path = folder / "imagesTr" / f"{case}_{channel:04d}{ending}"
            write(path, rng.integers(1, 250, (5, 6, 7)), drawn["image"], drawn["moved"] * channel)
        label = rng.integers(0, 2, (5, 6, 7))
        header = drawn["label"] or drawn["image"]
        write(folder / "labelsTr" / f"{case}{ending}", label, header, drawn["moved"], plain=True)
    content = {"channel_names": {str(n): "MRI" for n in range(drawn["channels"])}, "labels": LABELS, "numTraining": 2}
    content |= {"file_ending": ending, "overwrite_image_reader_writer": reader or "None"}
    (folder / "dataset.json").write_text(json.dumps(content))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=DATASETS)
def test_what_the_check_passes_goes_through(tmp_path_factory: Any, drawn: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("one") / "Dataset001_X"
    make(folder, drawn)
    errors = [finding for finding in check_dataset(folder) if finding.severity == "error"]
    event(", ".join(sorted({finding.problem for finding in errors})) or "passed")
    if errors:
        return
    dataset, ending = read_dataset(folder), drawn["format"][0]
    description = json.loads((folder / "dataset.json").read_text())
    reader = determine_reader_writer_from_dataset_json(description, str(dataset.training[0].images[0]), verbose=False)
    assert reader.__name__ == dataset.reader
    found = find_cases(folder / "imagesTr", drawn["channels"])
    assert [case.case for case in found] == ["a", "b"]
    for case, scan in zip(dataset.training, found, strict=True):
        assert case.label is not None
        assert check_cases([str(path) for path in case.images], str(case.label), drawn["channels"], reader)
        checked = check_images(scan, dataset.reader)  # predict and explain
        loaded, problems = load_case(dataset, case)  # explore
        assert loaded is not None and loaded.label is not None and not problems
        measured = measure_case(loaded, {"one": (1,)}, "training")
        volume = read_volume(case.images[0], reader=dataset.reader)
        assert measured["orientation"] == checked.axis_codes == check_header(case.images[0], dataset.reader)
        written = write_nifti(np.zeros(volume.array.shape, np.uint8), case.images[0], folder / "maps" / "m.nii.gz")
        assert read_volume(written, reader=dataset.reader).shape == volume.shape
        array, properties = reader().read_images([str(path) for path in case.images])
        np.testing.assert_allclose(np.sort(array[0], axis=None), np.sort(volume.array, axis=None), rtol=1e-6)
        target = folder / "out" / f"{case.id}{ending}"
        target.parent.mkdir(exist_ok=True)
        reader().write_seg((array[0] > 100).astype(np.uint8), str(target), properties)
    table = evaluate_folder(folder / "out", folder / "labelsTr", {"one": 1}, ending, reader_name=dataset.reader)
    np.testing.assert_allclose(table["volume_mm3"] / volume_of(dataset, folder), 1, rtol=3.1e-3)
    if ending == ".nii.gz":
        assert write_submission(folder / "out", folder / "imagesTr", folder / "s.zip", labels={0, 1}) == ["a", "b"]


def volume_of(dataset: Any, folder: Path) -> list[float]:
    """Voxels above 100 of each case, in mm3 by the voxel size that the check has read."""
    volumes = [read_volume(case.images[0], reader=dataset.reader) for case in dataset.training]
    return [float((v.array > 100).sum() * np.prod(v.spacing_mm)) for v in volumes]
