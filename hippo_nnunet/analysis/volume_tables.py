"""Tables of volumes: agreement with the reference, coverage of the intervals, and worth of the flags."""

from __future__ import annotations

import pandas as pd

from hippo_nnunet.analysis.tables import ShownTable, interval, number, one_model, with_interval
from hippo_nnunet.analysis.volumes import VolumeChecks


def volumes_table(agreement: pd.DataFrame) -> ShownTable:
    """Prepare bias, limits of agreement and ICC of the volumes.

    Args:
        agreement: Of `volumetry.agreement_table`.
    """
    rows, starts, last = [], [], None
    for position, row in enumerate(agreement.to_dict("records")):
        model = one_model(row)
        if model != last:
            starts.append(position)
        rows.append(
            [
                "" if model == last else model,
                row["label"],
                str(row["n"]),
                with_interval(row, "bias_mm3", "+.0f", ("bias_low_mm3", "bias_high_mm3")),
                number(row["sd_mm3"], ".0f"),
                interval(row["lower_mm3"], row["upper_mm3"], "+.0f"),
                with_interval(row, "icc", ".3f"),
                with_interval(row, "slope", "+.2f"),
            ]
        )
        last = model
    return ShownTable(
        "volumes",
        "Predicted minus reference volume, in mm³; slope: change of it with the volume; in brackets 95 % intervals.",
        ("model", "label", "cases", "bias, mm³", "SD, mm³", "limits of agreement, mm³", "ICC(A,1)", "slope"),
        2,
        rows,
        frozenset(starts),
        agreement,
    )


def coverage_table(checks: VolumeChecks) -> ShownTable:
    """Prepare how often the volumes' intervals contain the reference."""
    rows = [
        [
            str(row["label"]),
            str(row["n"]),
            with_interval(row, "coverage", ".1%"),
            number(row["width_mm3"], ".0f"),
            number(row["width_share"], ".0%"),
        ]
        for row in checks.coverage.to_dict("records")
    ]
    columns = ("label", "cases", "reference inside", "mean width, mm³", "of the volume")
    caption = f"Intervals of {checks.level:.0%}, each fold calibrated on the others."
    return ShownTable("coverage", caption, columns, 1, rows, frozenset(), checks.coverage)


def parts_table(checks: VolumeChecks) -> ShownTable:
    """Prepare how often the volumes' intervals contain the reference in each fold and third by size."""
    names = list(dict.fromkeys(checks.parts["part"]))
    rows = [
        [str(label), *(with_interval(by_part.loc[name], "coverage", ".0%") for name in names)]
        for label, group in checks.parts.groupby("label", sort=False)
        for by_part in [group.set_index("part")]
    ]
    caption = "The same by fold and by reference volume; the intervals promise no coverage for each."
    return ShownTable("coverage_parts", caption, ("label", *names), 1, rows, frozenset(), checks.parts)


def flags_table(checks: VolumeChecks) -> ShownTable:
    """Prepare how many of the worst cases are flagged."""
    rows = [
        [
            str(row["flag"]),
            with_interval(row, "hit_rate", ".0%"),
            number(row["flagged"], ".1%"),
            with_interval(row, "precision", ".0%"),
            number(row["p"], ".2g"),
        ]
        for row in checks.flags.to_dict("records")
    ]
    columns = ("flag", "worst cases flagged", "cases flagged, and by chance", "worst among the flagged", "p, by chance")
    first = checks.flags.iloc[0]
    caption = f"Flags and the {first['n']} worst of {checks.cases} cases by Dice ({first['worst']:.0%})."
    return ShownTable("flags", caption, columns, 1, rows, frozenset(), checks.flags)
