"""The training check on a CUDA device: one test for each of its lines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hippo_nnunet.doctor.training_check import check_training
from hippo_nnunet.doctor.training_lines import lines
from hippo_nnunet.doctor.training_spec import Settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

NAMES = [check.name for check in lines(Settings("cuda", Path()))] if torch.cuda.is_available() else ["every line"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    work = tmp_path_factory.mktemp("check")
    document = check_training("cuda", work, None, False, lambda outcome: None)
    return {line["name"]: line for line in document["lines"]}


@pytest.mark.parametrize("name", NAMES)
def test_line(outcomes: dict[str, dict], name: str) -> None:
    line = outcomes[name]
    if line["result"] == "not run":
        pytest.skip(line["reason"])
    assert line["result"] == "pass", line["reason"]
