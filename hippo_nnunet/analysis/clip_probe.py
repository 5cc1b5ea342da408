"""How much an encoder's embeddings of slices say about the labels, beside a slice's position: before any training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from hippo_nnunet.clip.encoder import CLIPEncoder, load_encoder
from hippo_nnunet.clip.guidance_cache import guidance_axis, slice_embeddings
from hippo_nnunet.clip.models import EncoderChoice
from hippo_nnunet.clip.prompts import class_names
from hippo_nnunet.clip.text import class_embeddings
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.labels import named_labels
from hippo_nnunet.evaluation.metrics import Label
from hippo_nnunet.files import read_object
from hippo_nnunet.nnunet.case_files import check_cases
from hippo_nnunet.nnunet.memory_cases import read_case, shapes
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.plans import configuration_of, read_plans
from hippo_nnunet.nnunet.preprocessed import data_folder, stored_cases
from hippo_nnunet.nnunet.splits import read_splits

log = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]

PENALTIES = np.logspace(-2, 6, 17)
"""Penalties of the ridge regression, of which generalised cross-validation on the training slices chooses."""

SEED = 12345


@dataclass(frozen=True)
class ProbedSlices:
    """Slices of cases, with what is known of each.

    Args:
        folds: Index of the fold that validates the slice's case, (slices,).
        embeddings: The encoder's, (slices, embed_dim).
        positions: From 0 at the case's first slice to 1 at its last, (slices,).
        voxels: Number of voxels of each label, (slices, labels).
    """

    folds: npt.NDArray[np.int64]
    embeddings: Array
    positions: Array
    voxels: Array


@dataclass(frozen=True)
class LabelProbe:
    """What predicts a label's voxels in a slice: cross-validated R2 of log(1 + voxels), at most 1; 0 is the mean.

    Args:
        label: Its name.
        embedding: From the slice's embedding.
        position: From the slice's position.
        both: From the two together.
        recall: Share of the slices showing mostly this label whose nearest class text is this label's; None for
            regions, and without such slices.
    """

    label: str
    embedding: float | None
    position: float | None
    both: float | None
    recall: float | None


@dataclass(frozen=True)
class Probe:
    """The outcome.

    Args:
        encoder: Its name.
        sha256: Its hash.
        embed_dim: Length of an embedding.
        dataset: Full name.
        plans: Name of the plans.
        configuration: Such as `2d`.
        cases: Number of cases.
        slices: Number of slices.
        folds: Number of folds, by the dataset's own split.
        labels: One for each label; the background, of which only the recall is known, last.
        recall: Mean of the labels' recalls, background included.
    """

    encoder: str
    sha256: str
    embed_dim: int
    dataset: str
    plans: str
    configuration: str
    cases: int
    slices: int
    folds: int
    labels: list[LabelProbe]
    recall: float | None


def probe(
    choice: EncoderChoice, dataset: str, plans_name: str, configuration: str, folders: NnunetFolders, limit: int,
    device: str,
) -> Probe:  # fmt: skip
    """Probe an encoder on the preprocessed cases of a dataset.

    The embeddings are those that a `cached` training uses, and are stored for it.

    Args:
        choice: The encoder.
        dataset: Full name.
        plans_name: Name of the plans.
        configuration: Such as `2d`.
        folders: nnU-Net's folders.
        limit: Cases are drawn until they have this number of slices; 0: all cases.
        device: Where the encoder runs.

    Raises:
        ConfigError: The dataset is not planned, or the encoder does not exist.
        DataError: It is not preprocessed, has no split into folds, or has a case whose files could run code.
        DependencyError: The encoder's weights or packages are missing.
    """
    plans = read_plans(dataset, plans_name, folders)
    folder = data_folder(plans, configuration, folders)
    splits = read_splits(dataset, folders)
    planned = f"run: hippo-nnunet plan --dataset {int(dataset[7:10])} --configurations {configuration}"
    if splits is None or not any(folder.glob("*.pkl")):
        missing = "no split into folds" if splits is None else f"no preprocessed cases in {folder}"
        raise DataError(f"{dataset}: there is {missing}; {planned}")
    fold_of = {case: fold for fold, split in enumerate(splits) for case in split["val"]}
    dataset_json = read_object(folders.preprocessed / dataset / "dataset.json")
    labels, ignored = named_labels(dataset_json)
    axis = guidance_axis(configuration_of(plans, configuration)["patch_size"])
    encoder = load_encoder(choice)
    check_cases(folder, sorted({*fold_of} & stored_cases(folder)))
    chosen = _draw(folder, sorted(fold_of), axis, limit)
    found = _slices(folder, chosen, fold_of, encoder, axis, plans["transpose_forward"], labels, ignored, device)
    rows, recall = judge(found, list(labels), _nearest_class(encoder, dataset_json, labels, found))
    return Probe(
        encoder.name, encoder.sha256, encoder.embed_dim, dataset, plans_name, configuration, len(chosen),
        len(found.folds), len({*found.folds.tolist()}), rows, recall,
    )  # fmt: skip


def _draw(folder: Path, cases: Sequence[str], axis: int, limit: int) -> list[str]:
    """Return cases in random order, as many as have the wanted number of slices."""
    if not limit:
        return list(cases)
    order = [cases[place] for place in np.random.default_rng(SEED).permutation(len(cases))]
    drawn: list[str] = []
    total = 0
    for case, shape in zip(order, shapes(infer_dataset_class(str(folder))(str(folder), order)), strict=True):
        if total >= limit:
            break
        drawn.append(case)
        total += shape[axis + 1]
    return sorted(drawn)


def _slices(
    folder: Path, cases: list[str], fold_of: dict[str, int], encoder: CLIPEncoder, axis: int, transpose: Sequence[int],
    labels: dict[str, Label], ignored: int | None, device: str,
) -> ProbedSlices:  # fmt: skip
    dataset = infer_dataset_class(str(folder))(str(folder), cases)
    embeddings = slice_embeddings(dataset, encoder, axis, transpose, torch.device(device), log.info)
    folds: list[int] = []
    positions, voxels = [], []
    for case in cases:
        segmentation = np.moveaxis(read_case(dataset, case)[1][0], axis, 0)
        if ignored is not None and (segmentation == ignored).any():
            log.warning("case '%s' has voxels to ignore: they count as background here", case)
        count = len(segmentation)
        flat = segmentation.reshape(count, -1)
        voxels.append(np.stack([np.isin(flat, values).sum(axis=1) for values in labels.values()], axis=1))
        positions.append(np.linspace(0, 1, count))
        folds += [fold_of[case]] * count
    joined = torch.cat([embeddings[case] for case in cases]).double().numpy()
    return ProbedSlices(np.array(folds), joined, np.concatenate(positions), np.concatenate(voxels).astype(float))


def _nearest_class(
    encoder: CLIPEncoder, dataset_json: dict[str, Any], labels: dict[str, Label], found: ProbedSlices
) -> npt.NDArray[np.int64] | None:
    """Return the label whose text is nearest to each slice, background last; None for regions."""
    names = class_names(dataset_json)
    background = [name for name in names if name not in labels]
    if any(isinstance(values, tuple) for values in labels.values()) or len(background) != 1:
        return None
    texts = class_embeddings(encoder, dataset_json).double().numpy()
    ordered = np.stack([texts[names.index(name)] for name in [*labels, *background]])
    return np.asarray((found.embeddings @ ordered.T).argmax(axis=1))


def judge(
    found: ProbedSlices, labels: Sequence[str], nearest: npt.NDArray[np.int64] | None
) -> tuple[list[LabelProbe], float | None]:
    """Compare the predictors.

    Args:
        found: The slices; at least two folds.
        labels: Their names.
        nearest: Label whose text is nearest to each slice, the background last; None: not known.

    Returns:
        One row for each label, with `nearest` one for the background too, and the mean recall.

    Raises:
        DataError: The slices are of one fold.
    """
    if len({*found.folds.tolist()}) < 2:
        raise DataError("the cases drawn are all of one fold: draw more of them (--slices)")
    amounts = np.log1p(found.voxels)
    places = position_features(found.positions)
    explained = [
        explained_variance(features, amounts, found.folds)
        for features in (found.embeddings, places, np.hstack([found.embeddings, places]))
    ]
    recalls: list[float | None] = [None] * len(labels)
    if nearest is not None:
        shown = np.where(found.voxels.any(axis=1), found.voxels.argmax(axis=1), len(labels))
        classes = range(len(labels) + 1)
        recalls = [float((nearest[shown == row] == row).mean()) if (shown == row).any() else None for row in classes]
    embedding, position, both = (part.tolist() for part in explained)
    table = [
        LabelProbe(name, embedding[row], position[row], both[row], recalls[row]) for row, name in enumerate(labels)
    ]
    if nearest is not None:
        table.append(LabelProbe("background", None, None, None, recalls[-1]))
    given = [recall for recall in recalls if recall is not None]
    return table, float(np.mean(given)) if given else None


def position_features(positions: Array) -> Array:
    """Return five numbers of each position in [0, 1], (slices, 5)."""
    turn = 2 * np.pi * positions
    return np.stack([positions, positions**2, positions**3, np.sin(turn), np.cos(turn)], axis=1)


def explained_variance(features: Array, targets: Array, folds: npt.NDArray[np.int64]) -> Array:
    """Return R2 of ridge regression, cross-validated.

    Args:
        features: Shape (slices, features); standardised by the training slices.
        targets: Shape (slices, targets).
        folds: Fold of each slice.

    Returns:
        Shape (targets,): 1 - squared error of all validated slices / their variance; 0 for a constant target.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted = np.empty_like(targets)
    for fold in np.unique(folds):
        validated = folds == fold
        model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES, alpha_per_target=True))
        model.fit(features[~validated], targets[~validated])
        predicted[validated] = model.predict(features[validated]).reshape(-1, targets.shape[1])
    variance = targets.var(axis=0)
    error = ((targets - predicted) ** 2).mean(axis=0)
    return np.where(variance > 0, 1 - error / np.where(variance > 0, variance, 1), 0.0)


def lines(found: Probe) -> list[str]:
    """Return the outcome as a table of at most 80 columns, names of labels cut where they are longer."""
    text = [
        f"encoder: {found.encoder}",
        f"  sha256 {found.sha256[:12]}, {found.embed_dim} numbers an embedding",
        f"{found.dataset} {found.configuration}, {found.plans}: {found.slices} slices of {found.cases} cases,",
        f"  {found.folds} folds of the dataset's split",
        "",
        "R2 of log(1 + voxels) in a slice, and recall by the class prompts",
        f"{'label':<24} {'embedding':>10} {'position':>10} {'both':>10} {'gain':>10} {'recall':>10}",
    ]
    for row in found.labels:
        gain = None if row.both is None or row.position is None else row.both - row.position
        numbers = (row.embedding, row.position, row.both)
        shown = [*(f"{n:10.2f}" if n is not None else " " * 10 for n in numbers),
                 f"{gain:+10.2f}" if gain is not None else " " * 10,
                 f"{row.recall:10.2f}" if row.recall is not None else " " * 10]  # fmt: skip
        text.append(" ".join([f"{row.label[:24]:<24}", *shown]).rstrip())
    if found.recall is not None:
        text.append(f"{'mean':<24} {' ' * 43} {found.recall:10.2f}")
        text.append(f"a guess: recall {1 / len(found.labels):.2f}")
    text.append("gain: what the embedding adds to the slice's position")
    return text
