"""Bad input of `run`: what it is asked for, and experiment.yaml."""

from __future__ import annotations

from bad_input import CASES, Bad, Damage, World, closed, edited, folder, text

RUN = "run {experiment} --dry-run"
NEW = "run {out} --task {task} --dry-run"
YAML = "{experiment}/experiment.yaml"
NO_EXPERIMENT = ("experiment.yaml does not describe an experiment", "correct or delete it")
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n"
    for last, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
)


def _yaml(**changes: object) -> Damage:
    """Change entries of experiment.yaml; None takes one out."""
    import yaml

    def change(world: World) -> None:
        content = yaml.safe_load(world.at(YAML).read_text())
        content.update(changes)
        world.at(YAML).write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))

    return change


TABLE = "{base}/subjects.csv"


def _subjects(*subjects: str, cases: tuple[str, ...] = CASES, place: str = TABLE) -> Damage:
    """Write a table of subjects."""
    rows = (f"{case},{subject}\n" for case, subject in zip(cases, subjects, strict=False))
    return text(place, "case,subject\n" + "".join(rows))


ROWS = (
    Bad(
        "experiment in a folder of something else",
        "run {base}/other --task {task} --device cpu",
        ("{base}/other/predictions exists, though {base}/other is no experiment", "choose a new folder"),
        (text("{base}/other/predictions/notes.txt", "mine"),),
    ),
    Bad("subjects that are not there", NEW + " --subjects {base}/no.csv", ("{base}/no.csv: no such file",)),
    Bad(
        "subjects of an unknown case",
        NEW + f" --subjects {TABLE}",
        ("subjects.csv: names 1 unknown cases, first 'phantom_099'", "correct or remove"),
        (_subjects(*"aabbcde", cases=(*CASES, "phantom_099")),),
    ),
    Bad(
        "subjects of an unknown case of an archive",
        f"run {{out}} --task {{base}}/Task04_Phantom.tar --dry-run --subjects {TABLE}",
        ("subjects.csv: names 1 unknown cases, first 'phantom_099'",),
        (_subjects(*"aabbcde", cases=(*CASES, "phantom_099")),),
    ),
    Bad(
        "subjects with a gap",
        NEW + f" --subjects {TABLE}",
        ("subjects.csv: lacks 1 of 6 cases, first 'phantom_006'", "a subject of its own"),
        (_subjects(*"abcde"),),
    ),
    Bad(
        "subjects with an empty field",
        NEW + f" --subjects {TABLE}",
        ("subjects.csv: row 4 has no subject",),
        (_subjects("a", "b", "", "d", "e", "f"),),
    ),
    Bad(
        "fewer subjects than folds",
        NEW + f" --subjects {TABLE}",
        ("6 cases of 4 subjects, fewer than the 5 folds", "--subjects none"),
        (_subjects(*"aabbcd"),),
    ),
    Bad(
        "subjects beside dataset.json with a gap",
        NEW,
        ("subjects.csv: lacks 1 of 6 cases",),
        (_subjects(*"abcde", place="{task}/subjects.csv"),),
    ),
    Bad(
        "split that breaks subjects apart",
        "run {out} --root {root} --dataset 4 --dry-run",
        ("splits_final.json: fold", "of the same subject", "--subjects none to keep it"),
        (_subjects(*"aabcde", place="{raw}/subjects.csv"),),
    ),
    Bad(
        "split that breaks subjects apart, planned",
        "plan --root {root} --dataset 4 -c 2d --planner CompactPlanner",
        ("splits_final.json: fold", "of the same subject", "--subjects none to keep it"),
        (_subjects(*"aabcde", place="{raw}/subjects.csv"),),
    ),
    Bad(
        "subjects with a gap, planned",
        f"plan --root {{root}} --dataset 4 -c 2d --planner CompactPlanner --subjects {TABLE}",
        ("subjects.csv: lacks 1 of 6 cases",),
        (_subjects(*"abcde"),),
    ),
    Bad(
        "variant that was trained on another split",
        "run {experiment} --root {root} --device cpu",
        ("fold_0 was trained with another split: 'phantom_001' is no longer in val", "restore"),
        (
            text(
                "{model}/fold_0/validation/summary.json",
                '{"metric_per_case": [{"prediction_file": "phantom_001.nii.gz"}]}',
            ),
            *(text(f"{{model}}/fold_0/validation/phantom_001.{ending}", "") for ending in ("nii.gz", "npz")),
            edited("{pre}/splits_final.json", lambda s: [s[1], s[0], *s[2:]]),
        ),
    ),
    Bad(
        "experiment that was split in another way",
        RUN + " --subjects auto",
        ("subjects is none there, auto now", "take another folder"),
    ),
    Bad(
        "experiment whose table of subjects is gone",
        RUN,
        ("subjects.csv is missing", "--subjects FILE"),
        (_yaml(subjects="file"),),
    ),
    Bad("experiment file with unknown subjects", RUN, (*NO_EXPERIMENT, "subjects"), (_yaml(subjects="x"),)),
    Bad("experiment without data", "run {out} --dry-run", ("no data named", "--task", "--dataset")),
    Bad("experiment with data named twice", NEW + " --dataset 4", ("--task and --dataset", "give one of them")),
    Bad("task that is not there", "run {out} --task {base}/no --dry-run", ("--task {base}/no", "data fetch")),
    Bad(
        "task of another name",
        "run {out} --task {predictions} --dry-run",
        ("the name is not of the form Task04_Hippocampus",),
    ),
    Bad(
        "task with a long number",
        "run {out} --task {base}/Task12345_X --dry-run",
        ("the name is not of the form Task04_Hippocampus",),
        (folder("{base}/Task12345_X"),),
    ),
    Bad(
        "dataset of an experiment that is not there",
        "run {out} --root {root} --dataset 99 --dry-run",
        ("dataset '99' is not in", "data convert"),
    ),
    Bad("experiment is a file", "run {zip} --task {task} --dry-run", ("{zip}", "is a file", "name a folder")),
    Bad(
        "experiment in a folder without permission",
        "run {base}/locked --task {task} --root {root} --device cpu",
        ("{base}/locked", "Permission denied", "choose a folder that you can write to"),
        (folder("{base}/locked"), closed("{base}/locked", 0o500)),
        unprivileged=True,
    ),
    Bad("variant that is unknown", NEW + " --variants VNet", ("variant 'VNet': unknown base 'VNet'", "Did you mean")),
    Bad("variant with a word that is unknown", NEW + " --variants UNet_flop", ("unknown word 'flop'", "Did you mean")),
    Bad("variants that are one", NEW + " --variants UNet,UNet_fast", ("'UNet' and 'UNet_fast' are the same training",)),
    Bad("no variant", NEW + " --variants ,", ("at least one variant",)),
    Bad(
        "configuration that no planner makes", NEW + " --configurations 4d", ("configuration '4d'", "2d", "3d_fullres")
    ),
    Bad(
        "configuration that the plans lack",
        RUN + " --configurations 2d,3d_lowres",
        ("configuration '3d_lowres' is not in CompactPlans", "it has 2d, 3d_fullres"),
    ),
    Bad("configuration that leads out", NEW + " --configurations ../../x", ("configuration '../../x'",)),
    Bad(
        "configuration of a cascade",
        NEW + " --configurations 3d_cascade_fullres",
        ("run trains no cascades", "hippo-nnunet train"),
    ),
    Bad("training cases that are words", NEW + " --train-cases 5,few", ("--train-cases '5,few': got 'few'", "or all")),
    Bad("training cases that stand twice", NEW + " --train-cases 3,3", ("3 stands twice", "once")),
    Bad("no training cases", NEW + " --train-cases 0,all", ("got '0'", "numbers from 1")),
    Bad(
        "more training cases than there are",
        NEW + " --train-cases 2,5",
        ("UNet_5cases: of 6 cases in 5 folds at most 4 train each fold", "take fewer"),
    ),
    Bad(
        "more training cases than a fold of the split has",
        "run {out} --root {root} --dataset 4 --subjects none --dry-run --train-cases 6",
        ("UNetTrainer_fast_6cases, fold 0: got 6 training cases, but there are", "take fewer"),
    ),
    Bad("folds of an experiment that are words", NEW + " --folds first", ("--folds 'first'", "write all, 0,1,2")),
    Bad("fold of an experiment beyond the split", NEW + " --folds 5", ("--folds '5'", "the split has folds 0 to 4")),
    Bad("folds without end", NEW + " --folds 0-99999999999999", ("--folds '0-99999999999999'", "folds 0 to 4")),
    Bad("fold of 5000 digits", NEW + " --folds " + "9" * 5000, ("--folds", "folds 0 to 4")),
    Bad(
        "folds of another configuration",
        NEW + " --folds 3d_fullres=0",
        ("'3d_fullres' is not among --configurations 2d",),
    ),
    Bad(
        "preset that is unknown",
        NEW + " --preset desktop",
        ("preset 'desktop' is unknown", "auto, laptop, overnight, pad64, gpu, standard, paper"),
    ),
    Bad("no epoch", NEW + " --epochs 0", ("--epochs 0", "at least 1")),
    Bad("epochs below none", NEW + " --epochs -5", ("--epochs -5", "at least 1")),
    Bad("epochs that are a word", NEW + " --epochs many", ("Invalid value for '--epochs'", "valid integer"), code=2),
    Bad("no job", NEW + " --jobs 0", ("Invalid value for '--jobs'",), code=2),
    Bad("profile that is unknown", NEW + " --profile moon", ("profile 'moon' is neither local, slurm nor the folder",)),
    Bad(
        "device of an experiment that is unknown",
        NEW + " --device tpu",
        ("device 'tpu' is unknown", "auto, cpu, cuda or mps"),
    ),
    Bad(
        "experiment that asked for something else",
        RUN + " --preset paper",
        ("preset is laptop there, paper now", "take another folder"),
    ),
    Bad(
        "experiment that loses a variant",
        RUN + " --variants UNet",
        ("without AttentionUNet now", "take another folder"),
    ),
    Bad("experiment file is empty", RUN, NO_EXPERIMENT, (text(YAML, ""),)),
    Bad("experiment file is no YAML", RUN, NO_EXPERIMENT, (text(YAML, "a: [b\nc: }"),)),
    Bad("experiment file is a list", RUN, NO_EXPERIMENT, (text(YAML, "- a\n- b\n"),)),
    Bad(
        "experiment file is not text", RUN, NO_EXPERIMENT, (lambda world: world.at(YAML).write_bytes(b"\xff\xfe\x00"),)
    ),
    Bad("experiment file is a folder", RUN, NO_EXPERIMENT, (folder(YAML),)),
    Bad(
        "experiment file that runs code",
        RUN,
        NO_EXPERIMENT,
        (text(YAML, "dataset: !!python/object/apply:os.system [exit]\n"),),
    ),
    Bad("experiment file nested too deeply", RUN, NO_EXPERIMENT, (text(YAML, "[" * 100_000),)),
    Bad(
        "experiment file of a billion laughs",
        RUN,
        (*NO_EXPERIMENT, "alias"),
        (text(YAML, LAUGHS + "dataset: *l\npreset: laptop\nvariants: [UNet]\nfolds: {2d: [0]}\n"),),
    ),
    Bad("experiment file of a later version", RUN, (*NO_EXPERIMENT, "cluster"), (_yaml(cluster="moon"),)),
    Bad("experiment file without a dataset", RUN, (*NO_EXPERIMENT, "dataset"), (_yaml(dataset=None),)),
    Bad("experiment file with a dataset that leads out", RUN, (*NO_EXPERIMENT, "dataset"), (_yaml(dataset="../../x"),)),
    Bad("experiment file with variants as text", RUN, (*NO_EXPERIMENT, "variants"), (_yaml(variants="UNet"),)),
    Bad("experiment file with a fraction of a fold", RUN, (*NO_EXPERIMENT, "folds"), (_yaml(folds={"2d": [0.5]}),)),
    Bad("experiment file with a fold twice", RUN, (*NO_EXPERIMENT, "folds"), (_yaml(folds={"2d": [0, 0]}),)),
    Bad("experiment file with folds as text", RUN, (*NO_EXPERIMENT, "folds"), (_yaml(folds="all"),)),
    Bad("experiment file with epochs as text", RUN, (*NO_EXPERIMENT, "epochs"), (_yaml(epochs="ten"),)),
    Bad(
        "experiment file with a preset that is unknown",
        RUN,
        ("experiment.yaml", "preset: got 'desktop', expected one of laptop, overnight"),
        (_yaml(preset="desktop"),),
    ),
    Bad(
        "experiment file that cannot be read",
        RUN,
        (*NO_EXPERIMENT, "Permission denied"),
        (closed(YAML),),
        unprivileged=True,
    ),
    Bad(
        "splits of an experiment that are wrong",
        RUN,
        ("splits_final.json", "list of train/val splits", "delete it"),
        (text("{pre}/splits_final.json", "5"),),
    ),
)
