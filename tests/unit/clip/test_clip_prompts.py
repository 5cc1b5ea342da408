"""Prompts: one list for each of nnU-Net's heads, in its order, and about the right thing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from hippo_nnunet.clip.prompts import HIPPOCAMPUS_PROMPTS, class_names, class_prompts, override_prompts
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


def test_the_hippocampus_has_descriptions_of_its_own() -> None:
    background, anterior, posterior = class_prompts(TASK04)
    assert min(map(len, (background, anterior, posterior))) >= 4
    assert len({*background, *anterior, *posterior}) == len(background) + len(anterior) + len(posterior)
    assert tuple(anterior) == HIPPOCAMPUS_PROMPTS["anterior"]
    assert any("head" in prompt for prompt in anterior)
    assert any("tail" in prompt for prompt in posterior)
    swapped = {"labels": {"background": 0, "Posterior": 1, "Anterior": 2}}
    assert class_prompts(swapped) == [background, posterior, anterior]


@pytest.mark.parametrize(
    ("labels", "keys"),
    [
        ({"hippocampus": 1}, ["background", "whole"]),
        ({"hippocampus": [1, 2], "hippocampus_head": 1}, ["whole", "anterior"]),
        ({"HippocampalHead": 1, "hippocampal body and tail": 2}, ["background", "anterior", "posterior"]),
    ],
)
def test_parts_by_other_names(labels: dict, keys: list[str]) -> None:
    prompts = class_prompts({"labels": {"background": 0, **labels}})
    assert prompts == [list(HIPPOCAMPUS_PROMPTS[key]) for key in keys]


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
    assert "a CT slice without liver, left kidney or spleen" in background
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


def test_choosing_and_describing_import_nothing_heavy() -> None:
    modules = "hippo_nnunet.clip.models, hippo_nnunet.clip.prompts, hippo_nnunet.clip.weights, hippo_nnunet.cli.clip"
    heavy = "{'torch', 'open_clip', 'numpy', 'huggingface_hub', 'requests'}"
    code = f"import sys, hippo_nnunet.clip, {modules}; found = {heavy} & set(sys.modules); assert not found, found"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
