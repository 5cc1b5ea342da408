"""Prompts for classes: descriptions of the hippocampus and its parts, templates for anything else. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hippo_nnunet.errors import ConfigError

# Written for this project.
HIPPOCAMPUS_PROMPTS: dict[str, tuple[str, ...]] = {
    "background": (
        "a brain MRI slice without any hippocampus",
        "white matter, cerebrospinal fluid and cortex around the hippocampus",
        "temporal lobe tissue outside the hippocampus",
        "the amygdala, the ventricle and the gyri next to the hippocampus",
        "brain tissue that is not part of the hippocampus",
    ),
    "anterior": (
        "the anterior hippocampus on a brain MRI slice",
        "the head of the hippocampus, its wide front end",
        "hippocampal head below the amygdala, at the tip of the temporal horn",
        "the pes hippocampi with its digitations, in front of the uncal apex",
        "the thick anterior part of the grey matter structure in the medial temporal lobe",
        "a round grey matter region at the front of the hippocampus",
    ),
    "posterior": (
        "the posterior hippocampus on a brain MRI slice",
        "the body and tail of the hippocampus, its narrow rear part",
        "hippocampal body and tail along the floor of the temporal horn, behind the uncal apex",
        "the tail of the hippocampus, curving up towards the splenium of the corpus callosum",
        "the slender posterior part of the grey matter structure in the medial temporal lobe",
        "an elongated grey matter band at the back of the hippocampus",
    ),
    "whole": (
        "the whole hippocampus on a brain MRI slice",
        "the hippocampus with its head, body and tail",
        "the curved grey matter structure in the medial temporal lobe",
        "hippocampal formation along the temporal horn of the lateral ventricle",
        "anterior and posterior hippocampus together",
    ),
}

CLASS_TEMPLATES = (
    "the {name} on {scan} slice",
    "{scan} slice that shows the {name}",
    "a medical image of the {name}",
    "the region of the {name}",
    "{name}",
)
BACKGROUND_TEMPLATES = (
    "{scan} slice without {names}",
    "tissue around the {names}",
    "the background of {scan} slice, outside of the {names}",
    "none of the {names}",
)

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
    """Prompts for each segmentation head.

    Args:
        dataset_json: Content of nnU-Net's dataset.json: `labels`, and, if present, `name` and `channel_names`.

    Returns:
        One list of at least one prompt for each head, in nnU-Net's order (see `class_names`). The hippocampus and its
        parts have specific descriptions; if any label is something else, all prompts are made from the labels' names.
    """
    names = class_names(dataset_json)
    foreground = [name for name in names if name != "background"]
    parts = {name: _part(_words(name)) for name in foreground}
    told = " ".join([str(dataset_json.get("name", "")), *foreground]).lower()
    about_hippocampus = "hippocamp" in told or {"anterior", "posterior"} <= {name.lower() for name in foreground}
    if all(parts.values()) and about_hippocampus:
        return [list(HIPPOCAMPUS_PROMPTS[parts.get(name) or "background"]) for name in names]
    scan, spoken = _scan(dataset_json), [_words(name) for name in foreground]
    listed = " or ".join(filter(None, [", ".join(spoken[:-1]), *spoken[-1:]])) or "anything of interest"
    return [
        [template.format(scan=scan, names=listed) for template in BACKGROUND_TEMPLATES]
        if name == "background"
        else [template.format(scan=scan, name=_words(name)) for template in CLASS_TEMPLATES]
        for name in names
    ]


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
    """Key of `HIPPOCAMPUS_PROMPTS` that a label's name means; None if it does not name exactly one part."""
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
