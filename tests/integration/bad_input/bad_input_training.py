"""Bad input of `plan` and `train`: names, plans, splits, options."""

from __future__ import annotations

from collections.abc import Callable

from bad_input import Bad, Damage, edited, folder, gone, text

TRAIN = "train --root {root} -d 4 -c 2d -f 0"
RUN = "run {experiment} --dry-run"
PLAN = "plan --root {root} -d 4"
STEPS = "benchmark train-step --root {root} --dataset 4 --device cpu"


def _plans(change: Damage | None = None, **values: object) -> Damage:
    return edited("{pre}/CompactPlans.json", lambda plans: plans.update(values))


def _network(change: Callable[[dict], object]) -> Damage:
    """Let the plans name a network, with one entry of its architecture changed."""
    arguments = {"conv_op": "torch.nn.modules.conv.Conv2d", "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {}}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "nonlin"],
    }
    change(architecture)
    return edited(
        "{pre}/CompactPlans.json", lambda plans: plans["configurations"]["2d"].update(architecture=architecture)
    )


def _run_a_program(architecture: dict) -> None:
    architecture["arch_kwargs"].update(nonlin="subprocess.Popen", nonlin_kwargs={"args": ["touch", "written"]})


def _misspell(architecture: dict) -> None:
    architecture["arch_kwargs"]["nonlin"] = "torch.nn.LeakyRelu"


def _foreign_network(architecture: dict) -> None:
    architecture["network_class_name"] = "acme_unets.DropoutUNet"


def _loop(plans: dict) -> None:
    plans["configurations"]["2d"]["inherits_from"] = "3d_fullres"
    plans["configurations"]["3d_fullres"]["inherits_from"] = "2d"


ROWS = (
    *(
        Bad(
            f"plans that name a program, {command.split()[0]} {command.split()[1]}",
            command,
            ("CompactPlans.json: configuration '2d': nonlin is 'subprocess.Popen'", "--trust-checkpoint"),
            (_network(_run_a_program),),
        )
        for command in (TRAIN + " --device cpu", PLAN + " -c 2d --planner CompactPlanner", STEPS)
    ),
    *(
        Bad(
            f"plans with a misspelt layer, {command.split()[0]}",
            command,
            ("nonlin 'torch.nn.LeakyRelu' is no network or layer", "did you mean torch.nn.LeakyReLU?"),
            (_network(_misspell),),
        )
        for command in (TRAIN + " --device cpu", STEPS)
    ),
    Bad(
        "plans with a misspelt layer that are trusted",
        TRAIN + " --device cpu --trust-checkpoint",
        ("nonlin 'torch.nn.LeakyRelu' is no network or layer", "did you mean torch.nn.LeakyReLU?"),
        (_network(_misspell),),
    ),
    Bad(
        "plans with a network of another package",
        TRAIN + " --device cpu",
        ("network_class_name is 'acme_unets.DropoutUNet'", "--trust-checkpoint"),
        (_network(_foreign_network),),
    ),
    Bad(
        "plan by a planner and a preset",
        PLAN + " -pl CompactPlanner --preset gpu",
        ("--planner", "one of them"),
        code=2,
    ),
    Bad(
        "training by names and a preset",
        TRAIN + " -tr UNetTrainer -p CompactPlans --preset laptpo",
        ("--trainer and --plans", "leave one of them out"),
        code=2,
    ),
    Bad("dataset that is not there", "plan --root {base}/new -d 99", ("dataset '99' is not in", "data convert")),
    Bad(
        "dataset that is a word",
        "plan --root {root} -d Hippocampus",
        ("dataset 'Hippocampus' is neither an id", "Dataset004_Hippocampus"),
    ),
    Bad(
        "dataset that is a raised two",
        "plan --root {root} -d ²",
        ("dataset '²' is neither an id", "Dataset004_Hippocampus"),
    ),
    Bad(
        "dataset name of stars",
        "plan --root {root} -d Dataset**",
        ("dataset 'Dataset**' is neither an id", "Dataset004_Hippocampus"),
    ),
    Bad(
        "dataset name that leads out",
        "plan --root {root} -d Dataset004_Phantom/../..",
        ("is neither an id", "Dataset004_Hippocampus"),
    ),
    Bad(
        "dataset without number",
        "train --root {root} -d Dataset_Phantom -c 2d -f 0",
        ("is neither an id", "Dataset004_Hippocampus"),
        (folder("{root}/nnUNet_raw/Dataset_Phantom"),),
    ),
    Bad(
        "two datasets of one id",
        PLAN,
        ("dataset id 4 is ambiguous", "rename or remove"),
        (folder("{root}/nnUNet_raw/Dataset004_Other"),),
    ),
    Bad(
        "planner that is unknown",
        PLAN + " --planner CompactPlaner",
        ("planner 'CompactPlaner' is unknown", "hippo-nnunet list"),
    ),
    Bad(
        "configuration that is unknown",
        PLAN + " -c 4d",
        ("configuration '4d' is not in CompactPlans", "it has 2d, 3d_fullres"),
    ),
    Bad("no process", PLAN + " --processes 0", ("Invalid value for '--processes'",), code=2),
    Bad(
        "number of processes that is a word",
        PLAN,
        ("nnUNet_def_n_proc=0", "a whole number"),
        environ={"nnUNet_def_n_proc": "0"},
    ),
    Bad(
        "number of augmenters that is a word",
        TRAIN,
        ("nnUNet_n_proc_DA=few", "a whole number"),
        environ={"nnUNet_n_proc_DA": "few"},
    ),
    Bad(
        "raw description is damaged",
        PLAN,
        ("{raw}/dataset.json cannot be read as JSON", "restore"),
        (text("{raw}/dataset.json", "{"),),
    ),
    Bad(
        "raw description lacks the file ending",
        PLAN,
        ("{raw}/dataset.json", "file_ending", "data check"),
        (edited("{raw}/dataset.json", lambda d: d.pop("file_ending") and None),),
    ),
    Bad(
        "raw description is a number",
        PLAN,
        ("{raw}/dataset.json", "no JSON object"),
        (text("{raw}/dataset.json", "5"),),
    ),
    Bad(
        "precision that is none",
        TRAIN + " --trainer UNetTrainer_fast -p CompactPlans --device cpu",
        ("HIPPO_PRECISION=half: expected float32 or bfloat16", "correct or unset it"),
        environ={"HIPPO_PRECISION": "half"},
    ),
    Bad("fold is a word", "train --root {root} -d 4 -c 2d -f first", ("fold 'first' is neither a number", "'all'")),
    Bad("fold is a raised two", "train --root {root} -d 4 -c 2d -f ²", ("fold '²' is neither a number", "'all'")),
    Bad("fold is negative", "train --root {root} -d 4 -c 2d -f -1", ("fold -1 is outside the split", "folds 0 to 4")),
    Bad(
        "fold is beyond the split",
        "train --root {root} -d 4 -c 2d -f 5",
        ("fold 5 is outside the split", "folds 0 to 4"),
    ),
    Bad(
        "trainer word that is unknown",
        TRAIN + " -tr UNetTrainer_flop",
        ("unknown word 'flop'", "Did you mean 'UNetTrainer_flip'"),
    ),
    Bad(
        "trainer word at the wrong place",
        TRAIN + " -tr UNetTrainer_fast_flip",
        ("wrong order", "Did you mean 'UNetTrainer_flip_fast'"),
    ),
    Bad(
        "trainer with two losses", TRAIN + " -tr UNetTrainer_dice_ce", ("both words of the group loss", "Did you mean")
    ),
    Bad(
        "trainer on more cases than the fold has",
        TRAIN + " -tr UNetTrainer_fast_99cases -p CompactPlans",
        ("UNetTrainer_fast_99cases, fold 0: got 99 training cases, but there are", "take fewer"),
    ),
    Bad(
        "trainer with a word of CLIP",
        TRAIN + " -tr UNetTrainer_mini",
        ("goes with CLIPGuidedUNetTrainer alone", "Did you mean"),
    ),
    Bad(
        "trainer that nobody knows",
        TRAIN + " -tr UNetTrainr",
        ("trainer 'UNetTrainr' is unknown", "did you mean 'UNetTrainer'"),
    ),
    Bad("trainer of no epochs", TRAIN + " -tr UNetTrainer_0epochs", ("unknown word '0epochs'", "Did you mean")),
    Bad("device that is unknown", TRAIN + " --device tpu", ("device 'tpu' is unknown", "auto, cpu, cuda or mps")),
    Bad(
        "plans that are not there",
        TRAIN + " -p OtherPlans",
        ("OtherPlans.json is missing", "there are CompactPlans", "hippo-nnunet plan"),
    ),
    Bad("plans that lead out", TRAIN + " -p ../../x", ("x.json is missing", "hippo-nnunet plan")),
    Bad(
        "plans are damaged",
        TRAIN,
        ("CompactPlans.json cannot be read as JSON", "plan"),
        (text("{pre}/CompactPlans.json", '{"conf'),),
    ),
    Bad(
        "plans are a list", TRAIN, ("CompactPlans.json", "no plans", "plan"), (text("{pre}/CompactPlans.json", "[1]"),)
    ),
    Bad(
        "plans without configurations", TRAIN, ("CompactPlans.json", "no plans", "plan"), (_plans(configurations=None),)
    ),
    Bad(
        "plans that inherit in a circle",
        TRAIN,
        ("configuration '2d'", "inherits from itself", "plan"),
        (edited("{pre}/CompactPlans.json", _loop),),
    ),
    Bad(
        "plans without data",
        TRAIN,
        ("configuration '2d'", "data_identifier", "plan"),
        (edited("{pre}/CompactPlans.json", lambda p: p["configurations"]["2d"].pop("data_identifier") and None),),
    ),
    Bad(
        "configuration that is not planned",
        "train --root {root} -d 4 -c 3d_lowres -f 0",
        ("configuration '3d_lowres' is not in CompactPlans", "it has 2d, 3d_fullres"),
    ),
    Bad(
        "data that is not preprocessed",
        TRAIN,
        ("is not preprocessed for CompactPlans 2d", "hippo-nnunet plan"),
        (gone("{pre}/CompactPlans_2d"),),
    ),
    Bad(
        "data of which a case is missing",
        TRAIN,
        ("1 of 6 cases are missing, first 'phantom_003'", "hippo-nnunet plan"),
        (gone("{pre}/CompactPlans_2d/phantom_003.pkl"),),
    ),
    Bad(
        "data of other plans",
        TRAIN,
        ("preprocessed with other plans", "hippo-nnunet plan"),
        (text("{pre}/CompactPlans_2d.plan.sha256", "0"),),
    ),
    Bad(
        "splits are no JSON",
        TRAIN,
        ("splits_final.json cannot be read as JSON", "delete it"),
        (text("{pre}/splits_final.json", "x"),),
    ),
    Bad(
        "splits are an object",
        TRAIN,
        ("splits_final.json", "list of train/val splits", "delete it"),
        (text("{pre}/splits_final.json", "{}"),),
    ),
    Bad(
        "splits are empty",
        TRAIN,
        ("splits_final.json", "list of train/val splits", "delete it"),
        (text("{pre}/splits_final.json", "[]"),),
    ),
    Bad(
        "splits of numbers",
        TRAIN,
        ("splits_final.json", "list of train/val splits", "delete it"),
        (text("{pre}/splits_final.json", '[{"train": 5, "val": [1]}]'),),
    ),
    Bad(
        "split with a case on both sides",
        TRAIN,
        ("fold 0", "'phantom_002' in train and val", "splits_final.json"),
        (edited("{pre}/splits_final.json", lambda s: s[0]["val"].append("phantom_002")),),
    ),
    Bad(
        "splits with a case that is not there",
        TRAIN,
        ("splits_final.json names 'stranger', which is no case of Dataset004_Phantom", "correct the file"),
        (edited("{pre}/splits_final.json", lambda s: s[0]["val"].append("stranger")),),
    ),
    Bad(
        "splits with names of files",
        PLAN,
        ("names 'phantom_002_0000.nii.gz'", "did you mean 'phantom_002'"),
        (edited("{pre}/splits_final.json", lambda s: s[1].update(val=["phantom_002_0000.nii.gz"])),),
    ),
    Bad(
        "split without validation cases",
        TRAIN,
        ("splits_final.json: fold 3 has no case in val", "delete it"),
        (edited("{pre}/splits_final.json", lambda s: s[3].update(val=[])),),
    ),
    Bad(
        "case that is validated twice",
        RUN,
        ("'phantom_002' is in val of folds 1 and 2", "a case is validated once"),
        (edited("{pre}/splits_final.json", lambda s: s[2].update(val=["phantom_002"], train=["phantom_001"])),),
    ),
    Bad(
        "finished fold of another split",
        "train --root {root} -d 4 -c 2d -f 0 -tr UNetTrainer_fast",
        ("fold_0 was trained with another split: 'phantom_001' is no longer in val", "restore"),
        (
            text(
                "{model}/fold_0/validation/summary.json",
                '{"metric_per_case": [{"prediction_file": "phantom_001.nii.gz"}]}',
            ),
            edited("{pre}/splits_final.json", lambda s: [s[1], s[0], *s[2:]]),
        ),
    ),
    Bad(
        "validation of what is not trained",
        "train --root {root} -d 4 -c 2d -f 1 --validation-only",
        ("fold_1 is not trained completely", "train it first"),
    ),
    Bad(
        "weights to start from that are missing",
        "train --root {root} -d 4 -c 2d -f 1 --pretrained-weights {base}/no.pth",
        ("--pretrained-weights {base}/no.pth", "no such file", "name a checkpoint"),
    ),
    Bad(
        "weights to start from that are text",
        "train --root {root} -d 4 -c 2d -f 1 --pretrained-weights {raw}/dataset.json",
        ("--pretrained-weights {raw}/dataset.json", "cannot be read", "name a checkpoint"),
    ),
    Bad(
        "several GPUs without one",
        "train --root {root} -d 4 -c 2d -f 1 --num-gpus 2 --device cpu",
        ("--num-gpus 2", "cpu", "--device cuda"),
    ),
    Bad(
        "best of no checkpoints",
        "train --root {root} -d 4 -c 2d -f 1 --validate-best --disable-checkpointing",
        ("--validate-best", "--disable-checkpointing", "leave one out"),
    ),
    Bad(
        "finished fold of a damaged summary",
        "train --root {root} -d 4 -c 2d -f 0 -tr UNetTrainer_fast",
        ("hippo_training.json", "delete"),
        (
            text("{model}/fold_0/hippo_training.json", "[]"),
            text("{model}/fold_0/validation/summary.json", '{"metric_per_case": []}'),
        ),
    ),
)
