"""Trainer names are recipes: the grammar that joins bases and words (`recipe_words`), without torch.

`<Base>[_word]*`, at most one word of a group (both length words are allowed), groups in the order of `WORD_GROUPS`:
one recipe has one name, hence one result folder. Source: ours, because nnU-Net records a training recipe nowhere but in
the trainer's name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.training.plugins import external_trainers
from hippo_nnunet.training.recipe_words import BASES, EXCLUSIVE, WORD_GROUPS, WordGroup


@dataclass(frozen=True)
class Recipe:
    """A parsed trainer name.

    Attributes:
        base: One of `bases()`.
        words: Group name to word, for the groups of which the name has one.
    """

    base: str
    words: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The canonical trainer name."""
        return "_".join([self.base, *(self.words[g.name] for g in WORD_GROUPS if g.name in self.words)])

    @property
    def augmentation(self) -> str | None:
        """The augmentation word; None for nnU-Net's own augmentation."""
        return self.words.get("augmentation")

    @property
    def mirroring(self) -> str | None:
        """The mirroring word; None for the mirroring of the augmentation or schedule."""
        return self.words.get("mirroring")

    @property
    def loss(self) -> str | None:
        """The loss word; None for nnU-Net's Dice plus cross-entropy."""
        return self.words.get("loss")

    @property
    def taught(self) -> bool:
        """Whether the network learns from other ones, too: see `teacher_recipes`."""
        return "teaching" in self.words

    @property
    def guidance(self) -> str:
        """Where a CLIP-guided network's image embedding comes from: `cached` (the default) or `live`."""
        return self.words.get("guidance", "cached")

    @property
    def design(self) -> str | None:
        """The design of a CLIP-guided network: `dense`, `textHead`, or None for the first one."""
        return self.words.get("design")

    @property
    def plain_head(self) -> bool:
        """Whether the heads of a CLIP-guided network are 1x1 convolutions, which use no text."""
        return "head" in self.words

    @property
    def uses_text(self) -> bool:
        """Whether a CLIP-guided network depends on the classes' texts: by its heads, or by the maps of `dense`."""
        return not self.plain_head or self.design == "dense"

    @property
    def text_control(self) -> str | None:
        """What replaces the text embeddings of a CLIP-guided network's classes; None for nothing."""
        return self.words.get("textControl")

    @property
    def image_control(self) -> str | None:
        """What replaces the image embedding of a CLIP-guided network; None for nothing."""
        return self.words.get("imageControl")

    @property
    def mini(self) -> bool:
        """Whether the bundled small CLIP is used."""
        return "encoder" in self.words

    @property
    def slices(self) -> int:
        """Number of adjacent slices that a 2D network sees, an odd number."""
        return int(self.words.get("slices", "1slices").removesuffix("slices"))

    @property
    def fast(self) -> bool:
        """Whether the short schedule is used."""
        return "schedule" in self.words

    @property
    def epochs(self) -> int | None:
        """Number of epochs; None for the schedule's own."""
        return self._number("epochs")

    @property
    def iterations(self) -> int | None:
        """Iterations per epoch; None for the schedule's own."""
        return self._number("iterations")

    @property
    def cases(self) -> int | None:
        """Number of training cases; None for all of the fold's."""
        return self._number("subset")

    @property
    def seed(self) -> int | None:
        """The seed; None if the name has none."""
        return self._number("repeat")

    def _number(self, group: str) -> int | None:
        if group not in self.words:
            return None
        return next(g for g in WORD_GROUPS if g.name == group).number(self.words[group])


TEACHERS = (1, 2)
"""Seeds of the networks that teach."""


def teacher_recipes(recipe: Recipe) -> list[Recipe]:
    """Return the recipes of the networks that teach a `taught` one: the same without the word, with other seeds."""
    plain = {group: word for group, word in recipe.words.items() if group != "teaching"}
    return [Recipe(recipe.base, plain | {"repeat": f"seed{seed}"}) for seed in TEACHERS if recipe.taught]


def bases() -> dict[str, str]:
    """Return every base and its meaning: `BASES`, then those that other packages add."""
    return BASES | {name: f"from {point.value}" for name, point in external_trainers().items() if name not in BASES}


def is_ours(name: str) -> bool:
    """Tell whether a name claims to be one of our recipes: a base alone, or a base followed by an underscore."""
    base = name.partition("_")[0]
    return base in BASES or (base.endswith("Trainer") and base in external_trainers())


@lru_cache(maxsize=1024)
def parse(name: str) -> Recipe:
    """Parse a trainer name.

    Args:
        name: For example `AttentionUNetTrainer_flipRot_fast_20epochs_seed1`.

    Returns:
        The recipe; `parse(name).name == name` always.

    Raises:
        ConfigError: Unknown base or word, a word of another base, two words of one group, words that exclude each
            other, or words out of order. Names the nearest right name.
    """
    base, *words = name.split("_")
    if base not in bases():
        raise ConfigError(
            f"trainer '{name}': unknown base '{base}'; the bases are {', '.join(bases())}. "
            f"Did you mean '{suggest(name)}'?"
        )
    chosen: dict[str, str] = {}
    for word in words:
        group = _group_of(word)
        if group is None:
            raise ConfigError(
                f"trainer '{name}': unknown word '{word}'. Did you mean '{suggest(name)}'? "
                "'hippo-nnunet list' shows every word."
            )
        if not group.fits(base):
            goes = f"goes with {group.base} alone" if group.base else f"does not go with {group.not_with}"
            raise ConfigError(
                f"trainer '{name}': '{word}' is a word of the group {group.name}, which {goes}. "
                f"Did you mean '{suggest(name)}'?"
            )
        if group.name in chosen:
            raise ConfigError(
                f"trainer '{name}': '{chosen[group.name]}' and '{word}' are both words of the group "
                f"{group.name}, of which one may stand. Did you mean '{suggest(name)}'?"
            )
        chosen[group.name] = word
    for first, second, reason in _excluded(words):
        reason = reason.format(f"'{first}'", f"'{second}'")
        raise ConfigError(f"trainer '{name}': {reason}. Did you mean '{suggest(name)}'?")
    recipe = Recipe(base, chosen)
    if recipe.name != name:
        raise ConfigError(f"trainer '{name}': the words stand in the wrong order. Did you mean '{recipe.name}'?")
    return recipe


def compose(base: str, words: Iterable[str] = ()) -> str:
    """Join a base and words, given in any order, into the canonical trainer name.

    Raises:
        ConfigError: As for `parse`, except for the order.
    """
    order = {group.name: i for i, group in enumerate(WORD_GROUPS)}

    def position(word: str) -> int:
        group = _group_of(word)
        return order[group.name] if group else len(order)

    return parse("_".join([base, *sorted(words, key=position)])).name


def suggest(name: str) -> str:
    """Return the valid trainer name that is nearest to a wrong one; a word that goes with one base only selects that
    base."""
    base, *words = name.split("_")
    if base not in bases():
        base = difflib.get_close_matches(base, bases(), n=1, cutoff=0.0)[0]
    base = next((group.base for group in map(_group_of, words) if group and group.base not in ("", base)), base)
    chosen: dict[str, str] = {}
    for word in words:
        right = _nearest_word(word, base)
        group = _group_of(right) if right else None
        if group and right and group.fits(base):
            chosen.setdefault(group.name, right)
    for _, second, _ in _excluded(list(chosen.values())):
        chosen = {group: word for group, word in chosen.items() if word != second}
    return Recipe(base, chosen).name


def _excluded(words: Collection[str]) -> list[tuple[str, str, str]]:
    """Return the pairs of words that exclude each other, with the reason."""
    subsets = [word for word in words if (group := _group_of(word)) and group.name == "subset"]
    other_cases = "{}: the teachers have other seeds, so that they would draw other cases than {}"
    as_teacher = "{}: the teacher {} starts with the same weights and sees the same batches, so take another seed"
    of_teachers = [f"seed{seed}" for seed in TEACHERS]
    of_taught = ((("taught",), subsets, other_cases), (("taught",), of_teachers, as_teacher))
    return [
        (first, second, reason)
        for firsts, seconds, reason in (*EXCLUSIVE, *of_taught)
        for first in firsts
        for second in seconds
        if first in words and second in words and not (first == "plainHead" and "dense" in words)
    ]


def _group_of(word: str) -> WordGroup | None:
    return next((group for group in WORD_GROUPS if group.holds(word)), None)


def _nearest_word(word: str, base: str) -> str | None:
    if _group_of(word):
        return word
    digits = "".join(re.findall(r"\d", word)).lstrip("0")
    letters = re.sub(r"\d", "", word)
    candidates: dict[str, str] = {}
    for group in (group for group in WORD_GROUPS if group.fits(base)):
        if not group.unit:
            candidates.update({w.lower(): w for w in group.words})
        elif digits:
            candidates[group.unit] = f"{group.unit}{digits}" if group.prefix else f"{digits}{group.unit}"
    found = difflib.get_close_matches(letters.lower(), candidates, n=1, cutoff=0.5)
    return candidates[found[0]] if found else None
