"""What a trainer's name may say: the bases, and the words in their groups."""

from __future__ import annotations

import re
from dataclasses import dataclass

BASES: dict[str, str] = {
    "UNetTrainer": "nnU-Net's own network: the baseline",
    "AttentionUNetTrainer": "U-Net with additive attention gates on every skip (Oktay et al. 2018)",
    "CLIPGuidedUNetTrainer": "U-Net guided by a frozen CLIP image encoder, its classes told apart by CLIP's text",
}
"""The bases of this package; `bases()` has those of other packages too."""
CLIP_BASE = "CLIPGuidedUNetTrainer"
"""The base that CLIP's words belong to."""


@dataclass(frozen=True)
class WordGroup:
    """One group of recipe words, of which a name holds at most one.

    Attributes:
        name: The group's name.
        words: Word, or pattern such as `<N>epochs`, to its meaning.
        unit: For a pattern, the fixed part of the word; empty for a group of plain words.
        prefix: Whether the fixed part comes before the number.
        base: The only base that these words go with; empty for all.
        not_with: A base that they do not go with.
    """

    name: str
    words: dict[str, str]
    unit: str = ""
    prefix: bool = False
    base: str = ""
    not_with: str = ""

    def number(self, word: str) -> int | None:
        """Return the number in a patterned word such as `50epochs`; None if the word is of another form."""
        pattern = rf"{self.unit}(0|[1-9]\d{{0,8}})" if self.prefix else rf"([1-9]\d{{0,8}}){self.unit}"
        match = re.fullmatch(pattern, word) if self.unit else None
        return int(match.group(1)) if match else None

    def holds(self, word: str) -> bool:
        """Tell whether the word belongs to this group."""
        return self.number(word) is not None if self.unit else word in self.words

    def fits(self, base: str) -> bool:
        """Tell whether the group's words go with a base."""
        return self.base in ("", base) and self.not_with != base


WORD_GROUPS: tuple[WordGroup, ...] = (
    WordGroup(
        "augmentation",
        {
            "noAug": "no augmentation",
            "flip": "mirroring along each axis with probability 0.5",
            "flipRot": "flip, and rotation within 10 degrees for 30 % of the samples",
            "flipRotNoise": "flipRot, and Gaussian noise of 0.01 standard deviations for 30 % of the samples",
            "nnunetAug": "nnU-Net's own, mirroring along every axis included: the default, except with fast",
        },
    ),
    WordGroup(
        "mirroring",
        {
            "noMirror": "no mirroring in training and prediction",
            "mirrorLR": "mirroring left to right with probability 0.5, and in prediction",
        },
    ),
    WordGroup(
        "loss",
        {
            "dice": "soft Dice alone",
            "ce": "cross-entropy alone (binary cross-entropy with regions)",
            "diceFocal": "soft Dice plus focal loss (gamma 2)",
        },
    ),
    WordGroup(
        "teaching",
        {"taught": "learns from the recipe's networks seed1 and seed2 of the same fold, too, averaged"},
        not_with=CLIP_BASE,
    ),
    WordGroup(
        "design",
        {
            "dense": "maps of CLIP's patch tokens and of their similarity to the classes' text guide the coarse skips",
            "textHead": "the heads' weights are made from the classes' text by one small network",
        },
        base=CLIP_BASE,
    ),
    WordGroup(
        "guidance",
        {
            "live": "CLIP encodes every augmented patch in every step",
            "cached": "CLIP encodes each slice of each case once: the default",
        },
        base=CLIP_BASE,
    ),
    WordGroup(
        "head",
        {"plainHead": "1x1 convolutions as heads, as in a U-Net, in place of cosines with the classes' text"},
        base=CLIP_BASE,
    ),
    WordGroup(
        "textControl",
        {
            "rotatedText": "the classes' text embeddings, and any given later, under one random rotation",
            "randomText": "random unit vectors with the cosines of the classes' text embeddings",
            "shuffledText": "the classes' text embeddings exchanged among the classes",
        },
        base=CLIP_BASE,
    ),
    WordGroup(
        "imageControl",
        {
            "otherImage": "the embedding of the slice at the same relative position in another case",
            "positionImage": "the relative position of the slice, of the image's embedding's form, in its place",
            "noImage": "zeros in place of the image's embedding",
        },
        base=CLIP_BASE,
    ),
    WordGroup("encoder", {"mini": "the bundled small CLIP in place of ViT-B-32"}, base=CLIP_BASE),
    WordGroup(
        "slices",
        {
            f"{number}slices": f"in 2D, {number} adjacent slices are the network's channels; it segments the middle one"
            for number in (3, 5, 7)
        },
        not_with=CLIP_BASE,
    ),
    WordGroup("schedule", {"fast": "the short schedule: AdamW, one cycle, batches augmented in memory"}),
    WordGroup("epochs", {"<N>epochs": "train for N epochs"}, unit="epochs"),
    WordGroup("iterations", {"<N>iters": "N iterations per epoch"}, unit="iters"),
    WordGroup("subset", {"<N>cases": "train on N of the fold's cases, as near as whole subjects allow"}, unit="cases"),
    WordGroup("repeat", {"seed<N>": "seed of initialisation, sampling and augmentation"}, unit="seed", prefix=True),
)


def _words_of(group: str) -> tuple[str, ...]:
    return tuple(next(g for g in WORD_GROUPS if g.name == group).words)


EXCLUSIVE = (
    (
        _words_of("augmentation"),
        _words_of("mirroring"),
        "{} decides about mirroring itself, so {} would contradict it",
    ),
    (("plainHead",), _words_of("textControl"), "{} uses no text, so {} would change nothing"),
    (("textHead",), ("plainHead",), "{} has heads of its own, so {} would contradict it"),
    (("live",), _words_of("imageControl"), "{} encodes the image's own patches, so {} cannot replace them"),
)
"""Words of which a name may have none of the first with one of the second, and why."""
