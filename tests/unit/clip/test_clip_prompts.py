"""Prompts: one list for each of nnU-Net's heads, in its order, and about the right thing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from hippo_nnunet.clip.prompts import (
    HIPPOCAMPUS_NAMES,
    TEMPLATES,
    TISSUES,
    class_names,
    class_prompts,
    override_prompts,
    training_prompts,
    words_of_side,
)
from hippo_nnunet.errors import ConfigError

TASK04 = {"labels": {"background": 0, "Anterior": 1, "Posterior": 2}, "channel_names": {"0": "MRI"}}
UNORDERED = {"labels": {"spleen": 3, "background": 0, "Liver": 1, "left_kidney": [2], "ignore": 4}}
REGIONS = {
    "labels": {"background": 0, "whole tumor": [1, 2, 3], "core": [2, 3], "enhancing": 3, "ignore": 4},
    "regions_class_order": [1, 2, 3],
    "channel_names": {"0": "T1", "1": "FLAIR"},
}


@pytest.mark.parametrize("dataset_json", [TASK04, UNORDERED, REGIONS])
def test_heads_are_those_of_nnunet(dataset_json: dict) -> None:
    manager = LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    values = [dataset_json["labels"][name] for name in class_names(dataset_json)]
    if manager.has_regions:
        assert [tuple(value) if isinstance(value, list) else value for value in values] == manager.foreground_regions
    else:
        assert [value[0] if isinstance(value, list) else value for value in values] == manager.all_labels
    assert len(class_prompts(dataset_json)) == manager.num_segmentation_heads


def test_the_hippocampus_has_names_of_its_own() -> None:
    background, anterior, posterior = class_prompts(TASK04)
    assert min(map(len, (background, anterior, posterior))) >= 4 * len(TEMPLATES)
    assert len({*background, *anterior, *posterior}) == len(background) + len(anterior) + len(posterior)
    assert "head of the hippocampus" in anterior
    assert "the head of the hippocampus on an MRI slice" in anterior
    assert any("tail" in prompt for prompt in posterior)
    swapped = {**TASK04, "labels": {"background": 0, "Posterior": 1, "Anterior": 2}}
    assert class_prompts(swapped) == [background, posterior, anterior]


@pytest.mark.parametrize("dataset_json", [TASK04, UNORDERED, {**UNORDERED, "channel_names": {"0": "CT"}}])
def test_the_background_is_named_by_its_tissues_and_not_by_what_it_lacks(dataset_json: dict) -> None:
    background, *others = class_prompts(dataset_json)
    said = " ".join(background).split()
    assert not {"no", "not", "none", "without", "around", "background"} & set(said)
    names = {name for name in class_names(dataset_json) if name != "background"}
    assert not any(name.lower() in prompt for name in names for prompt in background)
    assert not {*background} & {prompt for prompts in others for prompt in prompts}


def test_a_tissue_that_is_a_label_is_no_background() -> None:
    labels = {"background": 0, "hippocampus_anterior": 1, "Amygdala": 2, "CSF": 3}
    background = class_prompts({"labels": labels})[0]
    assert any("white matter" in prompt for prompt in background)
    assert not any("amygdala" in prompt for prompt in background)
    every = {"background": 0, "muscle": 1, "fat": 2, "bone": 3, "blood_vessel": 4, "connective": 5, "air": 6}
    assert class_prompts({"labels": every})[0][0] == "other tissue"


def test_tissues_of_the_brain_are_for_datasets_of_the_brain() -> None:
    assert any(TISSUES["brain"][0] in prompt for prompt in class_prompts({"labels": {"background": 0, "edema": 1}})[0])
    assert any(TISSUES["body"][0] in prompt for prompt in class_prompts({"labels": {"background": 0, "spleen": 1}})[0])
    named = {"name": "Dataset001_BrainTumour", "labels": {"background": 0, "tumour": 1}}
    assert any(TISSUES["brain"][0] in prompt for prompt in class_prompts(named)[0])


@pytest.mark.parametrize(
    ("labels", "keys"),
    [
        ({"hippocampus": 1}, ["whole"]),
        ({"hippocampus": [1, 2], "hippocampus_head": 1}, ["whole", "anterior"]),
        ({"HippocampalHead": 1, "hippocampal body and tail": 2}, ["anterior", "posterior"]),
    ],
)
def test_parts_by_other_names(labels: dict, keys: list[str]) -> None:
    prompts = class_prompts({"labels": {"background": 0, **labels}})[-len(keys) :]
    for of_class, key in zip(prompts, keys, strict=True):
        assert [prompt for prompt in of_class if prompt in HIPPOCAMPUS_NAMES[key]] == [*HIPPOCAMPUS_NAMES[key]]


@pytest.mark.parametrize(
    "labels",
    [
        {"left hippocampus": 1, "right hippocampus": 2},
        {"hippocampal body": 1, "hippocampal tail": 2},
        {"head": 1, "tail": 2},
        {"anterior": 1, "posterior": 2, "amygdala": 3},
    ],
)
def test_classes_that_the_descriptions_do_not_part_are_named_instead(labels: dict) -> None:
    prompts = class_prompts({"labels": {"background": 0, **labels}})
    assert len({tuple(of_class) for of_class in prompts}) == len(prompts)
    for name, of_class in zip(labels, prompts[1:], strict=True):
        assert all(name in prompt for prompt in of_class)


def test_templates_say_names_and_modality() -> None:
    background, liver, kidney, _ = class_prompts({**UNORDERED, "channel_names": {"0": "CT"}})
    assert "the muscle on a CT slice" in background
    assert "the liver on a CT slice" in liver
    assert "left kidney" in kidney
    whole, *_ = class_prompts(REGIONS)
    assert "the whole tumor on an MRI slice" in whole
    assert not any("{" in prompt for of_class in class_prompts(UNORDERED) for prompt in of_class)


def test_overrides_replace_one_class() -> None:
    background, anterior, _ = class_prompts(TASK04)
    assert override_prompts(TASK04, {"posterior": ["a tail"]}) == [background, anterior, ["a tail"]]
    with pytest.raises(ConfigError, match="'spleen': no such class; the classes are background, anterior, posterior"):
        override_prompts(TASK04, {"spleen": ["x"]})
    for empty in ([], [" "]):
        with pytest.raises(ConfigError, match="'Anterior': is empty"):
            override_prompts(TASK04, {"Anterior": empty})


OWN = {"background": ["brain"], "Anterior": ["head", " a head "], "Posterior": ["tail"]}


@pytest.fixture
def own_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "prompts.yaml"
    monkeypatch.setenv("HIPPO_CLIP_PROMPTS", str(file))
    return file


def test_without_a_file_a_training_uses_the_built_in_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIPPO_CLIP_PROMPTS", raising=False)
    prompts = training_prompts(UNORDERED)
    assert list(prompts) == class_names(UNORDERED)
    assert list(prompts.values()) == class_prompts(UNORDERED)


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump, lambda own: yaml.safe_dump(own, sort_keys=True)])
def test_a_training_takes_the_users_prompts_from_a_file(own_prompts: Path, write: Callable[[dict], str]) -> None:
    own_prompts.write_text(write(OWN), encoding="utf-8")
    prompts = training_prompts(TASK04)
    assert prompts == {"background": ["brain"], "Anterior": ["head", "a head"], "Posterior": ["tail"]}
    assert list(prompts) == class_names(TASK04)  # the order of the heads, not of the file


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (json.dumps({**OWN, "Spleen": ["x"]}), "no such class 'Spleen'; the classes are background, Anterior, Post"),
        (json.dumps({**OWN, "anterior": ["x"]}), "no such class 'anterior'"),
        ("background: [brain]\nAnterior: [head]\n", "no prompts for the class 'Posterior'; add a list of texts"),
        ("Anterior: []\n", "line 1: 'Anterior' has no list of texts"),
        ("Anterior: head\n", "line 1: 'Anterior' has no list of texts"),
        ("Anterior: [head, ' ']\n", "line 1: 'Anterior' has ' ', which is no text"),
        ("Anterior:\n- head\n- 7\n", "line 3: 'Anterior' has '7', which is no text"),
        ("Anterior: [{a: b}]\n", "line 1: 'Anterior' has 'a list or mapping', which is no text"),
        ("Anterior: [null]\n", "line 1: 'Anterior' has 'null', which is no text"),
        ("Anterior: [a]\nAnterior: [b]\n", "line 2: 'Anterior' stands twice"),
        ("1: [a]\n", "line 1: 1 is not the name of a class, unless in quotes"),
        ("[a, b]", "holds no mapping"),
        ("", "holds no mapping"),
        ("{a: [", "is no YAML in line 1"),
        ("[" * 5000, "is no YAML"),
    ],
)
def test_a_file_of_prompts_that_does_not_fit_is_refused_in_one_line(own_prompts: Path, text: str, fault: str) -> None:
    own_prompts.write_text(text)
    with pytest.raises(ConfigError) as refusal:
        training_prompts(TASK04)
    message = str(refusal.value)
    assert message.startswith(f"HIPPO_CLIP_PROMPTS={own_prompts}: {fault}")
    assert "\n" not in message


def test_a_file_of_prompts_that_cannot_be_read_is_refused(own_prompts: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts.yaml: cannot be read \(No such file.*correct or unset it"):
        training_prompts(TASK04)
    own_prompts.write_bytes(b"Anterior: [h\xe9ad]")
    with pytest.raises(ConfigError, match="it is not UTF-8"):
        training_prompts(TASK04)


def test_words_that_say_a_side_are_found() -> None:
    prompts = {"a": ["the Left kidney"], "b": ["what is left of it", "right"], "c": ["bright, upright", "a leftover"]}
    assert words_of_side(prompts) == {"a": ["left"], "b": ["left", "right"]}
    kidneys = {"labels": {"background": 0, "kidney_L": 1, "RightKidney": 2}}
    assert words_of_side(training_prompts(kidneys)) == {"kidney_L": ["l"], "RightKidney": ["right"]}
    assert not words_of_side(training_prompts(TASK04))


def test_choosing_and_describing_import_nothing_heavy() -> None:
    modules = "hippo_nnunet.clip.models, hippo_nnunet.clip.prompts, hippo_nnunet.clip.weights, hippo_nnunet.cli.clip"
    heavy = "{'torch', 'open_clip', 'numpy', 'huggingface_hub', 'requests'}"
    code = f"import sys, hippo_nnunet.clip, {modules}; found = {heavy} & set(sys.modules); assert not found, found"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
