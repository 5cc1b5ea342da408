"""Explain one case: prediction, attention and similarity maps, errors, and the effect of other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hippo_nnunet.clip.prompts import class_names
from hippo_nnunet.data.cases import CheckedCase, InputCase, read_images
from hippo_nnunet.data.grid import grid_difference
from hippo_nnunet.data.nifti import Volume, read_volume
from hippo_nnunet.errors import DataError
from hippo_nnunet.evaluation.labels import named_labels
from hippo_nnunet.evaluation.metrics import Label, mask_dice
from hippo_nnunet.inference.prompts import changed_text, other_prompts, prompted_heads
from hippo_nnunet.inference.scans import check_size

if TYPE_CHECKING:
    from hippo_nnunet.inference.batched_predictor import BatchedPredictor
    from hippo_nnunet.inference.sliding_window import PreprocessedImage

Map = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Explanation:
    """The explanation of one case; all arrays are (z, y, x) on the grid of the image's file.

    Attributes:
        case: Identifier.
        image: The first channel.
        labels: Foreground labels by name, as `named_labels` gives them.
        segmentation: The model's prediction, with mirroring.
        probabilities: Probabilities of each head but the background, in [0, 1]; 0 outside nnU-Net's crop, like all
            maps.
        attention: Coefficients of each gate in [0, 1], highest resolution first; empty without gates.
        similarity: Cosine with each class's text in [-1, 1], by class; empty without CLIP.
        reference: Reference labels, or None.
        ignore_label: Value of the reference to ignore.
        changed: The segmentation with other prompts, or None.
        prompts: The other prompts, by class name.
    """

    case: str
    image: Volume
    labels: Mapping[str, Label]
    segmentation: Labels
    probabilities: Mapping[str, Map]
    attention: Sequence[Map] = ()
    similarity: Mapping[str, Map] = field(default_factory=dict)
    reference: Labels | None = None
    ignore_label: int | None = None
    changed: Labels | None = None
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def mask(self, segmentation: Labels, label: str) -> npt.NDArray[np.bool_]:
        """Return where a segmentation has a label, ignored voxels excluded."""
        mask = np.isin(segmentation, self.labels[label])
        if self.reference is not None and self.ignore_label is not None:
            mask &= self.reference != self.ignore_label
        return mask

    def errors(self, label: str) -> npt.NDArray[np.uint8] | None:
        """Return 1 at false positives, 2 at false negatives, else 0; None without reference."""
        if self.reference is None:
            return None
        found, there = self.mask(self.segmentation, label), self.mask(self.reference, label)
        return (found & ~there).astype(np.uint8) + 2 * (there & ~found).astype(np.uint8)

    def dice(self, first: Labels, second: Labels, label: str) -> float:
        """Return the Dice of two segmentations for a label; NaN where both are empty."""
        return mask_dice(self.mask(first, label), self.mask(second, label))


def explain_case(
    predictor: BatchedPredictor,
    case: InputCase,
    reference: Path | None = None,
    prompts: Mapping[str, Sequence[str]] | None = None,
) -> Explanation:
    """Explain a model's prediction of one image.

    Args:
        predictor: A loaded model with the torch backend, so that its text can be changed.
        case: The image.
        reference: File of reference labels.
        prompts: Other descriptions by class name; for models with CLIP only.

    Returns:
        The explanation; its only maps are probabilities if the model has neither gates nor CLIP.

    Raises:
        ConfigError: Prompts for a model without CLIP, or for an unknown class.
        DataError: The image is refused by `read_images` or `check_size`, or the reference is unreadable or on another
            grid than the image.
    """
    from hippo_nnunet.inference.explanation_maps import image_maps, in_file_order, on_image_grid, reader_of
    from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet

    network = predictor.networks[0]
    labels, ignore_label = named_labels(predictor.dataset_json)
    reader = predictor.plans_manager.plans["image_reader_writer"]
    volumes = read_images(case, reader)
    check_size(
        CheckedCase.of(case, volumes),
        predictor.plans_manager.plans,
        predictor.configuration_manager.spacing,
        predictor.label_manager.num_segmentation_heads,
    )
    volume = volumes[0]
    expected = None if reference is None else _read_reference(reference, volume, case.case, reader)
    image, properties = predictor.preprocess(case.files)
    segmentation, probabilities = _predict(predictor, image, properties)
    heads = class_names(predictor.dataset_json)
    shown: dict[str, Any] = {"attention": (), "similarity": {}}
    read = reader_of(network)
    if read is not None:
        of_text = isinstance(network, CLIPGuidedUNet)
        maps = on_image_grid(image_maps(predictor, image, read), predictor, properties, -1.0 if of_text else 0.0, 1.0)
        in_file = [np.ascontiguousarray(in_file_order(m, properties)) for m in maps]
        shown = {"similarity": dict(zip(heads, in_file, strict=True))} if of_text else {"attention": in_file}
    changed = None
    if prompts:
        with other_prompts(predictor, prompts):
            changed = _predict(predictor, image, properties)[0]
    return Explanation(
        case.case,
        volume,
        labels,
        segmentation,
        {name: p for name, p in zip(heads, probabilities, strict=True) if name in labels},
        reference=expected,
        ignore_label=ignore_label,
        changed=changed,
        prompts=prompts or {},
        **shown,
    )


def text_similarities(predictor: BatchedPredictor, prompts: Mapping[str, Sequence[str]] | None = None) -> Any:
    """Return the cosines between the text embeddings of a CLIP-guided model's classes.

    Args:
        predictor: The model.
        prompts: Other descriptions; added as rows and columns `<class> (changed)`.

    Returns:
        DataFrame with classes as index and columns; None for a model without CLIP.

    Raises:
        ConfigError: A prompt for an unknown class.
    """
    import pandas as pd
    import torch

    from hippo_nnunet.networks.clip_guided_unet import CLIPGuidedUNet

    network = predictor.networks[0]
    if not isinstance(network, CLIPGuidedUNet) or not network.uses_text:
        return None
    names, rows = class_names(predictor.dataset_json), [network.text_embeddings.float().cpu()]
    if prompts:
        replaced = changed_text(predictor, network, prompts).float().cpu()
        heads = prompted_heads(predictor, prompts)
        names = [*names, *(f"{names[head]} (changed)" for head in heads)]
        rows.append(replaced[heads])
    text = torch.cat(rows)
    return pd.DataFrame((text @ text.T).clamp(-1, 1).numpy(), index=names, columns=names).round(6)


def _predict(
    predictor: BatchedPredictor, image: PreprocessedImage, properties: dict[str, Any]
) -> tuple[Labels, list[Map]]:
    """Return segmentation and each head's probabilities on the file's grid."""
    from hippo_nnunet.inference.explanation_maps import in_file_order

    segmentation, probabilities = predictor.to_image_grid(predictor.predict_image(image), properties)
    return (
        in_file_order(segmentation, properties).astype(np.int64),
        [np.ascontiguousarray(in_file_order(p, properties), dtype=np.float32) for p in probabilities],
    )


def _read_reference(path: Path, image: Volume, case: str, reader: str) -> Labels:
    volume = read_volume(path, case, reader)
    difference = grid_difference(volume.grid, image.grid, str(image.path))
    if difference:
        raise DataError(f"{path}: {difference.text}: give the labels of this image")
    return volume.array.astype(np.int64)
