"""Names of labels and cases in the figures of `explore` are plain text."""

from __future__ import annotations

import json
from pathlib import Path

from hippo_nnunet.data.exploration import explore_dataset
from hippo_nnunet.data.exploration_case import load_case
from hippo_nnunet.data.layout import read_dataset
from hippo_nnunet.data.outliers import screen
from hippo_nnunet.data.synth import make_phantom
from hippo_nnunet.pages.exploration.figures import exploration_figures
from hippo_nnunet.pages.exploration.slices import View, outlier_figure
from hippo_nnunet.pages.figure import inline_svg


def test_names_are_not_read_as_mathematics(tmp_path: Path) -> None:
    task = make_phantom(tmp_path, 2, 0)
    content = json.loads((task / "dataset.json").read_text())
    content["labels"] = {"0": "background", "1": "a $\\undefined$", "2": "_$x^2$"}
    content["modality"] = {"0": "$\\undefined$"}
    (task / "dataset.json").write_text(json.dumps(content))
    dataset = read_dataset(task)
    exploration = explore_dataset(dataset)
    case, _ = load_case(dataset, dataset.training[0])
    assert case is not None
    view = View(case, exploration.labels, case.affine)
    figures = [
        *exploration_figures(exploration, screen(exploration)),
        outlier_figure({"$\\undefined$": (view, "x")}, ""),
    ]
    for figure in figures:
        inline_svg(figure.panels[0])
