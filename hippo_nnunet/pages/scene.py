"""An image along the body's axes: turned without resampling, cut into three planes and drawn to scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from hippo_nnunet.pages.figure import EDGE
from hippo_nnunet.pages.palette import label_colour
from hippo_nnunet.pages.planes import Plane, Turn


class Scene:
    """An image turned so that its axes point right, anterior and superior as nearly as possible.

    Args:
        image: Shape (z, y, x).
        affine: Voxel-to-world matrix, shape (4, 4); only its directions count.
        spacing_mm: Voxel size along (x, y, z).

    Attributes:
        image: Shape (right, anterior, superior).
        spacing_mm: Voxel size along these axes.
        slices: Index along each axis of the slice that is shown; the middle one at first.
    """

    def __init__(
        self, image: npt.NDArray[np.generic], affine: npt.NDArray[np.float64], spacing_mm: Sequence[float]
    ) -> None:
        self._turn = Turn(affine)
        self.image = self.turn(image).astype(np.float64)
        self._window = np.percentile(self.image, [0.5, 99.5])
        self.spacing_mm = self._turn.spacing(spacing_mm)
        self.slices = [size // 2 for size in self.image.shape]

    def turn(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Turn (z, y, x) to (right, anterior, superior)."""
        return self._turn.array(array.T)

    def cut(self, array: npt.NDArray[Any], plane: Plane) -> npt.NDArray[Any]:
        """Return the slice of a turned array that is shown, rows from bottom to top."""
        return np.take(array, self.slices[plane.fixed], axis=plane.fixed).T

    def size_mm(self, plane: Plane) -> tuple[float, float]:
        """Return width and height of a plane."""
        width, height = (self.image.shape[axis] * self.spacing_mm[axis] for axis in (plane.across, plane.up))
        return width, height

    def show(self, axes: Axes, cut: npt.NDArray[Any], plane: Plane, **options: Any) -> AxesImage:
        """Draw a slice to scale."""
        width, height = self.size_mm(plane)
        return axes.imshow(cut, origin="lower", extent=(0, width, 0, height), interpolation="nearest", **options)

    def show_image(self, axes: Axes, plane: Plane) -> AxesImage:
        """Draw the image in grey, from the 0.5th to the 99.5th percentile of its intensities."""
        low, high = self._window
        options = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6)}
        return self.show(axes, self.cut(self.image, plane), plane, **options)

    def outline(
        self,
        axes: Axes,
        masks: Mapping[str, npt.NDArray[np.bool_]],
        plane: Plane,
        colour: str = "",
        dashes: Any = "solid",
        width: float = 1.2,
    ) -> None:
        """Draw the outlines of turned masks with a dark edge, each in its label's colour or all in one."""
        for index, mask in enumerate(masks.values()):
            cut = np.pad(self.cut(mask, plane), 1)  # so that outlines close at the image's border
            if cut.any():
                x = (np.arange(cut.shape[1]) - 0.5) * self.spacing_mm[plane.across]
                y = (np.arange(cut.shape[0]) - 0.5) * self.spacing_mm[plane.up]
                style: dict[str, Any] = {"colors": colour or label_colour(index), "linestyles": [dashes]}
                drawn = axes.contour(x, y, cut.astype(float), [0.5], linewidths=width, **style)
                drawn.set_path_effects(EDGE)
        width, height = self.size_mm(plane)
        axes.set(xlim=(0, width), ylim=(0, height))
