"""Out-of-fold Dice of every candidate ensemble, computed in passes over the probability files."""

from __future__ import annotations

import logging
from collections.abc import ItemsView, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.labels import label_manager_of, named_labels
from hippo_nnunet.evaluation.postprocessing import postprocess
from hippo_nnunet.evaluation.probabilities import load_probabilities
from hippo_nnunet.evaluation.reading import find_reader, read_segmentation
from hippo_nnunet.progress import tracked

logger = logging.getLogger(__name__)

Subset = tuple[int, ...]
"""Members of one candidate ensemble: ascending indices."""

Candidate = tuple[Subset, str]
"""A subset and the name of its postprocessing."""


class OutOfFoldDice:
    """Dice of candidate ensembles on every case.

    Args:
        members: Name of each member, and its out-of-fold probability file for each case.
        references: Folder of reference segmentations, `<case><file_ending>`.
        dataset_json: Content of nnU-Net's dataset.json: labels, regions, ignore label, file ending.

    Raises:
        DataError: No member, or members that do not cover the same cases.
    """

    def __init__(
        self, members: Mapping[str, Mapping[str, Path]], references: Path, dataset_json: Mapping[str, Any]
    ) -> None:
        if not members:
            raise DataError("no model to choose from: give the out-of-fold probabilities of at least one")
        self.names = list(members)
        self.cases = sorted(set().union(*members.values()))
        for name, files in members.items():
            missing = sorted(set(self.cases) - set(files))
            if missing:
                raise DataError(
                    f"{name}: no out-of-fold probabilities for {len(missing)} of {len(self.cases)} cases "
                    f"({', '.join(missing[:3])}): validate the missing folds with --npz, or leave this model out"
                )
        self.labels, self._ignore_label = named_labels(dataset_json)
        self._files = list(members.values())
        self._references = references
        self._ending = str(dataset_json["file_ending"])
        self._preferred_reader = dataset_json.get("overwrite_image_reader_writer")
        self._manager = label_manager_of(dataset_json)
        self._tables: dict[Candidate, np.ndarray] = {}

    def __getitem__(self, candidate: Candidate) -> np.ndarray:
        """Dice of a candidate that was computed: shape (cases, labels), NaN where nnU-Net's Dice is undefined."""
        return self._tables[candidate]

    def items(self) -> ItemsView[Candidate, np.ndarray]:
        """Every candidate that was computed, with its Dice."""
        return self._tables.items()

    def compute(self, candidates: Iterable[Candidate]) -> None:
        """Compute missing candidates; one pass over the files, one case in memory at a time.

        Raises:
            DataError: A file is missing, unreadable, or its shape is not the reference's.
        """
        new = sorted(set(candidates) - set(self._tables))
        if not new:
            return
        logger.info("out-of-fold Dice of %d candidate ensembles on %d cases", len(new), len(self.cases))
        tables = np.empty((len(new), len(self.cases), len(self.labels)))
        example = self._references / f"{self.cases[0]}{self._ending}"
        reader = find_reader(self._ending, example, self._preferred_reader)
        members = sorted({member for subset, _ in new for member in subset})
        for row, case in enumerate(tracked(self.cases, "averaging")):
            reference, _ = read_segmentation(reader, self._references / f"{case}{self._ending}")
            expected = (self._manager.num_segmentation_heads, *reference.shape)
            probabilities = {member: load_probabilities(self._files[member][case], expected) for member in members}
            count = _ConfusionCounter(reference, self._manager.all_labels, self._ignore_label, case)
            sums: dict[Subset, np.ndarray] = {}
            for column, (subset, name) in enumerate(new):
                total = _subset_sum(subset, probabilities, sums)
                segmentation = np.asarray(self._manager.convert_probabilities_to_segmentation(total / len(subset)))
                segmentation = postprocess(segmentation, name, self._manager)
                tables[column, row] = count.dice(segmentation, list(self.labels.values()))
        self._tables.update(zip(new, tables, strict=True))


def _subset_sum(subset: Subset, probabilities: Mapping[int, np.ndarray], sums: dict[Subset, np.ndarray]) -> np.ndarray:
    """Add up members from the left, as `inference.ensembling` does, so that both get the same floats.

    Candidates are sorted, so only the sums of the current subset's prefixes are reused.
    """
    if subset in sums:
        return sums[subset]
    for known in [known for known in sums if known != subset[: len(known)]]:
        del sums[known]
    last = probabilities[subset[-1]]
    sums[subset] = _subset_sum(subset[:-1], probabilities, sums) + last if len(subset) > 1 else last
    return sums[subset]


class _ConfusionCounter:
    """Dice of many segmentations against one reference through their confusion matrix."""

    def __init__(self, reference: np.ndarray, all_labels: list[int], ignore_label: int | None, case: str) -> None:
        values = reference.astype(np.int64)
        self._use = None if ignore_label is None else values != ignore_label
        known = [*all_labels] if ignore_label is None else [*all_labels, ignore_label]
        strange = np.setdiff1d(np.unique(reference), known)
        if len(strange):
            raise DataError(
                f"case {case}: the reference holds the values {strange.tolist()}, dataset.json knows {known}: "
                "correct the labels"
            )
        self._size = int(max(all_labels)) + 1
        self._codes = (values if self._use is None else values[self._use]).ravel() * self._size

    def dice(self, segmentation: np.ndarray, labels: Iterable[int | tuple[int, ...]]) -> list[float]:
        predicted = (segmentation if self._use is None else segmentation[self._use]).ravel()
        counts = np.bincount(self._codes + predicted, minlength=self._size**2).reshape(self._size, self._size)
        dice = []
        for label in labels:
            index = np.atleast_1d(np.asarray(label))
            volumes = int(counts[index].sum() + counts[:, index].sum())
            overlap = int(counts[np.ix_(index, index)].sum())
            dice.append(2 * overlap / volumes if volumes else np.nan)
        return dice
