"""Documents that anybody may have edited: experiment.yaml, dataset.json, plans, splits, choices, tables."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import Fuzz, refusal
from hypothesis import strategies as st
from mutations import VALUES, changed_bytes, damaged, write
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from benchmarks.document import read_document
from hippo_nnunet.clip.prompts import override_prompts
from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.description import read_description
from hippo_nnunet.data.finding import findings_json
from hippo_nnunet.evaluation.per_case import read_per_case, read_published
from hippo_nnunet.evaluation.selection import EnsembleChoice
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.request import Request, resolve
from hippo_nnunet.inference.members import find_members
from hippo_nnunet.inference.submission import dataset_labels
from hippo_nnunet.nnunet.finished import check_finished
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import check_preprocessed, raw_cases
from hippo_nnunet.nnunet.splits import check_fold, split_record
from hippo_nnunet.training.recipes import parse
from hippo_nnunet.training.schedule import schedule_for

pytestmark = pytest.mark.fuzz

NAME = "Dataset004_Phantom"
EXPERIMENT = {
    "dataset": NAME,
    "preset": "laptop",
    "variants": ["UNet", "AttentionUNet_flip"],
    "folds": {"2d": [0, 1], "3d_fullres": [0]},
    "number_of_folds": 5,
    "epochs": None,
    "iterations": 3,
    "plans": "CompactPlans",
}
MSD = {
    "name": "Phantom",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
    "numTraining": 1,
    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
    "test": ["./imagesTs/b.nii.gz"],
}
NNUNET: dict[str, Any] = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "Anterior": 1, "whole": [1, 2]},
    "regions_class_order": [1, 2],
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
PLANS = {
    "dataset_name": NAME,
    "plans_name": "CompactPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "configurations": {
        "2d": {"data_identifier": "CompactPlans_2d", "patch_size": [8, 8], "spacing": [1.0, 1.0]},
        "other": {"inherits_from": "2d", "batch_size": 3},
    },
}
SPLITS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["b", "c"], "val": ["a"]}]
CHOICE = {
    "members": ["UNetTrainer__CompactPlans__2d"],
    "postprocessing": "none",
    "naive_dice": 0.5,
    "nested_dice": 0.5,
    "nested_gain": 0.1,
    "per_fold": [{"fold": 0, "members": ["a"], "postprocessing": "none", "dice": 0.5, "cases": 3}],
    "candidates": [{"members": ["a"], "postprocessing": "none", "dice": 0.5, "labels": {"a": 0.5}}],
}
MEASURED = {
    "schema": 1,
    "machine": {"cpus": 2},
    "results": [{"benchmark": "head", "settings": {}, "sides": {"a": {"seconds": [1.0]}}, "checks": {}, "notes": []}],
}
TABLE = (
    "case,fold,variant,configuration,label,dice,nsd_1mm,hd95_mm,assd_mm,volume_ref_mm3,volume_mm3\n"
    "a,0,UNet,2d,Anterior,0.8,0.9,1.0,0.5,30,31\nb,1,UNet,2d,Anterior,0.7,0.9,1.0,0.5,30,31\n"
)


@pytest.fixture
def folders(tmp_path: Path) -> NnunetFolders:
    """nnU-Net's folders with a dataset that is planned, preprocessed and trained, as far as files tell."""
    made = NnunetFolders(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")
    write(made.raw / NAME / "dataset.json", json.dumps(NNUNET))
    write(made.preprocessed / NAME / "CompactPlans.json", json.dumps(PLANS))
    write(made.preprocessed / NAME / "splits_final.json", json.dumps(SPLITS))
    for case in "abc":
        write(made.preprocessed / NAME / "CompactPlans_2d" / f"{case}.pkl", "x")
    return made


def damaging(path: Path, action: Callable[[], object]) -> Callable[[str], None]:
    """Return a check that writes a document to its place, and sees that it is used or refused."""

    def check(content: str | bytes) -> None:
        write(path, content)
        refusal(action)

    return check


def test_experiment_yaml(fuzz: Fuzz, folders: NnunetFolders, tmp_path: Path) -> None:
    file = tmp_path / "experiment" / "experiment.yaml"
    as_yaml = damaged(EXPERIMENT).map(_yaml)
    odd = st.one_of(VALUES.map(_yaml), changed_bytes(yaml.safe_dump(EXPERIMENT).encode()), st.text(max_size=40))

    def check(content: str | bytes) -> None:
        write(file, content)
        made: list[Experiment] = []
        if not refusal(lambda: made.append(Experiment.load(file))):
            assert made[0].task and made[0].plans
            assert all(".." not in cell.marker.parts for cell in made[0].cells())
            made[0].save(file)
            assert Experiment.load(file) == made[0]
        refusal(lambda: resolve(Request(), file.parent, folders, "cpu"))

    fuzz(check, st.one_of(as_yaml, as_yaml, odd), 60)


def _yaml(content: object) -> str:
    try:
        return yaml.safe_dump(json.loads(content) if isinstance(content, str) else content)
    except ValueError:
        return str(content)


@pytest.mark.parametrize("right", [MSD, NNUNET], ids=["msd", "nnunet"])
def test_dataset_json(fuzz: Fuzz, tmp_path: Path, right: dict[str, Any]) -> None:
    for place in ("imagesTr/a.nii.gz", "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz", "imagesTs/b.nii.gz"):
        write(tmp_path / place, "")

    def check(content: str) -> None:
        write(tmp_path / "dataset.json", content)
        findings_json(check_dataset(tmp_path))
        refusal(lambda: dataset_labels(tmp_path / "dataset.json"))

    fuzz(check, damaged(right), 60)


FOR_NNUNET = (
    {**NNUNET, "overwrite_image_reader_writer": "NibabelIO", "channel_names": {"0": "CT", "1": "T1"}},
    {**NNUNET, "labels": {"background": 0, "Anterior": 1, "Posterior": 2, "ignore": 3}},
)


@pytest.mark.parametrize("right", FOR_NNUNET, ids=["regions", "ignore"])
def test_what_the_check_passes_is_taken_by_nnunet(fuzz: Fuzz, tmp_path: Path, right: dict[str, Any]) -> None:
    path = tmp_path / "dataset.json"

    def check(content: str) -> None:
        write(path, content)
        read: list[dict[str, Any]] = []
        if refusal(lambda: read.append(read_description(path))):
            return
        manager = LabelManager(read[0]["labels"], read[0].get("regions_class_order"))
        values = [*manager.all_labels, *([manager.ignore_label] if manager.has_ignore_label else [])]
        assert values == list(range(len(values)))
        for name in read[0]["channel_names"].values():
            get_normalization_scheme(name)
        if read[0].get("file_ending") == ".nii.gz":
            determine_reader_writer_from_dataset_json(read[0], verbose=False)

    fuzz(check, damaged(right), 100)


def test_description_of_a_model(fuzz: Fuzz, tmp_path: Path) -> None:
    write(tmp_path / "plans.json", json.dumps(PLANS))
    write(tmp_path / "fold_0" / "checkpoint_final.pth", "")

    def look() -> None:
        (member,) = find_members([tmp_path], None, "checkpoint_final.pth")
        override_prompts(member.dataset_json, {"Anterior": ["x"]})

    fuzz(damaging(tmp_path / "dataset.json", look), damaged(NNUNET), 60)


def test_plans_of_a_model(fuzz: Fuzz, tmp_path: Path) -> None:
    write(tmp_path / "dataset.json", json.dumps(NNUNET))
    write(tmp_path / "fold_0" / "checkpoint_final.pth", "")
    look = damaging(tmp_path / "plans.json", lambda: find_members([tmp_path], None, "checkpoint_final.pth"))
    fuzz(look, damaged(PLANS))


def test_raw_description(fuzz: Fuzz, folders: NnunetFolders) -> None:
    fuzz(damaging(folders.raw / NAME / "dataset.json", lambda: raw_cases(NAME, folders)), damaged(NNUNET))


@pytest.mark.parametrize("configuration", ["2d", "other"])
def test_plans(fuzz: Fuzz, folders: NnunetFolders, configuration: str) -> None:
    def look() -> None:
        check_preprocessed(NAME, "CompactPlans", configuration, folders)

    fuzz(damaging(folders.preprocessed / NAME / "CompactPlans.json", look), damaged(PLANS), 60)


def test_splits(fuzz: Fuzz, folders: NnunetFolders) -> None:
    def look() -> None:
        check_preprocessed(NAME, "CompactPlans", "2d", folders)
        check_fold(NAME, 0, 3, folders)

    fuzz(damaging(folders.preprocessed / NAME / "splits_final.json", look), damaged(SPLITS), 60)


def test_finished_fold(fuzz: Fuzz, tmp_path: Path) -> None:
    schedule = asdict(schedule_for(parse("UNetTrainer_fast"), 2))
    record = {"trained_seconds": 5.0, "schedule": schedule, "encoder": None, "split": split_record(**SPLITS[0])}
    folder = tmp_path / "UNetTrainer_fast__CompactPlans__2d" / "fold_0"
    write(tmp_path / "UNetTrainer_fast__CompactPlans__2d" / "plans.json", json.dumps(PLANS))
    look = damaging(
        folder / "hippo_training.json", lambda: check_finished(folder, "UNetTrainer_fast", PLANS, "2d", SPLITS[0])
    )
    fuzz(look, damaged(record), 60)


def test_choice(fuzz: Fuzz, tmp_path: Path) -> None:
    fuzz(
        damaging(tmp_path / "choice.json", lambda: EnsembleChoice.from_json(tmp_path / "choice.json")), damaged(CHOICE)
    )


def test_measurements(fuzz: Fuzz, tmp_path: Path) -> None:
    fuzz(damaging(tmp_path / "b.json", lambda: read_document(tmp_path / "b.json")), damaged(MEASURED))


def test_tables(fuzz: Fuzz, tmp_path: Path) -> None:
    number = itertools.count()

    def check(content: bytes) -> None:
        file = write(tmp_path / f"{next(number)}.csv", content)
        refusal(lambda: read_per_case(file))
        refusal(lambda: read_published(file, ["Anterior"], ["a"]))
        file.unlink()

    fuzz(check, changed_bytes(TABLE.encode()), 60)
