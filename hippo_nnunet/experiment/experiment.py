"""The request of an experiment: its cells, its file `experiment.yaml`, and its chosen ensemble."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hippo_nnunet.data.subjects import NONE
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.evaluation.pairing import recipe_of, subset_size
from hippo_nnunet.experiment.paths import DONE, ExperimentPaths
from hippo_nnunet.experiment.presets import preset, trainer_name
from hippo_nnunet.experiment.request_file import HEADER, read_request
from hippo_nnunet.files import write_text
from hippo_nnunet.training import recipes


@dataclass(frozen=True)
class Cell:
    """One fold of one variant in one configuration: one training."""

    variant: str
    trainer: str
    configuration: str
    fold: int

    @property
    def marker(self) -> Path:
        """Relative path of the file that says that the cell is trained and validated."""
        return DONE / "train" / self.variant / self.configuration / f"fold_{self.fold}"

    def __str__(self) -> str:
        """Name the cell in words."""
        return f"{self.variant} {self.configuration} fold {self.fold}"


@dataclass(frozen=True)
class Experiment:
    """The request of an experiment: the content of `experiment.yaml`.

    Attributes:
        dataset: Full nnU-Net name: `Dataset004_Hippocampus`.
        preset: One of the presets.
        variants: Names such as `AttentionUNet_flip`, in the order requested.
        folds: Configuration to the folds that are trained of every variant that `fits` it.
        number_of_folds: Folds of the split: a configuration with all of them can be ensembled.
        epochs: Replaces the preset's; None keeps it.
        iterations: Replaces the preset's; None keeps it.
        subjects: How cases were split: AUTO, NONE, or FILE for a table of the user's. Experiments of versions that did
            not record it have nnU-Net's own folds.
        only: Variant to the configurations that it is limited to; variants that are not named have no limit.
    """

    dataset: str
    preset: str
    variants: tuple[str, ...]
    folds: dict[str, tuple[int, ...]]
    number_of_folds: int = 5
    epochs: int | None = None
    iterations: int | None = None
    subjects: str = NONE
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be run."""
        trainers: dict[str, str] = {}
        for variant in self.variants:
            recipe = recipes.parse(self.trainer(variant))
            same = recipe.name.removesuffix("_seed0") if recipe.fast else recipe.name  # it has seed 0 in any case
            if same in trainers:
                raise ConfigError(f"variants '{trainers[same]}' and '{variant}' are the same training, {same}")
            trainers[same] = variant
        for configuration, folds in self.folds.items():
            if "cascade" in configuration:
                raise ConfigError(f"configuration '{configuration}': run trains no cascades; use hippo-nnunet train")
            outside = [f for f in folds if not 0 <= f < self.number_of_folds]
            if outside or not folds:
                raise ConfigError(
                    f"folds of {configuration}: got {','.join(map(str, folds)) or 'none'}, but the split of "
                    f"{self.dataset} has folds 0 to {self.number_of_folds - 1}"
                )
        if not self.variants or not self.folds:
            raise ConfigError("an experiment needs at least one variant and one configuration")
        for variant, configurations in self.only.items():
            missing = [c for c in configurations if c not in self.folds]
            if variant not in self.variants or missing:
                what = f"configuration '{missing[0]}'" if missing else f"variant '{variant}'"
                raise ConfigError(f"{variant}@{','.join(configurations)}: {what} is not part of the experiment: add it")
        for variant in self.variants:
            if not any(self.fits(variant, configuration) for configuration in self.folds):
                limits = ", ".join(self.only.get(variant, self.folds))
                raise ConfigError(
                    f"variant {variant} sees adjacent slices, which goes with 2d, not {limits}: add 2d to "
                    "--configurations, or leave the variant out"
                )
        for variant in self.variants:
            for configuration in self.folds:
                self._check_teachers(variant, configuration)
        for configuration in self.folds:
            if not any(self.fits(variant, configuration) for variant in self.variants):
                raise ConfigError(
                    f"configuration '{configuration}': none of {', '.join(self.limited_variants())} is trained in it "
                    "(adjacent slices go with 2d): leave it out of --configurations, or add a variant"
                )

    def teachers(self, variant: str) -> list[str]:
        """Return the trainers of the networks that teach a variant; none unless it has the word `taught`."""
        return [teacher.name for teacher in recipes.teacher_recipes(recipes.parse(self.trainer(variant)))]

    def _check_teachers(self, variant: str, configuration: str) -> None:
        trained = {self.trainer(other) for other in self.variants if self.fits(other, configuration)}
        if self.fits(variant, configuration) and not trained.issuperset(self.teachers(variant)):
            plain = recipe_of(variant).replace("_taught", "")
            names = " and ".join(f"{plain}_seed{seed}" for seed in recipes.TEACHERS)
            raise ConfigError(f"variant {variant} learns from {names} in {configuration}: add them to the variants")

    @property
    def plans(self) -> str:
        """Name of the plans."""
        return preset(self.preset).plans

    def complete(self, configuration: str) -> bool:
        """Tell whether all folds of a configuration are requested, and more than one, which ensembling needs."""
        return self.number_of_folds > 1 and len(self.folds[configuration]) == self.number_of_folds

    @property
    def task(self) -> str:
        """The dataset's name in the Medical Segmentation Decathlon's form: `Task04_Hippocampus`.

        Characters that the name of a submission's folder cannot have become `_`.
        """
        number, _, name = self.dataset.removeprefix("Dataset").partition("_")
        return f"Task{int(number):02d}_" + re.sub(r"[^\w.-]", "_", name)

    def trainer(self, variant: str) -> str:
        """Return the trainer of a variant."""
        return trainer_name(variant, self.preset, self.epochs, self.iterations)

    def fits(self, variant: str, configuration: str) -> bool:
        """Tell whether a variant is trained in a configuration: in those that it is limited to, with adjacent slices
        not in 3D."""
        if configuration not in self.only.get(variant, self.folds):
            return False
        return not configuration.startswith("3d") or recipes.parse(self.trainer(variant)).slices == 1

    def limited_variants(self) -> list[str]:
        """Return the variants as `run --variants` takes them: `UNet@3d_fullres` if it is trained there alone."""
        return [
            f"{variant}@{configuration}" if configuration else variant
            for variant in self.variants
            for configuration in self.only.get(variant, ("",))
        ]

    def cells(self) -> list[Cell]:
        """Return every training, variants innermost, so that the variants' same fold follow one another."""
        return [
            Cell(variant, self.trainer(variant), configuration, fold)
            for configuration, folds in self.folds.items()
            for fold in folds
            for variant in self.variants
            if self.fits(variant, configuration)
        ]

    @property
    def full_variants(self) -> tuple[str, ...]:
        """The variants that train on all cases of a fold: only they are ensembled and predict test images."""
        return tuple(variant for variant in self.variants if subset_size(variant) is None)

    def ensembled_configurations(self) -> list[str]:
        """Return the configurations of which all folds are trained, if a variant is trained there on all cases."""
        return [c for c in self.folds if self.complete(c) and any(self.fits(v, c) for v in self.full_variants)]

    def configurations_to_predict(self) -> list[str]:
        """Return the configurations that predict the test images: the complete ones, or the first where none is.

        So all of them have the same folds.
        """
        return self.ensembled_configurations() or list(self.folds)[:1]

    def models_to_predict(self, variant: str) -> list[str]:
        """Return the models of a variant that predict the test images together."""
        return [self.model(variant, c) for c in self.configurations_to_predict() if self.fits(variant, c)]

    @property
    def predicting_variants(self) -> tuple[str, ...]:
        """The variants that predict the test images."""
        return tuple(variant for variant in self.full_variants if self.models_to_predict(variant))

    def model(self, variant: str, configuration: str) -> str:
        """Return the name of nnU-Net's folder of a variant in a configuration."""
        return f"{self.trainer(variant)}__{self.plans}__{configuration}"

    def result_folder(self, cell: Cell, results: Path) -> Path:
        """Return nnU-Net's folder of a cell below `nnUNet_results`."""
        return results / self.dataset / self.model(cell.variant, cell.configuration) / f"fold_{cell.fold}"

    def difference(self, old: Experiment) -> str | None:
        """Return why this request cannot continue in the folder of an earlier one; None if it is the same or only
        adds."""
        for name in ("dataset", "preset", "epochs", "iterations", "number_of_folds", "subjects"):
            mine, theirs = getattr(self, name), getattr(old, name)
            if mine != theirs:
                return f"{name.replace('_', ' ')} is {theirs or 'the default'} there, {mine or 'the default'} now"
        dropped = [v for v in old.variants if v not in self.variants]
        if dropped:
            return f"variants {','.join(old.variants)} there, without {','.join(dropped)} now"
        for configuration, folds in old.folds.items():
            if set(folds) - set(self.folds.get(configuration, ())):
                now = ",".join(map(str, self.folds.get(configuration, ()))) or "none"
                return f"{configuration} folds {','.join(map(str, folds))} there, {now} now"
            for variant in old.variants:
                if old.fits(variant, configuration) and not self.fits(variant, configuration):
                    return f"{variant} is trained in {configuration} there, not now"
        return None

    def save(self, path: Path) -> None:
        """Write the YAML file atomically, unless it has the same content already."""
        text = HEADER + yaml.safe_dump(self.as_dict(), sort_keys=False)
        if path.is_file() and path.read_bytes() == text.encode():
            return
        write_text(path, text)

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, strings and numbers."""
        plain = asdict(self)
        plain["variants"] = list(self.variants)
        plain["folds"] = {c: list(f) for c, f in self.folds.items()}
        plain["only"] = {v: list(c) for v, c in self.only.items()}
        if not self.only:  # which earlier versions do not know
            del plain["only"]
        plain["plans"] = self.plans
        return plain

    @classmethod
    def load(cls, path: Path) -> Experiment:
        """Read an `experiment.yaml`.

        Raises:
            ConfigError: The file is missing or does not hold an experiment.
        """
        try:
            data = read_request(path)
        except FileNotFoundError:
            raise ConfigError(f"{path} is missing: no experiment was started there") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"{path} does not describe an experiment ({reason}); correct or delete it") from error
        try:
            return cls(**data)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error


def ensemble_models(folder: Path, root: Path | None = None) -> tuple[tuple[Path, ...], str]:
    """Find the ensemble that `run` has chosen.

    Args:
        folder: The experiment's folder.
        root: See `ExperimentPaths.nnunet`.

    Returns:
        nnU-Net's model folders, in the order in which they are averaged, and the postprocessing: one of
        POSTPROCESSINGS.

    Raises:
        ConfigError: No experiment there, or its ensemble is not chosen yet.
        DataError: The choice cannot be read.
    """
    from hippo_nnunet.evaluation.selection import EnsembleChoice

    paths = ExperimentPaths(folder)
    experiment = Experiment.load(paths.request)
    if not paths.choice.is_file():
        raise ConfigError(
            f"{paths.choice} is missing: the experiment has chosen no ensemble yet; finish it with "
            f"'hippo-nnunet run {folder}', or name models with --model"
        )
    choice = EnsembleChoice.from_json(paths.choice)
    models = tuple(paths.nnunet(root).results / experiment.dataset / member for member in choice.members)
    return models, choice.postprocessing
