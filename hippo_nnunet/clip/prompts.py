"""Prompts for classes: templates filled with names of structures and tissues, or the user's own. No torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hippo_nnunet.errors import ConfigError

PROMPTS_VARIABLE = "HIPPO_CLIP_PROMPTS"
"""Variable with the file of the user's own prompts."""

TEMPLATES = (
    "{name}",
    "the {name}",
    "the {name} on {scan} slice",
    "{scan} slice that shows the {name}",
    "a medical image of the {name}",
)
"""Each is filled with each name of a class; the class is the mean of their embeddings."""

HIPPOCAMPUS_NAMES: dict[str, tuple[str, ...]] = {
    "anterior": (
        "anterior hippocampus",
        "head of the hippocampus",
        "hippocampal head",
        "wide front end of the hippocampus",
        "pes hippocampi",
    ),
    "posterior": (
        "posterior hippocampus",
        "body and tail of the hippocampus",
        "hippocampal tail",
        "narrow rear part of the hippocampus",
        "hippocampal body",
    ),
    "whole": (
        "hippocampus",
        "hippocampal formation",
        "hippocampus with its head, body and tail",
        "hippocampus proper and dentate gyrus",
    ),
}
"""Names of the parts that Task04 and similar datasets label."""

TISSUES: dict[str, tuple[str, ...]] = {
    "brain": (
        "white matter of the temporal lobe",
        "cerebrospinal fluid",
        "temporal horn of the lateral ventricle",
        "amygdala",
        "parahippocampal gyrus",
        "cerebral cortex",
    ),
    "body": ("muscle", "fat", "bone", "blood vessels", "connective tissue", "air outside of the body"),
}
"""What the background consists of, in the brain and elsewhere."""

_BRAIN = {
    "brain",
    "brats",
    "cerebral",
    "cortex",
    "edema",
    "glioma",
    "hippocampal",
    "hippocampus",
    "thalamus",
    "ventricle",
}
_LATERALITY = {"left", "right", "leftmost", "rightmost", "l", "r", "lh", "rh", "dexter", "sinister"}
_FILLERS = {"hippocampus", "hippocampal", "hippocampi", "of", "the", "and", "part", "region", "whole", "entire", "all"}


def class_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """Names of the segmentation heads, in nnU-Net's order.

    Returns:
        With plain labels: background, then the others by value. With regions: the regions in the order of `labels`
        (to which `regions_class_order` lists the values), without background. Never the ignore label.

    Source: nnU-Net's LabelManager (`all_labels`, `all_regions`).
    """
    labels = {
        name: (tuple(value) if isinstance(value, (list, tuple)) else (value,))
        for name, value in dataset_json["labels"].items()
        if name != "ignore"
    }
    if any(len(values) > 1 for values in labels.values()):
        return [name for name, values in labels.items() if set(values) != {0}]
    return sorted(labels, key=lambda name: int(labels[name][0]))


def class_prompts(dataset_json: Mapping[str, Any]) -> list[list[str]]:
    """Prompts for each segmentation head: every template with every name of the class.

    Args:
        dataset_json: Content of nnU-Net's dataset.json: `labels`, and, if present, `name` and `channel_names`.

    Returns:
        One list of several prompts for each head, in nnU-Net's order (see `class_names`). The background is named by
        its tissues, because encoders embed "no hippocampus" next to "hippocampus"; tissues that are labels are left
        out. The hippocampus and its parts have several names; if any label is something else, every class has the one
        of its label.
    """
    heads = class_names(dataset_json)
    foreground = {name: _words(name) for name in heads if name != "background"}
    parts = {name: _part(spoken) for name, spoken in foreground.items()}
    told = " ".join([_words(str(dataset_json.get("name", ""))), *foreground.values()])
    about_hippocampus = "hippocamp" in told or {"anterior", "posterior"} <= set(foreground.values())
    names: dict[str, Sequence[str]]
    if about_hippocampus and all(parts.values()):
        names = {name: HIPPOCAMPUS_NAMES[part] for name, part in parts.items() if part}
    else:
        names = {name: (spoken,) for name, spoken in foreground.items()}
    tissues = TISSUES["brain" if about_hippocampus or _BRAIN & set(re.findall("[a-z]+", told)) else "body"]
    labelled = {word.rstrip("s") for spoken in foreground.values() for word in spoken.split()} - _FILLERS
    unlabelled = [tissue for tissue in tissues if not labelled & {word.rstrip("s") for word in tissue.split()}]
    names["background"] = unlabelled or ["other tissue"]
    scan = _scan(dataset_json)
    return [[template.format(name=name, scan=scan) for name in names[head] for template in TEMPLATES] for head in heads]


def training_prompts(dataset_json: Mapping[str, Any]) -> dict[str, list[str]]:
    """Prompts that a training uses: those of the file that `PROMPTS_VARIABLE` names, otherwise `class_prompts`.

    Args:
        dataset_json: As for `class_prompts`.

    Returns:
        Class to its prompts, in the order of the heads.

    Raises:
        ConfigError: As `read_prompts`, or the file has an unknown class or lacks one.
    """
    names = class_names(dataset_json)
    file = os.environ.get(PROMPTS_VARIABLE, "")
    if not file:
        return dict(zip(names, class_prompts(dataset_json), strict=True))
    given = read_prompts(file)
    for name in given:
        if name not in names:
            raise ConfigError(f"{PROMPTS_VARIABLE}={file}: no such class {name!r}; the classes are {', '.join(names)}")
    for name in names:
        if name not in given:
            raise ConfigError(f"{PROMPTS_VARIABLE}={file}: no prompts for the class {name!r}; add a list of texts")
    return {name: given[name] for name in names}


def read_prompts(file: str) -> dict[str, list[str]]:
    """Read a YAML or JSON file that maps class names to lists of texts.

    Raises:
        ConfigError: It cannot be read, is no such mapping, names a class twice, or has an empty list or text.
    """
    import yaml

    def refusal(fault: str) -> ConfigError:
        return ConfigError(
            f"{PROMPTS_VARIABLE}={file}: {fault}; expected a YAML or JSON file with a list of texts for each class, "
            "such as 'anterior: [head of the hippocampus]'"
        )

    try:
        root = yaml.compose(Path(os.path.expanduser(file)).read_text(encoding="utf-8"), yaml.SafeLoader)  # noqa: PTH111
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{PROMPTS_VARIABLE}={file}: cannot be read ({reason}); correct or unset it") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise refusal("is no YAML" + (f" in line {mark.line + 1}" if mark else "")) from error
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise refusal("holds no mapping")
    prompts: dict[str, list[str]] = {}
    for key, texts in root.value:
        name, line = str(key.value), key.start_mark.line + 1
        if key.tag != "tag:yaml.org,2002:str":
            raise refusal(f"line {line}: {name} is not the name of a class, unless in quotes")
        if name in prompts:
            raise refusal(f"line {line}: {name!r} stands twice")
        if not isinstance(texts, yaml.SequenceNode) or not texts.value:
            raise refusal(f"line {line}: {name!r} has no list of texts")
        for text in texts.value:
            if text.tag != "tag:yaml.org,2002:str" or not text.value.strip():
                shown = text.value if isinstance(text.value, str) else "a list or mapping"
                raise refusal(f"line {text.start_mark.line + 1}: {name!r} has {shown or 'nothing'!r}, which is no text")
        prompts[name] = [text.value.strip() for text in texts.value]
    return prompts


def words_of_side(prompts: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the words in the prompts of each class that say left or right; only classes that have some.

    A network that is trained with mirrored images cannot learn what they mean.
    """
    found = {name: set(re.findall(r"[a-z]+", " ".join(texts).lower())) & _LATERALITY for name, texts in prompts.items()}
    return {name: sorted(words) for name, words in found.items() if words}


def override_prompts(dataset_json: Mapping[str, Any], overrides: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """`class_prompts`, some of them replaced.

    Args:
        dataset_json: As for `class_prompts`.
        overrides: Prompts by class name as in dataset.json, in any case.

    Returns:
        One list for each head.

    Raises:
        ConfigError: There is no such class, or no prompt for it.
    """
    prompts = class_prompts(dataset_json)
    heads = {name.lower(): head for head, name in enumerate(class_names(dataset_json))}
    for name, own in overrides.items():
        if name.lower() not in heads:
            raise ConfigError(f"prompt for {name!r}: no such class; the classes are {', '.join(heads)}")
        if not own or not all(prompt.strip() for prompt in own):
            raise ConfigError(f"prompt for {name!r}: is empty; give a description of the class")
        prompts[heads[name.lower()]] = list(own)
    return prompts


def _part(spoken: str) -> str | None:
    """Key of `HIPPOCAMPUS_NAMES` that a label's name means; None if it does not name exactly one part."""
    words = set(spoken.split()) - _FILLERS
    if not words:
        return "whole"
    if words <= {"anterior", "head"}:
        return "anterior"
    if words <= {"posterior", "body", "tail"} and ("posterior" in words or len(words) == 2):
        return "posterior"
    return None


def _words(name: str) -> str:
    """A label's name as one would say it: `LeftKidney` and `left_kidney` become `left kidney`."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.split(r"[\s_\-+&/]+", parted.strip())).lower()


def _scan(dataset_json: Mapping[str, Any]) -> str:
    channels = " ".join(str(name) for name in dataset_json.get("channel_names", {}).values()).upper()
    if re.search(r"\bCT\b", channels):
        return "a CT"
    return "an MRI" if re.search(r"MR|T1|T2|FLAIR|ADC|DWI", channels) else "a medical image"
