"""What a paper needs from an experiment: a methods paragraph, references, and captions of the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hippo_nnunet import __version__
from hippo_nnunet.analysis.tables import ShownTable, counted
from hippo_nnunet.evaluation.pairing import ENSEMBLE
from hippo_nnunet.evaluation.statistics import MIN_EQUIVALENT
from hippo_nnunet.pages.figure import ENDINGS, Figure
from hippo_nnunet.pages.report.content import Content
from hippo_nnunet.pages.report.tables import ENDINGS as TABLE_ENDINGS

_SOFTWARE = """@software{{hippo_nnunet,
  author = {{{{The hippo\\_nnunet developers}}}},
  title = {{hippo\\_nnunet: Attention U-Nets and CLIP-guided U-Nets for nnU-Net v2}},
  version = {{{version}}}
}}"""
_NNUNET = """@article{isensee2021nnunet,
  author = {Isensee, Fabian and Jaeger, Paul F. and Kohl, Simon A. A. and Petersen, Jens and Maier-Hein, Klaus H.},
  title = {{nnU-Net}: a self-configuring method for deep learning-based biomedical image segmentation},
  journal = {Nature Methods},
  volume = {18},
  pages = {203--211},
  year = {2021},
  doi = {10.1038/s41592-020-01008-z}
}"""
_ATTENTION = """@misc{oktay2018attention,
  author = {Oktay, Ozan and others},
  title = {Attention {U-Net}: Learning Where to Look for the Pancreas},
  year = {2018},
  eprint = {1804.03999},
  archivePrefix = {arXiv}
}"""
_CLIP = """@inproceedings{radford2021clip,
  author = {Radford, Alec and others},
  title = {Learning Transferable Visual Models From Natural Language Supervision},
  booktitle = {Proceedings of the 38th International Conference on Machine Learning},
  year = {2021}
}"""
_DECATHLON = """@article{antonelli2022decathlon,
  author = {Antonelli, Michela and others},
  title = {The Medical Segmentation Decathlon},
  journal = {Nature Communications},
  volume = {13},
  year = {2022},
  doi = {10.1038/s41467-022-30695-9}
}

@misc{simpson2019decathlon,
  author = {Simpson, Amber L. and others},
  title = {A large annotated medical image dataset for the development and evaluation of segmentation algorithms},
  year = {2019},
  eprint = {1902.09063},
  archivePrefix = {arXiv}
}"""
_SURFACE = """@article{nikolov2021surface,
  author = {Nikolov, Stanislav and others},
  title = {Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy: Deep Learning Algorithm
    Development and Validation Study},
  journal = {Journal of Medical Internet Research},
  volume = {23},
  year = {2021},
  doi = {10.2196/26151}
}"""
_FOLDS = """@article{nadeau2003inference,
  author = {Nadeau, Claude and Bengio, Yoshua},
  title = {Inference for the Generalization Error},
  journal = {Machine Learning},
  volume = {52},
  pages = {239--281},
  year = {2003},
  doi = {10.1023/A:1024068626366}
}"""


@dataclass(frozen=True)
class Export:
    """Files of one figure or table: label and path relative to the page, and a caption."""

    links: Sequence[tuple[str, str]]
    caption: str


def exports(figures: Sequence[Figure], tables: Sequence[ShownTable]) -> list[Export]:
    """List the files that a report writes beside its page."""
    found = [(f"figures/{figure.name}", ENDINGS, f"{figure.title}. {figure.caption}") for figure in figures]
    found += [(f"tables/{table.name}", TABLE_ENDINGS, table.caption) for table in tables]
    return [
        Export([(Path(stem).name + endings[0], stem + endings[0]), *((e, stem + e) for e in endings[1:])], caption)
        for stem, endings, caption in found
    ]


def methods(content: Content) -> list[str]:
    """Write what was done as paragraphs of a methods section, from the request, the manifest and the comparison."""
    return [text for text in (_training(content), _evaluation(content), _statistics(content)) if text]


def bibtex(content: Content) -> str:
    """Return the references that the methods need, in BibTeX."""
    bases = {variant.split("_")[0] for variant in content.table["variant"]}
    version = ((content.manifest or {}).get("versions") or {}).get("hippo_nnunet") or __version__
    entries = [_SOFTWARE.format(version=version), _NNUNET]
    entries += [_ATTENTION] if "AttentionUNet" in bases else []
    entries += [_CLIP] if "CLIPGuidedUNet" in bases else []
    entries += [_DECATHLON] if content.dataset.endswith("Hippocampus") else []
    entries.append(_SURFACE)
    pairs = content.comparison.pairs
    entries += [_FOLDS] if not pairs.empty and pairs["p_retrained"].notna().any() else []
    return "\n\n".join(entries)


def _training(content: Content) -> str:
    experiment, manifest = content.experiment, content.manifest or {}
    if experiment is None:
        return ""
    versions = manifest.get("versions") or {}
    named = (("nnunetv2", "nnU-Net"), ("torch", "PyTorch"))
    others = ", ".join(f"{name} {versions[package]}" for package, name in named if versions.get(package))
    own = f"hippo_nnunet {versions.get('hippo_nnunet') or __version__}" + (f" ({others})" if others else "")
    configurations = [
        f"{name} ({'all' if experiment.complete(name) else len(folds)} of {experiment.number_of_folds} folds)"
        for name, folds in experiment.folds.items()
    ]
    trained = {v: [c for c in experiment.folds if experiment.fits(v, c)] for v in experiment.variants}
    variants = [v if len(c) == len(experiment.folds) else f"{v} ({' and '.join(c)})" for v, c in trained.items()]
    text = (
        f"We trained {_listed(variants)} on {experiment.dataset} with {own}, plans "
        f"{experiment.plans}, in the {'configuration' if len(configurations) == 1 else 'configurations'} "
        f"{_listed(configurations)}."
    )
    if experiment.full_variants != experiment.variants:
        text += (
            " Variants with a number of cases in their name were trained on a subset of each fold's training cases: "
            "whole subjects, drawn by seed and fold, the same for every variant, and each number within the larger "
            "ones."
        )
    folds = [fold for fold in manifest.get("folds", []) if fold.get("schedule")]
    schedules = dict.fromkeys((str(f.get("configuration")), _schedule(f["schedule"])) for f in folds)
    for configuration, schedule in schedules:
        text += f" In {configuration}, training took {schedule}."
    devices = sorted({str(fold["device"]) for fold in folds if fold.get("device")})
    if devices:
        text += f" Models were trained on {_listed(['a CPU' if d == 'cpu' else d for d in devices])}."
    return text


def _evaluation(content: Content) -> str:
    cases, folds = content.table["case"].nunique(), content.table["fold"].nunique()
    text = (
        f"Each of the {counted(cases, 'case')} ({counted(folds, 'fold')}) was segmented by models that had not seen "
        "it in training. We report the Dice coefficient, the normalised surface Dice at a tolerance of 1 mm (NSD), the "
        "95th percentile of the Hausdorff distance (HD95) and the average symmetric surface distance (ASSD), as means "
        f"over {_listed(list(content.label_dice))}. If one of reference and prediction lacks a label, Dice and NSD are "
        "0 and the distances are the diagonal of the image."
    )
    if (content.table["volume_ref_mm3"] == 0).any():
        text += " If both lack it, Dice and NSD are 1 and the distances are 0."
    if (content.table["variant"] == ENSEMBLE).any():
        text += (
            " The members of the ensemble and its postprocessing were selected by nested cross-validation: each fold "
            "is scored by an ensemble selected on the other folds."
        )
    return text


def _statistics(content: Content) -> str:
    pairs = content.comparison.pairs
    if pairs.empty:
        return ""
    row = pairs.iloc[0]
    resamples = content.comparison.options.n_resamples
    text = (
        f"Models were compared case by case. Mean differences are given with {1 - row['alpha']:.0%} bootstrap "
        f"intervals (bias-corrected and accelerated, {resamples} resamples) and were tested with Wilcoxon's "
        f"signed-rank test, corrected for multiple comparisons after Holm. With at least {MIN_EQUIVALENT} subjects, "
        "models count as equivalent if the "
        f"{1 - 2 * row['alpha']:.0%} interval lies within ±{row['rope']:g} and two one-sided t-tests agree."
    )
    subjects = int(pairs["subjects"].max())
    if subjects < int(pairs["n"].max()):
        text += (
            f" The unit of resampling and testing was the subject ({subjects} subjects), as some have several cases."
        )
    if pairs["p_mixed"].notna().any():
        text += " Recipes that were trained several times were also compared by a linear mixed model."
    if pairs["p_retrained"].notna().any():
        text += (
            " Whether a difference would recur after training again was tested on the means of the folds with the "
            "variance correction of Nadeau and Bengio for overlapping training sets."
        )
    return text


def _schedule(schedule: dict[str, Any]) -> str:
    text = f"{schedule.get('epochs')} epochs of {schedule.get('iterations')} iterations"
    if schedule.get("max_lr"):
        text += f" with a peak learning rate of {schedule['max_lr']:g} (one-cycle schedule)"
    return text


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
