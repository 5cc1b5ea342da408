"""Other cases, whose embeddings stand in for those of an image in the control `otherImage`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from hippo_nnunet.errors import ConfigError


def other_cases(cases: Sequence[str], subjects: Mapping[str, str], seed: str) -> dict[str, str]:
    """Choose another case for each, at random, never of the same subject.

    Args:
        cases: The training cases.
        subjects: Case to subject; a case that is missing is a subject of its own.
        seed: Seed of the choice.

    Returns:
        Case to other case, in random order.

    Raises:
        ConfigError: All cases belong to one subject.
    """
    order = sorted(cases)
    random.Random(seed).shuffle(order)
    subject = {case: subjects.get(case, case) for case in order}
    if len(set(subject.values())) < 2:
        raise ConfigError(
            f"otherImage: got {len(order)} training cases of one subject, expected at least two subjects; train "
            "without this word, or with more cases"
        )
    following = {case: order[i + 1 :] + order[:i] for i, case in enumerate(order)}
    return {case: next(o for o in others if subject[o] != subject[case]) for case, others in following.items()}
