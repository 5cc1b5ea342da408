"""Bad input of `compare` and `benchmark`: metrics, manifests, measurements."""

from __future__ import annotations

from bad_input import Bad, Damage, World, edited, gone, text

TABLE = "{experiment}/metrics/per_case.csv"
COMPARE = "compare {experiment} --json"
MEASURED = """{"schema": 1, "machine": {}, "results": [{"benchmark": "train-epochs", "settings": {}, "checks": {},
"sides": {"stock": {"epoch_seconds": ["x"]}}, "notes": []}]}"""


def _row(old: str, new: str) -> Damage:
    """Replace words in the table of metrics."""

    def change(world: World) -> None:
        world.at(TABLE).write_text(world.at(TABLE).read_text().replace(old, new))

    return change


ROWS = (
    Bad(
        "comparison of nothing", "compare {base}/no", ("{base}/no: no such folder", "name the folder of an experiment")
    ),
    Bad("comparison without metrics", COMPARE, ("per_case.csv is missing", "hippo-nnunet run"), (gone(TABLE),)),
    Bad(
        "metrics that are empty",
        COMPARE,
        ("per_case.csv cannot be read as a table", "evaluate the experiment again"),
        (text(TABLE, ""),),
    ),
    Bad(
        "metrics without a column",
        COMPARE,
        ("lacks the columns dice", "expected case"),
        (_row("label,dice,", "label,d,"),),
    ),
    Bad(
        "metrics that are words",
        COMPARE,
        ("column dice holds something else than numbers", "again"),
        (_row("0.80", "good"),),
    ),
    Bad("metrics that are infinite", COMPARE, ("with an infinite metric", "phantom_001"), (_row("0.80", "inf"),)),
    Bad("metrics in half a fold", COMPARE, ("fold", "phantom_001"), (_row("phantom_001,0,", "phantom_001,0.5,"),)),
    Bad("metrics in an endless fold", COMPARE, ("fold", "phantom_001"), (_row("phantom_001,0,", "phantom_001,inf,"),)),
    Bad("metrics without a name", COMPARE, ("case", "without a name"), (_row("phantom_001,", ","),)),
    Bad(
        "metrics of other cases",
        COMPARE,
        ("measured for", "stranger", "the same cases"),
        (_row("phantom_001,0,UNet", "stranger,0,UNet"),),
    ),
    Bad(
        "comparison with subjects that have a gap",
        COMPARE,
        ("subjects.csv lacks", "first 'phantom_00", "add their rows"),
        (text("{experiment}/subjects.csv", "case,subject\nphantom_001,a\n"),),
    ),
    Bad(
        "comparison with subjects that are no table",
        COMPARE,
        ("subjects.csv: got x, expected the columns case and subject",),
        (text("{experiment}/subjects.csv", "x\n1\n"),),
    ),
    Bad(
        "comparison without the subjects that the manifest counts",
        COMPARE,
        ("subjects.csv is missing, but the manifest counts its subjects",),
        (edited("{experiment}/manifest.json", lambda manifest: manifest.update(subjects={"number": 3})),),
    ),
    Bad("metric that is unknown", COMPARE + " --metric iou", ("metric 'iou' cannot be compared", "dice, nsd_1mm")),
    Bad("margin that is none", COMPARE + " --rope nan", ("--rope nan", "more than 0")),
    Bad("margin that is infinite", COMPARE + " --rope inf", ("--rope inf", "more than 0")),
    Bad("margin in mm that is not given", COMPARE + " --metric hd95_mm", ("state yours with --rope",)),
    Bad(
        "baseline that is not there",
        COMPARE + " --baseline VNet",
        ("--baseline 'VNet' is not in this experiment", "UNet, AttentionUNet"),
    ),
    Bad(
        "published results that are not there",
        COMPARE + " --against {base}/no.csv",
        ("{base}/no.csv: cannot be read as a CSV file",),
    ),
    Bad(
        "published results of others",
        COMPARE + " --against {base}/p.csv",
        ("holds none of the experiment's cases", "expected phantom_001"),
        (text("{base}/p.csv", "case,m_Anterior,m_Posterior\nx,0.5,0.5\n"),),
    ),
    Bad(
        "manifest that is a list",
        COMPARE,
        ("manifest.json", "no JSON object", "recreate it"),
        (text("{experiment}/manifest.json", "[]"),),
    ),
    Bad(
        "manifest without folds",
        COMPARE,
        ("manifest.json", "hippo-nnunet run"),
        (text("{experiment}/manifest.json", '{"folds": [{"fold": 0}]}'),),
    ),
    Bad(
        "times of an experiment that are empty",
        COMPARE,
        ("UNet.tsv", "cannot be read as a benchmark", "delete it"),
        (text("{experiment}/benchmarks/predict/UNet.tsv", ""), text("{experiment}/predictions/UNet/a.nii.gz", "")),
    ),
    Bad(
        "benchmark of what is no experiment",
        "benchmark experiment {base}",
        ("{base}/experiment.yaml is missing", "no experiment was started there"),
    ),
    Bad(
        "benchmark of an unfinished experiment",
        "benchmark experiment {experiment}",
        ("times of 0 trainings are there, 10 belong to it", "finish it"),
    ),
    Bad(
        "benchmark into a file that is there",
        "benchmark experiment {experiment} --output {zip}",
        ("{zip} exists", "--overwrite"),
    ),
    Bad(
        "benchmark into a folder that is not there",
        "benchmark experiment {experiment} --output {base}/no/a.json",
        ("{base}/no is not a folder", "create it"),
    ),
    Bad(
        "benchmark with a manifest that is damaged",
        "benchmark experiment {experiment}",
        ("manifest.json", "finish it"),
        (
            text("{experiment}/manifest.json", "5"),
            *(
                text(f"{{experiment}}/benchmarks/train/{v}/2d/fold_{k}.tsv", "s\n1.5\n")
                for v in ("UNet", "AttentionUNet")
                for k in range(5)
            ),
        ),
    ),
    Bad(
        "benchmark with a time that is empty",
        "benchmark experiment {experiment}",
        ("plan.tsv", "no row of figures", "delete it"),
        (text("{experiment}/benchmarks/plan.tsv", ""),),
    ),
    Bad(
        "benchmark of a model that is not there",
        "benchmark predict --model {base}/no --images {images}",
        ("model folder {base}/no is missing", "name a folder"),
    ),
    Bad(
        "benchmark of images that are not there",
        "benchmark predict --model {model} --images {base}/no",
        ("{base}/no: no such file or folder", "name the images"),
    ),
    Bad(
        "benchmark with folds of words",
        "benchmark predict --model {model} --images {images} --folds x",
        ("Invalid value for --folds", "0,1,2"),
        code=2,
    ),
    Bad(
        "benchmark of epochs on no dataset",
        "benchmark train-epochs -d 99 --root {root}",
        ("dataset '99' is not in", "data convert"),
    ),
    Bad(
        "benchmark of epochs on a fold of words",
        "benchmark train-epochs -d 4 --root {root} --fold x",
        ("Invalid value for --fold", "0,1,2"),
        code=2,
    ),
    Bad(
        "benchmark of epochs by a recipe that has a length",
        "benchmark train-epochs -d 4 --root {root} -p CompactPlans --ours UNetTrainer_5epochs",
        ("both words of the group epochs",),
    ),
    Bad(
        "benchmark of one trainer's steps",
        "benchmark train-step -d 4 --root {root} --trainers UNetTrainer_fast",
        ("name at least two different ones",),
    ),
    Bad(
        "benchmark of steps of a trainer that is unknown",
        "benchmark train-step -d 4 --root {root} --trainers UNetTrainer_fast,UNetTrainer_flop",
        ("unknown word 'flop'", "Did you mean"),
    ),
    Bad(
        "benchmark to a Dice above 1",
        "benchmark time-to-dice -d 4 --root {root} --target 1.5",
        ("Invalid value for '--target'",),
        code=2,
    ),
    Bad(
        "benchmark to a Dice of no epochs",
        "benchmark time-to-dice -d 4 --root {root} --epochs 0",
        ("--epochs 0", "at least 1"),
    ),
    Bad(
        "benchmark to a Dice without its curve",
        "benchmark time-to-dice -d 4 --root {root} --stock {zip}",
        ("--stock and --curve belong together",),
    ),
    Bad(
        "benchmark to a Dice by a file of another kind",
        "benchmark time-to-dice -d 4 --root {root} --stock {raw}/dataset.json --curve {zip}",
        ("{raw}/dataset.json is no file of 'python -m benchmarks'", "--output wrote"),
    ),
    Bad(
        "benchmark to a Dice by an empty measurement",
        "benchmark time-to-dice -d 4 --root {root} --stock {base}/b.json --curve {zip}",
        ("{base}/b.json", "--output wrote"),
        (
            text(
                "{base}/b.json",
                MEASURED,
            ),
        ),
    ),
    Bad("benchmark of a head of no size", "benchmark head --size 0,8", ("size 0,8", "one to three numbers")),
    Bad(
        "benchmark of a head of four dimensions",
        "benchmark head --size 1,2,3,4",
        ("size 1,2,3,4", "one to three numbers"),
    ),
    Bad("benchmark of a head by words", "benchmark head --size big", ("Invalid value for --size", "0,1,2"), code=2),
    Bad(
        "benchmark of a head on a device that is unknown",
        "benchmark head --device tpu",
        ("the device tpu is not there", "take cpu"),
    ),
    Bad(
        "benchmark of a start with half a model",
        "benchmark startup --model {model}",
        ("--model and --images belong together",),
        code=2,
    ),
    Bad(
        "benchmark of parts that are unknown",
        "benchmark gpu --work {out} --parts fly",
        ("--parts fly: unknown", "train-2d"),
    ),
    Bad("benchmark on a GPU in a file", "benchmark gpu --work {zip} --device cpu", ("{zip}", "choose another --work")),
)
