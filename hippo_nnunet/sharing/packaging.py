"""Make the packaged model's files from a trained model and the experiment that cross-validated its recipe."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hippo_nnunet.analysis.volumes import Members, measure_volumes
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.evaluation.labels import named_labels
from hippo_nnunet.evaluation.per_case import read_per_case
from hippo_nnunet.evaluation.volume_calibration import LEVEL, calibrate, calibration_json, with_total
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.stale import file_hash
from hippo_nnunet.experiment.subjects import load_subjects
from hippo_nnunet.files import atomic_path
from hippo_nnunet.inference.preprocessing import Preprocessing
from hippo_nnunet.models.container import as_json
from hippo_nnunet.models.onnx_file import OnnxModel, open_onnx
from hippo_nnunet.models.packaged import (
    DESCRIPTION,
    FOLDER,
    FORMAT,
    LARGEST,
    LICENCE,
    MODEL,
    SUMS,
    VERSION,
    open_packaged,
)
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.splits import read_splits
from hippo_nnunet.sharing.exporting import ExportOptions
from hippo_nnunet.sharing.known_images_fit import fit, measure, read_examples
from hippo_nnunet.sharing.onnx_exporting import export_onnx
from hippo_nnunet.sharing.performance import performance

log = logging.getLogger(__name__)

CC_BY_SA = "CC-BY-SA-4.0"
ATTRIBUTION = (
    "Trained on Task04_Hippocampus of the Medical Segmentation Decathlon: images and labels of Vanderbilt University "
    "Medical Center, CC-BY-SA 4.0; Simpson et al. 2019 (arXiv:1902.09063), Antonelli et al. 2022 "
    "(doi:10.1038/s41467-022-30695-9)."
)
_NOTICE = """\
hippocampus.onnx and hippocampus.json are licensed under the Creative Commons Attribution-ShareAlike 4.0 International
licence (CC BY-SA 4.0): https://creativecommons.org/licenses/by-sa/4.0/legalcode

{attribution}
Changes: network weights and figures were computed from the images and labels by hippo_nnunet; no image is included
but their average around the hippocampus, of 2 mm.

You may share and adapt them, also commercially, if you give this attribution, say what you changed, and share under the
same licence. They are provided as they are, without warranties; not a medical device. The licence of the code of
hippo_nnunet, Apache-2.0, does not apply to these two files.
"""


@dataclass(frozen=True)
class PackageOptions:
    """What the files say, and where they go.

    Attributes:
        output: The folder.
        name: Of the model.
        version: Of the model.
        folds: Folds of the model folder that go in; None: numbered ones, else `all`.
        checkpoint: File in each fold's folder.
        root: nnU-Net's root folder of the experiment: see `ExperimentPaths.nnunet`.
    """

    output: Path = FOLDER
    name: str = "hippocampus-3d"
    version: str = "1"
    folds: Sequence[int | str] | None = None
    checkpoint: str = "checkpoint_final.pth"
    root: Path | None = None


def package_model(experiment: Path, model: Path, options: PackageOptions | None = None) -> Path:
    """Write the files of the packaged model, and open them. The same arguments give the same bytes.

    Args:
        experiment: Folder of the experiment in which the recipe was cross-validated, with out-of-fold probabilities.
        model: nnU-Net's model folder of the same recipe.
        options: What the files say, and where they go.

    Returns:
        The folder.

    Raises:
        ConfigError: The experiment has no model of this name, or the model lacks the folds.
        DataError: Something is missing or invalid, or the model is too large.
    """
    options = options or PackageOptions()
    paths = ExperimentPaths(experiment)
    asked = Experiment.load(paths.request)
    folders = paths.nnunet(options.root)
    cells = {(cell.variant, cell.configuration) for cell in asked.cells()}
    found = sorted(cell for cell in cells if asked.model(*cell) == model.absolute().name)
    if not found:
        raise ConfigError(f"{model}: {experiment} has no model of this name, so nothing tells how well its recipe does")
    variant, configuration = found[0]
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="hippo-package-") as scratch:
        exported = export_onnx(
            model,
            Path(scratch) / MODEL,
            ExportOptions(options.folds, options.checkpoint, licence=CC_BY_SA, citation=ATTRIBUTION, half=True),
        )
        opened = open_onnx(exported)
    if len(opened.content) > LARGEST:
        raise DataError(f"{model}: {len(opened.content)} bytes, at most {LARGEST} are packaged: take fewer folds")
    folds = asked.folds[configuration]
    measured = measure_volumes(dict.fromkeys(folds, Members((model.absolute().name,), "none")), asked, folders)
    per_case = read_per_case(paths.per_case)
    rows = per_case[(per_case["variant"] == variant) & (per_case["configuration"] == configuration)]
    subjects = load_subjects(experiment, measured["case"])
    labels = with_total(named_labels(opened.dataset_json)[0])
    description = {
        "format": FORMAT,
        "format_version": VERSION,
        "name": options.name,
        "version": options.version,
        "licence": CC_BY_SA,
        "attribution": ATTRIBUTION,
        "source": _source(opened, paths, asked, variant),
        "performance": performance(rows, measured, labels, LEVEL, subjects),
        "images": _images(opened, asked, folders),
        "calibration": calibration_json(calibrate(measured, labels, LEVEL, subjects)),
    }
    contents = {
        MODEL: opened.content,
        DESCRIPTION: as_json(description),
        LICENCE: _NOTICE.format(attribution=ATTRIBUTION).encode(),
    }
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in contents.items()]
    for name, content in {**contents, SUMS: "".join(sums).encode()}.items():
        with atomic_path(options.output / name) as path:
            path.write_bytes(content)
    packaged = open_packaged(options.output)
    packaged.calibration()
    packaged.known_images()
    log.info("%s: %.1f MB", packaged.title, sum(map(len, contents.values())) / 1e6)
    return options.output


def _source(model: OnnxModel, paths: ExperimentPaths, asked: Experiment, variant: str) -> dict[str, Any]:
    """Say where the model and its figures come from, without paths and times."""
    kept = ("trainer", "configuration", "folds", "mirroring_axes", "schedule", "training", "weights", "versions")
    of_dataset = ("name", "description", "reference", "licence", "release", "numTraining")
    return {
        "dataset": {"id": asked.dataset, **{key: model.dataset_json.get(key) for key in of_dataset}},
        "plans": model.plans["plans_name"],
        **{key: model.description.get(key) for key in kept},
        "checkpoints": model.checkpoints,
        "experiment": {
            "variant": variant,
            "preset": asked.preset,
            "folds": list(asked.folds[str(model.description["configuration"])]),
            "number_of_folds": asked.number_of_folds,
            "subjects": asked.subjects,
            "per_case_sha256": file_hash(paths.per_case),
        },
    }


def _images(model: OnnxModel, asked: Experiment, folders: NnunetFolders) -> dict[str, Any]:
    """Return what the model knows of its images, and how well that tells others apart."""
    step, raw = Preprocessing.of(model.plans, model.configuration), folders.raw / asked.dataset
    ending = str(model.dataset_json["file_ending"])
    splits = read_splits(asked.dataset, folders)
    if splits is None:
        raise DataError(f"{folders.preprocessed / asked.dataset}: no splits_final.json; it was there in training")
    folds = {case: fold for fold, split in enumerate(splits) for case in split["val"]}
    labelled = [one for one in read_examples(raw / "imagesTr", raw / "labelsTr", step, ending) if one.case in folds]
    unlabelled = raw / "imagesTs"
    others = read_examples(unlabelled, None, step, ending) if any(unlabelled.glob(f"*{ending}")) else []
    return {**fit(labelled).as_json(), "measured": measure(labelled, folds, others)}
