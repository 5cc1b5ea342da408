"""CLIP's embedding of each slice of each preprocessed case: computed once, stored with the data, found by position."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hippo_nnunet.clip.encoder import CLIPEncoder
from hippo_nnunet.clip.orientation import axis_directions, common_directions, slice_view
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.files import atomic_path
from hippo_nnunet.locks import exclusive
from hippo_nnunet.networks.guidance import GUIDANCE_SLICES, SliceView, pool_slices, slicing_axis, spaced_slices
from hippo_nnunet.networks.token_maps import token_features

SAVE_INTERVAL_S = 60.0
"""Seconds of encoding after which the results so far are written, so that little is lost if the process is killed."""

REPORT_INTERVAL_S = 10.0

_CASES_LOOKED_AT = 20

_ENDINGS = (".b2nd", ".npz", ".npy")
"""Suffixes of the file with a case's image, in nnU-Net's formats of preprocessed data."""


class Dataset(Protocol):
    """The part of nnU-Net's datasets that is used here."""

    source_folder: str
    identifiers: list[str]

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Return image (channel, z, y, x), segmentation, an earlier stage's segmentation, and properties."""


class CachedGuidance:
    """The guidance of patches, by case and position.

    Args:
        embeddings: Case to the unit embeddings of its slices, (slices, embed_dim).
        patch_size: Patch in voxels; two numbers for slices along the first axis of a case.
    """

    def __init__(self, embeddings: dict[str, torch.Tensor], patch_size: Sequence[int]) -> None:
        self._embeddings = embeddings
        self._axis = guidance_axis(patch_size)
        self._length = 1 if len(patch_size) == 2 else int(patch_size[self._axis])

    def __call__(self, keys: Sequence[str], corners: torch.Tensor) -> torch.Tensor:
        """Return the guidance of a batch.

        Args:
            keys: The case of each patch.
            corners: Lower corners, int64 (batch, 3), in voxels of the preprocessed case; they may lie outside.

        Returns:
            Float tensor (batch, embed_dim) on the CPU, unit norm.
        """
        starts = corners[:, self._axis].tolist()
        patches = zip(keys, starts, strict=True)
        return torch.stack([patch_guidance(self._embeddings[k], start, self._length) for k, start in patches])

    def of_batch(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Return the guidance of a loader's batch."""
        return self(batch["keys"], batch["corners"])


def guidance_axis(patch_size: Sequence[int]) -> int:
    """Return the axis of a case along which slices are encoded: the first for 2D, that of the fewest voxels for 3D."""
    return 0 if len(patch_size) == 2 else slicing_axis(patch_size)


def patch_guidance(embeddings: torch.Tensor, start: int, length: int) -> torch.Tensor:
    """Return the guidance of one patch.

    Args:
        embeddings: Unit embeddings of the slices of the whole case, (slices, embed_dim).
        start: First slice of the patch; may be negative.
        length: Slices of the patch; 1 in 2D. What lies outside the case does not count.

    Returns:
        Unit vector (embed_dim,), pooled over ``GUIDANCE_SLICES``. A patch wholly outside gets the slice nearest to it.
    """
    last = len(embeddings) - 1
    first, end = min(max(start, 0), last), min(max(start + length, 1), last + 1)
    chosen = embeddings[first : max(end, first + 1)]
    return chosen[0] if len(chosen) == 1 else pool_slices(chosen[spaced_slices(len(chosen), GUIDANCE_SLICES)])


def other_cases(cases: Sequence[str], subjects: Mapping[str, str], seed: str) -> dict[str, str]:
    """Choose another case for each, whose embeddings stand in for its own in the control `otherImage`.

    The choice is random, never of the same subject.

    Args:
        cases: The training cases.
        subjects: Case to subject; a case that is missing is a subject of its own.
        seed: Seed of the choice.

    Returns:
        Case to other case, in random order.

    Raises:
        ConfigError: All cases belong to one subject.
    """
    order = sorted(cases)
    random.Random(seed).shuffle(order)
    subject = {case: subjects.get(case, case) for case in order}
    if len(set(subject.values())) < 2:
        raise ConfigError(
            f"otherImage: got {len(order)} training cases of one subject, expected at least two subjects; train "
            "without this word, or with more cases"
        )
    following = {case: order[i + 1 :] + order[:i] for i, case in enumerate(order)}
    return {case: next(o for o in others if subject[o] != subject[case]) for case, others in following.items()}


def slice_embeddings(
    dataset: Dataset,
    encoder: CLIPEncoder,
    axis: int,
    transpose: Sequence[int],
    device: torch.device,
    report: Callable[[str], None],
    store: bool = True,
    directions: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return the embeddings of every slice of every case, from the cache where it is up to date.

    Each slice is shown to the encoder in the radiological convention, by the orientation of its own case.

    The cache is a file in the folder `<source_folder>_clip`, one for each encoder (weights, preprocessing and
    convention), axis and axis order. A case whose preprocessed files have changed since (name, size or time of image
    and properties) is encoded again. Of several processes one encodes, and the others wait.

    Args:
        dataset: All preprocessed cases of a configuration.
        encoder: The frozen encoder.
        axis: Axis of the case along which slices are taken: 0, 1 or 2.
        transpose: `transpose_forward` of the plans, which the properties do not record.
        device: Where the encoder runs.
        report: Called with lines for the log.
        store: Add what is missing to the cache; else nothing is written.
        directions: Of `token_directions`, for the features of the patches' tokens in place of the embeddings; another
            file for other directions.

    Returns:
        Case to float32 tensor (slices, embed_dim), unit norm, on the CPU; with directions float16 (slices, directions,
        rows, columns), in the order of the stored slices' rows and columns.

    Raises:
        ConfigError: The encoder has no tokens of patches.
        DataError: A preprocessed case cannot be read, or the cache cannot be written.
    """
    file = cache_file(Path(dataset.source_folder), encoder, axis, transpose, directions)
    marks = {case: _mark(Path(dataset.source_folder), case) for case in dataset.identifiers}
    stored, stored_marks = _read(file, report)
    store = store and any(stored_marks.get(case) != mark for case, mark in marks.items())
    with ExitStack() as stack:
        if store:  # a complete cache is only read: it may be another user's
            try:
                task = f"{file}: another process encodes the slices"
                stack.enter_context(exclusive(file.with_suffix(".lock"), task, wait=True))
            except OSError as error:
                raise _unwritable(file, error) from error
            stored, stored_marks = _read(file, report)
        embeddings = {case: stored[case] for case in marks if case in stored and stored_marks[case] == marks[case]}
        missing = [case for case in marks if case not in embeddings]
        if missing:
            purpose = f"once, for {file}" if store else "for their mean"
            report(f"CLIP: {encoder.name} encodes the slices of {len(missing)} cases, {purpose}")
        begun = saved = reported = time.monotonic()
        for number, case in enumerate(missing, 1):
            slices, view = read_slices(dataset, case, axis, transpose, device)
            if directions is None:
                embeddings[case] = encoder.encode_image(slices).float().cpu()
            else:
                maps = token_features(encoder.encode_patches(slices), directions.to(device))
                embeddings[case] = view.restore(maps).half().contiguous().cpu()
            now = time.monotonic()
            if store and (number == len(missing) or now - saved > SAVE_INTERVAL_S):
                # stored embeddings of other cases stay
                _write(file, {**stored, **embeddings}, {**stored_marks, **{case: marks[case] for case in embeddings}})
                saved = now
            if number == len(missing) or now - reported > REPORT_INTERVAL_S:
                left = (now - begun) / number * (len(missing) - number)
                report(f"CLIP: {number} of {len(missing)} cases encoded, about {left:.0f} s left")
                reported = now
    return embeddings


def cache_file(
    folder: Path,
    encoder: CLIPEncoder,
    axis: int,
    transpose: Sequence[int],
    directions: torch.Tensor | None,
) -> Path:
    """Return the file with the embeddings of the preprocessed cases in a folder, or the features of their tokens."""
    name = f"{encoder.sha256[:12]}_{encoder.preprocessing.key}_axis{axis}of{''.join(map(str, transpose))}"
    if directions is not None:
        digest = hashlib.sha256(directions.float().cpu().numpy().round(5).tobytes())
        name += f"_tokens{digest.hexdigest()[:12]}"
    return folder.with_name(f"{folder.name}_clip") / f"{name}.safetensors"


def training_view(dataset: Dataset, axis: int, transpose: Sequence[int], report: Callable[[str], None]) -> SliceView:
    """Return how slices of most cases are shown to an encoder, for inputs whose own orientation is not known.

    Args:
        dataset: Cases of a configuration; up to 20 of them are looked at, evenly spaced.
        axis: As for `slice_embeddings`.
        transpose: As for `slice_embeddings`.
        report: Called with a warning if the cases differ.

    Raises:
        DataError: A preprocessed case cannot be read.
    """
    cases = dataset.identifiers
    found = []
    for case in [cases[place] for place in spaced_slices(len(cases), _CASES_LOOKED_AT)]:
        with _reading(dataset, case):
            found.append(axis_directions(dataset.load_case(case)[3], transpose))
    common, others = common_directions(found)
    if others:
        report(
            f"CLIP: {others} of {len(found)} cases are stored in another orientation than the rest ({common}): a "
            "network that encodes patches itself (word 'live', nnUNetv2_predict) shows them to CLIP wrongly; reorient "
            "the images"
        )
    return slice_view(common, axis)


@contextmanager
def _reading(dataset: Dataset, case: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # blosc2 and numpy raise various exceptions for a damaged file
        raise DataError(
            f"preprocessed case '{case}' in {dataset.source_folder} cannot be read ({error}): delete that folder "
            "and run 'hippo-nnunet plan' again"
        ) from error


def read_slices(
    dataset: Dataset, case: str, axis: int, transpose: Sequence[int], device: torch.device
) -> tuple[torch.Tensor, SliceView]:
    """Return the slices of a case as they are shown to an encoder, (slices, channel, y, x), and how they were turned.

    The arguments are those of `slice_embeddings`.

    Raises:
        DataError: The case cannot be read.
    """
    with _reading(dataset, case):
        stored, _, _, properties = dataset.load_case(case)
        image = np.asarray(stored[:], dtype=np.float32)
    slices = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, axis + 1, 0)))
    view = slice_view(axis_directions(properties, transpose), axis)
    return view.show(slices.to(device)), view


def _mark(folder: Path, case: str) -> str:
    """Return names, sizes and times of a case's files, which distinguish them from later ones of the same names."""
    for path in (folder / f"{case}{ending}" for ending in _ENDINGS):
        if path.is_file():
            files = [file for file in (path, folder / f"{case}.pkl") if file.is_file()]
            return " ".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)
    raise DataError(f"{folder} has no preprocessed case '{case}': run 'hippo-nnunet plan' again")


def _read(file: Path, report: Callable[[str], None]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if not file.is_file():
        return {}, {}
    try:
        with safe_open(file, framework="pt") as opened:
            marks = dict(json.loads(opened.metadata()["cases"]))
            return {case: opened.get_tensor(case) for case in marks}, marks
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        report(f"CLIP: {file} cannot be read ({error}); it is computed again")
        return {}, {}


def _write(file: Path, embeddings: dict[str, torch.Tensor], marks: dict[str, str]) -> None:
    try:
        with atomic_path(file) as temporary:
            # save_file would hide the file from other users of the data
            temporary.write_bytes(save(embeddings, {"cases": json.dumps(marks)}))
    except (SafetensorError, OSError) as error:
        raise _unwritable(file, error) from error


def _unwritable(file: Path, error: Exception) -> DataError:
    return DataError(
        f"CLIP's embeddings cannot be written to {file} ({error}): make that folder writable, or train with the word "
        "'live', which stores none"
    )
