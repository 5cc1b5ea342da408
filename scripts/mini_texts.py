"""Texts that `mini` is trained and judged with: captions of slices, paraphrases and other topics that are held out."""

from __future__ import annotations

from hippo_nnunet.clip.prompts import HIPPOCAMPUS_NAMES, TEMPLATES, TISSUES

# What a slice shows, by the share of the anterior part in what it shows of the hippocampus.
PARTS: dict[str, tuple[str, ...]] = {
    "none": (*TISSUES["brain"], "gyri of the temporal lobe", "grey and white matter", "brain tissue"),
    "anterior": HIPPOCAMPUS_NAMES["anterior"],
    "mostly anterior": (
        "head and a little of the body of the hippocampus",
        "mostly anterior and some posterior hippocampus",
        "hippocampal head where the body begins",
    ),
    "mostly posterior": (
        "body and a little of the head of the hippocampus",
        "mostly posterior and some anterior hippocampus",
        "hippocampal body where the head ends",
    ),
    "posterior": HIPPOCAMPUS_NAMES["posterior"],
}
# Each describes shares of the slice up to its limit.
AMOUNTS = ((0.02, "a trace of"), (0.05, "a small section of"), (0.09, "a section of"), (1.0, "a large section of"))
DESCRIPTIONS = [("none", "")] + [(part, amount) for part in PARTS if part != "none" for _, amount in AMOUNTS]
"""Part and amount of every description of a slice."""
SCANS = ("an MRI", "a brain MRI", "a T1-weighted")


def phrases(part: str, amount: str) -> list[str]:
    """Return captions of slices that show a part, or tissue; with an amount, not empty, also those that say it."""
    named = [template.format(name=name, scan=scan) for name in PARTS[part] for template in TEMPLATES for scan in SCANS]
    measured = [f"{amount} the {name}{where}" for name in PARTS[part] for where in ("", " on an MRI slice")]
    return list(dict.fromkeys([*named, *measured] if amount else named))


def captions() -> list[str]:
    """Return every caption."""
    return list(dict.fromkeys(text for part, amount in DESCRIPTIONS for text in phrases(part, amount)))


# Written apart from the names and templates of training: none of these texts occurs in it.
PARAPHRASES: dict[str, tuple[str, ...]] = {
    "background": (
        "axons of the neighbouring lobe",
        "fluid inside the ventricle",
        "myelinated fibres in the medial temporal region",
        "almond-shaped nucleus in front of the temporal horn",
        "entorhinal cortex",
        "fusiform gyrus",
        "liquor surrounding the brain",
        "choroid plexus",
        "grey matter of a neighbouring gyrus",
        "superior temporal sulcus",
    ),
    "anterior": (
        "front portion of the hippocampus",
        "MR image through the hippocampal head",
        "the most anterior third of the hippocampus",
        "rostral hippocampus",
        "the bulky frontal end of the hippocampal formation",
        "uncus and head of the hippocampus",
        "ventral hippocampus in rodents, the head in humans",
        "digitations of the hippocampal head",
    ),
    "posterior": (
        "back portion of the hippocampus",
        "MR image through the hippocampal body and tail",
        "the posterior two thirds of the hippocampus",
        "caudal hippocampus",
        "the thin rear end of the hippocampal formation",
        "tail of the hippocampus near the splenium",
        "dorsal hippocampus in rodents, the tail in humans",
        "the body of the hippocampus along its long axis",
    ),
}
OFF_TOPIC = (
    "a photo of a dog",
    "two cats sleeping on a sofa",
    "a red sports car on the motorway",
    "the stock market fell by three percent",
    "a recipe for apple pie",
    "a football match in the rain",
    "the capital of France",
    "a satellite image of a harbour",
    "an aeroplane above the clouds",
    "how to train a neural network",
    "the second movement of a piano sonata",
    "a bowl of noodles",
    "mountains at sunset",
    "the constitution of the United States",
    "a child riding a bicycle",
    "wooden chairs around a table",
    "a chest X-ray of a broken rib",
    "a CT slice of the liver and the spleen",
    "a photo of a skin lesion",
    "an ultrasound of a fetus",
)
