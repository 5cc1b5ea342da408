"""The voxels of the cases that a report's viewers show, checked against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from hippo_nnunet.analysis.notebook_scores import prediction_files
from hippo_nnunet.data.finding import FoundProblem
from hippo_nnunet.data.grid import grid_difference
from hippo_nnunet.data.layout import image_reader
from hippo_nnunet.data.nifti import Volume, read_volume
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.labels import named_labels
from hippo_nnunet.evaluation.metrics import mask_dice
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.evaluation.side_by_side import full_rows
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.files import read_json
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import first_channels
from hippo_nnunet.pages.report.content import without_folders
from hippo_nnunet.pages.report.viewer_choice import Reason, ViewedModel, choose_cases, viewed_models

_TOLERANCE_DICE = 1e-4
_MOST_LABELS = 255
_NIFTI = (".nii", ".nii.gz")

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ViewedCase:
    """A case on axes that point right, anterior and superior as nearly as they can without resampling.

    Attributes:
        case: Its identifier.
        reasons: Why it was chosen, at least one.
        image: The first channel, shape (right, anterior, superior).
        reference: 0 for background, n for the nth label; of the image's shape. Ignored voxels are background.
        predictions: The same of each model that has predicted it out of fold, by the model's position.
        dice: Of each of these models, for each label; None if neither has the label.
        affine: Voxel-to-world matrix of these axes, shape (4, 4), in mm, RAS+.
        spacing_mm: Voxel size along these axes.
        notes: What a viewer of the case should know.
    """

    case: str
    reasons: Sequence[Reason]
    image: npt.NDArray[np.generic]
    reference: Labels
    predictions: Mapping[int, Labels]
    dice: Mapping[int, list[float | None]]
    affine: npt.NDArray[np.float64]
    spacing_mm: tuple[float, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Viewed:
    """Everything that the viewers show.

    Attributes:
        labels: Names of the plain labels, in the order of their values.
        models: In the report's order.
        channel: Name of the channel that is shown.
        cases: In the order of the choice.
        notes: What is left out, and why.
    """

    labels: tuple[str, ...]
    models: tuple[ViewedModel, ...]
    channel: str
    cases: tuple[ViewedCase, ...]
    notes: tuple[str, ...]


def load_viewed(folder: Path, root: Path | None, count: int) -> Viewed:
    """Choose the cases of an experiment and read them.

    Args:
        folder: The experiment's folder.
        root: See `ExperimentPaths.nnunet`.
        count: Maximum number of cases.

    Raises:
        ConfigError: `count` is below one.
        DataError: See `read_per_case`.
    """
    if count < 1:
        raise ConfigError(f"got {count} cases for the viewers: ask for at least one")
    paths = ExperimentPaths(folder)
    table = full_rows(read_per_case(paths.per_case))
    models = viewed_models(table)
    try:
        chosen = choose_cases(table, models, count)
        experiment = Experiment.load(paths.request)
        folders = paths.nnunet(root)
        files = _Files.find(experiment, folder, folders, table[table["case"].isin(chosen)])
    except (ConfigError, DataError) as error:
        note = f"Slices and surfaces are not shown: {without_folders(str(error), paths, root)}."
        return Viewed((), models, "", (), (note,))
    cases, notes = [], []
    for case, reasons in chosen.items():
        try:
            cases.append(_load_case(case, reasons, files, models, table[table["case"] == case]))
        except DataError as error:
            notes.append(f"Case {case} is not shown: {error}.")
    return Viewed(tuple(files.names), models, files.channel, tuple(cases), tuple(notes))


@dataclass(frozen=True)
class _Files:
    """The files of the cases, and what the label values mean."""

    names: Mapping[str, int]
    measured: Mapping[str, tuple[int, ...]]
    ignored: int | None
    channel: str
    images: Mapping[str, Path]
    references: Path
    predictions: Mapping[tuple[str, str], Mapping[str, Path]]
    ending: str
    reader: str

    @classmethod
    def find(cls, experiment: Experiment, folder: Path, folders: NnunetFolders, table: pd.DataFrame) -> _Files:
        preprocessed = folders.preprocessed / experiment.dataset
        raw = folders.raw / experiment.dataset
        if not (raw / "dataset.json").is_file():
            raise DataError(f"no images: nnU-Net's raw folder holds none of {experiment.dataset}")
        if not preprocessed.is_dir():
            raise DataError(f"no references: nnU-Net's preprocessed folder holds none of {experiment.dataset}")
        description = read_json(preprocessed / "dataset.json")
        ending = str(description.get("file_ending"))
        if ending not in _NIFTI:
            raise DataError(f"the images are {ending} files, and only {' and '.join(_NIFTI)} are shown")
        labels, ignored = named_labels(description)
        measured = {name: value if isinstance(value, tuple) else (value,) for name, value in labels.items()}
        channels = description.get("channel_names", {})
        return cls(
            names=plain_labels(measured),
            measured=measured,
            ignored=ignored,
            channel=str(channels.get("0", "channel 0")) if len(channels) > 1 else "",
            images=first_channels(raw, table["case"].unique(), ending),
            references=preprocessed / "gt_segmentations",
            predictions=prediction_files(experiment, folder, folders, table, ending),
            ending=ending,
            reader=image_reader(description, ending),
        )


def plain_labels(measured: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Name every single label value, also those that only regions hold.

    Args:
        measured: Name of each label or region, and its values.

    Returns:
        Name to value, in the order of the values.

    Raises:
        DataError: More labels than a byte can tell apart.
    """
    single = {values[0]: name for name, values in measured.items() if len(values) == 1}
    found = sorted({value for values in measured.values() for value in values} - {0})
    if len(found) > _MOST_LABELS:
        raise DataError(f"{len(found)} labels are more than the {_MOST_LABELS} that the viewers can tell apart")
    return {single.get(value, f"label {value}"): value for value in found}


def _load_case(
    case: str, reasons: Sequence[Reason], files: _Files, models: Sequence[ViewedModel], rows: pd.DataFrame
) -> ViewedCase:
    if case not in files.images:
        raise DataError("dataset.json in nnU-Net's raw folder does not list it")
    image = _read(files.images[case], case, files.reader)
    raw_reference = _read_labels(files.references / f"{case}{files.ending}", case, image, files)
    notes: list[str] = []
    ignore = raw_reference == files.ignored if files.ignored is not None else np.zeros(raw_reference.shape, dtype=bool)
    if ignore.any():
        notes.append("voxels that the reference ignores are shown as background everywhere, as in the metrics")
    reference = np.where(ignore, 0, raw_reference)
    segmentations: dict[int, npt.NDArray[Any]] = {}
    for position, model in enumerate(models):
        path = files.predictions.get((model.variant, model.configuration), {}).get(case)
        if path is None:
            continue
        own = rows[(rows["variant"] == model.variant) & (rows["configuration"] == model.configuration)]
        try:
            prediction = np.where(ignore, 0, _read_labels(path, case, image, files))
            _check_measured(reference, prediction, own, files.measured, path)
        except DataError as error:
            notes.append(f"{model.name} is not shown: {error}")
            continue
        segmentations[position] = prediction
    if not segmentations:
        raise DataError("; ".join(notes))
    values = list(files.names.values())
    dice = {n: [mask_dice(reference == v, mask == v) for v in values] for n, mask in segmentations.items()}
    orientation = io_orientation(image.affine)
    affine = image.affine @ inv_ornt_aff(orientation, image.shape)
    return ViewedCase(
        case=case,
        reasons=reasons,
        image=np.asarray(apply_orientation(image.array.T, orientation)),
        reference=_turn(reference, values, orientation),
        predictions={n: _turn(mask, values, orientation) for n, mask in segmentations.items()},
        dice={n: [None if np.isnan(d) else round(d, 4) for d in found] for n, found in dice.items()},
        affine=affine,
        spacing_mm=tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)),
        notes=tuple(notes),
    )


def _read(path: Path, case: str, reader: str) -> Volume:
    """Read a file; a page names it without its folder, which differs between machines."""
    try:
        return read_volume(path, case, reader)
    except FoundProblem as problem:
        raise DataError(f"{path.name}: {problem.finding.message}") from problem


def _read_labels(path: Path, case: str, image: Volume, files: _Files) -> npt.NDArray[Any]:
    """Read a label map, shape (z, y, x), and refuse one that is not on the image's grid or holds undeclared values."""
    volume = _read(path, case, files.reader)
    difference = grid_difference(volume.grid, image.grid, "the image")
    if difference:
        raise DataError(f"{path.name}: {difference.text}")
    known = {0, *files.names.values(), *([] if files.ignored is None else [files.ignored])}
    unknown = [value for value in np.unique(volume.array).tolist() if value not in known]
    if unknown or volume.non_finite:
        raise DataError(f"{path.name}: holds {unknown[0] if unknown else 'NaN'}, which dataset.json does not declare")
    return volume.array


def _check_measured(
    reference: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    rows: pd.DataFrame,
    measured: Mapping[str, tuple[int, ...]],
    path: Path,
) -> None:
    """Refuse a prediction that is not the one in the table of metrics."""
    for label, expected in rows[["label", "dice"]].itertuples(index=False):
        if label not in measured:
            raise DataError(f"label {label} of the metrics is not in dataset.json")
        found = mask_dice(np.isin(reference, measured[label]), np.isin(prediction, measured[label]))
        if not np.isclose(found, expected, rtol=0, atol=_TOLERANCE_DICE, equal_nan=True):
            raise DataError(
                f"{path.name}: Dice of {label} is {found:.4f}, but {expected:.4f} was measured; evaluate again"
            )


def _turn(array: npt.NDArray[Any], values: Sequence[int], orientation: npt.NDArray[Any]) -> Labels:
    turned = np.asarray(apply_orientation(array.T, orientation))
    positions = np.searchsorted(values, turned) + 1
    return np.where(turned == 0, 0, positions).astype(np.uint8)
