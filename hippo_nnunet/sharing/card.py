"""The model card of a shared model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hippo_nnunet.training.recipe_words import WORD_GROUPS
from hippo_nnunet.training.recipes import bases, is_ours, parse


def model_card(description: Mapping[str, Any], dataset_json: Mapping[str, Any], plans: Mapping[str, Any]) -> str:
    """Return the card as Markdown, from the content of model.json, dataset.json and plans.json."""
    name = f"{description['trainer']}, {plans['plans_name']}, {description['configuration']}"
    parts = [
        f"# {name}",
        f"A segmentation model of nnU-Net v2 for {plans['dataset_name']}, shared with `hippo-nnunet model export`. "
        "For research; not a medical device. It has only been trained on images like those below: check its "
        "segmentations of your images before you rely on them.",
        "```bash\nhippo-nnunet model verify MODEL.hippo\nhippo-nnunet predict --model MODEL.hippo --input images "
        "--output segmentations\n```",
        "## What it is",
        *_bullets(_recipe_lines(str(description["trainer"]))),
        *_bullets(_clip_lines(description.get("clip"))),
        "## What it was trained on",
        *_bullets(_data_lines(dataset_json)),
        "## How well it does",
        _metrics(description["metrics"]),
        "## Training",
        *_bullets(_training_lines(description)),
        "## Licence and citation",
        f"Licence: {description['licence'] or 'not stated: ask the authors before you use or pass on this model'}",
        f"Citation: {description['citation'] or 'not stated'}",
        "## Versions",
        *_bullets([f"{package} {version}" for package, version in description["versions"].items()]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _bullets(lines: list[str]) -> list[str]:
    return ["\n".join(f"- {line}" for line in lines)] if lines else []


def _recipe_lines(trainer: str) -> list[str]:
    if not is_ours(trainer):
        return [f"`{trainer}`: a trainer of nnU-Net"]
    recipe = parse(trainer)
    lines = [f"`{recipe.base}`: {bases()[recipe.base]}"]
    for group in WORD_GROUPS:
        word = recipe.words.get(group.name)
        if word is not None:
            meaning = group.words.get(word) or next(iter(group.words.values()))
            lines.append(f"{group.name} `{word}`: {meaning}")
    return lines


def _clip_lines(clip: Mapping[str, Any] | None) -> list[str]:
    if clip is None:
        return []
    return [
        f"CLIP encoder {clip['name']}, SHA-256 {clip['sha256']}: not in this file; `hippo-nnunet clip fetch` gets it, "
        "and a model for another encoder is refused. The embeddings of the classes' texts are among the weights."
    ]


def _data_lines(dataset_json: Mapping[str, Any]) -> list[str]:
    labels = ", ".join(f"{name} = {value}" for name, value in dataset_json["labels"].items())
    channels = dataset_json.get("channel_names") or dataset_json["modality"]
    known = [(key, dataset_json.get(key)) for key in ("name", "description", "reference", "licence", "release")]
    return [
        *(f"{key}: {value}" for key, value in known if value),
        f"{dataset_json.get('numTraining', 'an unknown number of')} cases; channels: {', '.join(channels.values())}",
        f"labels: {labels}",
    ]


def _metrics(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    if not metrics:
        return "No validation was found beside the checkpoints."
    labels = list(dict.fromkeys(label for fold in metrics.values() for label in fold["dice"]))
    rows = [["fold", "cases", *labels, "mean"], ["---"] * (3 + len(labels))]
    for fold, values in metrics.items():
        dice = [*(values["dice"].get(label) for label in labels), values["mean_dice"]]
        rows.append([fold, str(values["cases"]), *("-" if d is None else f"{d:.4f}" for d in dice)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"Dice of each fold on its own validation cases, mean over cases:\n\n{table}"


def _training_lines(description: Mapping[str, Any]) -> list[str]:
    lines = []
    if description.get("schedule"):
        lines.append(", ".join(f"{key} {value}" for key, value in description["schedule"].items()))
    for fold, training in description["training"].items():
        where = ", ".join(str(training[key]) for key in ("device", "threads") if training.get(key) is not None)
        lines.append(f"fold {fold}: {training['trained_seconds']:g} s ({where} threads), seed {training['seed']}")
    return lines
