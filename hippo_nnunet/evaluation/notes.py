"""Notes on a comparison: what a reader has to know beside its figures."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class NoteKind(Enum):
    """What a note is about; decides where a page shows it."""

    LABEL_NOT_FOUND = auto()
    """A model found a label in none of the cases."""
    SHORT_TRAINING = auto()
    """A training was far too short to judge."""
    NO_REQUEST = auto()
    """`experiment.yaml` is missing, and with it times and the notebooks' score."""
    TRAINING_TIME = auto()
    """A training time is missing."""
    PRECISION = auto()
    """Models were trained in different precisions."""
    TIME_PER_IMAGE = auto()
    """How the time of an image was measured."""
    MODEL_TIME = auto()
    """The time of an image of configurations that predict together."""
    NOTEBOOK_SCORE = auto()
    """A model has no score of the notebooks' protocol."""
    SCORES_DISAGREE = auto()
    """Dice and the notebooks' score rank two models differently."""
    BROKEN_SUBJECTS = auto()
    """Subjects with cases in several folds."""
    LEFT_OUT = auto()
    """Folds, cases or pairs that a comparison leaves out."""
    MARGIN = auto()
    """Where the margin of equivalence comes from."""
    SUBSETS = auto()
    """What models that were trained on fewer cases have in common."""
    SCORED_EMPTY = auto()
    """How cases are scored whose reference lacks a label."""
    PUBLISHED = auto()
    """How published results are compared."""
    ONE_MODEL = auto()
    """There is nothing to compare."""
    FEW_CASES = auto()
    """Too few cases for a verdict."""
    SHARED_DATA = auto()
    """Folds share training cases."""
    ONE_SEED = auto()
    """No recipe was trained with several seeds."""


@dataclass(frozen=True)
class Note:
    """A sentence or two, and what they are about."""

    kind: NoteKind
    text: str

    def __str__(self) -> str:
        """Return the text."""
        return self.text
