"""Per-case results that others have published, read for a paired comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hippo_nnunet.errors import DataError


def read_published(path: Path, labels: Sequence[str], cases: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Read a CSV file with a column `case` and, for each method and label, a column `<method>_<label>` of Dice.

    Args:
        path: The file; other columns (such as `<method>_fold`) are left alone.
        labels: Labels of the experiment; upper and lower case do not matter in the file.
        cases: Cases of the experiment.

    Returns:
        Method to a table with a row for each case and a column for each label.

    Raises:
        DataError: Missing or unreadable, a case twice, values outside 0 to 1, no method with all labels, or no case of
            the experiment.
    """
    try:
        table = pd.read_csv(path, dtype={"case": str})
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error})") from error
    if "case" not in table.columns or table["case"].isna().any():
        raise DataError(f"{path}: got the columns {', '.join(table.columns)}, expected 'case' with a name in every row")
    repeated = table.loc[table["case"].duplicated(), "case"]
    if len(repeated):
        raise DataError(f"{path}: case {repeated.iloc[0]} stands twice; keep one row for each case")
    table = table.set_index("case")
    suffixes = {label: f"_{label.lower()}" for label in labels}
    lower = {column.lower(): column for column in table.columns}
    first = suffixes[labels[0]]
    methods = {name[: -len(first)] for name in lower if name.endswith(first)}
    columns = {m: {label: lower.get(f"{m}{end}") for label, end in suffixes.items()} for m in methods}
    complete = {m: found for m, found in columns.items() if all(found.values())}
    if not complete:
        raise DataError(
            f"{path}: no method has a column for each of {', '.join(labels)}; name them <method>_<label>, such as "
            f"conv{first}"
        )
    if not table.index.isin(cases).any():
        raise DataError(f"{path}: holds none of the experiment's cases: got {table.index[0]}, expected {cases[0]}")
    published = {}
    for method in sorted(complete, key=lambda m: list(lower).index(f"{m}{first}")):
        values = table[[str(complete[method][label]) for label in labels]].set_axis(list(labels), axis=1)
        if not all(pd.api.types.is_numeric_dtype(kind) for kind in values.dtypes) or ((values < 0) | (values > 1)).any(
            axis=None
        ):
            raise DataError(f"{path}: {method} holds something else than Dice from 0 to 1: mend the file")
        published[method] = values.rename_axis(columns="label")
    return published
