"""Trainer names: one recipe, one name; wrong names lead to the nearest right one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.training.recipe_words import BASES, CLIP_BASE, EXCLUSIVE, WORD_GROUPS
from hippo_nnunet.training.recipes import compose, is_ours, parse, suggest, teacher_recipes


@st.composite
def recipes(draw: st.DrawFn) -> tuple[str, list[str]]:
    base, words = draw(st.sampled_from(sorted(BASES))), []
    for group in WORD_GROUPS:
        if (
            not group.fits(base)
            or not draw(st.booleans())
            or ("taught" in words and group.name in ("subset", "repeat"))
        ):
            continue
        if not group.unit:
            out = [word for firsts, seconds, _ in EXCLUSIVE if {*firsts} & {*words} for word in seconds]
            if allowed := sorted({*group.words} - {*out}):
                words.append(draw(st.sampled_from(allowed)))
            continue
        number = draw(st.integers(0 if group.prefix else 1, 10_000))
        words.append(f"{group.unit}{number}" if group.prefix else f"{number}{group.unit}")
    return base, words


@given(recipes(), st.randoms())
def test_a_recipe_has_one_name_whatever_the_order_of_its_words(base_and_words, random):
    base, words = base_and_words
    name = compose(base, words)
    shuffled = list(words)
    random.shuffle(shuffled)
    assert compose(base, shuffled) == name
    recipe = parse(name)
    assert recipe.name == name
    assert sorted(recipe.words.values()) == sorted(words)
    assert "__" not in name


@given(st.text(alphabet="abcdefgFRNU_0123456789", max_size=40))
def test_a_suggestion_is_always_a_valid_name(text):
    for base in BASES:
        assert parse(suggest(f"{base}_{text}"))


@pytest.mark.parametrize(
    ("name", "complaint", "suggestion"),
    [
        ("AttentionUNetTrainer_flp", "unknown word 'flp'", "AttentionUNetTrainer_flip"),
        ("UNetTrainer_flipRotNois", "unknown word", "UNetTrainer_flipRotNoise"),
        ("UNetTrainer_flip_noAug", "both words of the group augmentation", "UNetTrainer_flip"),
        ("UNetTrainer_dice_ce", "both words of the group loss", "UNetTrainer_dice"),
        ("UNetTrainer_fast_flip", "wrong order", "UNetTrainer_flip_fast"),
        ("UNetTrainer_10epoch", "unknown word", "UNetTrainer_10epochs"),
        ("UNetTrainer_0epochs", "unknown word", "UNetTrainer"),
        ("UNetTrainer_007epochs", "unknown word", "UNetTrainer_7epochs"),
        ("UNetTrainer__fast", "unknown word ''", "UNetTrainer_fast"),
        ("AtentionUNetTrainer_fast", "unknown base", "AttentionUNetTrainer_fast"),
        ("UNetTrainer_mini", "goes with CLIPGuidedUNetTrainer alone", "CLIPGuidedUNetTrainer_mini"),
        ("CLIPGuidedUNetTrainer_5slices_fast", "does not go with CLIPGuidedUNetTrainer", "CLIPGuidedUNetTrainer_fast"),
        ("UNetTrainer_live_5slices", "goes with CLIPGuidedUNetTrainer alone", "CLIPGuidedUNetTrainer_live"),
        ("UNetTrainer_4slices", "unknown word '4slices'", "UNetTrainer_7slices"),
        ("AttentionUNetTrainer_flip_noImage_fast", "group imageControl", "CLIPGuidedUNetTrainer_flip_noImage_fast"),
        ("CLIPGuidedUNetTrainer_noImage_randomText", "wrong order", "CLIPGuidedUNetTrainer_randomText_noImage"),
        ("CLIPGuidedUNetTrainer_rotatedText_randomText", "both words of", "CLIPGuidedUNetTrainer_rotatedText"),
        ("CLIPGuidedUNetTrainer_plainHead_randomText_mini", "no text", "CLIPGuidedUNetTrainer_plainHead_mini"),
        ("CLIPGuidedUNetTrainer_textHead_plainHead_mini", "heads of its own", "CLIPGuidedUNetTrainer_textHead_mini"),
        ("CLIPGuidedUNetTrainer_dense_textHead", "both words of the group design", "CLIPGuidedUNetTrainer_dense"),
        ("UNetTrainer_flip_noMirror_fast", "'flip' decides about mirroring", "UNetTrainer_flip_fast"),
        ("UNetTrainer_noMirrors_fast", "unknown word", "UNetTrainer_noMirror_fast"),
        ("UNetTrainer_nnunetAug_mirrorLR_fast", "'nnunetAug' decides about", "UNetTrainer_nnunetAug_fast"),
        ("CLIPGuidedUNetTrainer_live_otherImage_mini", "own patches", "CLIPGuidedUNetTrainer_live_mini"),
        ("CLIPGuidedUNetTrainer_live_positionImage", "own patches", "CLIPGuidedUNetTrainer_live"),
        ("CLIPGuidedUNetTrainer_live_noImage", "own patches", "CLIPGuidedUNetTrainer_live"),
        ("CLIPGuidedUNetTrainer_mini_live", "wrong order", "CLIPGuidedUNetTrainer_live_mini"),
        ("CLIPGuidedUNetTrainer_live_cached", "both words of the group guidance", "CLIPGuidedUNetTrainer_live"),
        ("UNetTrainer_taught_fast_10cases", "they would draw other cases than '10cases'", "UNetTrainer_taught_fast"),
        ("UNetTrainer_taught_fast_seed2", "starts with the same weights", "UNetTrainer_taught_fast"),
        ("CLIPGuidedUNetTrainer_randmText_minni", "unknown word", "CLIPGuidedUNetTrainer_randomText_mini"),
        ("UNetTrainer_minni", "unknown word", "UNetTrainer"),
    ],
)
def test_a_wrong_name_is_refused_with_the_nearest_right_one(name, complaint, suggestion):
    with pytest.raises(ConfigError, match=re.escape(complaint)) as refusal:
        parse(name)
    assert f"Did you mean '{suggestion}'?" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_words_are_read_out():
    recipe = parse("AttentionUNetTrainer_flipRot_diceFocal_fast_20epochs_5iters_seed0")
    assert (recipe.augmentation, recipe.loss, recipe.fast) == ("flipRot", "diceFocal", True)
    assert (recipe.epochs, recipe.iterations, recipe.seed) == (20, 5, 0)
    guided = parse("CLIPGuidedUNetTrainer_flip_ce_live_shuffledText_mini_fast_seed2")
    assert (guided.base, guided.guidance, guided.mini) == (CLIP_BASE, "live", True)
    assert (guided.text_control, guided.image_control, guided.plain_head) == ("shuffledText", None, False)
    neither = parse("CLIPGuidedUNetTrainer_randomText_noImage_mini")
    assert (neither.text_control, neither.image_control) == ("randomText", "noImage")
    assert parse("CLIPGuidedUNetTrainer_plainHead_noImage").plain_head
    assert not parse("CLIPGuidedUNetTrainer_plainHead_noImage").uses_text
    dense = parse("CLIPGuidedUNetTrainer_dense_plainHead_rotatedText_mini")  # its maps use the text
    assert (dense.design, dense.text_control, dense.uses_text) == ("dense", "rotatedText", True)
    assert parse("CLIPGuidedUNetTrainer_textHead_shuffledText").design == "textHead"
    default = parse("CLIPGuidedUNetTrainer")
    assert (default.guidance, default.mini) == ("cached", False)
    assert (default.text_control, default.image_control, default.plain_head) == (None, None, False)
    bare = parse("UNetTrainer")
    assert (bare.augmentation, bare.loss, bare.fast, bare.epochs, bare.iterations, bare.seed) == (
        None, None, False, None, None, None,
    )  # fmt: skip


def test_teachers_have_the_students_recipe_and_other_seeds():
    student = parse("AttentionUNetTrainer_noMirror_taught_fast_20epochs_seed3")
    assert [teacher.name for teacher in teacher_recipes(student)] == [
        "AttentionUNetTrainer_noMirror_fast_20epochs_seed1",
        "AttentionUNetTrainer_noMirror_fast_20epochs_seed2",
    ]
    assert teacher_recipes(parse("UNetTrainer_fast")) == []


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainer_5epochs", "UNetTrainerX", "__file__", "_UNetTrainer"])
def test_foreign_names_are_not_ours(name):
    assert not is_ours(name)
