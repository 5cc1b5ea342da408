"""Takes results as they come, keeps them in a file, and shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.document import Result, check_target, markdown, write_document


def record(measure: Callable[[], Iterable[Result]], output: Path | None, overwrite: bool) -> Iterator[str]:
    """Measure, and write the file anew after each result, so that a later failure loses none.

    Args:
        measure: Gives the results; called once the target is known to be free and the machine is described.
        output: JSON file; None writes none.
        overwrite: Replace a file that is there.

    Yields:
        A Markdown section for each result.

    Raises:
        ConfigError: The file is there, or cannot be written.
    """
    from benchmarks.machine import describe

    check_target(output, overwrite)
    machine = describe()
    results: list[Result] = []
    for result in measure():
        results.append(result)
        if output is not None:
            write_document(output, machine, results, overwrite=overwrite or len(results) > 1)
        yield markdown(result)
