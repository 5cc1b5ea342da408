"""What a model file says of itself, in lines; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hippo_nnunet.files import hash_file
from hippo_nnunet.models.model_file import open_model
from hippo_nnunet.models.onnx_file import SUFFIX, open_onnx
from hippo_nnunet.models.packaged import PackagedModel

_METRICS = {
    "dice": ("Dice", ".4f", ""),
    "nsd_1mm": ("NSD at 1 mm", ".4f", ""),
    "hd95_mm": ("HD95", ".2f", " mm"),
    "assd_mm": ("ASSD", ".2f", " mm"),
}
"""Name, format and unit of each."""


def packaged_lines(model: PackagedModel) -> list[str]:
    """Describe the packaged model: name, data, performance, limits, licence, hash."""
    source, found = model.description["source"], model.description["performance"]
    folds = ", ".join(map(str, source["folds"]))
    folds_tested = f"{found['folds']} fold{'s' * (found['folds'] != 1)}"
    lines = [
        f"packaged model {model.title}: {model.path.stat().st_size / 1e6:.1f} MB",
        f"trained: {source['trainer']}, {source['plans']}, {source['configuration']}, fold {folds}, on "
        f"{source['dataset']['numTraining']} cases of {source['dataset']['id']}",
        f"out of fold ({folds_tested} by subject, {found['cases']} cases of {found['subjects']} subjects): "
        "mean (95 % interval over subjects), median, 5 % of the cases are worse than, worst",
    ]
    for label, metrics in found["by_label"].items():
        for metric, (name, digits, unit) in _METRICS.items():
            lines.append(f"  {label} {name}: {_described(metrics[metric], digits)}{unit}")
    for label, row in found["coverage"].items():
        if row["n"]:
            inside = f"{row['coverage']:.1%} of {row['n']} references"
            lines.append(f"  {label} volume: {inside} inside of the {found['level']:.0%} interval")
    return [
        *lines,
        "for: T1-weighted crops of about 35 x 50 x 35 mm at 1 mm around a left hippocampus, axes RAS; heads and right "
        "hippocampi by 'hippo-nnunet segment'; research only, not a medical device",
        f"licence: {model.licence}; {model.description['attribution']}",
        f"file: {model.path}",
        f"sha256: {model.sha256}",
    ]


def file_lines(path: Path) -> list[str]:
    """Describe a .hippo or .onnx file.

    Raises:
        DataError: See `open_model` and `open_onnx`.
    """
    opened = open_onnx(path) if path.name.endswith(SUFFIX) else open_model(path)
    said: Mapping[str, Any] = opened.description
    lines = [
        f"{path}: {path.stat().st_size / 1e6:.1f} MB",
        f"model: {opened.folder_name}, {opened.plans['dataset_name']}, fold {', '.join(map(str, said['folds']))}",
    ]
    for fold, metrics in (said.get("metrics") or {}).items():
        dice = "not known" if metrics["mean_dice"] is None else f"{metrics['mean_dice']:.4f}"
        lines.append(f"validation of fold {fold}: mean Dice {dice}, {metrics['cases']} cases")
    return [
        *lines,
        f"licence: {said.get('licence') or 'not stated'}",
        f"citation: {said.get('citation') or 'not stated'}",
        f"sha256: {hash_file(path)}",
    ]


def _described(row: Mapping[str, float | None], digits: str) -> str:
    mean, low, high, median, tail, worst = (
        "not known" if row[key] is None else format(row[key], digits)
        for key in ("mean", "low", "high", "median", "worst_5", "worst")
    )
    return f"{mean} ({low} to {high}), {median}, {tail}, {worst}"
