"""`segment` on real heads: agreement with another program, stability over variants, and images that are no heads."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from benchmarks.head_variants import ORDERS, Head, Variant, make
from hippo_nnunet.errors import ConfigError, HippoError
from hippo_nnunet.evaluation.metrics import mask_dice
from hippo_nnunet.models.packaged import open_packaged
from hippo_nnunet.progress import tracked
from hippo_nnunet.segment.boxes import SIDES
from hippo_nnunet.segment.checks import check_registration
from hippo_nnunet.segment.head import SegmentedHead, segment_head
from hippo_nnunet.segment.network import BoxModel
from hippo_nnunet.segment.registration import register
from hippo_nnunet.segment.scan import read_scan

MNI152 = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
MRICRON = Path("/usr/share/mricron/templates")


@dataclass(frozen=True)
class Example:
    """A head to try.

    Args:
        path: Its file.
        stripped: The same without skull.
        masks: Masks of another program, by side.
        atlas: Label map with the AAL atlas's values.
    """

    path: Path
    stripped: Path | None = None
    masks: Mapping[str, Path] = field(default_factory=dict)
    atlas: Path | None = None


@dataclass(frozen=True)
class Found:
    """What was found in one image, in its world coordinates.

    Args:
        centres: Centroid of each side's labels.
        volumes_mm3: Of each side, on the boxes.
        similarity: Of the registration.
        contrast: Of the registration.
        cpu_s: CPU time of reading and segmenting.
        flags: Words.
    """

    centres: Mapping[str, npt.NDArray[np.float64]]
    volumes_mm3: Mapping[str, float]
    similarity: float
    contrast: float
    cpu_s: float
    flags: tuple[str, ...]


def examples(folder: Path | None) -> dict[str, Example]:
    """Return the heads that are on this machine.

    Args:
        folder: Has hippodeep_pytorch's `example_brain_t1.nii.gz`, and its masks `hippodeep_<head>_<L|R>.nii.gz`.

    Raises:
        ConfigError: There is none.
    """
    spec = find_spec("nilearn")
    mni = Path(spec.origin).parent / MNI152 if spec and spec.origin else Path("missing")
    example = (folder or Path("missing")) / "example_brain_t1.nii.gz"
    colin, stripped, aal = (MRICRON / f"{name}.nii.gz" for name in ("ch2", "ch2bet", "aal"))

    def masks(name: str) -> dict[str, Path]:
        found = {side: (folder or Path()) / f"hippodeep_{name}_{side[0].upper()}.nii.gz" for side in SIDES}
        return found if all(path.is_file() for path in found.values()) else {}

    wanted = {
        "example": Example(example, masks=masks("example_brain_t1")),
        "MNI152": Example(mni, masks=masks("mni152")),
        "Colin27": Example(colin, stripped, atlas=aal),
    }
    there = {name: one for name, one in wanted.items() if one.path.is_file()}
    if not there:
        raise ConfigError("no head is on this machine: see docs/segment.md for where to get them")
    return there


def benchmark_heads(folder: Path | None, variants: int, orders: int, model: Path | None = None) -> dict[str, Any]:
    """Measure everything.

    Args:
        folder: See `examples`.
        variants: Number of variants of each head.
        orders: Number of axis orders of each head, at most 48.
        model: An ONNX file; None: the packaged one.

    Returns:
        A document for JSON.
    """
    opened = BoxModel.open(model or open_packaged().path)
    heads = {}
    with tempfile.TemporaryDirectory(prefix="hippo-heads-") as scratch:
        for name, example in examples(folder).items():
            heads[name] = _head(name, example, opened, variants, orders, Path(scratch))
        refused = [_no_head(*one, opened, Path(scratch)) for one in _no_heads(examples(folder))]
    return {"heads": heads, "no_heads": refused}


def _head(name: str, example: Example, model: BoxModel, variants: int, orders: int, scratch: Path) -> dict[str, Any]:
    base = segment_head(read_scan(example.path), model)
    found = _found(base, 0.0)
    centre = np.mean([found.centres[side] for side in SIDES], axis=0)
    head = Head.load(example.path, centre, example.stripped)
    rows = []
    for seed in tracked(range(variants), f"{name}: variants"):
        rows.append(_variant(head, Variant.draw(seed), found, model, scratch))
    same = 0
    for number in tracked(range(orders), f"{name}: axis orders"):
        stored = nib.load(example.path)
        path = scratch / "order.nii"
        nib.save(_plain(nib.as_closest_canonical(stored)).as_reoriented(ORDERS[number * 48 // orders]), path)
        same += int(np.array_equal(segment_head(read_scan(path), model).labels, base.labels))
    return {
        "volumes_mm3": dict(found.volumes_mm3),
        "similarity": found.similarity,
        "contrast": found.contrast,
        "dice": _agreement(base, example),
        "atlas": _atlas(base, example),
        "orders": orders,
        "orders_same": same,
        "summary": _summary(rows),
        "variants": rows,
    }


def _plain(image: nib.Nifti1Image) -> nib.Nifti1Image:
    made = nib.Nifti1Image(np.asarray(image.dataobj), image.affine)
    made.set_sform(image.affine, 1)
    made.set_qform(None, 0)
    return made


def _variant(head: Head, variant: Variant, base: Found, model: BoxModel, scratch: Path) -> dict[str, Any]:
    image, moved = make(head, variant)
    path = scratch / "variant.nii"
    nib.save(image, path)
    row: dict[str, Any] = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(variant).items()
    }
    started = time.process_time()
    try:
        segmented = segment_head(read_scan(path), model)
    except HippoError as error:
        return {**row, "error": str(error).replace(str(path), "variant")}
    found = _found(segmented, time.process_time() - started)
    expected = {side: moved[:3, :3] @ centre + moved[:3, 3] for side, centre in base.centres.items()}
    away = {side: float(np.linalg.norm(found.centres[side] - expected[side])) for side in SIDES}
    left, right = SIDES
    exchanged = np.linalg.norm(found.centres[left] - expected[right]) < away[left]
    change = {side: found.volumes_mm3[side] / base.volumes_mm3[side] - 1 for side in SIDES}
    return {
        **row,
        "away_mm": away,
        "exchanged": bool(exchanged),
        "volume_change": change,
        "similarity": found.similarity,
        "contrast": found.contrast,
        "cpu_s": round(found.cpu_s, 2),
        "flags": list(found.flags),
    }


def _found(head: SegmentedHead, cpu_s: float) -> Found:
    scan = head.scan
    parts = int(head.labels.max(initial=0)) // 2 or 1
    centres = {}
    for number, side in enumerate(SIDES):
        inside = (head.labels > number * parts) & (head.labels <= (number + 1) * parts)
        middle = (np.argwhere(inside) @ scan.to_frame[:3, :3].T + scan.to_frame[:3, 3]).mean(axis=0)
        centres[side] = middle + scan.origin_mm
    volumes = {side: float((one.labels > 0).sum()) for side, one in head.sides.items()}
    found = head.registration
    assert found is not None
    return Found(centres, volumes, found.similarity, found.contrast, cpu_s, head.flags)


def _agreement(head: SegmentedHead, example: Example) -> dict[str, float]:
    dice = {}
    for number, (side, path) in enumerate(example.masks.items()):
        mask = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
        dice[side] = mask_dice(np.isin(head.labels, (2 * number + 1, 2 * number + 2)), mask > mask.max() / 2)
    return dice


def _atlas(head: SegmentedHead, example: Example) -> dict[str, dict[str, float]]:
    """Compare with the AAL's hippocampi, 37 and 38: positions, and the share of ours inside of them."""
    if example.atlas is None or not example.atlas.is_file():
        return {}
    image = nib.as_closest_canonical(nib.load(example.atlas))
    atlas, measured = np.asarray(image.dataobj), {}
    for number, side in enumerate(SIDES):
        ours, theirs = np.isin(head.labels, (2 * number + 1, 2 * number + 2)), atlas == 37 + number
        between = np.argwhere(ours).mean(axis=0) - np.argwhere(theirs).mean(axis=0)
        measured[side] = {
            "ours_inside": float((ours & theirs).sum() / ours.sum()),
            "centre_away_mm": float(np.linalg.norm(between * image.header.get_zooms()[:3])),
            "atlas_mm3": float(theirs.sum() * np.prod(image.header.get_zooms()[:3])),
        }
    return measured


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    done = [row for row in rows if "error" not in row]
    if not done:
        return {"variants": len(rows), "errors": len(rows)}
    away = [max(row["away_mm"].values()) for row in done]
    change = [abs(value) for row in done for value in row["volume_change"].values()]
    return {
        "variants": len(rows),
        "errors": len(rows) - len(done),
        "away_mm_median": float(np.median(away)),
        "away_mm_worst": max(away),
        "within_5_mm": sum(value <= 5 for value in away),
        "exchanged": sum(row["exchanged"] for row in done),
        "volume_change_median": float(np.median(change)),
        "volume_change_worst": max(change),
        "similarity_lowest": min(row["similarity"] for row in done),
        "contrast_lowest": min(row["contrast"] for row in done),
        "flagged": sum(bool(row["flags"]) for row in done),
        "cpu_s_median": float(np.median([row["cpu_s"] for row in done])),
    }


def _no_heads(there: Mapping[str, Example]) -> Iterator[tuple[str, nib.Nifti1Image]]:
    """Yield images that are no T1 of a human head."""
    rng = np.random.default_rng(0)
    for name, example in there.items():
        image = nib.as_closest_canonical(nib.load(example.path))
        voxels = np.asarray(image.dataobj, np.float32)
        tissue = float(np.median(voxels[voxels > voxels.mean()]))
        head = ndimage.gaussian_filter(voxels, 1) > 0.25 * tissue
        top = float(np.percentile(voxels, 99.5))
        yield f"{name}: inverted, T2-like", _like(image, np.where(head, top - np.minimum(voxels, top), 0))
        soft = np.where(head, 40 + 4 * np.clip(voxels / tissue, 0, 2), -1000.0)
        bone = np.where(head & (voxels < 0.4 * tissue), 1000.0, soft) + rng.normal(0, 10, voxels.shape)
        yield f"{name}: CT-like", _like(image, bone)
        yield f"{name}: CT-like, brain window", _like(image, np.clip(bone, 0, 80))
        yield f"{name}: upside down, wrong header", _like(image, voxels[:, :, ::-1])
        yield f"{name}: axes exchanged, wrong header", _like(image, voxels.transpose(1, 2, 0))
    macaque = MRICRON / "inia19-t1-brain.nii.gz"
    if macaque.is_file():
        yield "macaque", _plain(nib.load(macaque))
    yield "abdomen-like phantom", nib.Nifti1Image(_abdomen(rng), np.diag([3.0, 3.0, 3.0, 1.0]))
    noise = rng.normal(100, 20, (90, 90, 90)).astype(np.float32)
    yield "noise", nib.Nifti1Image(noise, np.diag([2.0, 2.0, 2.0, 1.0]))
    yield "empty", nib.Nifti1Image(np.zeros((90, 90, 90), np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    yield "4D", nib.Nifti1Image(np.stack([noise, noise], -1), np.diag([2.0, 2.0, 2.0, 1.0]))


def _abdomen(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return an ellipse of fat around organs of random intensities."""
    x, y, z = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (120, 90, 100)), indexing="ij"))
    voxels = np.where((x / 0.9) ** 2 + (y / 0.85) ** 2 < 1, 200.0, 0.0)
    voxels[(x / 0.82) ** 2 + (y / 0.75) ** 2 < 1] = 80
    for _ in range(12):
        a, b, c = rng.uniform(-0.6, 0.6, 3)
        d, e, f = rng.uniform(0.1, 0.4, 3)
        voxels[((x - a) / d) ** 2 + ((y - b) / e) ** 2 + ((z - c) / f) ** 2 < 1] = rng.uniform(40, 160)
    return (ndimage.gaussian_filter(voxels, 1) + rng.normal(0, 5, voxels.shape)).astype(np.float32)


def _like(image: nib.Nifti1Image, voxels: npt.NDArray[Any]) -> nib.Nifti1Image:
    return _plain(nib.Nifti1Image(voxels.astype(np.float32), image.affine))


def _no_head(name: str, image: nib.Nifti1Image, model: BoxModel, scratch: Path) -> dict[str, Any]:
    path = scratch / "no_head.nii"
    image.set_sform(image.affine, 1)
    nib.save(image, path)
    row: dict[str, Any] = {"image": name}
    try:
        scan = read_scan(path)
        found = register(scan)
        row |= {"similarity": found.similarity, "contrast": found.contrast, "scales": list(found.scales)}
        check_registration(found, "image")
        head = segment_head(scan, model)
    except HippoError as error:
        return {**row, "outcome": "refused", "message": str(error).replace(str(path), "image")}
    return {**row, "outcome": "flagged" if head.flags else "segmented quietly", "flags": list(head.flags)}


def summary_text(measured: Mapping[str, Any]) -> str:
    """Return the tables as Markdown."""
    lines = [
        "| head | volumes, mm3 (left; right) | Dice with hippodeep | similarity; contrast | axis orders with the same "
        "voxels |",
        "|---|---|---|---|---|",
    ]
    for name, one in measured["heads"].items():
        volumes = "; ".join(f"{value:.0f}" for value in one["volumes_mm3"].values())
        dice = "; ".join(f"{value:.3f}" for value in one["dice"].values()) or "-"
        scores = f"{one['similarity']:.2f}; {one['contrast']:.2f}"
        lines.append(f"| {name} | {volumes} | {dice} | {scores} | {one['orders_same']} of {one['orders']} |")
    lines += [
        "",
        "| head | variants | refused | centre off, mm (median; worst) | volume off (median; worst) | sides exchanged | "
        "flagged | CPU s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in measured["heads"].items():
        s = one["summary"]
        if s["variants"] == s["errors"]:
            continue
        off = f"{s['away_mm_median']:.2f}; {s['away_mm_worst']:.2f}"
        volume = f"{s['volume_change_median']:.1%}; {s['volume_change_worst']:.1%}"
        lines.append(
            f"| {name} | {s['variants']} | {s['errors']} | {off} | {volume} | {s['exchanged']} | {s['flagged']} | "
            f"{s['cpu_s_median']:.1f} |"
        )
    lines += ["", "| image | outcome | similarity; contrast |", "|---|---|---|"]
    for row in measured["no_heads"]:
        scores = f"{row['similarity']:.2f}; {row['contrast']:.2f}" if "similarity" in row else "-"
        lines.append(f"| {row['image']} | {row['outcome']} | {scores} |")
    return "\n".join(lines)


def heads_folder() -> Path | None:
    """Return the folder that HIPPO_HEADS names."""
    value = os.environ.get("HIPPO_HEADS")
    return Path(value) if value else None
