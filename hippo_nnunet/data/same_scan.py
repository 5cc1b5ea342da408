"""Find cases that are crops of one scan by the intensity values that they share.

A scanner stores whole numbers. Scaled to floats, they become multiples of a factor that differs from scan to scan, so
that two crops of one scan share most of their distinct values, and crops of different scans nearly none. Whole-numbered
volumes share values by chance, so nothing is concluded from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from hippo_nnunet.progress import tracked

SHARED = 0.5
"""Share of distinct values, of the case that has fewer, from which two cases count as crops of one scan."""
UNRELATED = 0.1
"""Share below which two cases count as unrelated."""
CONFIRMED = 0.9
"""Share of the pairs found that a numbering has to explain to be extended to the other cases."""
_LEAST_VALUES, _MOST_VALUES = 50, 2**14
"""Fewer distinct values say nothing; more are not those of a scanner: the image was resampled or normalised."""
_LEAST_PAIRS = 5
_LARGEST_GROUP = 0.1
"""A larger share of the cases with the same values has a common intensity scale, not a common scan."""
_MOST_VOXELS = 2**22
_NUMBER = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True)
class SameScan:
    """Cases that are crops of one scan.

    Attributes:
        groups: Groups of cases, each sorted, with two cases or more.
        shares: Share of the distinct values that two cases of a group have in common, for those found by their values.
        others: Largest share of any other two cases, those of `contradicting` aside.
        contradicting: Pairs that share their values, but are in different groups by their numbers.
    """

    groups: tuple[tuple[str, ...], ...]
    shares: Mapping[tuple[str, str], float]
    others: float
    contradicting: tuple[tuple[str, str], ...] = ()

    def describe(self) -> str:
        """Return what was found and why, on one line."""
        kind = "pairs" if all(len(group) == 2 for group in self.groups) else "groups"
        low, middle, high = np.percentile(list(self.shares.values()), [0, 50, 100])
        text = (
            f"{len(self.groups)} {kind} of cases are crops of one scan each, such as {' and '.join(self.groups[0])}: "
            f"{len(self.shares)} pairs share {low:.0%} to {high:.0%} (median {middle:.0%}) of their distinct intensity "
            f"values, other cases at most {self.others:.0%}"
        )
        by_number = sum(not any({*pair} <= {*group} for pair in self.shares) for group in self.groups)
        if by_number:
            text += (
                f"; {by_number} more pairs hold whole numbers, which prove nothing, and follow from the numbering "
                "2k-1, 2k, which all others confirm"
            )
        if self.contradicting:
            listed = ", ".join(" and ".join(pair) for pair in self.contradicting[:3])
            text += f"; {listed} also share values against the numbering, which is taken for chance"
        return text


def distinct_values(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float32] | None:
    """Return the distinct values of an image, ascending; None if they cannot identify a scan.

    Args:
        array: The voxels; of large images every n-th is looked at.
    """
    if array.dtype.kind != "f":
        return None
    flat = array.ravel()
    values = np.unique(flat[:: max(1, flat.size // _MOST_VOXELS)].astype(np.float32))
    values = values[np.isfinite(values)]
    few_or_many = not _LEAST_VALUES <= len(values) <= _MOST_VALUES
    return None if few_or_many or np.array_equal(values, np.round(values)) else values


def find_same_scan(values: Mapping[str, npt.NDArray[np.float32] | None]) -> SameScan | None:
    """Group the cases that are crops of one scan.

    If nearly all pairs that share values are numbered 2k-1 and 2k (`name_001`, `name_002`), and all pairs so numbered
    whose values are known share them, then the numbering also groups the cases whose values prove nothing, and single
    pairs against it count as chance: two scans may happen to have the same factor.

    Args:
        values: Of every case, `distinct_values` of its image.

    Returns:
        The groups; None if the evidence shows none, or is not clear: if many shares are neither high nor low, or a
        group of more than two cases holds over a tenth of all cases, as in data with a common intensity scale.

    Source:
        Ours, because no library has it; thresholds from Task04_Hippocampus, where crops of one scan share at least
        81 %, others at most 2 %.
    """
    names = sorted(case for case, found in values.items() if found is not None)
    if len(names) < 3:  # with two, nothing shows what unrelated cases share
        return None
    share = _shares([found for name in names if (found := values[name]) is not None])
    each = np.triu(share, 1)
    shares = {(names[one], names[two]): float(share[one, two]) for one, two in np.argwhere(each >= SHARED)}
    if not shares or np.count_nonzero((each > UNRELATED) & (each < SHARED)) > len(shares) / 10:
        return None
    others = float(share[np.triu(share < SHARED, 1)].max(initial=0))
    keys = {case: _pair_number(case) for case in values}
    numbered = [pair for pair in shares if keys[pair[0]] == keys[pair[1]] is not None]
    by_number = _grouped(keys)
    known = set(names)
    testable = [pair for pair in by_number if known >= {*pair}]
    if len(numbered) >= max(_LEAST_PAIRS, CONFIRMED * len(shares)) and all(pair in shares for pair in testable):
        against = tuple(pair for pair in shares if pair not in numbered)
        return SameScan(tuple(by_number), {pair: shares[pair] for pair in numbered}, others, against)
    _, component = connected_components(csr_matrix(share >= SHARED), directed=False)
    groups = tuple(
        group
        for group in _grouped(dict(zip(names, component.tolist(), strict=True)))
        if len(group) <= max(2, _LARGEST_GROUP * len(names))
    )
    if not groups:
        return None
    inside = {pair: value for pair, value in shares.items() if any({*pair} <= {*group} for group in groups)}
    return SameScan(groups, inside, others)


def same_scan_cases(images: Mapping[str, Path]) -> SameScan | None:
    """Find cases of one scan among images: see `find_same_scan`; images that are no readable NIfTI prove nothing."""
    return find_same_scan({case: _values_of(path) for case, path in tracked(images.items(), "comparing images")})


def subjects_of_groups(groups: Iterable[Sequence[str]], cases: Iterable[str]) -> dict[str, str]:
    """Return the subject of every case, named after the first case of its group; others are subjects of their own."""
    first = {case: group[0] for group in groups for case in group}
    return {case: first.get(case, case) for case in sorted(cases)}


def _shares(values: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float64]:
    """Share of distinct values that two cases have in common, of the case that has fewer: shape (cases, cases)."""
    sizes = np.array([len(of_case) for of_case in values])
    known, column = np.unique(np.concatenate(values), return_inverse=True)
    row = np.repeat(np.arange(len(values)), sizes)
    holds = csr_matrix((np.ones(len(row)), (row, column.ravel())), shape=(len(values), len(known)))
    return np.asarray((holds @ holds.T).toarray() / np.minimum.outer(sizes, sizes))


def _values_of(path: Path) -> npt.NDArray[np.float32] | None:
    try:
        image = nib.load(path)
        if image.get_data_dtype().kind in "iu" and (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0):
            return None  # spares reading the voxels
        return distinct_values(np.asarray(image.dataobj))
    except Exception:  # nibabel raises various exceptions; other checks report unreadable files
        return None


def _pair_number(case: str) -> tuple[str, int] | None:
    """Return the prefix and k of a case that is numbered 2k-1 or 2k; None without a number at the end."""
    match = _NUMBER.fullmatch(case)
    return (match[1], (int(match[2]) + 1) // 2) if match else None


def _grouped(keys: Mapping[str, object]) -> list[tuple[str, ...]]:
    """Return the groups of at least two cases with the same key, cases and groups sorted."""
    groups: dict[object, list[str]] = {}
    for case in sorted(keys):
        if keys[case] is not None:
            groups.setdefault(keys[case], []).append(case)
    return [tuple(group) for group in groups.values() if len(group) > 1]
