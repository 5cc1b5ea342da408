"""The JSON file of a benchmark, the machine that it names, and its Markdown tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from benchmarks.ratios import Ratio, ratio
from hippo_nnunet import outputs
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.experiment.manifest import PACKAGES, cpu_model, git_commit, installed_version
from hippo_nnunet.files import write_json
from hippo_nnunet.threads import cpu_count

SCHEMA = 1
"""Version of the file format."""

STOCK, OURS = "stock", "ours"
"""The two sides of most benchmarks; the reference stands first."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "nnUNet_n_proc_DA", "nnUNet_def_n_proc", "nnUNet_compile")

_FORMS = {"seconds": "{:.3g} s", "mib": "{:.0f} MiB"}


@dataclass(frozen=True)
class Result:
    """One benchmark's figures.

    Attributes:
        benchmark: Which: `predict`, `train-epochs` and so on.
        settings: What was compared: model, configuration, device, cases. Names, no folders of the machine.
        sides: Side to measure to one figure for each repeat. The first side is the reference. A measure's name ends
            with its unit: `seconds`, `epoch_seconds`, `peak_rss_mib`.
        checks: How the results of the sides compare, and other findings.
        notes: What a reader has to know to judge the figures.
    """

    benchmark: str
    settings: dict[str, Any]
    sides: dict[str, dict[str, list[float]]]
    checks: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """Name of the first side."""
        return next(iter(self.sides))

    def median(self, side: str, measure: str) -> float | None:
        """Return the median of a measure; None if it was not measured."""
        values = self.sides.get(side, {}).get(measure)
        return statistics.median(values) if values else None

    def relative(self, side: str, measure: str) -> Ratio | None:
        """Return a measure of one side over the reference's; None if it was not measured on both."""
        return ratio(self.sides.get(side, {}).get(measure, []), self.sides[self.reference].get(measure, []))

    def as_dict(self) -> dict[str, Any]:
        """Return the figures with their medians, least values and ratios, ready for JSON."""
        summary = {
            side: {
                measure: {
                    "median": self.median(side, measure),
                    "least": min(values),
                    "relative_to_first": asdict(found) if (found := self.relative(side, measure)) else None,
                }
                for measure, values in measures.items()
                if values
            }
            for side, measures in self.sides.items()
        }
        return {**asdict(self), "notes": list(self.notes), "summary": summary}


def describe_machine() -> dict[str, Any]:
    """Describe this machine and what is installed on it; call it before anything is measured.

    Returns:
        JSON-ready: CPU model, cores that this process may use, memory, GPU, versions, commit, thread settings, and the
        load average of the last minute, which should be near 0.
    """
    import torch

    cuda = torch.cuda.is_available()
    return {
        "system": platform.system(),
        "cpu": cpu_model(),
        "cores": cpu_count(),
        "ram_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name(0) if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "versions": {name: installed_version(name) for name in (*PACKAGES, "openvino")},
        "commit": git_commit(),
        "torch_threads": torch.get_num_threads(),
        "environment": {name: os.environ[name] for name in _THREAD_VARIABLES if name in os.environ},
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def write_document(path: Path, machine: dict[str, Any], results: Sequence[Result], overwrite: bool = False) -> None:
    """Write results and the machine that they were measured on, atomically.

    Raises:
        ConfigError: The file cannot be written.
        DataError: It exists and is not to be replaced.
    """
    check_target(path, overwrite)
    content = {
        "schema": SCHEMA,
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "results": [result.as_dict() for result in results],
    }
    try:
        write_json(path, content, indent=2)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}): choose another --output") from error


def check_target(path: Path | None, overwrite: bool) -> None:
    """Refuse, before anything is measured, a file that exists, or a missing folder.

    Raises:
        ConfigError: The folder is missing.
        DataError: The file exists and is not to be replaced.
    """
    if path is None:
        return
    outputs.check_target(path, overwrite, "a file of 'python -m benchmarks'", lambda file: bool(read_document(file)))
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{path.absolute().parent} is not a folder: create it, or choose another --output")


def read_document(path: Path) -> tuple[dict[str, Any], list[Result]]:
    """Read the machine and the results of a benchmark's file.

    Raises:
        DataError: The file is missing, is not JSON, or is not a benchmark's file.
    """
    try:
        content = json.loads(path.read_text())
        if content["schema"] != SCHEMA:
            raise DataError(f"{path}: got schema {content['schema']}, expected {SCHEMA}: measure again")
        results = [
            Result(r["benchmark"], r["settings"], r["sides"], r["checks"], tuple(r["notes"]))
            for r in content["results"]
        ]
        return dict(content["machine"]), results
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no file of 'python -m benchmarks' ({type(error).__name__}: {error}): name one that its "
            "--output wrote"
        ) from error


def markdown(result: Result) -> str:
    """Return a result as a Markdown section: settings, figures, checks, notes."""
    settings = ", ".join(f"{key} {_plain(value)}" for key, value in result.settings.items() if value is not None)
    rows: list[tuple[str, ...]] = [
        ("measure", "side", "median", "least", f"times {result.reference}'s (spread)"),
        ("---",) * 5,
    ]
    measures = dict.fromkeys(measure for side in result.sides.values() for measure in side)
    for measure in measures:
        for side, figures in result.sides.items():
            if figures.get(measure):
                rows.append(_row(result, side, measure))
    parts = [f"### {result.benchmark}", settings, "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    parts += ["\n".join(f"- {key.replace('_', ' ')}: {_plain(value)}" for key, value in result.checks.items())]
    parts += ["\n".join(f"- {note}" for note in result.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(result: Result, side: str, measure: str) -> tuple[str, ...]:
    figures = result.sides[side][measure]
    found = result.relative(side, measure)
    spread = ""
    if found is not None and side != result.reference:
        spread = f"{found.median:.3f} ({found.lowest:.3f} to {found.highest:.3f})"
    return (
        measure.replace("_", " "),
        side,
        _figure(measure, statistics.median(figures)),
        _figure(measure, min(figures)),
        spread,
    )


def _figure(measure: str, value: float) -> str:
    form = next((form for unit, form in _FORMS.items() if measure.endswith(unit)), "{:.4g}")
    return form.format(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(v)}" for key, v in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(_plain, value))
    return str(value)
