"""Merge experiments that were run in pieces into one, for `hippo-nnunet compare`.

    python experiments/merge.py PIECE PIECE ... --output EXPERIMENT [--folds 0 1] [--without UNet_flip]

The pieces are experiments, or their committed results, of one dataset, preset and split: other seeds, variants or
folds. `--folds` takes only some folds of each, `--without` leaves variants out. Written are experiment.yaml,
manifest.json (with the folds of all pieces, their commits and machines), subjects.csv and the tables of metrics. Every
variant must have every fold of its configurations. Ensembles are left out: they are chosen among the models of one
experiment.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from hippo_nnunet.errors import ConfigError, HippoError
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.evaluation.per_case import check_design, read_per_case
from hippo_nnunet.evaluation.tables import write_tables
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.stale import HASHED, file_hash
from hippo_nnunet.files import read_object, write_json

SAME = ("splits", "plans", "fingerprint", "subjects")
"""Hashes in the manifest that all pieces have in common."""
OF_PIECE = ("written", "commit", "device", "machine", "python", "versions")
"""Entries of the manifest that each piece keeps."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Merge, and print the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pieces", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", help="such as 0 1; default: all")
    parser.add_argument("--without", nargs="+", default=(), metavar="VARIANT", help="such as UNet_flip UNet_flipRot")
    options = parser.parse_args(arguments)
    try:
        print(merge(options.pieces, options.output, options.folds, options.without))
    except HippoError as error:
        sys.exit(f"error: {error}")


def merge(
    folders: Sequence[Path],
    output: Path,
    folds: Collection[int] | None = None,
    without: Collection[str] = (),
) -> Path:
    """Merge the experiments in `folders` into a new one; return its folder.

    Args:
        folders: The pieces.
        output: New folder.
        folds: Those to take; None takes all.
        without: Variants to leave out.

    Raises:
        ConfigError: The pieces differ in request, split, plans or subjects, share a training, or lack one that others
            have; none has a variant that is to be left out; or the folder exists.
    """
    if output.exists():
        raise ConfigError(f"{output} exists: choose a new folder")
    pieces = [ExperimentPaths(folder) for folder in folders]
    requests = [Experiment.load(piece.request) for piece in pieces]
    manifests = [read_object(piece.manifest, "run the experiment to its end") for piece in pieces]
    _check_alike(pieces, requests, manifests)
    tables = [read_per_case(piece.per_case) for piece in pieces]
    if without:
        requests = _without(pieces, requests, without)
        tables = [table[~table["variant"].isin(without)] for table in tables]
        for manifest in manifests:
            manifest["folds"] = [fold for fold in manifest["folds"] if fold["variant"] not in without]
    if folds is not None:
        requests = [_with_folds(*both, folds) for both in zip(pieces, requests, strict=True)]
        tables = [table[table["fold"].isin(folds)] for table in tables]
        for manifest in manifests:
            manifest["folds"] = [fold for fold in manifest["folds"] if fold["fold"] in folds]
    table = pd.concat([one[one["variant"] != ENSEMBLE] for one in tables], ignore_index=True)
    merged = replace(
        requests[0],
        variants=tuple(dict.fromkeys(variant for request in requests for variant in request.variants)),
        folds=_folds(requests),
        only=_only(requests),
    )
    _check_cells(merged, pieces, tables)
    check_design(table)
    target = ExperimentPaths(output)
    write_tables(table, target.metrics)
    merged.save(target.request)
    if pieces[0].subjects.is_file():
        shutil.copyfile(pieces[0].subjects, target.subjects)
    write_json(target.manifest, _manifest(merged, target, pieces, manifests))
    return output


def _check_alike(
    pieces: Sequence[ExperimentPaths], requests: Sequence[Experiment], manifests: Sequence[dict[str, Any]]
) -> None:
    first, known = requests[0], manifests[0].get("sha256", {})
    for piece, request, manifest in zip(pieces[1:], requests[1:], manifests[1:], strict=True):
        both = replace(request, variants=first.variants, folds=first.folds, only=first.only)
        problem = both.difference(first)
        for name in SAME:
            if not problem and manifest.get("sha256", {}).get(name) != known.get(name):
                problem = f"its {name} are others"
        if problem:
            raise ConfigError(f"{piece.folder} does not belong to {pieces[0].folder}: {problem}")


def _without(
    pieces: Sequence[ExperimentPaths], requests: Sequence[Experiment], without: Collection[str]
) -> list[Experiment]:
    """Return the requests without these variants; refuse a variant that none has, and a piece that has no other."""
    unknown = set(without).difference(*(request.variants for request in requests))
    if unknown:
        raise ConfigError(f"--without: no piece has {sorted(unknown)[0]}")
    shorter = []
    for piece, request in zip(pieces, requests, strict=True):
        kept = tuple(variant for variant in request.variants if variant not in without)
        if not kept:
            raise ConfigError(f"{piece.folder} has no other variants than those of --without: leave it out")
        shorter.append(replace(request, variants=kept, only={v: c for v, c in request.only.items() if v in kept}))
    return shorter


def _with_folds(piece: ExperimentPaths, request: Experiment, folds: Collection[int]) -> Experiment:
    """Return the request with these folds alone; refuse to lose a variant that has none of them."""
    kept = {c: tuple(fold for fold in trained if fold in folds) for c, trained in request.folds.items()}
    kept = {configuration: some for configuration, some in kept.items() if some}
    lost = [variant for variant in request.variants if not any(request.fits(variant, c) for c in kept)]
    if lost:
        raise ConfigError(
            f"{piece.folder}: {lost[0]} has none of the folds {', '.join(map(str, sorted(folds)))}: name one that it "
            "has with --folds, or leave this piece out"
        )
    only = {variant: tuple(c for c in limits if c in kept) for variant, limits in request.only.items()}
    return replace(request, folds=kept, only=only)


def _folds(requests: Sequence[Experiment]) -> dict[str, tuple[int, ...]]:
    folds: dict[str, set[int]] = {}
    for request in requests:
        for configuration, trained in request.folds.items():
            folds.setdefault(configuration, set()).update(trained)
    return {configuration: tuple(sorted(trained)) for configuration, trained in folds.items()}


def _only(requests: Sequence[Experiment]) -> dict[str, tuple[str, ...]]:
    """Limit the variants that no piece trains in all configurations."""
    configurations = tuple(_folds(requests))
    trained = {(cell.variant, cell.configuration) for request in requests for cell in request.cells()}
    own = {v: tuple(c for c in configurations if (v, c) in trained) for v, _ in sorted(trained)}
    return {variant: found for variant, found in own.items() if found != configurations}


def _check_cells(merged: Experiment, pieces: Sequence[ExperimentPaths], tables: Sequence[pd.DataFrame]) -> None:
    """Refuse trainings that two pieces have, or that no piece has."""
    found: dict[tuple[str, str, int], Path] = {}
    for piece, table in zip(pieces, tables, strict=True):
        trained = table[["variant", "configuration", "fold"]].drop_duplicates()
        for variant, configuration, fold in trained.itertuples(index=False):
            cell = str(variant), str(configuration), int(fold)
            if cell[0] != ENSEMBLE and cell in found:
                raise ConfigError(
                    f"{piece.folder} and {found[cell]} both have {cell[0]} {cell[1]} fold {cell[2]}: leave one out"
                )
            found[cell] = piece.folder
    missing = [cell for cell in merged.cells() if (cell.variant, cell.configuration, cell.fold) not in found]
    if missing:
        one = missing[0]
        raise ConfigError(
            f"no piece has {one.variant} {one.configuration} fold {one.fold}"
            + (f", and {len(missing) - 1} more trainings are missing" if len(missing) > 1 else "")
        )


def _manifest(
    merged: Experiment,
    target: ExperimentPaths,
    pieces: Sequence[ExperimentPaths],
    manifests: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """Return the first piece's manifest with the folds of all, the new tables' hashes, and the origin of each."""
    first = manifests[0]
    hashes = {name: first["sha256"][name] for name in SAME if name in first["sha256"]}
    return {
        **first,
        "arguments": merged.as_dict(),
        "sha256": hashes | {path.as_posix(): file_hash(target.folder / path) for path in HASHED},
        "folds": [fold for manifest in manifests for fold in manifest["folds"]],
        "not_ensembled": list(merged.folds),
        "ensemble": None,
        "pieces": [
            {
                "folder": piece.folder.name,
                **{name: manifest.get(name) for name in OF_PIECE},
                "per_case.csv": file_hash(piece.per_case),
            }
            for piece, manifest in zip(pieces, manifests, strict=True)
        ],
    }


if __name__ == "__main__":
    main()
