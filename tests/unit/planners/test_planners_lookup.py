"""The planners' package: torch-free until one of its own names is asked for."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from hippo_nnunet import planners


def test_listing_and_foreign_names_import_nothing_heavy() -> None:
    code = (
        "import sys, hippo_nnunet.planners as p; "
        "assert p.PLANNERS and not hasattr(p, 'nnUNetPlannerResEncM'); "
        "print([m for m in ('torch', 'numpy', 'nnunetv2') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", planners.PLANNERS)
def test_every_listed_planner_is_found_by_name(name: str) -> None:
    planner = getattr(planners, name)
    assert issubclass(planner, ExperimentPlanner)
    assert planner.__name__ == name
    assert len(planners.PLANNERS[name].splitlines()) == 1


def test_planner_signatures_are_upstreams() -> None:
    """plan_experiment_dataset passes these by keyword, and leaves plans_name to our default."""
    upstream = list(inspect.signature(ExperimentPlanner).parameters)
    for name in planners.PLANNERS:
        parameters = inspect.signature(getattr(planners, name)).parameters
        assert list(parameters) == upstream
        assert parameters["plans_name"].default == name.replace("Planner", "Plans")


def test_defaults_of_an_argument_that_nnunets_planner_does_not_have_are_refused() -> None:
    from hippo_nnunet.planners.base import PlannerWithDefaults

    with pytest.raises(TypeError, match=r"Wrong.defaults: nnU-Net's planner has no argument memory"):
        type("Wrong", (PlannerWithDefaults,), {"defaults": {"memory": 4}})


def test_foreign_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="NoSuchPlanner"):
        _ = planners.NoSuchPlanner
