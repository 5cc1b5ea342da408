"""Base of our planners: nnU-Net's default planner with other defaults and attributes."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner


class PlannerWithDefaults(ExperimentPlanner):
    """nnU-Net's default planner; a subclass may change the defaults of its arguments and its attributes.

    Names, order and meaning of the arguments are nnU-Net's; `inspect.signature` shows the subclass's defaults.
    nnU-Net's callers leave `plans_name` at the planner's default.

    Attributes:
        defaults: Argument to default, for those that differ from the base class.
        settings: Attribute of nnU-Net's planner to value, for those that its constructor sets otherwise.
    """

    defaults: ClassVar[dict[str, Any]] = {}
    settings: ClassVar[dict[str, Any]] = {}
    __signature__: ClassVar[inspect.Signature] = inspect.signature(ExperimentPlanner)

    def __init_subclass__(cls) -> None:
        """Give the subclass a signature with its defaults.

        Raises:
            TypeError: nnU-Net's planner has no such argument.
        """
        super().__init_subclass__()
        inherited = cls.__signature__.parameters
        if unknown := sorted(set(cls.defaults) - set(inherited)):
            raise TypeError(f"{cls.__name__}.defaults: nnU-Net's planner has no argument {', '.join(unknown)}")
        parameters = [p.replace(default=cls.defaults.get(name, p.default)) for name, p in inherited.items()]
        cls.__signature__ = cls.__signature__.replace(parameters=parameters)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = self.__signature__.bind(*args, **kwargs)
        bound.apply_defaults()
        super().__init__(**bound.arguments)
        self.__dict__.update(self.settings)
