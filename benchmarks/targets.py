"""The targets, and whether the benchmarks' files meet them: the rows of the table in docs/benchmarks.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contention import ALONE_ADAPTIVE, BUSY_ADAPTIVE
from benchmarks.document import OURS, STOCK, Result
from benchmarks.ratios import ratio
from benchmarks.startup import OUR_HELP, OUR_LIST

EQUAL_LABELS = 0.9999
"""Share of voxels in which a prediction must have nnU-Net's label."""
EQUAL_DICE = -0.005
"""Loss of validation Dice that still counts as equal. Source: ours; two seeds differ by as much."""
WHOLE_TEST_SET, WHOLE_TRAINING_SET = 40, 220
"""Cases of Task04_Hippocampus without and with labels."""
CARDS = ("H100", "H200")

Machine = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a result says about a target: the figure, whether it is met, and under which conditions."""

    measured: str
    met: bool
    conditions: str


@dataclass(frozen=True)
class Target:
    """One row.

    Attributes:
        what: What is measured.
        target: The value to reach.
        judge: Says what a result on a machine means for it; None if the result is about something else.
    """

    what: str
    target: str
    judge: Callable[[Result, Machine], Verdict | None]


def _where(result: Result, machine: Machine) -> str:
    device = result.settings.get("device", "cpu")
    return str(machine["gpu"]) if device == "cuda" else f"{machine['cores']} cores ({machine['cpu']})"


def _speed(result: Result, measure: str) -> tuple[float, str] | None:
    """Return how many times faster our side is than the reference, and that in words."""
    found = result.relative(OURS, measure)
    theirs, ours = result.median(result.reference, measure), result.median(OURS, measure)
    if found is None or theirs is None or ours is None:
        return None
    factor = 1 / found.median
    return factor, f"{factor:.2f} times ({theirs:.3g} s against {ours:.3g} s)"


def _predict(
    configuration: str | None,
    least: float = 0.0,
    most_s: float = math.inf,
    device: str = "cpu",
    cases: int = WHOLE_TEST_SET,
    folds: int = 1,
    onnx: bool = False,
) -> Callable[..., Verdict | None]:
    """Judge a prediction of at least so many cases; of exactly one where that is asked for.

    Args:
        configuration: This one only, and with mirroring; None: any, with or without.
        least: How many times faster than nnU-Net it has to be.
        most_s: Most seconds that it may take.
        device: `cpu` or `cuda`.
        cases: Number of cases.
        folds: Number of folds, exactly.
        onnx: Whether an ONNX file predicts.
    """

    def judge(result: Result, machine: Machine) -> Verdict | None:
        settings = result.settings
        about = (
            result.benchmark == "predict"
            and (settings["device"], len(settings["folds"]), settings.get("onnx", False)) == (device, folds, onnx)
            and (settings["cases"] == 1 if cases == 1 else settings["cases"] >= cases)
            and (configuration is None or (settings["configuration"] == configuration and settings["mirroring"]))
        )
        found, seconds = (_speed(result, "seconds"), result.median(OURS, "seconds")) if about else (None, None)
        if found is None or seconds is None:
            return None
        equal = result.checks["equal_share"]
        met = found[0] >= least and seconds <= most_s and equal >= EQUAL_LABELS
        said = f"{found[1]}, labels equal in {100 * equal:.4f} %"
        conditions = f"{settings['trainer']}, {settings['plans']} {settings['configuration']}"
        return Verdict(said, met, f"{conditions}, {_where(result, machine)}")

    return judge


def _same_training(result: Result, configuration: str, device: str) -> bool:
    return (
        result.benchmark == "train-epochs"
        and (result.settings["configuration"], result.settings["device"]) == (configuration, device)
        and all(value for check, value in result.checks.items() if check.startswith("same_"))
    )


def _conditions_of_training(result: Result, machine: Machine) -> str:
    settings, precision = result.settings, result.checks.get("precision", {}).get(OURS)
    ours = f"{settings['ours']} in {precision}" if precision else settings["ours"]
    return f"{settings['plans']}, batch {result.checks['batch_size']}, {ours}, {_where(result, machine)}"


def _epoch_cpu(result: Result, machine: Machine) -> Verdict | None:
    found = _speed(result, "epoch_seconds") if _same_training(result, "2d", "cpu") else None
    if found is None:
        return None
    said = f"{found[1]} for {result.settings['iterations']} iterations"
    return Verdict(said, found[0] >= 2, _conditions_of_training(result, machine))


def _epoch_gpu(configuration: str) -> Callable[..., Verdict | None]:
    def judge(result: Result, machine: Machine) -> Verdict | None:
        about = _same_training(result, configuration, "cuda") and result.settings["plans"] == "nnUNetPlans"
        found = _speed(result, "epoch_seconds") if about else None
        gain = result.checks.get("validation_dice_gain")
        if found is None or gain is None or not any(card in str(machine["gpu"]) for card in CARDS):
            return None
        if result.settings["iterations"] < 250:
            return None
        met = found[0] >= 3 and gain >= EQUAL_DICE
        return Verdict(f"{found[1]}, Dice {gain:+.4f}", met, _conditions_of_training(result, machine))

    return judge


def _memory(result: Result, machine: Machine) -> Verdict | None:
    if result.benchmark != "train-epochs" or result.settings["device"] != "cpu":
        return None
    measure = "peak_pss_mib" if result.relative(OURS, "peak_pss_mib") else "peak_rss_mib"
    found = result.relative(OURS, measure)
    if found is None:
        return None
    said = f"{result.median(OURS, measure):.0f} MiB, stock {result.median(STOCK, measure):.0f} MiB"
    shared = ", shared pages counted once" if measure == "peak_pss_mib" else ""
    conditions = f"{result.settings['configuration']}, {_conditions_of_training(result, machine)}{shared}"
    return Verdict(said, found.median <= 1, conditions)


def _attention_step(result: Result, machine: Machine) -> Verdict | None:
    if result.benchmark != "train-step" or not result.reference.startswith("UNetTrainer"):
        return None
    for side in result.sides:
        found = result.relative(side, "seconds")
        if side.startswith("AttentionUNetTrainer") and found is not None:
            settings = result.settings
            conditions = f"{settings['plans']} {settings['configuration']}, {_where(result, machine)}"
            return Verdict(f"{found.median:.2f} times", found.median <= 1.15, conditions)
    return None


def _clip_step(result: Result, machine: Machine) -> Verdict | None:
    if result.benchmark != "train-step" or result.settings["device"] != "cpu":
        return None
    attention = [side for side in result.sides if side.startswith("AttentionUNetTrainer")]
    clip = [side for side in result.sides if side.startswith("CLIPGuidedUNetTrainer") and "_live" not in side]
    if not attention or not clip:
        return None
    found = ratio(result.sides[clip[0]]["seconds"], result.sides[attention[0]]["seconds"])
    if found is None:
        return None
    conditions = f"{clip[0]}, {result.settings['plans']} {result.settings['configuration']}, {_where(result, machine)}"
    return Verdict(f"{found.median:.2f} times", found.median <= 1.25, conditions)


def _head(measure: str, most: float) -> Callable[..., Verdict | None]:
    def judge(result: Result, machine: Machine) -> Verdict | None:
        settings = result.settings
        published = {"batch": 366, "size": [56, 40], "features": 32, "device": "cpu"}
        if result.benchmark != "head" or any(settings[key] != value for key, value in published.items()):
            return None
        found, conv = result.relative(OURS, measure), result.relative("nnunet_1x1", measure)
        if found is None or conv is None:
            return None
        said = f"{found.median:.3f} ({found.median / conv.median:.1f} times nnU-Net's 1x1 head)"
        return Verdict(said, found.median <= most, _where(result, machine))

    return judge


def _dice_ratio(result: Result, machine: Machine) -> Verdict | None:
    if not _is_laptop_dice(result):
        return None
    found = _speed(result, "training_seconds") if result.reference == STOCK else None
    if found is None:
        return None
    stock = "extrapolated" if result.checks["stock_extrapolated"] else "measured"
    return Verdict(f"{found[1]}, stock {stock}", found[0] >= 10, _where(result, machine))


def _dice_time(result: Result, machine: Machine) -> Verdict | None:
    if not _is_laptop_dice(result) or machine["cores"] != 2:
        return None
    seconds = result.median(OURS, "training_seconds")
    settings = result.settings
    conditions = f"{settings['trainer']}, {settings['configuration']}, {_where(result, machine)}"
    if seconds is None:
        return Verdict("not reached", False, conditions)
    return Verdict(f"{seconds / 60:.1f} min to {result.checks['dice']:.4f}", seconds <= 240, conditions)


def _is_laptop_dice(result: Result) -> bool:
    settings = result.settings
    return (
        result.benchmark == "time-to-dice"
        and (settings["plans"], settings["device"], settings["fold"]) == ("CompactPlans", "cpu", 0)
        and settings["target"] >= 0.86
    )


def _startup(result: Result, machine: Machine) -> Verdict | None:
    if result.benchmark != "startup":
        return None
    seconds = [result.median(name, "seconds") for name in (OUR_HELP, OUR_LIST)]
    if None in seconds:
        return None
    with_torch = any(value for check, value in result.checks.items() if check.endswith("imports torch"))
    said = " and ".join(f"{value:.2f} s" for value in seconds) + (", torch imported" if with_torch else ", no torch")
    met = not with_torch and all(value is not None and value < 0.5 for value in seconds)
    return Verdict(said, met, _where(result, machine))


def _experiment(result: Result, machine: Machine) -> Verdict | None:
    settings = result.settings
    if result.benchmark != "experiment" or settings["preset"] != "laptop" or settings["folds"] != {"2d": 5}:
        return None
    seconds = result.median(OURS, "seconds")
    enough = len(settings["variants"]) == 3 and settings["cases"] >= WHOLE_TRAINING_SET and settings["cores"] == 2
    if seconds is None or not enough:
        return None
    earlier = sum(result.checks.get(f"{kind}_trainings", 0) for kind in ("found", "resumed"))
    said = f"{seconds / 60:.0f} min" + (f", {earlier} of 15 trainings in earlier runs" if earlier else "")
    return Verdict(said, seconds <= 90 * 60 and not earlier, ", ".join(settings["variants"]))


def _contention(side: str, most: float) -> Callable[..., Verdict | None]:
    def judge(result: Result, machine: Machine) -> Verdict | None:
        settings = result.settings
        if result.benchmark != "contention" or settings["busy_processes"] != 1 or settings["compiled"]:
            return None
        found = {kind: result.relative(side, f"{kind}_seconds") for kind in ("training", "validation", "prediction")}
        factors = {kind: relative.median for kind, relative in found.items() if relative is not None}
        if len(factors) < len(found):
            return None
        said = ", ".join(f"{kind} {factor:.2f} times" for kind, factor in factors.items())
        met = max(factors.values()) <= most and result.checks["same_batches"]
        conditions = (
            f"{settings['trainer']}, {settings['plans']} {settings['configuration']}, {_where(result, machine)}"
        )
        return Verdict(said, met, conditions)

    return judge


_TESTS = "40 cases, whole process"

TARGETS: tuple[Target, ...] = (
    Target(f"`predict`, 2D with mirroring, {_TESTS}, CPU", "2.5 times faster than stock", _predict("2d", 2.5)),
    Target(f"`predict`, 3D with mirroring, {_TESTS}, CPU", "1.6 times", _predict("3d_fullres", 1.6)),
    Target(f"five-fold `predict`, 2D with mirroring, {_TESTS}, CPU", "2.7 times", _predict("2d", 2.7, folds=5)),
    Target("`predict`, one case, whole process, CPU", "at most 6 s, 2 times", _predict(None, 2, 6, cases=1)),
    Target(f"`predict`, 2D with mirroring, {_TESTS}, GPU", "8 times", _predict("2d", 8, device="cuda")),
    Target(f"`predict`, 3D with mirroring, {_TESTS}, GPU", "3 times", _predict("3d_fullres", 3, device="cuda")),
    Target("training, 2D, same network, plans and batch, CPU, an epoch", "2 times", _epoch_cpu),
    Target("Attention U-Net's training step, in U-Net's", "at most 1.15", _attention_step),
    Target("time to a validation Dice of 0.86, fold 0, CPU, `laptop`", "10 times sooner than stock", _dice_ratio),
    Target("training to a validation Dice of 0.860, fold 0, two cores", "at most 4 min", _dice_time),
    Target("an epoch, nnUNetPlans 3d_fullres, H100 or H200", "3 times, equal Dice", _epoch_gpu("3d_fullres")),
    Target("an epoch, nnUNetPlans 2d, H100 or H200", "3 times, equal Dice", _epoch_gpu("2d")),
    Target("peak resident memory, training on the CPU", "at most stock's", _memory),
    Target("CLIP-guided training step, cached, CPU, in Attention U-Net's", "at most 1.25", _clip_step),
    Target("cosine head, batch 366, CPU, in the plain form's time", "at most 0.1", _head("seconds", 0.1)),
    Target("cosine head, the same, in the plain form's memory", "at most 0.2", _head("peak_mib", 0.2)),
    Target("`hippo-nnunet --help` and `list`", "under 0.5 s, no torch", _startup),
    Target("five-fold `laptop` run, 3 variants, 2d, 220 cases, two cores", "at most 90 min", _experiment),
    Target("CPU beside one busy process, in the time alone", "at most 2", _contention(BUSY_ADAPTIVE, 2)),
    Target(
        "adaptive threads on an idle CPU, in a fixed number's time", "at most 1.03", _contention(ALONE_ADAPTIVE, 1.03)
    ),
    Target(
        "`predict` of an ONNX file, one case, whole process",
        "at most 1.5 s, 12 times",
        _predict(None, 12, 1.5, cases=1, onnx=True),
    ),
    Target(
        f"five-fold `predict` of an ONNX file, {_TESTS}", "at most 10 s", _predict(None, most_s=10, folds=5, onnx=True)
    ),
)


def target_table(documents: Sequence[tuple[Machine, Sequence[Result]]]) -> str:
    """Return the Markdown table of every target.

    Args:
        documents: Machines and results, as `read_document` gives them. Where several results are about one target,
            the last counts.

    Returns:
        What, target, measured, met or not, conditions; `not measured` where no result is about a target.
    """
    rows = [("what", "target", "measured", "met", "with"), ("---",) * 5]
    for target in TARGETS:
        verdicts = [
            verdict
            for machine, results in documents
            for result in results
            if (verdict := target.judge(result, machine)) is not None
        ]
        if verdicts:
            last = verdicts[-1]
            rows.append((target.what, target.target, last.measured, "yes" if last.met else "no", last.conditions))
        else:
            rows.append((target.what, target.target, "not measured", "", ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
