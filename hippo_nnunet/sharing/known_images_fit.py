"""What a model knows of its images, learned from the training images; and how well it tells others apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hippo_nnunet.data.cases import CheckedCase, bounding_box, find_cases
from hippo_nnunet.data.nifti import read_volume
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.known_images import MIRRORED, ORIENTATIONS, STEP, Floats, KnownImages, coarsened
from hippo_nnunet.inference.preprocessing import Preprocessing
from hippo_nnunet.progress import tracked

CROP = (12, 18, 14)
"""Size of the mean crop (z, y, x), in steps. Source: ours; 24 x 36 x 28 mm fit into the smallest image of Task04."""
RARE = 0.01
"""Share of the training images that are less like the mean crop than the limit."""


@dataclass(frozen=True)
class Example:
    """An image as the model sees it.

    Attributes:
        case: Its name.
        image: (z, y, x) on the model's grid, with the axes of the file.
        centre: Of the labelled voxels, on the same grid; None without labels.
        shape: Voxels of the file along (x, y, z).
        spacing_mm: Voxel size of the file along (x, y, z).
        axis_codes: Axes of the file (x, y, z).
        lowest: Lowest intensity of the file.
    """

    case: str
    image: Floats
    centre: tuple[float, ...] | None
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    axis_codes: str
    lowest: float


def read_examples(images: Path, labels: Path | None, step: Preprocessing, ending: str) -> list[Example]:
    """Read and preprocess a folder's images, of one channel.

    Args:
        images: Folder of nnU-Net's images.
        labels: Folder of their labels; None: they have none.
        step: The model's preprocessing.
        ending: Of the labels' files.

    Raises:
        DataError: A file cannot be read, or a case has no label voxel.
    """
    found = []
    for case in tracked(find_cases(images, 1), "reading images"):
        volume = read_volume(case.files[0], case.case, step.reader)
        checked = CheckedCase.of(case, [volume])
        array, properties = step.read(case)
        lowest = float(array.min())
        image = step.apply(array, properties)[0]
        centre: tuple[float, ...] | None = None
        if labels is not None:
            mask = read_volume(labels / f"{case.case}{ending}", case.case, step.reader).array != 0
            if not mask.any():
                raise DataError(f"{labels / case.case}{ending}: no voxel is labelled: leave the case out")
            middle = _centre(mask.transpose(step.forward), image.shape, properties)
            centre = tuple(middle[axis] for axis in step.backward)
        image = image.transpose(step.backward)
        spacing, shape = checked.spacing_mm[::-1], checked.shape[::-1]
        found.append(Example(case.case, image, centre, shape, spacing, checked.axis_codes, lowest))
    return found


def fit(examples: Sequence[Example]) -> KnownImages:
    """Learn from labelled images.

    Args:
        examples: With labels.

    Raises:
        DataError: There are none.
    """
    if not examples:
        raise DataError("no labelled image to learn from: name the folder of the training images")
    known = KnownImages(
        tuple(code for code, _ in Counter(example.axis_codes for example in examples).most_common()),
        _ranges([example.spacing_mm for example in examples]),
        _ranges([_size_mm(example) for example in examples]),
        min(example.lowest for example in examples),
        np.mean([_around(example) for example in examples], axis=0),
        -1.0,
    )
    likeness = [known.likeness(example.image).expected for example in examples]
    return replace(known, least_likeness=float(np.quantile(likeness, RARE)))


def measure(examples: Sequence[Example], folds: Mapping[str, int], others: Sequence[Example] = ()) -> dict[str, Any]:
    """Count false alarms, and how often changed images are noticed, by cross-validation.

    Args:
        examples: Labelled images. Each is judged by what the images of other folds teach.
        folds: Fold of each case.
        others: Further images as they should be, judged by all labelled ones.

    Returns:
        `false_alarms`: for `cross_validated` and `others` the number of images, and of those with a flag; `noticed`:
        for each change of CHANGES and for `voxels 2 mm` the number of images, of those with any flag, and of those
        with the flag that names the change.
    """
    judged: list[tuple[KnownImages, Example]] = []
    for fold in sorted({folds[example.case] for example in examples}):
        known = fit([example for example in examples if folds[example.case] != fold])
        judged += [(known, example) for example in examples if folds[example.case] == fold]
    everything = fit(examples)
    alarms = {
        "cross_validated": _count(_flags(known, example) for known, example in judged),
        "others": _count(_flags(everything, example) for example in others),
    }
    noticed = {}
    for name, (expected, change) in CHANGES.items():
        noise = np.random.default_rng(0)
        changed = tracked(judged, f"images changed: {name}")
        found = [{s.flag for s in k.check_content(change(example.image, noise))} for k, example in changed]
        noticed[name] = _count(found, expected)
    coarse = [{s.flag for s in k.check_grid([n // 2 for n in e.shape], [2.0] * 3)} for k, e in judged]
    noticed["voxels 2 mm"] = _count(coarse, "voxel-size")
    return {"false_alarms": alarms, "noticed": noticed}


def ct_like(image: Floats, noise: np.random.Generator) -> Floats:
    """Turn a T1-weighted image into Hounsfield units: cerebrospinal fluid 8, grey matter 37, white matter 29, noise 5.

    Source: ours; tissues by standard deviations from the mean of the crop, usual values of a CT of the brain.
    """
    scaled = (image - image.mean()) / image.std()
    units = np.interp(scaled, [-2.5, -1.8, -0.6, 0.2, 1.2, 2.0], [5, 8, 30, 37, 29, 28])
    return np.asarray(units + noise.normal(0, 5, image.shape))


def _turned(image: Floats, noise: np.random.Generator) -> Floats:
    """Store in another way, neither as it should be nor mirrored left to right."""
    order, signs = ORIENTATIONS[noise.choice([n for n in range(1, len(ORIENTATIONS)) if n != MIRRORED])]
    z, y, x = (slice(None, None, sign) for sign in signs)
    return image.transpose(order)[z, y, x]


CHANGES: dict[str, tuple[str, Callable[[Floats, np.random.Generator], Floats]]] = {
    "mirrored left to right": ("side", lambda image, _: image[:, :, ::-1]),
    "another order or direction of the axes": ("orientation", _turned),
    "inverted contrast": ("contrast", lambda image, _: -image),
    "CT-like contrast": ("contrast", ct_like),
    "noise": ("contrast", lambda image, noise: noise.normal(size=image.shape)),
}
"""Changes of an image: the flag that names each, and how it is made."""


def _flags(known: KnownImages, example: Example) -> set[str]:
    found = known.check_grid(example.shape, example.spacing_mm)
    found += [*known.check_intensities(example.lowest), *known.check_content(example.image)]
    refused = known.refusal(example.shape, example.spacing_mm, example.axis_codes)
    return {suspicion.flag for suspicion in found} | ({"refused"} if refused else set())


def _count(found: Iterable[set[str]], expected: str | None = None) -> dict[str, int]:
    flags = list(found)
    counts = {"images": len(flags), "flagged": sum(map(bool, flags))}
    return counts if expected is None else counts | {"named": sum(expected in one for one in flags)}


def _size_mm(example: Example) -> list[float]:
    return [count * mm for count, mm in zip(example.shape, example.spacing_mm, strict=True)]


def _ranges(values: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    table = np.round(np.array(values), 3)
    return tuple(zip(table.min(axis=0).tolist(), table.max(axis=0).tolist(), strict=True))


def _centre(mask: Any, shape: Sequence[int], properties: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the middle of a mask's box, on the preprocessed grid."""
    found = []
    for part, (start, stop), size in zip(bounding_box(mask), properties["bbox_used_for_cropping"], shape, strict=True):
        middle = (part.start + part.stop) / 2 - start
        found.append(middle * size / (stop - start))
    return tuple(found)


def _around(example: Example) -> Floats:
    """Return the part of an image around its label, coarsened, with mean 0 and standard deviation 1."""
    assert example.centre is not None
    sides = [count * STEP for count in CROP]
    padded = np.pad(example.image, [(side, side) for side in sides], mode="edge")
    starts = [round(middle + side / 2) for middle, side in zip(example.centre, sides, strict=True)]
    z, y, x = (slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    part = coarsened(padded[z, y, x])
    return np.asarray((part - part.mean()) / max(float(part.std()), 1e-6))
