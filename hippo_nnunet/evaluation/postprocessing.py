"""nnU-Net's postprocessing: keep the largest component."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hippo_nnunet.errors import ConfigError

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

POSTPROCESSINGS = ("none", "largest_foreground", "largest_per_label")
"""Nothing; the largest component of all foreground; the largest component of each label or region in turn."""


def postprocess(segmentation: np.ndarray, name: str, label_manager: LabelManager) -> np.ndarray:
    """Apply one postprocessing.

    Args:
        segmentation: Integer array of shape (z, y, x); not changed. Empty masks stay empty.
        name: One of POSTPROCESSINGS.
        label_manager: nnU-Net's label manager, which says what is foreground and which regions there are.

    Returns:
        The segmentation, removed voxels set to background.

    Raises:
        ConfigError: Unknown name.

    Source:
        nnunetv2.postprocessing.remove_connected_components; components touch by face, edge or corner.
    """
    from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation

    if name not in POSTPROCESSINGS:
        raise ConfigError(f"unknown postprocessing {name!r}: choose one of {', '.join(POSTPROCESSINGS)}")
    if name == "largest_foreground":
        return remove_all_but_largest_component_from_segmentation(segmentation, label_manager.foreground_labels)
    if name == "largest_per_label":
        regions = label_manager.has_regions
        for label in label_manager.foreground_regions if regions else label_manager.foreground_labels:
            segmentation = remove_all_but_largest_component_from_segmentation(segmentation, label)
    return segmentation
