"""Turns the options of `run` into an `Experiment`, together with the `experiment.yaml` of an existing folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hippo_nnunet.data.archive import archived_name
from hippo_nnunet.data.subjects import AUTO as AUTO_SUBJECTS
from hippo_nnunet.data.subjects import FILE, NONE
from hippo_nnunet.errors import ConfigError
from hippo_nnunet.evaluation.pairing import recipe_of, without_size
from hippo_nnunet.experiment.experiment import Experiment
from hippo_nnunet.experiment.paths import ExperimentPaths
from hippo_nnunet.experiment.presets import (
    AUTO,
    PRESETS,
    canonical_variant,
    preset,
    preset_for_device,
    with_repeats,
    with_subsets,
)
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.plans import configuration_of, read_plans
from hippo_nnunet.nnunet.preprocessed import dataset_name
from hippo_nnunet.nnunet.splits import DEFAULT_FOLDS, read_splits

DEFAULT_VARIANTS = ("UNet", "AttentionUNet")
DEFAULT_CONFIGURATIONS = "2d"
PLANNED = ("2d", "3d_fullres", "3d_lowres")
"""The configurations that the presets' planners can plan, cascades aside."""

ALL_CASES = "all"
_MOST_DIGITS = 9

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """The options of `run` that define the experiment, as typed; None for options that were not given."""

    task: Path | None = None
    dataset: str | None = None
    variants: str | None = None
    configurations: str | None = None
    folds: str | None = None
    preset: str | None = None
    epochs: int | None = None
    iterations: int | None = None
    seeds: int | None = None
    subjects: str | None = None
    train_cases: str | None = None


def resolve(request: Request, experiment: Path, folders: NnunetFolders, device: str) -> Experiment:
    """Return the experiment: options that were not given come from the folder's `experiment.yaml`, else the defaults.

    Args:
        request: The options.
        experiment: The experiment's folder, which need not exist.
        folders: nnU-Net's folders, for the dataset's name and its split.
        device: `cpu`, `cuda` or `mps`: decides which preset `auto` is in a new folder.

    Raises:
        ConfigError: A wrong option, or one that contradicts the folder's `experiment.yaml`.
        DataError: The dataset's split cannot be read.
    """
    if experiment.exists() and not experiment.is_dir():
        raise ConfigError(f"{experiment} is a file; name a folder for the experiment")
    file = ExperimentPaths(experiment).request
    old = Experiment.load(file) if file.exists() else None
    dataset = _dataset(request, old, folders)
    splits = read_splits(dataset, folders)
    number = len(splits) if splits else old.number_of_folds if old else DEFAULT_FOLDS
    if request.folds is None and request.configurations is None and old:
        folds = old.folds
    else:
        configurations = _names(request.configurations or (",".join(old.folds) if old else DEFAULT_CONFIGURATIONS))
        known = old.folds if old and request.folds is None else {}
        folds = parse_folds(request.folds or "all", configurations, number)
        folds.update({c: known[c] for c in configurations if c in known})
    name = _preset(request.preset, old, device)
    limits = _limits(request, old)
    variants = _with_repeats(_variants(request, limits, old), request.seeds, preset(name).seeds, old)
    new = Experiment(
        dataset=dataset,
        preset=name,
        variants=variants,
        folds=folds,
        number_of_folds=number,
        epochs=request.epochs if request.epochs is not None else (old.epochs if old else None),
        iterations=request.iterations if request.iterations is not None else (old.iterations if old else None),
        subjects=_subjects(request.subjects) or (old.subjects if old else AUTO_SUBJECTS),
        only=_only(variants, limits),
    )
    _check_configurations(new.folds, dataset, new.plans, folders)
    difference = new.difference(old) if old else None
    if difference:
        raise ConfigError(
            f"{file} asks for something else: {difference}; variants, configurations and folds can only be added: "
            "take another folder, or repeat its own request"
        )
    return new


def _limits(request: Request, old: Experiment | None) -> dict[str, tuple[str, ...]]:
    """Return the requested variants, and the configurations that each is limited to (`UNet@3d_fullres`); none: all."""
    if not request.variants:
        return {v: old.only.get(v, ()) for v in old.variants} if old else dict.fromkeys(DEFAULT_VARIANTS, ())
    found: dict[str, tuple[str, ...]] = {}
    for name in _names(request.variants):
        variant, at, configuration = name.partition("@")
        if at and not configuration:
            raise ConfigError(f"--variants '{name[:60]}': name a configuration after @, such as {variant}@3d_fullres")
        variant = canonical_variant(variant)
        known = found.get(variant)
        limits = dict.fromkeys([*(known or ()), configuration])
        found[variant] = tuple(limits) if at and known != () else ()
    return found


def _only(variants: Iterable[str], limits: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return the limits of all variants: repeats and subsets have those of their recipe."""
    found: dict[str, tuple[str, ...]] = {}
    for variant in variants:
        names = (variant, without_size(variant), recipe_of(variant), without_size(recipe_of(variant)))
        named = next((limits[name] for name in names if name in limits), ())
        if named:
            found[variant] = named
    return found


def _variants(request: Request, variants: Iterable[str], old: Experiment | None) -> tuple[str, ...]:
    """Return the variants; `--train-cases` without `--variants` adds subsets of those that the experiment has."""
    if request.train_cases is None:
        return tuple(variants)
    earlier = old.variants if old and request.variants is None else ()
    return tuple(dict.fromkeys([*earlier, *with_subsets(variants, parse_train_cases(request.train_cases))]))


def _with_repeats(variants: Iterable[str], seeds: int | None, default: int, old: Experiment | None) -> tuple[str, ...]:
    """Add repeats: `seeds` of each recipe, else `default` of a new one and those that a known one has."""
    if seeds is not None:
        return with_repeats(variants, seeds)
    known = old.variants if old else ()
    found: list[str] = []
    for variant in variants:
        if variant in known:
            found += [variant, *(other for other in known if recipe_of(other) == variant)]
        else:
            found += with_repeats([variant], default)
    return tuple(dict.fromkeys(found))


def parse_train_cases(text: str) -> tuple[int | None, ...]:
    """Parse numbers of training cases: `5,10,20,all`; `all` is None.

    Raises:
        ConfigError: Something else, or a number stands twice.
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name != ALL_CASES and not re.fullmatch(r"[1-9]\d*", name):
            raise ConfigError(
                f"--train-cases '{text[:60]}': got '{name[:60]}', expected numbers from 1, or all: 5,10,20,all"
            )
        if names.count(name) > 1:
            raise ConfigError(f"--train-cases '{text[:60]}': {name} stands twice; name every number once")
    return tuple(None if name == ALL_CASES else int(name) for name in names)


def _preset(requested: str | None, old: Experiment | None, device: str) -> str:
    if requested is not None and requested != AUTO:
        return requested
    if old:
        log.info("preset %s, as the experiment's file says", old.preset)
        return old.preset
    name = preset_for_device(device)
    plans, words = PRESETS[name].plans, " ".join(PRESETS[name].words)
    log.info("preset %s (%s, %s) for device %s; --preset takes another", name, plans, words, device)
    return name


def _subjects(requested: str | None) -> str | None:
    return requested if requested in (None, AUTO_SUBJECTS, NONE) else FILE


def parse_folds(text: str, configurations: list[str], number: int) -> dict[str, tuple[int, ...]]:
    """Parse folds: `all`, `0,1,2`, `0-4`, or one list for each configuration, `2d=0-4,3d_fullres=0`.

    Args:
        text: The option's value.
        configurations: The configurations of the experiment.
        number: Folds of the split.

    Returns:
        Configuration to sorted folds; a configuration that is not named gets all of them.

    Raises:
        ConfigError: Not of these forms, or a configuration that the experiment does not have.
    """
    selected: dict[str, set[int]] = {}
    current: list[str] = configurations
    for item in text.split(","):
        name, equals, value = item.strip().rpartition("=")
        if equals:
            if name not in configurations:
                raise ConfigError(
                    f"--folds '{text}': '{name}' is not among --configurations {','.join(configurations)}"
                )
            current = [name]
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", value)
        first, last = (0, number - 1) if match is None else (_fold(match[1]), _fold(match[2] or match[1]))
        if (value != "all" and not match) or first > last:
            raise ConfigError(f"--folds '{text}': '{item}' is no fold; write all, 0,1,2, 0-4 or 2d=0-4,3d_fullres=0")
        if last >= number:
            raise ConfigError(f"--folds '{text[:60]}': the split has folds 0 to {number - 1}")
        for configuration in current:
            selected.setdefault(configuration, set()).update(range(first, last + 1))
    return {c: tuple(sorted(selected.get(c, range(number)))) for c in configurations}


def _fold(digits: str) -> int:
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def _check_configurations(configurations: Iterable[str], dataset: str, plans: str, folders: NnunetFolders) -> None:
    """Refuse configurations that the plans lack, or, before there are plans, that no preset's planner plans."""
    file = folders.preprocessed / dataset / f"{plans}.json"
    content = read_plans(dataset, plans, folders) if file.is_file() else None
    for name in configurations:
        if content is not None:
            configuration_of(content, name)
        elif name not in PLANNED:
            raise ConfigError(f"configuration '{name}' is in no plans of a preset; take some of {', '.join(PLANNED)}")


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _dataset(request: Request, old: Experiment | None, folders: NnunetFolders) -> str:
    if request.task is not None and request.dataset is not None:
        raise ConfigError("--task and --dataset name the data in two ways; give one of them")
    if request.task is not None:
        return dataset_of_task(request.task)
    if request.dataset is not None:
        return dataset_name(request.dataset, folders)
    if old is None:
        raise ConfigError(
            "no data named: pass --task with an MSD folder, .tar or .zip, or --dataset with a dataset's id"
        )
    return old.dataset


def dataset_of_task(source: Path) -> str:
    """Return the nnU-Net name of a Decathlon task: `Task04_Hippocampus` becomes `Dataset004_Hippocampus`.

    Raises:
        ConfigError: There is no such folder or archive, or its name is not a task's.
    """
    if not source.exists():
        raise ConfigError(f"--task {source}: no such folder, .tar or .zip; get it with: hippo-nnunet data fetch")
    name = source.resolve().name
    match = re.fullmatch(r"Task(\d{1,3})_([A-Za-z0-9_-]+)", archived_name(name) if source.is_file() else name)
    if match is None:
        raise ConfigError(
            f"--task {source}: the name is not of the form Task04_Hippocampus, with .tar or .zip for an "
            "archive: rename it"
        )
    return f"Dataset{int(match[1]):03d}_{match[2]}"
