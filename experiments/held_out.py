"""The data of the results, from the published archive: 220 of its 260 labelled cases, and 40 test images.

    python -m experiments.held_out data/Task04_Hippocampus.tar held_out/Task04_Hippocampus

The labelled cases are those of `results/task04-recipe/subjects.csv`. The labels of the other 40 are left out, and so
are the archive's own test images.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from hippo_nnunet.data.archive import open_dataset
from hippo_nnunet.data.subjects import read_subjects
from hippo_nnunet.errors import ConfigError, DataError, HippoError
from hippo_nnunet.files import write_json
from hippo_nnunet.outputs import staged

SUBJECTS = Path(__file__).parents[1] / "results" / "task04-recipe" / "subjects.csv"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the task's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder or archive of the published task")
    parser.add_argument("output", type=Path, help="folder to make, named as the task")
    options = parser.parse_args(arguments)
    try:
        print(hold_out(options.source, options.output, read_subjects(SUBJECTS)))
    except HippoError as error:
        sys.exit(f"error: {error}")


def hold_out(source: Path, output: Path, labelled: Collection[str]) -> str:
    """Write a task whose labelled cases are only some of another's; the others of these become its test images.

    Args:
        source: Folder or archive of a Decathlon task.
        output: Folder to make.
        labelled: Cases that keep their label.

    Returns:
        How many cases there are, in words.

    Raises:
        ConfigError: The output exists.
        DataError: The task lacks labelled cases, or cannot be read.
    """
    if output.exists():
        raise ConfigError(f"{output} exists: choose a new folder")
    with open_dataset(source) as dataset:
        cases = {case.id: case for case in dataset.training}
        missing = sorted(set(labelled) - set(cases))
        if missing:
            raise DataError(f"{source} lacks {len(missing)} labelled cases, such as {missing[0]}: fetch it again")
        training, test = [], []
        with staged(output, False, "a task") as folder:
            for name in ("imagesTr", "labelsTr", "imagesTs"):
                (folder / name).mkdir(parents=True)
            for case in cases.values():
                (image,), label = case.images, case.label
                kept = case.id in labelled
                shutil.copyfile(image, folder / ("imagesTr" if kept else "imagesTs") / image.name)
                if kept:
                    assert label is not None
                    shutil.copyfile(label, folder / "labelsTr" / label.name)
                    training.append({"image": f"./imagesTr/{image.name}", "label": f"./labelsTr/{label.name}"})
                else:
                    test.append(f"./imagesTs/{image.name}")
            counts = {"numTraining": len(training), "numTest": len(test), "training": training, "test": test}
            write_json(folder / "dataset.json", {**dataset.description, **counts})
    return f"{output}: {len(training)} labelled cases, {len(test)} test images"


if __name__ == "__main__":
    main()
