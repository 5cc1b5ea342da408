"""Bad input of `predict`: images, models, targets, options."""

from __future__ import annotations

import io
import zipfile

import numpy as np
from bad_input import SHAPE, Bad, World, closed, cut, data, edited, gone, image, text

PREDICT = "predict --input {images} --output {out} --model {model}"
IMAGE = "{images}/phantom_901_0000.nii.gz"
PREDICT_ONE = f"predict --input {IMAGE} --output {{out}} --model {{model}}"
ONES = np.ones(SHAPE, np.float32)


def _bad_numbers() -> np.ndarray:
    array = ONES.copy()
    array[1, 1, 1] = np.inf
    return array


def _half_of_a_zip() -> bytes:
    """The beginning of a checkpoint, which torch writes as a ZIP."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(1000))
    return stream.getvalue()[:500]


def _second_channel(world: World) -> None:
    edited("{model}/dataset.json", lambda d: d.update(channel_names={"0": "T1", "1": "T2"}))(world)


def _other_model(world: World) -> None:
    import shutil

    shutil.copytree(world.at("{model}"), world.at("{base}/other"))
    edited("{base}/other/plans.json", lambda p: p.update(dataset_name="Dataset005_Other"))(world)


ROWS = (
    Bad(
        "predict with model and experiment",
        PREDICT + " --experiment {experiment}",
        ("give one of --model, --experiment",),
        code=2,
    ),
    Bad(
        "predict with a dataset of no configuration",
        "predict -i {images} -o {out} -d 4",
        ("--dataset needs --configuration",),
        code=2,
    ),
    Bad(
        "predict with model and trainer",
        PREDICT + " -tr UNetTrainer",
        ("--trainer and --plans go with them",),
        code=2,
    ),
    Bad(
        "predict with a trainer that was not trained",
        "predict -i {images} -o {out} -d 4 -c 2d -tr UNetTrainer -p CompactPlans --root {root}",
        ("no model of dataset 4 2d in {root}/nnUNet_results", "there are: Dataset004_Phantom/UNetTrainer_fast__"),
    ),
    Bad(
        "predict without results folder",
        "predict -i {images} -o {out} -d 4 -c 2d",
        ("nnUNet_results is not set", "--root DIR"),
    ),
    Bad("predict without images", "predict --output {out} --model {model}", ("Missing option '--input'",), code=2),
    Bad("folds of words", PREDICT + " --folds one", ("Invalid value for --folds", "0,1,2"), code=2),
    Bad(
        "model that is missing",
        "predict --input {images} --output {out} --model {base}/no",
        ("model folder {base}/no is missing", "name a folder"),
    ),
    Bad(
        "model that is a file",
        "predict --input {images} --output {out} --model {zip}",
        ("{zip}: holds no MANIFEST.json", "model folder"),
    ),
    Bad(
        "model that is given twice",
        PREDICT + " --model {model}/../UNetTrainer_fast__CompactPlans__2d",
        ("is given twice", "once"),
    ),
    Bad(
        "models of two datasets",
        PREDICT + " --model {base}/other",
        ("cannot predict together: dataset", "one dataset"),
        (_other_model,),
    ),
    Bad(
        "fold without checkpoint",
        PREDICT + " --folds 3",
        ("fold_3/checkpoint_final.pth: no such checkpoint", "folds that have it: 0", "train it"),
    ),
    Bad("fold that is negative", PREDICT + " --folds -1", ("no such checkpoint", "folds that have it: 0", "train it")),
    Bad(
        "checkpoint that is not there",
        PREDICT + " --checkpoint checkpoint_best.pth",
        ("no numbered fold has checkpoint_best.pth", "train it"),
    ),
    Bad("checkpoint of stars", PREDICT + " --checkpoint **.pth", ("no numbered fold has **.pth", "train it")),
    Bad("checkpoint that is nothing", PREDICT + " --checkpoint ''", ("no numbered fold", "train it")),
    Bad(
        "checkpoint that is text",
        PREDICT + " --device cpu",
        ("checkpoint_final.pth of the folds 0 cannot be loaded", "train it again"),
    ),
    Bad(
        "checkpoint that is cut off",
        PREDICT + " --device cpu",
        ("checkpoint_final.pth of the folds 0 cannot be loaded", "train it again"),
        (data("{model}/fold_0/checkpoint_final.pth", _half_of_a_zip()),),
    ),
    Bad(
        "description of the model is damaged",
        PREDICT,
        ("dataset.json cannot be read", "folder of a model"),
        (text("{model}/dataset.json", "{"),),
    ),
    Bad(
        "description of the model is a list",
        PREDICT,
        ("{model}/dataset.json", "folder of a model"),
        (text("{model}/dataset.json", "[]"),),
    ),
    Bad(
        "description of the model without labels",
        PREDICT,
        ("{model}/dataset.json", "labels", "folder of a model"),
        (edited("{model}/dataset.json", lambda d: d.pop("labels") and None),),
    ),
    Bad(
        "description of the model without channels",
        PREDICT,
        ("{model}/dataset.json", "channel_names", "folder of a model"),
        (edited("{model}/dataset.json", lambda d: d.pop("channel_names") and None),),
    ),
    Bad(
        "plans of the model are missing",
        PREDICT,
        ("plans.json is missing", "folder of a model"),
        (gone("{model}/plans.json"),),
    ),
    Bad(
        "plans of the model without dataset",
        PREDICT,
        ("{model}/plans.json", "dataset_name", "folder of a model"),
        (edited("{model}/plans.json", lambda d: d.pop("dataset_name") and None),),
    ),
    Bad(
        "model of other images",
        PREDICT,
        ("was trained on .png images", "nnUNetv2_predict"),
        (edited("{model}/dataset.json", lambda d: d.update(file_ending=".png")),),
    ),
    Bad(
        "images that are missing",
        "predict --input {base}/no --output {out} --model {model}",
        ("{base}/no: no such file or folder", "name the images"),
    ),
    Bad(
        "folder without images",
        "predict --input {model} --output {out} --model {model}",
        ("no image (.nii.gz or .nii) in this folder", "name the folder of images"),
    ),
    Bad(
        "image of another ending",
        "predict --input {model}/plans.json --output {out} --model {model}",
        ("not a NIfTI image by its name", "expected .nii.gz or .nii"),
    ),
    Bad(
        "image without a name",
        "predict --input {base}/.nii.gz --output {out} --model {model}",
        ("{base}/.nii.gz", "no name", "rename it"),
        (text("{base}/.nii.gz", ""),),
    ),
    Bad(
        "image of two endings",
        PREDICT,
        ("both channel 0000 of case phantom_901", "remove one"),
        (text("{images}/phantom_901.nii", "x"),),
    ),
    Bad(
        "images of too few channels",
        PREDICT,
        ("got the channels 0000, but the model takes 2", "give _0000 to _0001"),
        (_second_channel,),
    ),
    Bad("image to predict is empty", PREDICT_ONE, (IMAGE, "copy or download it again"), (text(IMAGE, ""),)),
    Bad("image to predict is cut off", PREDICT_ONE, (IMAGE, "truncated or damaged", "again"), (cut(IMAGE),)),
    Bad(
        "image to predict is 4D",
        PREDICT_ONE,
        (IMAGE, "4D image", "split the channels"),
        (image(IMAGE, np.ones((*SHAPE, 2), np.float32)),),
    ),
    Bad(
        "image to predict is infinite",
        PREDICT_ONE,
        (IMAGE, "1 voxels are NaN or infinite", "replace them"),
        (image(IMAGE, _bad_numbers()),),
    ),
    Bad(
        "image to predict is black",
        PREDICT_ONE,
        (IMAGE, "every voxel is 0", "replace the file"),
        (image(IMAGE, 0 * ONES),),
    ),
    Bad(
        "image to predict cannot be read",
        PREDICT_ONE,
        (IMAGE, "cannot be read (Permission denied)", "permissions"),
        (closed(IMAGE),),
        unprivileged=True,
    ),
    Bad(
        "image to predict is a truncated NIfTI",
        "predict --input {base}/a.nii --output {out} --model {model}",
        ("{base}/a.nii", "again"),
        (data("{base}/a.nii", b"\0" * 400),),
    ),
    Bad(
        "images whose folder cannot be read",
        PREDICT,
        ("{images}", "Permission denied", "permissions"),
        (closed("{images}"),),
        unprivileged=True,
    ),
    Bad(
        "output is a file",
        "predict --input {images} --output {zip} --model {model} --device cpu",
        ("{zip}", "is a file", "choose another folder"),
    ),
    Bad(
        "output is the folder of the images",
        "predict --input {images} --output {images} --model {model}",
        ("is the folder of the images", "choose another one"),
    ),
    Bad(
        "output is a link to itself",
        PREDICT,
        ("{out}", "choose another"),
        (lambda world: world.at("{out}").symlink_to(world.at("{out}")),),
    ),
    Bad(
        "output is there",
        "predict --input {images} --output {predictions} --model {model}",
        ("phantom_901.nii.gz exists already", "--overwrite"),
    ),
    Bad(
        "output of another model",
        PREDICT,
        ("dataset.json exists already and is not of this model", "--overwrite"),
        (text("{out}/dataset.json", "{}"),),
    ),
    Bad(
        "volumes in the place of a scan",
        PREDICT + f" --calibration none --volumes {IMAGE} --overwrite",
        (IMAGE, "is not a table of volumes, so it is not replaced"),
    ),
    Bad(
        "volumes in the place of a segmentation",
        PREDICT + " --calibration none --volumes {out}/phantom_901.nii.gz",
        ("{out}/phantom_901.nii.gz would be written twice", "choose another name"),
    ),
    Bad(
        "output in the folder of a model",
        PREDICT.replace("{out}", "{base}/other") + " --overwrite",
        ("{base}/other/plans.json is not replaced", "holds 'fold_0'", "choose another folder"),
        (_other_model,),
    ),
    Bad("device that is not there", PREDICT + " --device tpu", ("device 'tpu' is unknown", "auto, cpu, cuda or mps")),
    Bad(
        "backend that is unknown",
        PREDICT + " --device cpu --backend tensorrt",
        ("unknown backend 'tensorrt'", "auto, torch, openvino"),
    ),
    Bad(
        "experiment that is none",
        "predict --input {images} --output {out} --experiment {base}",
        ("{base}/experiment.yaml is missing", "no experiment was started there"),
    ),
    Bad(
        "experiment that has not chosen",
        "predict --input {images} --output {out} --experiment {experiment}",
        ("choice.json is missing", "finish it with"),
        (gone("{experiment}/ensemble"),),
    ),
    Bad(
        "choice that is damaged",
        "predict --input {images} --output {out} --experiment {experiment}",
        ("choice.json: not a choice of an ensemble", "choose again"),
        (text("{experiment}/ensemble/choice.json", "[]"),),
    ),
    Bad(
        "choice of an unknown postprocessing",
        "predict --input {images} --output {out} --experiment {experiment}",
        ("unknown postprocessing 'best'", "choose one of"),
        (edited("{experiment}/ensemble/choice.json", lambda c: c.update(postprocessing="best")),),
    ),
    Bad(
        "choice of a model that is gone",
        "predict --input {images} --output {out} --experiment {experiment}",
        ("model folder", "UNetTrainer_gone__CompactPlans__2d is missing"),
        (
            edited(
                "{experiment}/ensemble/choice.json", lambda c: c.update(members=["UNetTrainer_gone__CompactPlans__2d"])
            ),
        ),
    ),
    Bad(
        "choice of a model elsewhere",
        "predict --input {images} --output {out} --experiment {experiment}",
        ("choice.json: not a choice of an ensemble", "choose again"),
        (edited("{experiment}/ensemble/choice.json", lambda c: c.update(members=["../../../x"])),),
    ),
)
