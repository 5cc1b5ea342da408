"""What a report says in words: what can and cannot be concluded, how it was made, and by which command."""

from __future__ import annotations

import shlex
from typing import Any

import pandas as pd

from hippo_nnunet.analysis.tables import digits, interval, number, one_model, other_model
from hippo_nnunet.analysis.verdicts import NOT_JUDGED, WARNINGS, ensemble_gain
from hippo_nnunet.data.description import MEAN
from hippo_nnunet.data.subjects import FILE, NONE
from hippo_nnunet.evaluation.fold_means import SHARED_DATA
from hippo_nnunet.evaluation.metrics import QUALITY
from hippo_nnunet.evaluation.notes import NoteKind
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.evaluation.side_by_side import full_rows
from hippo_nnunet.evaluation.statistics import CANNOT_TELL, EQUIVALENT, POWER
from hippo_nnunet.evaluation.wording import shown_verdict
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import RELATIVE
from hippo_nnunet.experiment.presets import preset
from hippo_nnunet.pages.report.content import Content
from hippo_nnunet.pages.report.notebook import MEASURED_DATASET, NotebookScores
from hippo_nnunet.progress import duration
from hippo_nnunet.training import recipe_words, recipes


def conclusions(content: Content) -> tuple[list[str], list[str]]:
    """Return what can be concluded, and what cannot, in sentences drawn from the experiment's own figures."""
    pairs, models = content.comparison.pairs, content.comparison.models
    can, cannot = [], []
    rows = [] if pairs.empty else pairs[pairs["scope"] == MEAN].to_dict("records")
    for row in rows:
        if row["verdict"] not in (CANNOT_TELL, NOT_JUDGED):
            can.append(_concluded(row))
    gain = ensemble_gain(content.choice, pairs)
    if gain:
        can.append(gain)
    cannot += [f"How good the networks are. {text}" for _, text in banners(content)]
    open_rows = [row for row in rows if row["verdict"] == CANNOT_TELL]
    if open_rows:
        names = "; ".join(f"{one_model(row)} against {other_model(row)}" for row in open_rows)
        cannot.append(f"Which model is better, or whether they are equivalent: {names}.")
    if not can:
        can.append("How each model performs on these cases, out of fold: see the means and deviations in the table.")
    cannot += _sensitivity(rows)
    cannot += _folds(models, rows)
    cannot += _seeds(full_rows(models), content.comparison.options.metric)
    cannot += _tuned(content)
    if (models["variant"] == ENSEMBLE).any():
        cannot.append(
            "How the final ensemble performs: it was selected on these cases. Its row is scored by nested selection, "
            "each fold by an ensemble selected without that fold; the test images have no reference here."
        )
    cannot.append(
        "How the models perform on other scanners, ages, diseases or field strengths: only these cases were evaluated."
    )
    return can, cannot


def banners(content: Content) -> list[tuple[str, str]]:
    """Return what a reader has to know before any figure: its first words, and the rest."""
    titles = {NoteKind.LABEL_NOT_FOUND: "A label was never found.", NoteKind.SHORT_TRAINING: "Too short to judge."}
    return [(titles[note.kind], note.text) for note in content.comparison.notes if note.kind in titles]


def comparison_notes(content: Content) -> list[str]:
    """Return the notes on the differences, except those that `conclusions` covers."""
    said = (*WARNINGS, NoteKind.SHARED_DATA, NoteKind.ONE_SEED, NoteKind.ONE_MODEL, NoteKind.SCORES_DISAGREE)
    return [note.text for note in content.comparison.notes if note.kind not in said]


def _concluded(row: dict[Any, Any]) -> str:
    one, other = one_model(row), other_model(row)
    what = f"{shown_verdict(row)} than {other}"
    if what.startswith(EQUIVALENT):
        what = f"equivalent to {other} within ±{row['rope']:g}"
    elif row["verdict"] == EQUIVALENT:
        what += f", within the margin of {row['rope']:g}"
    folds = str(row["folds"]).split(",")
    where = f"{row['n']} cases of {len(folds)} folds" if len(folds) > 1 else f"{row['n']} cases of fold {folds[0]}"
    text = f"As trained, {one} is {what} ({where})"
    if row["kind"] == "ensemble":
        text += ", its postprocessing included"
    if pd.isna(row["p_retrained"]):
        return f"{text}; for new trainings this is not known."
    form = f"+{digits(row['metric'])}"
    span = interval(row["low_retrained"], row["high_retrained"], form)
    if row["verdict_retrained"] == row["verdict"]:
        return f"{text}, and the same is expected of new trainings ({span})."
    if row["verdict_retrained"] == CANNOT_TELL:
        return f"{text}; whether new trainings would show the same, the folds cannot tell ({span})."
    return f"{text}; of new trainings, however, the folds expect the verdict '{row['verdict_retrained']}' ({span})."


def _sensitivity(rows: list[dict[Any, Any]]) -> list[str]:
    """Say which differences could not be detected, and what `equivalent` depends on."""
    sentences = []
    known = [row["detectable"] for row in rows if pd.notna(row["detectable"])]
    if known:
        form = digits(rows[0]["metric"])
        least, most = f"{min(known):{form}}", f"{max(known):{form}}"
        span = least if least == most else f"{least} to {most}, depending on the comparison,"
        sentences.append(
            f"True differences below {span} in {QUALITY[rows[0]['metric']].heading}: with this many cases the power to "
            f"detect them is below {POWER:.0%}."
        )
    if any(row["verdict"] == EQUIVALENT for row in rows):
        sentences.append(
            f"That models are equal. Equivalent means that they differ by less than {rows[0]['rope']:g}. Whether that "
            "is too small to matter is a choice, not a result; hippo-nnunet compare --rope sets another margin."
        )
    return sentences


def _folds(models: pd.DataFrame, rows: list[dict[Any, Any]]) -> list[str]:
    sentences = [SHARED_DATA] if models["folds"].str.contains(",").any() else []
    single = [row for row in rows if "," not in str(row["folds"])]
    if single:
        folds = ", ".join(sorted({str(row["folds"]) for row in single}))
        count = "The comparison rests" if len(single) == 1 else f"{len(single)} of {len(rows)} comparisons rest"
        sentences.append(f"{count} on one fold ({folds}): it says nothing about trainings on other cases.")
    return sentences


def _seeds(models: pd.DataFrame, metric: str) -> list[str]:
    spread = models.loc[models["scope"] == MEAN, ["variant", "configuration", f"{metric}_seed_sd"]].dropna()
    if spread.empty:
        return [
            "How much of a difference is random variation between trainings: no recipe was trained with several seeds. "
            "Variants such as UNet_seed1 and UNet_seed2 would show it."
        ]
    listed = "; ".join(f"{v} {c} {number(sd, digits(metric))}" for v, c, sd in spread.itertuples(index=False))
    return [f"Differences smaller than the spread between seeds mean nothing (standard deviation: {listed})."]


def _tuned(content: Content) -> list[str]:
    """Name the fold of nnU-Net's split that the short schedule was tuned on, where both are part of the experiment."""
    experiment = content.experiment
    if experiment is None or not experiment.dataset.endswith(MEASURED_DATASET):
        return []
    tuned = [v for v in experiment.variants if recipes.parse(experiment.trainer(v)).fast]
    if not tuned or experiment.subjects != NONE or 0 not in experiment.folds.get("2d", ()):
        return []
    return [
        "Fold 0 in 2D is slightly optimistic: length, learning rate and mirroring of the short schedule were tuned on "
        "it."
    ]


def command(experiment: Experiment, name: str, device: str | None) -> str:
    """Return the command line that asks for this experiment.

    Args:
        experiment: The request.
        name: Name of its folder.
        device: Of the last run; None if it is not known.
    """
    words = ["hippo-nnunet", "run", name, "--dataset", experiment.dataset]
    words += ["--variants", ",".join(experiment.limited_variants()), "--configurations", ",".join(experiment.folds)]
    words += ["--folds", ",".join(f"{c}={_span(folds)}" for c, folds in experiment.folds.items())]
    words += ["--preset", experiment.preset]
    words += ["--seeds", "1"] if preset(experiment.preset).seeds > 1 else []  # the variants name their repeats
    words += ["--subjects", f"{name}/{RELATIVE.subjects}" if experiment.subjects == FILE else experiment.subjects]
    words += ["--epochs", str(experiment.epochs)] if experiment.epochs else []
    words += ["--iterations", str(experiment.iterations)] if experiment.iterations else []
    words += ["--device", device] if device else []
    return shlex.join(words)


def _span(folds: tuple[int, ...]) -> str:
    whole = len(folds) > 1 and list(folds) == list(range(folds[0], folds[-1] + 1))
    return f"{folds[0]}-{folds[-1]}" if whole else ",".join(map(str, folds))


def recipe_rows(content: Content) -> list[tuple[str, str, str]]:
    """Return trainer, what its words mean, and its schedule as trained, for each variant."""
    if content.experiment is None:
        return []
    rows = []
    for variant in content.experiment.variants:
        trainer = content.experiment.trainer(variant)
        folds = [f for f in (content.manifest or {}).get("folds", []) if f.get("variant") == variant]
        schedules = dict.fromkeys(_schedule(fold) for fold in folds if fold.get("schedule"))
        rows.append((trainer, _meaning(trainer), "; ".join(schedules) or "not recorded"))
    return rows


def _meaning(trainer: str) -> str:
    recipe = recipes.parse(trainer)
    meanings = [recipes.bases()[recipe.base]]
    for group in recipe_words.WORD_GROUPS:
        if group.name in recipe.words:
            word = recipe.words[group.name]
            meanings.append(group.words.get(word, word))
    return "; ".join(meanings)


def _schedule(fold: dict[str, Any]) -> str:
    schedule = fold["schedule"]
    text = f"{fold.get('configuration')}: {schedule.get('epochs')} epochs of {schedule.get('iterations')} iterations"
    if schedule.get("max_lr"):
        text += f", learning rate up to {schedule['max_lr']:g}, weight decay {schedule.get('weight_decay', 0):g}"
    return text


def facts(content: Content) -> list[tuple[str, str]]:
    """Return versions, hardware, hashes and times as pairs of name and value."""
    manifest = content.manifest or {}
    machine, folds = manifest.get("machine", {}), manifest.get("folds", [])

    def listed(key: str) -> str:
        return ", ".join(sorted({str(fold[key]) for fold in folds if fold.get(key) is not None}))

    devices, threads = listed("device"), listed("threads")
    trained = [fold["trained_seconds"] for fold in folds if fold.get("trained_seconds") is not None]
    hashes = manifest.get("sha256", {})
    system = " ".join(str(machine[key]) for key in ("system", "processor") if machine.get(key))
    rows = [
        ("dataset", content.dataset),
        ("plans", str(manifest.get("arguments", {}).get("plans", ""))),
        ("hardware", f"{system}, {machine['cpus']} CPU cores" if machine.get("cpus") else system),
        ("trained on", f"{devices}, {threads} threads" if devices and threads else devices),
        ("precision", listed("precision")),
        ("training", f"{duration(sum(trained))} for {len(trained)} folds" if trained else ""),
        ("other steps", "; ".join(f"{step} {duration(seconds)}" for step, seconds in content.benchmarks.items())),
        ("seeds", listed("seed")),
        ("splits, SHA-256", str(hashes.get("splits") or "")),
        ("plans, SHA-256", str(hashes.get("plans") or "")),
        ("commit", str(manifest.get("commit") or "")),
        ("Python", str(manifest.get("python", ""))),
        *((str(package), str(version)) for package, version in manifest.get("versions", {}).items() if version),
        ("finished", str(manifest.get("written", "")).replace("T", " ").removesuffix("+00:00")),
    ]
    return [(name, value) for name, value in rows if value]


def agreement_words(content: Content) -> str:
    """Name the label and model whose volumes agree best and least with the reference's."""
    known = (
        content.comparison.volumes.dropna(subset=["icc"])
        if len(content.comparison.volumes)
        else content.comparison.volumes
    )
    if len(known) < 2:
        return ""
    ordered = known.sort_values("icc")
    best, least = ordered.iloc[-1], ordered.iloc[0]
    parts = [
        f"{row['variant']} {row['configuration']}, {row['label']}: {row['icc']:.2f} "
        f"({interval(row['icc_low'], row['icc_high'], '.2f')})"
        for row in (best, least)
    ]
    return f"Highest ICC {parts[0]}; lowest {parts[1]}."


def notebook_sentence(scores: NotebookScores | None) -> str:
    """Say how far the two scores of the same masks differ, and how often they rank models in opposite order."""
    if scores is None or scores.means.empty:
        return ""
    parts = []
    known = scores.means.dropna()
    if len(known):
        gaps = known["notebook_dice"] - known["dice"]
        low, high = f"{gaps.min():.3f}", f"{gaps.max():.3f}"
        above = low if low == high else f"{low} to {high}"
        parts.append(f"For the same masks, the notebooks' score is {above} higher than Dice per volume.")
    if scores.comparisons:
        parts.append(
            f"In {len(scores.reversals)} of {scores.comparisons} comparisons of two models (each fold, and all folds "
            f"together) the two scores rank them in opposite order; for single cases, in "
            f"{scores.disagreeing_cases:.0%} of all comparisons."
        )
    return " ".join(parts)


def alternatives(content: Content) -> dict[str, Any]:
    """Return text alternatives of the charts, by chart."""
    means = zip(content.models, content.case_dice.mean(), strict=True)
    cases = "; ".join(f"{model}: mean {mean:.4f}" for model, mean in means if pd.notna(mean))
    sizes: dict[str, list[str]] = {}
    for row in content.comparison.curve.to_dict("records"):
        sizes.setdefault(one_model(row), []).append(f"{number(row['mean'])} with {number(row['cases'], '.0f')} cases")
    loss: dict[str, list[str]] = {}
    dice: dict[str, list[str]] = {}
    for fold in content.curves:
        named = f"{fold.variant} fold {fold.fold}"
        loss.setdefault(fold.model.configuration, []).append(f"{named} {number(fold.curves.val_loss[-1], '.3f')}")
        dice.setdefault(fold.model.configuration, []).append(f"{named} {number(fold.curves.pseudo_dice[-1], '.3f')}")
    return {
        "cases": cases,
        "sizes": "; ".join(f"{name}: {', '.join(points)}" for name, points in sizes.items()),
        "notebook": notebook_sentence(content.notebook),
        "loss": {name: f"Validation loss of the last epoch: {', '.join(values)}." for name, values in loss.items()},
        "dice": {name: f"Last epoch: {', '.join(values)}." for name, values in dice.items()},
    }
