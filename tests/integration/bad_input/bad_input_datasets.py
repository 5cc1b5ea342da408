"""Bad input of `data synth`, `data check`, `data convert` and `explore`: folders and dataset.json."""

from __future__ import annotations

import json

from bad_input import Bad, closed, data, edited, folder, gone, text

CHECK = "data check {task} --json"
CONVERT = "data convert {task} --root {base}/new"


ROWS = (
    Bad(
        "phantom of no case",
        "data synth --output {out} --cases 0",
        ("0 training cases", "expected 1 to 900"),
    ),
    Bad("phantom with a negative seed", "data synth --output {out} --seed -1", ("seed -1", "at least 0")),
    Bad(
        "phantom that is there",
        "data synth --output {base} --cases 1 --test-cases 0",
        ("{task}: exists already", "--overwrite"),
    ),
    Bad(
        "phantom below a file",
        "data synth --output {base}/file --cases 1 --test-cases 0",
        ("{base}/file: cannot write there", "choose another folder"),
        (text("{base}/file", ""),),
    ),
    Bad(
        "phantom in a folder without permission",
        "data synth --output {base}/locked --cases 1 --test-cases 0",
        ("{base}/locked: cannot write there (Permission denied)", "permissions"),
        (folder("{base}/locked"), closed("{base}/locked", 0o500)),
        unprivileged=True,
    ),
    Bad(
        "dataset folder is missing",
        CHECK,
        ("there is no such folder", "give the folder that holds"),
        (gone("{task}"),),
        on_stdout=True,
    ),
    Bad(
        "dataset folder is empty",
        "data check {out} --json",
        ("the folder is empty", "data fetch"),
        (folder("{out}"),),
        on_stdout=True,
    ),
    Bad(
        "dataset is a file",
        "data check {base}/Task04_Phantom.tar --json",
        ("is a file, not a folder", "dataset.json"),
        on_stdout=True,
    ),
    Bad(
        "dataset is one level down",
        "data check {base} --json",
        ("has no dataset.json", "give {task} instead"),
        on_stdout=True,
    ),
    Bad(
        "dataset folder cannot be read",
        CHECK,
        ("{task}", "cannot be read (Permission denied)", "correct the permissions"),
        (closed("{task}"),),
        on_stdout=True,
        unprivileged=True,
    ),
    Bad(
        "description is no JSON",
        CHECK,
        ("cannot be read as JSON", "restore it from the source"),
        (text("{task}/dataset.json", "{"),),
        on_stdout=True,
    ),
    Bad(
        "description is a list",
        CHECK,
        ("holds no JSON object", "restore it"),
        (text("{task}/dataset.json", "[]"),),
        on_stdout=True,
    ),
    Bad(
        "description is not text",
        CHECK,
        ("cannot be read as JSON", "restore it"),
        (data("{task}/dataset.json", b"\xff\xfe\0"),),
        on_stdout=True,
    ),
    Bad(
        "description is nested too deeply",
        CHECK,
        ("cannot be read as JSON", "restore it"),
        (text("{task}/dataset.json", "[" * 100_000),),
        on_stdout=True,
    ),
    Bad(
        "description holds a number without end",
        CHECK,
        ("cannot be read as JSON", "restore it"),
        (text("{task}/dataset.json", '{"labels": ' + "9" * 5000 + "}"),),
        on_stdout=True,
    ),
    Bad(
        "description without labels",
        CHECK,
        ("is not in MSD form (KeyError: 'labels')", "it needs modality"),
        (edited("{task}/dataset.json", lambda d: d.pop("labels") and None),),
        on_stdout=True,
    ),
    Bad(
        "modality is text",
        CHECK,
        ("is not in MSD form", "it needs modality"),
        (edited("{task}/dataset.json", lambda d: d.update(modality="MRI")),),
        on_stdout=True,
    ),
    Bad(
        "label values that are words",
        CHECK,
        ("is not in MSD form", "it needs modality"),
        (edited("{task}/dataset.json", lambda d: d.update(labels={"zero": "background"})),),
        on_stdout=True,
    ),
    Bad(
        "two labels of one name",
        CHECK,
        ("two labels the same name", "a unique name"),
        (edited("{task}/dataset.json", lambda d: d["labels"].update({"2": "Anterior"})),),
        on_stdout=True,
    ),
    Bad(
        "two labels of one value",
        "data check {raw} --json",
        ("labels 'Anterior' and 'Posterior' the same value 1", "a unique value"),
        (edited("{raw}/dataset.json", lambda d: d["labels"].update(Posterior=1)),),
        on_stdout=True,
    ),
    Bad(
        "label value that is infinite",
        "data check {raw} --json",
        ("gives 'a' the label value inf", "a whole number from 0 to 65535"),
        (
            text(
                "{raw}/dataset.json",
                '{"channel_names": {"0": "MRI"}, "labels": {"a": Infinity}, "file_ending": ".nii.gz"}',
            ),
        ),
        on_stdout=True,
    ),
    Bad(
        "label value that no file can hold",
        "data check {raw} --json",
        ("label value -1", "0 to 65535"),
        (edited("{raw}/dataset.json", lambda d: d["labels"].update(Anterior=-1)),),
        on_stdout=True,
    ),
    Bad(
        "label value in quotes",
        "data check {raw} --json",
        ("gives 'Anterior' the label value '1'", "without quotes"),
        (edited("{raw}/dataset.json", lambda d: d["labels"].update(Anterior="1")),),
        on_stdout=True,
    ),
    Bad(
        "label value with a decimal point, before a plan",
        "plan --root {root} -d 4",
        ("{raw}/dataset.json: gives 'Anterior' the label value 1.0", "without quotes or decimal point"),
        (edited("{raw}/dataset.json", lambda d: d["labels"].update(Anterior=1.0)),),
    ),
    Bad(
        "label value in quotes, before a training",
        "train --root {root} -d 4 -c 2d -f 0 --device cpu",
        ("{pre}/dataset.json: gives 'Anterior' the label value '1'", "without quotes"),
        (edited("{pre}/dataset.json", lambda d: d["labels"].update(Anterior="1")),),
    ),
    Bad(
        "dataset without channels",
        "data check {raw} --json",
        ("is not in nnU-Net v2's form", "it needs channel_names"),
        (edited("{raw}/dataset.json", lambda d: d.update(channel_names={})),),
        on_stdout=True,
    ),
    Bad(
        "file ending of another kind",
        "data check {raw} --json",
        ("names file_ending '.png'", "only .nii.gz and .nii"),
        (edited("{raw}/dataset.json", lambda d: d.update(file_ending=".png")),),
        on_stdout=True,
    ),
    Bad(
        "convert nothing",
        "data convert {base}/nowhere --root {base}/new",
        ("{base}/nowhere: there is no such folder", "give the folder"),
    ),
    Bad(
        "convert what is in nnU-Net's form",
        "data convert {raw} --root {base}/new",
        ("is already in nnU-Net's form", "copy the folder"),
    ),
    Bad("dataset id out of range", CONVERT + " --dataset-id 1000", ("dataset id 1000", "1 to 999", "--dataset-id")),
    Bad("dataset id of zero", CONVERT + " --dataset-id 0", ("dataset id 0", "1 to 999", "--dataset-id")),
    Bad("dataset id that is negative", CONVERT + " --dataset-id -3", ("dataset id -3", "1 to 999", "--dataset-id")),
    Bad(
        "dataset id that is a word",
        CONVERT + " --dataset-id four",
        ("Invalid value for '--dataset-id'", "valid integer"),
        code=2,
    ),
    Bad(
        "dataset id that is taken",
        "data convert {task} --root {root}",
        ("dataset id 4 is taken by", "Dataset004_Other", "--dataset-id"),
        (folder("{root}/nnUNet_raw/Dataset004_Other"),),
    ),
    Bad(
        "dataset that is converted already",
        "data convert {task} --root {root}",
        ("{raw}: exists already", "--overwrite"),
    ),
    Bad(
        "convert into a read-only folder",
        CONVERT,
        ("nnUNet_raw", "cannot write there (Permission denied)", "permissions"),
        (folder("{base}/new/nnUNet_raw"), closed("{base}/new/nnUNet_raw", 0o500)),
        unprivileged=True,
    ),
    Bad("convert without a root", "data convert {task}", ("nnUNet_raw is not set", "pass --root DIR")),
    Bad(
        "explore nothing",
        "explore {base}/nowhere --output {out}",
        ("{base}/nowhere: there is no such folder", "give the folder"),
    ),
    Bad(
        "explore into a folder that is there",
        "explore {task} --output {predictions}",
        ("{predictions}: exists already", "--overwrite"),
    ),
    Bad(
        "explore over another folder",
        "explore {task} --output {predictions} --overwrite",
        ("holds 'phantom_901.nii.gz'", "which this command does not write", "choose another folder"),
    ),
    Bad(
        "explore a dataset of which nothing can be read",
        "explore {base}/bad --output {out}",
        ("none of its 1 images can be read", "data check"),
        (
            text("{base}/bad/imagesTr/a_0000.nii.gz", "x"),
            text("{base}/bad/labelsTr/a.nii.gz", "x"),
            text(
                "{base}/bad/dataset.json",
                json.dumps({"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}),
            ),
        ),
    ),
    Bad(
        "explore a dataset without images",
        "explore {raw} --output {out}",
        ("holds no image", "put images into imagesTr"),
        (gone("{raw}/imagesTr"), gone("{raw}/labelsTr"), gone("{raw}/imagesTs")),
    ),
)
