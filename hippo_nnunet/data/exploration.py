"""Measure a dataset's images and labels before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hippo_nnunet.data.exploration_case import AXES, DIRECTIONS, TOTAL, foreground_labels, load_case, measure_case
from hippo_nnunet.data.finding import Finding
from hippo_nnunet.data.layout import Dataset
from hippo_nnunet.errors import DataError
from hippo_nnunet.progress import tracked

# nnU-Net's planner normalises within the non-zero mask if cropping to it leaves less than this share.
_MASKED_BELOW = 3 / 4
# Channel names for which nnU-Net's planner does not choose the z-score.
_OTHER_NORMALISATION = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}


@dataclass(frozen=True)
class Exploration:
    """Measurements of a dataset.

    Args:
        name: the dataset's name.
        description: its dataset.json.
        labels: name and values of each foreground label or region.
        channels: name of each channel.
        cases: a row for each case that could be read, training before test; the columns of ``measure_case``.
        problems: files that could not be read or measured.
    """

    name: str
    description: Mapping[str, Any]
    labels: Mapping[str, tuple[int, ...]]
    channels: tuple[str, ...]
    cases: pd.DataFrame
    problems: tuple[Finding, ...]

    @property
    def labelled(self) -> pd.DataFrame:
        """The rows with a measured label."""
        column = f"volume_mm3_{TOTAL}"
        return self.cases[self.cases[column].notna()] if column in self.cases else self.cases.iloc[:0]

    @property
    def regions_overlap(self) -> bool:
        """Whether a voxel can have two labels, so that shares do not add up."""
        values = [value for covered in self.labels.values() for value in covered]
        return len(values) > len(set(values))

    @property
    def masked(self) -> bool:
        """Whether nnU-Net's planner would normalise within the non-zero mask."""
        training = self.cases[self.cases.part == "training"]
        cases = self.cases if training.empty else training
        shares = np.prod([cases[f"cropped_{a}"] / cases[f"size_{a}"] for a in AXES], axis=0)
        return bool(np.median(shares) < _MASKED_BELOW)

    def normalisation(self, channel: int) -> str:
        """Return the name of nnU-Net's class that its planner would choose to normalise a channel."""
        return _OTHER_NORMALISATION.get(self.channels[channel].casefold(), "ZScoreNormalization")

    def z_scored(self, channel: int, column: str) -> npt.NDArray[np.float64]:
        """Apply nnU-Net's z-score, linear within an image, to a column such as ``p50``; shape (cases,)."""
        suffix = "_nonzero" if self.masked else ""
        mean, std = (self.cases[f"channel{channel}_{kind}{suffix}"].to_numpy(float) for kind in ("mean", "std"))
        values = self.cases[f"channel{channel}_{column}"].to_numpy(float)
        return np.asarray((values - mean) / np.maximum(std, 1e-8))


def explore_dataset(dataset: Dataset) -> Exploration:
    """Read and measure every case.

    Args:
        dataset: the dataset; unreadable cases become problems and are skipped.

    Returns:
        The measurements.

    Raises:
        DataError: the dataset has no image, or none that can be read.
    """
    cases = [*(("training", case) for case in dataset.training), *(("test", case) for case in dataset.test)]
    if not cases:
        raise DataError(f"{dataset.folder}: holds no image; put images into imagesTr and labels into labelsTr")
    labels = foreground_labels(dataset)
    rows, problems = [], []
    for part, case in tracked(cases, "measuring"):
        try:
            loaded, found = load_case(dataset, case)
            problems.extend(found)
            if loaded is not None:
                rows.append(measure_case(loaded, labels, part))
        except MemoryError:
            problems.append(Finding(case.images[0], case.id, "memory", "does not fit into the memory", "crop it"))
    if not rows:
        first = problems[0].describe(dataset.folder)
        raise DataError(
            f"{dataset.folder}: none of its {len(cases)} images can be read; first: {first}; list all with: "
            "hippo-nnunet data check"
        )
    return Exploration(
        name=str(dataset.description.get("name") or dataset.folder.name),
        description=dataset.description,
        labels=labels,
        channels=_channel_names(dataset),
        cases=pd.DataFrame(rows),
        problems=tuple(problems),
    )


def summarise(exploration: Exploration) -> dict[str, Any]:
    """Summarise the measurements for ``summary.json``.

    Returns:
        Counts, and for each quantity the number of cases, mean, standard deviation (n - 1; None for one case), minimum,
        quartiles and maximum over the cases. Shares are also pooled: all voxels of a label over all voxels.
    """
    cases, labelled = exploration.cases, exploration.labelled
    voxels = np.prod([labelled[f"size_{axis}"] for axis in AXES], axis=0) if len(labelled) else np.array([])
    names = [*exploration.labels, TOTAL] if len(labelled) else []
    return {
        "dataset": exploration.name,
        "training_images": int((cases.part == "training").sum()),
        "test_images": int((cases.part == "test").sum()),
        "labelled_images": len(labelled),
        "orientations": {str(k): int(v) for k, v in cases.orientation.value_counts().items()},
        "channels": list(exploration.channels),
        "normalisation": [exploration.normalisation(index) for index in range(len(exploration.channels))],
        "normalised_within_nonzero_mask": exploration.masked,
        "size_voxels": {axis: _describe(cases[f"size_{axis}"]) for axis in AXES},
        "spacing_mm": {axis: _describe(cases[f"spacing_{axis}_mm"]) for axis in AXES},
        "extent_mm": {axis: _describe(cases[f"extent_{axis}_mm"]) for axis in AXES},
        "median_intensity": {
            f"{index}: {name}": _describe(cases[f"channel{index}_p50"])
            for index, name in enumerate(exploration.channels)
        },
        "labels": {
            name: {
                "values": list(exploration.labels.get(name, ())) or "all of the above",
                "empty_in": int((labelled[f"volume_mm3_{name}"] == 0).sum()),
                "pooled_share": float((labelled[f"share_{name}"] * voxels).sum() / voxels.sum()),
                "share": _describe(labelled[f"share_{name}"]),
                "volume_mm3": _describe(labelled[f"volume_mm3_{name}"]),
                "centre_mm": {way: _describe(labelled[f"centre_{way}_mm_{name}"]) for way in DIRECTIONS},
            }
            for name in names
        },
        "problems": [
            {"case": p.case, "file": p.path.name, "problem": p.problem, "message": p.message}
            for p in exploration.problems
        ],
    }


def _channel_names(dataset: Dataset) -> tuple[str, ...]:
    names = dataset.description["channel_names" if dataset.form == "nnunet" else "modality"]
    return tuple(str(name) for name in (names.values() if isinstance(names, Mapping) else names))


def _describe(column: pd.Series[Any]) -> dict[str, float | int | None]:
    values = column.dropna()
    if values.empty:
        return {"cases": 0}
    names = ("cases", "mean", "sd", "min", "p25", "median", "p75", "max")
    found = dict(zip(names, map(float, values.describe()), strict=True))
    return {**found, "cases": len(values), "sd": found["sd"] if len(values) > 1 else None}
