"""The files of an earlier explanation of the same cases: the only ones that `explain` replaces."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from hippo_nnunet.data.cases import InputCase
from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.explanation_files import check_map_names
from hippo_nnunet.outputs import check_target, first_line

TEXT_TABLE, DICE_TABLE = "text_similarity.csv", "dice.csv"
_MAP = re.compile(r"_(attention_level\d+|prediction|prediction_changed|(similarity|probability|errors)_.+)\.nii\.gz")
_FIGURE = re.compile(r"_(attention|similarity|probability|errors|prompt)\.(png|svg|pdf)")


def earlier_files(cases: Sequence[InputCase], labels: Iterable[str], output: Path, overwrite: bool) -> set[Path]:
    """Return the files of an earlier explanation of some cases; refuse them unless `overwrite` is set.

    Args:
        cases: The cases to explain.
        labels: Names of the network's classes.
        output: The folder for the explanations, which may be missing.
        overwrite: Replace an earlier explanation.

    Raises:
        DataError: The folder holds the images; such files are there and may not be replaced, or are of no explanation;
            or two cases would get maps of the same name.
    """
    images = [file for case in cases for file in case.files]
    if output.resolve() in {folder for file in images for folder in (file.parent.resolve(), file.resolve().parent)}:
        raise DataError(f"{output} is the folder of the images: choose another one for the explanations")
    names = {case.case for case in cases}
    check_map_names(names, labels)
    maps = files_of_cases(output, "_prediction.nii.gz", _MAP, names)
    figures = files_of_cases(output / "figures", "_probability.png", _FIGURE, names)
    tables = [output / name for name in (TEXT_TABLE, DICE_TABLE) if os.path.lexists(output / name)]
    found = [*tables, *(path for paths in (*maps.values(), *figures.values()) for path in paths)]
    if found and not overwrite:
        raise DataError(f"{found[0]} exists already: choose another folder, or pass --overwrite")
    for case, paths in maps.items():
        if case not in figures:
            raise DataError(
                f"{paths[0]} is of no earlier explanation, as {output / 'figures'} has no figure of {case}: choose "
                "another folder, or move it away"
            )
    for table in tables:
        check_target(table, overwrite, "a table of explanations", _is_table)
    for path in found:
        check_target(path, overwrite, "a map or figure", Path.is_file)
    return set(found)


def files_of_cases(folder: Path, every: str, kinds: re.Pattern[str], cases: Collection[str]) -> dict[str, list[Path]]:
    """Return the files of some cases in a folder of maps or figures.

    A case's name may begin with another one's: each file is of the longest name that fits.

    Args:
        folder: The folder, which may be missing.
        every: End of the name of a file that every explained case has.
        kinds: Matches a file's name after the case.
        cases: Names of cases.

    Returns:
        Case to its files, sorted; no entry for a case without files.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    explained = {name.removesuffix(every) for name in names if name.endswith(every)}
    found: dict[str, list[Path]] = {}
    for name in names:
        fits = [c for c in (*cases, *explained) if name.startswith(c) and kinds.fullmatch(name, len(c))]
        if fits and (case := max(fits, key=len)) in cases:
            found.setdefault(case, []).append(folder / name)
    return found


def _is_table(path: Path) -> bool:
    return first_line(path).startswith("," if path.name == TEXT_TABLE else "case,label,")
