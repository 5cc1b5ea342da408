"""Ask for parts that most training cases do not show: `python experiments/prompt_swap.py TASK --output FOLDER`.

In the training cases of fold 0 (folds by subject) anterior and posterior hippocampus are merged, except in a few cases;
the regions are `hippocampus`, `anterior` and `posterior`, and the loss leaves out the parts of the merged cases
(`partial_labels` in dataset.json). The validation cases keep their labels. For each number of split cases a network is
trained once, and asked in two ways, with one JSON line for each case and region in FOLDER/dice.jsonl:

- `trained`: by the prompts of the training;
- `paraphrase`: by descriptions of the parts that no training has seen.

With 0 split cases the parts are classes that the training never shows. `other` is the Dice with the other part: a
network that ignores the prompt has the same mask for both. Whether meaning matters, only a control can tell, in another
call: `--trainer CLIPGuidedUNetTrainer_textHead_rotatedText_mini_fast`. `python experiments/prompt_swap.py --table
FILE ...` prints the means of such files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from hippo_nnunet.data.same_scan import same_scan_cases, subjects_of_groups
from hippo_nnunet.data.subjects import grouped_splits
from hippo_nnunet.evaluation.metrics import mask_dice
from hippo_nnunet.nnunet.subset import training_subset

REGIONS: dict[str, Any] = {"background": 0, "hippocampus": [1, 2, 3], "anterior": 1, "posterior": 2}
OTHER = {"anterior": "posterior", "posterior": "anterior"}
MERGED = 3
PARAPHRASES = {
    "anterior": ["front portion of the hippocampus", "the most anterior third of the hippocampus"],
    "posterior": ["back portion of the hippocampus", "the posterior two thirds of the hippocampus"],
}
"""Neither prompts of the training nor texts that `mini` was trained with."""
ENDING = ".nii.gz"


def main() -> None:
    """Train and ask for each number of split cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path, nargs="?", help="folder of the Decathlon task, such as Task04_Hippocampus")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--table", type=Path, nargs="+", help="print what earlier calls found, and do nothing else")
    parser.add_argument("--split-cases", default="0,5,20", help="numbers of training cases with both parts")
    parser.add_argument("--trainer", default="CLIPGuidedUNetTrainer_textHead_mini_fast")
    parser.add_argument("--configuration", default="2d")
    options = parser.parse_args()
    if options.table:
        print(means_table([json.loads(line) for file in options.table for line in file.read_text().splitlines()]))
        return
    if options.task is None or options.output is None:
        parser.error("the task and --output are needed to train")
    cases = sorted(p.name.removesuffix(ENDING) for p in (options.task / "labelsTr").glob(f"[!.]*{ENDING}"))
    found = same_scan_cases({case: options.task / "imagesTr" / f"{case}{ENDING}" for case in cases})
    subjects = subjects_of_groups(found.groups, cases) if found else {case: case for case in cases}
    fold = grouped_splits(subjects, 5)[0]
    log = options.output / "dice.jsonl"
    if log.exists():
        parser.error(f"{log} exists: choose another --output")
    for count in map(int, options.split_cases.split(",")):
        root = options.output / f"{count}_split_cases"
        split = training_subset(fold["train"], count, "0 0", subjects) if count else []
        dataset = write_dataset(options.task, root, fold, {*split, *fold["val"]})
        run("plan", "--dataset", "4", "--preset", "laptop", "-c", options.configuration, "--root", root)
        model = run(
            *("train", "-d", "4", "-c", options.configuration, "-f", "0", "-tr", options.trainer, "-p", "CompactPlans"),
            *("--no-npz", "--root", root),
        )
        images = [dataset / "imagesTr" / f"{case}_0000{ENDING}" for case in fold["val"]]
        with log.open("a") as lines:
            for row in ask(Path(model).parent, images, options.task / "labelsTr"):
                print(json.dumps({"split_cases": len(split), "trainer": options.trainer, **row}), file=lines)


def means_table(rows: list[dict[str, Any]]) -> str:
    """Return mean Dice over cases as a Markdown table: a row for each trainer, number of split cases and prompt.

    Trainers that differ in a seed word are one, with the mean of all trainings, the lowest and the highest.

    Args:
        rows: Lines of dice.jsonl.
    """
    table = pd.DataFrame(rows)
    table["recipe"] = table["trainer"].str.replace(r"_seed\d+$", "", regex=True)
    by = ["recipe", "split_cases", "prompt"]
    trainings = table.pivot_table(index=[*by, "trainer"], columns="region", values="dice", sort=False)
    trainings["the other part"] = table.groupby([*by, "trainer"])["other"].mean()
    lines = [(*by, "trainings", *trainings.columns), ("---",) * (len(by) + 1 + len(trainings.columns))]
    for names, values in trainings.groupby(level=by, sort=False):
        shown = (_mean_and_range(values[column].dropna()) for column in values)
        lines.append((*map(str, names), str(len(values)), *shown))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean_and_range(values: pd.Series) -> str:
    if not len(values):
        return ""
    return f"{values.mean():.3f}" + (f" ({values.min():.3f} to {values.max():.3f})" if len(values) > 1 else "")


def write_dataset(task: Path, root: Path, fold: dict[str, list[str]], split: set[str]) -> Path:
    """Write the dataset in nnUNet_raw below root, with the parts of all cases but `split` merged, and its one fold."""
    folder = root / "nnUNet_raw" / "Dataset004_PartlySplit"
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for case in (*fold["train"], *fold["val"]):
        shutil.copyfile(task / "imagesTr" / f"{case}{ENDING}", folder / "imagesTr" / f"{case}_0000{ENDING}")
        labels: Any = nib.load(task / "labelsTr" / f"{case}{ENDING}")
        array = np.asarray(labels.dataobj).astype(np.uint8)
        if case not in split:
            array[array > 0] = MERGED
        nib.save(nib.Nifti1Image(array, labels.affine, labels.header), folder / "labelsTr" / f"{case}{ENDING}")
    description = {
        "channel_names": {"0": "MRI"},
        "labels": REGIONS,
        "regions_class_order": [MERGED, 1, 2],
        "partial_labels": {str(MERGED): ["anterior", "posterior"]},
        "numTraining": len(fold["train"]) + len(fold["val"]),
        "file_ending": ENDING,
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1))
    preprocessed = root / "nnUNet_preprocessed" / folder.name
    preprocessed.mkdir(parents=True, exist_ok=True)
    (preprocessed / "splits_final.json").write_text(json.dumps([fold]))
    return folder


def ask(model: Path, images: list[Path], labels: Path) -> Iterator[dict[str, Any]]:
    """Predict by each kind of prompt, and yield the Dice of each region by case."""
    heads = [name for name in REGIONS if name != "background"]
    for kind, prompts in (("trained", {}), ("paraphrase", PARAPHRASES)):
        with tempfile.TemporaryDirectory() as scratch:
            words = [f"--prompt={name}={text}" for name, texts in prompts.items() for text in texts]
            given = [f"--input={image}" for image in images]
            run("predict", f"--model={model}", f"--output={scratch}", "--save-probabilities", *given, *words)
            for image in images:
                case = image.name.removesuffix(f"_0000{ENDING}")
                probabilities = np.load(Path(scratch) / f"{case}.npz")["probabilities"]
                stored: Any = nib.load(labels / f"{case}{ENDING}")
                reference = {name: np.isin(np.asarray(stored.dataobj).T, REGIONS[name]) for name in heads}
                for part in prompts or heads:
                    mask = probabilities[heads.index(part)] > 0.5
                    row = {"prompt": kind, "region": part, "case": case, "dice": mask_dice(mask, reference[part])}
                    if part in OTHER:
                        row["other"] = mask_dice(mask, reference[OTHER[part]])
                    yield row


def run(*words: object) -> str:
    """Run a command of hippo-nnunet, and return the last line of its output."""
    command = [sys.executable, "-m", "hippo_nnunet", *map(str, words)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\n")
    return next((line for line in reversed(lines) if line), "")


if __name__ == "__main__":
    main()
