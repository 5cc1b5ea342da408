#!/usr/bin/env python3
"""Write the figures of the packaged model into docs/model-card.md, between its markers; `--check` only compares.

python scripts/model_card.py [--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hippo_nnunet.models.packaged import PackagedModel, open_packaged

CARD = Path(__file__).parents[1] / "docs" / "model-card.md"
METRICS = {"dice": ("Dice", ".4f"), "nsd_1mm": ("NSD 1 mm", ".4f"), "hd95_mm": ("HD95, mm", ".2f")}
Rows = list[Sequence[str]]


def sections(model: PackagedModel) -> dict[str, str]:
    """Return what stands between each pair of markers."""
    found, images = model.description["performance"], model.description["images"]["measured"]
    return {
        "identity": "\n".join(
            [
                f"`{model.title}`, SHA-256 of `{model.path.name}`:",
                "",
                f"```text\n{model.sha256}\n```",
            ]
        ),
        "performance": f"{_tested(found)}\n\n{_table(_performance(found))}",
        "volumes": _table(_volumes(found)),
        "images": _table(_images(images)),
    }


def _tested(found: Mapping[str, Any]) -> str:
    folds = f"{found['folds']} fold{'s' * (found['folds'] != 1)}"
    worst = ", ".join(f"{case} {dice:.3f}" for case, dice in found["worst_cases"].items())
    return f"{folds}, {found['cases']} cases of {found['subjects']} subjects; the worst by mean Dice: {worst}."


def _performance(found: Mapping[str, Any]) -> Rows:
    rows: Rows = [("part", "metric", "mean (95 % interval)", "SD", "median", "5 % are worse than", "1 %", "worst")]
    for label, metrics in found["by_label"].items():
        for metric, (name, digits) in METRICS.items():
            row = metrics[metric]
            mean, low, high, *others = (
                _number(row[key], digits)
                for key in ("mean", "low", "high", "sd", "median", "worst_5", "worst_1", "worst")
            )
            rows.append((label, name, f"{mean} ({low} to {high})", *others))
    return rows


def _volumes(found: Mapping[str, Any]) -> Rows:
    inside = f"inside of the {found['level']:.0%} interval"
    rows: Rows = [("part", "bias, mm³", "limits of agreement, mm³", "ICC(A,1)", inside, "its width, mm³")]
    for label, row in found["volumes"].items():
        known = found["coverage"].get(label, {})
        held = f"{known['coverage']:.1%} of {known['n']}" if known.get("n") else "not known"
        limits = f"{_number(row['lower_mm3'], '+.0f')} to {_number(row['upper_mm3'], '+.0f')}"
        bias = f"{_number(row['bias_mm3'], '+.0f')} ({_number(row['bias_low_mm3'], '+.0f')} to "
        bias += f"{_number(row['bias_high_mm3'], '+.0f')})"
        icc = f"{_number(row['icc'], '.3f')} ({_number(row['icc_low'], '.3f')} to {_number(row['icc_high'], '.3f')})"
        rows.append((label, bias, limits, icc, held, _number(known.get("width_mm3"), ".0f")))
    return rows


def _images(measured: Mapping[str, Any]) -> Rows:
    rows: Rows = [("images", "number", "flagged", "flagged by the right name")]
    names = {"cross_validated": "labelled cases as they are", "others": "test images as they are"}
    for key, row in measured["false_alarms"].items():
        share = f" ({row['flagged'] / row['images']:.1%})" if row["images"] else ""
        rows.append((names[key], str(row["images"]), f"{row['flagged']}{share}", ""))
    for name, row in measured["noticed"].items():
        rows.append((f"labelled cases: {name}", *(str(row[key]) for key in ("images", "flagged", "named"))))
    return rows


def _number(value: float | None, digits: str) -> str:
    return "not known" if value is None else format(value, digits)


def _table(rows: Rows) -> str:
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others))


def filled(text: str, model: PackagedModel) -> str:
    """Return the card with the figures of the model."""
    for name, content in sections(model).items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", text, flags=re.DOTALL)
        if count != 1:
            sys.exit(f"{CARD}: {count} sections called {name}, expected 1")
    return text


def main() -> None:
    """Write, or compare."""
    text = CARD.read_text(encoding="utf-8")
    new = filled(text, open_packaged())
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == text else f"{CARD}: not the figures of the packaged model: run scripts/model_card.py")
    CARD.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
