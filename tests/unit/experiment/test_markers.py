"""Which jobs an experiment has, which of them are done, what is left, and what the manifest tells."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import pytest

from hippo_nnunet.clip.models import MINI, MINI_RECORD
from hippo_nnunet.clip.prompts import training_prompts
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.experiment import markers
from hippo_nnunet.experiment.experiment import Cell, Experiment
from hippo_nnunet.experiment.manifest import build_manifest, cpu_model
from hippo_nnunet.experiment.paths import DONE
from hippo_nnunet.experiment.stale import stale_markers
from hippo_nnunet.files import write_json
from hippo_nnunet.nnunet.finished import check_finished
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.training import recipes
from hippo_nnunet.training.schedule import schedule_for
from hippo_nnunet.workflow import estimate

ASKED = Experiment("Dataset004_X", "laptop", ("UNet", "AttentionUNet"), {"2d": (0, 1), "3d_fullres": (0,)}, 2)


@pytest.fixture
def folders(tmp_path: Path) -> NnunetFolders:
    return NnunetFolders(*(tmp_path / name for name in ("raw", "preprocessed", "results")))


def finish(cell: Cell, folders: NnunetFolders, seconds: float = 100.0) -> Path:
    fold = ASKED.result_folder(cell, folders.results)
    (fold / "validation").mkdir(parents=True)
    (fold / "checkpoint_final.pth").touch()
    (fold / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": [{}]}))
    (fold / "validation" / "case.npz").touch()
    (fold / "hippo_training.json").write_text(json.dumps({"trained_seconds": seconds, "device": "cpu"}))
    for name in ("plans.json", "dataset.json"):
        (fold.parent / name).write_text("{}")
    return fold


def mark(folder: Path, markers: list[Path]) -> None:
    for marker in markers:
        (folder / marker).parent.mkdir(parents=True, exist_ok=True)
        (folder / marker).touch()


def test_incomplete_configurations_are_evaluated_but_not_ensembled() -> None:
    assert {c.configuration for c in markers.ensemble_cells(ASKED)} == {"2d"}
    assert len(markers.evaluated(ASKED)) == 2 * 2 + 2 + 1
    assert {m.parts[-2] for m in markers.predictors(ASKED, "UNet")} == {"2d"}


def test_trainings_on_subsets_are_evaluated_but_neither_ensembled_nor_used_on_test_images() -> None:
    both = Experiment("Dataset004_X", "laptop", ("UNet_5cases", "UNet"), {"2d": (0, 1)}, 2)
    assert {cell.variant for cell in markers.ensemble_cells(both)} == {"UNet"}
    assert {marker.parts[-3] for marker in markers.evaluated(both)[:-1]} == {"UNet_5cases", "UNet"}
    found = markers.results(both, markers.PRODUCTS)
    assert DONE / "predict" / "UNet" in found and DONE / "predict" / "UNet_5cases" not in found
    subsets = Experiment("Dataset004_X", "laptop", ("UNet_5cases",), {"2d": (0, 1)}, 2)
    assert markers.results(subsets, markers.PRODUCTS) == [DONE / "evaluate"]
    assert DONE / "ensemble" not in markers.evaluated(subsets)


def test_a_student_waits_for_its_teachers() -> None:
    variants = ("UNet_taught", "UNet_seed1", "UNet_seed2")
    asked = Experiment("Dataset004_X", "laptop", variants, {"2d": (0, 1), "3d_fullres": (0,)}, 2)
    expected = [DONE / "train" / name / "2d" / "fold_1" for name in variants[1:]]
    assert markers.teachers(asked, "UNet_taught", "2d", 1) == expected
    assert markers.teachers(asked, "UNet_seed1", "2d", 1) == []
    limited = {"UNet_taught": ("3d_fullres",), "UNet_seed1": ("2d",)}
    for others, only in ((("UNet_seed1",), {}), (variants[1:], limited)):
        with pytest.raises(ConfigError, match="UNet_taught learns from UNet_seed1 and UNet_seed2 in"):
            Experiment(
                "Dataset004_X", "laptop", ("UNet_taught", *others), {"2d": (0,), "3d_fullres": (0,)}, 2, only=only
            )


def test_the_report_comes_last_and_nothing_waits_for_it() -> None:
    *others, last = markers.all_markers(ASKED, markers.PRODUCTS)
    assert last == DONE / "report"
    assert DONE / "report" not in [*others, *markers.results(ASKED, markers.PRODUCTS)]
    assert markers.final(ASKED, ())[-1] == DONE / "report"


def test_nothing_is_submitted_without_an_ensemble() -> None:
    partial = Experiment("Dataset004_X", "laptop", ("UNet",), {"2d": (0,)})
    assert markers.results(partial, markers.PRODUCTS) == [DONE / "evaluate", DONE / "predict" / "UNet"]
    assert markers.results(partial, ()) == [DONE / "evaluate"]


def test_products_follow_the_test_images(tmp_path: Path) -> None:
    dataset = tmp_path / "Dataset004_X"
    assert markers.products_of(dataset, tmp_path / "Task04_X.tar") == ()
    (tmp_path / "Task04_X.tar").touch()
    assert markers.products_of(dataset, tmp_path / "Task04_X.tar") == markers.PRODUCTS
    (dataset / "imagesTs").mkdir(parents=True)
    (dataset / "imagesTs" / "._x_0000.nii.gz").touch()
    (dataset / "imagesTs" / "README.txt").touch()
    assert markers.products_of(dataset, None) == ()
    (dataset / "imagesTs" / "x_0000.png").touch()
    assert markers.products_of(dataset, None) == ("predictions",)
    (dataset / "imagesTs" / "x_0000.png").rename(dataset / "imagesTs" / "x_0000.nii.gz")
    assert markers.products_of(dataset, None) == markers.PRODUCTS
    assert markers.test_images(dataset) == [dataset / "imagesTs" / "x_0000.nii.gz"]


def test_an_archive_is_searched_for_test_images(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").touch()
    for name, part in (("with.tar", "imagesTs"), ("without.tar", "imagesTr")):
        with tarfile.open(tmp_path / name, "w") as archive:
            archive.add(tmp_path / "a.nii.gz", f"Task04_X/{part}/a.nii.gz")
    assert markers.products_of(tmp_path / "no", tmp_path / "with.tar") == markers.PRODUCTS
    assert markers.products_of(tmp_path / "no", tmp_path / "without.tar") == ()


def test_deleted_results_are_noticed(tmp_path: Path, folders: NnunetFolders) -> None:
    folder = tmp_path / "exp"
    mark(folder, markers.all_markers(ASKED, markers.PRODUCTS))
    for cell in ASKED.cells():
        finish(cell, folders)
    predictions = [f"predictions/{v}" for v in (*ASKED.variants, "ensemble")]
    for name in ("metrics", "ensemble", "submission", "report", *predictions):
        (folder / name).mkdir(parents=True)
    for name in ("metrics/per_case.csv", "metrics/summary.json", "ensemble/choice.json", "report/index.html"):
        (folder / name).touch()
    (folder / "manifest.json").write_text("{}")
    (folder / "submission" / "Task04_X.zip").touch()
    assert stale_markers(ASKED, folder, folders) == []

    (folder / "report" / "index.html").unlink()
    assert stale_markers(ASKED, folder, folders) == [DONE / "report"], "a report alone is made again"
    (folder / "report" / "index.html").touch()

    (folder / "submission" / "Task04_X.zip").unlink()
    assert stale_markers(ASKED, folder, folders) == [DONE / "submission"]
    cell = ASKED.cells()[0]
    (ASKED.result_folder(cell, folders.results) / "checkpoint_final.pth").unlink()
    lost = stale_markers(ASKED, folder, folders)
    assert cell.marker in lost
    assert DONE / "plan" in lost, "the plans are gone, and now a training needs them"


def test_expected_time_prefers_what_was_measured(tmp_path: Path, folders: NnunetFolders) -> None:
    cells = ASKED.cells()
    for cell, seconds in zip(cells[:2], (100.0, 300.0), strict=True):
        finish(cell, folders, seconds)
    mark(tmp_path, [c.marker for c in cells[:2]])
    left = estimate.remaining_trainings(ASKED, estimate.missing_trainings(ASKED, tmp_path), folders.results, "cpu")
    expected = {str(cell): item for cell, item in left.items()}
    assert set(expected) == {str(c) for c in cells[2:]}
    assert expected["UNet 2d fold 1"].seconds == 100 + estimate.OVERHEAD_S
    assert expected["AttentionUNet 2d fold 1"].seconds == 300 + estimate.OVERHEAD_S
    assert expected["UNet 3d_fullres fold 0"].source == "scaled"
    assert estimate.stated_seconds("UNetTrainer_fast", "2d", "mps") is None


def test_manifest_names_no_folder_of_the_machine(tmp_path: Path, folders: NnunetFolders) -> None:
    finish(ASKED.cells()[0], folders, 12.5)
    splits = folders.preprocessed / "Dataset004_X" / "splits_final.json"
    splits.parent.mkdir(parents=True)
    splits.write_text("[]")
    write_json(tmp_path / "manifest.json", build_manifest(ASKED, tmp_path / "exp", folders, "cpu"))
    text = (tmp_path / "manifest.json").read_text()
    content = json.loads(text)
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert content["sha256"]["splits"] == "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    assert content["folds"][0]["trained_seconds"] == 12.5
    assert content["folds"][1]["trained_seconds"] is None
    assert content["not_ensembled"] == ["3d_fullres"]
    assert content["arguments"]["folds"] == {"2d": [0, 1], "3d_fullres": [0]}


def test_a_fold_of_another_clip_encoder_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = tmp_path / "CLIPGuidedUNetTrainer_fast__CompactPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    plans = {"configurations": {"2d": {"patch_size": [8, 8]}}}
    schedule = asdict(schedule_for(recipes.parse("CLIPGuidedUNetTrainer_fast"), 2))
    record = {"schedule": schedule, "encoder": {"name": "ViT-B-32/openai", "sha256": "ab" * 32}}
    (fold / "hippo_training.json").write_text(json.dumps(record))
    check_finished(fold, "CLIPGuidedUNetTrainer_fast", plans, "2d")
    monkeypatch.setenv("HIPPO_CLIP_MODEL", "ViT-B-16")
    with pytest.raises(ConfigError, match=r"ViT-B-32/openai.*ViT-B-16/openai.*HIPPO_CLIP_MODEL"):
        check_finished(fold, "CLIPGuidedUNetTrainer_fast", plans, "2d")


def test_a_fold_whose_teacher_was_trained_again_is_refused(tmp_path: Path) -> None:
    trainer, teacher = "UNetTrainer_taught_fast", "UNetTrainer_fast_seed1"
    fold, other = (tmp_path / f"{name}__CompactPlans__2d" / "fold_0" for name in (trainer, teacher))
    for folder in (fold, other):
        folder.mkdir(parents=True)
    (other / "checkpoint_final.pth").write_bytes(b"weights")
    record = {
        "schedule": asdict(schedule_for(recipes.parse(trainer), 2)),
        "teachers": {teacher: hashlib.sha256(b"weights").hexdigest()},
    }
    (fold / "hippo_training.json").write_text(json.dumps(record))
    plans = {"configurations": {"2d": {"patch_size": [8, 8]}}}
    check_finished(fold, trainer, plans, "2d")
    (other / "checkpoint_final.pth").write_bytes(b"other weights")
    with pytest.raises(ConfigError, match=f"learned from another {teacher}, which has been trained again since"):
        check_finished(fold, trainer, plans, "2d")
    (other / "checkpoint_final.pth").unlink()
    check_finished(fold, trainer, plans, "2d")


def test_clips_variables_do_not_matter_to_a_fold_without_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = tmp_path / "UNetTrainer_fast__CompactPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    schedule = asdict(schedule_for(recipes.parse("UNetTrainer_fast"), 2))
    (fold / "hippo_training.json").write_text(json.dumps({"schedule": schedule, "encoder": None}))
    monkeypatch.setenv("HIPPO_CLIP_WEIGHTS", str(tmp_path / "gone.safetensors"))
    check_finished(fold, "UNetTrainer_fast", {"configurations": {"2d": {"patch_size": [8, 8]}}}, "2d")


def test_a_fold_of_another_mini_or_of_other_prompts_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = "CLIPGuidedUNetTrainer_mini_fast"
    fold = tmp_path / f"{trainer}__CompactPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    plans = {"configurations": {"2d": {"patch_size": [8, 8]}}}
    dataset_json = {"labels": {"background": 0, "anterior": 1, "posterior": 2}}
    (fold.parent / "dataset.json").write_text(json.dumps(dataset_json))
    record = {
        "schedule": asdict(schedule_for(recipes.parse(trainer), 2)),
        "encoder": {"name": MINI.name, "sha256": json.loads(MINI_RECORD.read_text())["sha256"]},
        "prompts": training_prompts(dataset_json),
    }

    def check(**changed: object) -> None:
        (fold / "hippo_training.json").write_text(json.dumps(record | changed))
        check_finished(fold, trainer, plans, "2d")

    check()
    check(prompts=None)  # of versions that did not record them
    with pytest.raises(ConfigError, match=r"trained with the mini of another version.*install that version, or delete"):
        check(encoder={"name": MINI.name, "sha256": "ab" * 32})
    with pytest.raises(ConfigError, match=r"those of 'anterior' were \['a head'\], are now .*HIPPO_CLIP_PROMPTS"):
        check(prompts=training_prompts(dataset_json) | {"anterior": ["a head"]})
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"background": ["b"], "anterior": ["a"], "posterior": ["p"]}))
    monkeypatch.setenv("HIPPO_CLIP_PROMPTS", str(own))
    with pytest.raises(ConfigError, match=r"those of 'background' were .*, are now \['b'\]; set HIPPO_CLIP_PROMPTS"):
        check()
    check(prompts=json.loads(own.read_text()))


def test_the_processor_is_named(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A Fast One\n")
    assert cpu_model(tmp_path / "cpuinfo") == "A Fast One"
    assert cpu_model(tmp_path / "nothing")
