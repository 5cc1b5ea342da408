"""The oracle among published methods."""

from __future__ import annotations

from pathlib import Path

from experiments.oracle import oracle_text


def test_the_best_method_of_each_case_counts(tmp_path: Path) -> None:
    rows = ["case,a_Anterior,a_Posterior,b_Anterior,b_Posterior", "x,0.8,0.6,0.5,0.5", "y,0.5,0.5,1,0.8", "z,0,0,0,0"]
    (tmp_path / "p.csv").write_text("\n".join(rows) + "\n")
    assert oracle_text(tmp_path / "p.csv").split("\n")[:3] == [
        "a: 0.4000",
        "b: 0.4667",
        "the best for each of 3 cases: 0.5333",
    ]
