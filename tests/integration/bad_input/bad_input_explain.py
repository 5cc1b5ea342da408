"""Bad input of `submit` and `explain`: predictions, experiments, prompts."""

from __future__ import annotations

import numpy as np
from bad_input import SHAPE, Bad, cut, edited, folder, gone, image, text

EXPLAIN = "explain --input {images} --output {out} --model {model}"
IMAGE = "{images}/phantom_901_0000.nii.gz"
ONES = np.ones(SHAPE, np.float32)


ROWS = (
    Bad(
        "submitted prediction is missing",
        "submit {predictions} --images {images} --output {out}/a.zip",
        ("no prediction for 1 cases (phantom_901)", "expected exactly the 2"),
        (gone("{predictions}/phantom_901.nii.gz"),),
    ),
    Bad(
        "submitted prediction too many",
        "submit {predictions} --images {images} --output {out}/a.zip",
        ("no image for 1 cases (other)", "expected exactly the 2"),
        (image("{predictions}/other.nii.gz", ONES),),
    ),
    Bad(
        "submitted prediction of another shape",
        "submit {predictions} --images {images} --output {out}/a.zip",
        ("phantom_901.nii.gz: got shape (3, 3, 3)", "predict from this image"),
        (image("{predictions}/phantom_901.nii.gz", np.zeros((3, 3, 3), np.uint8)),),
    ),
    Bad(
        "submitted prediction at another place",
        "submit {predictions} --images {images} --output {out}/a.zip",
        ("phantom_901.nii.gz: got affine", "predict from this image"),
        (image("{predictions}/phantom_901.nii.gz", np.zeros(SHAPE, np.uint8), np.diag([2.0, 1, 1, 1])),),
    ),
    Bad(
        "submitted prediction of other values",
        "submit {predictions} --images {images} --output {out}/a.zip",
        ("got the values [7", "expected only the labels [0, 1, 2]"),
        (image("{predictions}/phantom_901.nii.gz", np.full(SHAPE, 7, np.uint8)),),
    ),
    Bad(
        "submitted prediction is cut off",
        "submit {predictions} --images {images} --output {out}/a.zip",
        ("phantom_901.nii.gz: cannot be read", "predict this case again"),
        (cut("{predictions}/phantom_901.nii.gz"),),
    ),
    Bad(
        "submitted prediction is a folder",
        "submit {predictions} --images {images} --output {out}/a.zip",
        ("phantom_901.nii.gz: cannot be read", "predict this case again"),
        (folder("{predictions}/phantom_901.nii.gz"),),
    ),
    Bad(
        "test image of the submission is text",
        "submit {predictions} --images {images} --output {out}/a.zip",
        (IMAGE, "not a readable .nii.gz image", "copy or download it again"),
        (text(IMAGE, "hello"),),
    ),
    Bad("explain nothing", "explain", ("either the folder of an experiment or --model",), code=2),
    Bad("explain a model without images", "explain --model {model}", ("--model needs --input and --output",), code=2),
    Bad(
        "explain an experiment with labels",
        "explain {experiment} --labels {raw}/labelsTr",
        ("go with --model",),
        code=2,
    ),
    Bad(
        "explain with a prompt that is none",
        EXPLAIN + " --prompt tail",
        ("Invalid value for --prompt", "CLASS=DESCRIPTION"),
        code=2,
    ),
    Bad(
        "explain a class that is not there",
        EXPLAIN + " --prompt tail=x",
        ("prompt for 'tail': no such class", "background, anterior, posterior"),
    ),
    Bad(
        "explain with an empty prompt",
        EXPLAIN + " --prompt anterior=",
        ("prompt for 'anterior': is empty", "description"),
    ),
    Bad("explain with folds of words", EXPLAIN + " --folds a,b", ("Invalid value for --folds", "0,1,2"), code=2),
    Bad(
        "explain with labels that are not there",
        EXPLAIN + " --labels {base}/no",
        ("{base}/no/phantom_901.nii.gz: no labels of case phantom_901", "omit --labels"),
    ),
    Bad("explain no case", "explain {experiment} --worst 0 --best 0", ("got 0 worst and 0 best", "at least one")),
    Bad(
        "explain what is no experiment",
        "explain {base}",
        ("{base}/experiment.yaml is missing", "no experiment was started there"),
    ),
    Bad(
        "explain an experiment without splits",
        "explain {experiment}",
        ("no splits_final.json", "which fold has not seen a case is unknown"),
        (gone("{pre}/splits_final.json"),),
    ),
    Bad(
        "explain metrics of other folds",
        "explain {experiment}",
        ("is not among the validation cases of fold 0", "evaluate the experiment again"),
        (edited("{pre}/splits_final.json", lambda s: s.reverse()),),
    ),
    Bad(
        "explain an experiment without models",
        "explain {experiment}",
        ("is missing", "name a folder"),
        (gone("{model}"),),
    ),
    Bad(
        "explain with a prompt and without CLIP",
        "explain {experiment} --prompt anterior=x",
        ("has no CLIP-guided variant", "omit it"),
    ),
)
