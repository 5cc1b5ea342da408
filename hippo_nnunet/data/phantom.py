"""One synthetic case like those of Task04: a curved head-and-tail structure among others of equal brightness.

Axes as in the real data: x to the right, y to the front, z up, voxels of 1 mm, arrays indexed [x, y, z].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, zoom

Array = npt.NDArray[np.float64]
Grid = tuple[Array, ...]  # open grid: positions in mm along x, y and z, shaped to broadcast

# Size range of the real crops, voxels.
SMALLEST = (31, 40, 24)
LARGEST = (43, 59, 47)

# Brightness before bias field, noise and gain; white matter is 1.
_GREY = 0.62
_FLUID = 0.3

# Where the head ends, as a fraction of the way from the tail's tip (0) to the head's (1).
_BOUNDARY = 0.66


@dataclass(frozen=True)
class PhantomCase:
    """A synthetic image and its reference.

    Args:
        image: shape (x, y, z); uint8 or float32 as in the real data; never negative.
        label: shape (x, y, z), uint8: 0 background, 1 anterior (head), 2 posterior (body and tail).
    """

    image: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Tube:
    """A bent tube: points of the centre line, shape (n, 3) in mm, and the radius at each, shape (n,) in mm."""

    centre: Array
    radius: Array


def make_case(rng: np.random.Generator) -> PhantomCase:
    """Draw one case, including its size.

    Args:
        rng: the only source of randomness.

    Returns:
        Image and label. The structure has the same brightness on both sides of the boundary, which is a coronal plane
        at a fixed fraction of its length: only the position along the structure distinguishes anterior from posterior.
        Folds, bands and blobs of the same brightness lie around it, so that no threshold finds it.

    Source: ours. Sizes, volumes, pose, contrast and the spread of intensities follow the 220 labelled cases of Task04.
    """
    side = rng.choice((-1.0, 1.0))
    scale = rng.uniform(0.88, 1.08)
    structure = _hippocampus(rng, side, scale)
    lower = (structure.centre - structure.radius[:, None]).min(axis=0)
    upper = (structure.centre + structure.radius[:, None]).max(axis=0)
    margins = rng.uniform((3.5, 3.0, 3.0), (7.5, 6.5, 6.5), size=(2, 3))
    shape = np.clip(np.round(upper - lower + margins.sum(axis=0)).astype(int), SMALLEST, LARGEST)
    # Both sides share in proportion what clipping adds or removes.
    origin = lower - (shape - (upper - lower)) * margins[0] / margins.sum(axis=0)
    grid = np.ix_(*(np.arange(size) + start for size, start in zip(shape, origin, strict=True)))

    distance = _distance(grid, structure) + 0.7 * _smooth_field(rng, tuple(shape), 3.0)
    boundary = structure.centre[round(_BOUNDARY * (len(structure.centre) - 1)), 1]
    anterior = grid[1] > boundary
    inside = distance < 0
    label = np.where(inside, np.where(anterior, 1, 2), 0).astype(np.uint8)

    clean = _tissue(rng, grid, structure, distance, side, scale)
    return PhantomCase(_scan(rng, clean), label)


def _hippocampus(rng: np.random.Generator, side: float, scale: float) -> _Tube:
    u = np.linspace(0, 1, 49)
    length = 35 * scale * rng.uniform(0.95, 1.05)
    forward = length * (u - 0.5)
    bow = rng.uniform(12, 20) * (u - 0.5) ** 2
    hook = rng.uniform(3, 7) * np.clip((u - 0.8) / 0.2, 0, 1) ** 2
    wave = rng.uniform(-1, 1) * np.sin(2 * np.pi * u)
    centre = np.stack([side * (bow + hook + wave), forward, rng.uniform(-3, 3) * (u - 0.5) ** 2 + 0.4 * hook], axis=-1)
    pitch, yaw, roll = np.deg2rad(rng.normal((-28, 4 * side, 0), (6, 6, 8)))
    radius = np.interp(u, [0, 0.15, 0.45, 0.7, 0.88, 1], [2.6, 3.7, 4.5, 6.1, 6.5, 4.8])
    return _Tube(centre @ _rotation(pitch, yaw, roll).T, radius * scale * rng.uniform(0.92, 1.08))


def _rotation(pitch: float, yaw: float, roll: float) -> Array:
    cp, sp, cy, sy, cr, sr = np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cr, 0, sr], [0, 1, 0], [-sr, 0, cr]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y)


def _distance(grid: Grid, tube: _Tube) -> Array:
    """Signed distance to the tube's surface in mm, negative inside; flatter in z than in x; shape of the grid."""
    x, y, z = grid
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), np.inf)
    for point, radius in zip(tube.centre, tube.radius, strict=True):
        squared = (0.9 * (x - point[0])) ** 2 + (y - point[1]) ** 2 + (1.14 * (z - point[2])) ** 2
        np.minimum(nearest, np.sqrt(squared) - radius, out=nearest)
    return nearest


def _smooth_field(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> Array:
    """Gaussian random field with mean 0 and standard deviation 1, smooth over ``sigma`` voxels."""
    field = gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    return np.asarray((field - field.mean()) / field.std())


def _tissue(
    rng: np.random.Generator, grid: Grid, structure: _Tube, distance: Array, side: float, scale: float
) -> Array:
    """Noise-free brightness, each tissue mixed in by the fraction of the voxel that it fills; shape of the grid."""
    shape = distance.shape
    head, body = structure.centre[-6], structure.centre[24]
    # White matter with folds of grey: the same two brightnesses that the structure and its rim have.
    folds = 1 / (1 + np.exp(-4 * (_smooth_field(rng, shape, 2.2) - rng.uniform(0.3, 0.8))))
    image = 1 - (1 - _GREY) * folds + 0.05 * _smooth_field(rng, shape, 2.0)

    def mix(signed_distance: Array, brightness: float) -> None:
        fraction = np.clip(0.5 - signed_distance, 0, 1)
        image[...] = image * (1 - fraction) + brightness * fraction

    def ball(centre: Array, radius: float) -> Array:
        return _distance(grid, _Tube(centre[None], np.array([radius])))

    def near(point: Array, x: float, y: float, z: float) -> Array:
        return np.asarray(point + np.array([x, y, z]))

    def anywhere() -> Array:
        return np.array([rng.uniform(axis.min(), axis.max()) for axis in grid])

    # Grey bands run along the structure like the neighbouring gyri; a grey body sits on the head like the amygdala.
    for drop in (rng.uniform(10, 12), rng.uniform(17, 20)):
        shift = np.array([side * rng.uniform(-3, 3), rng.uniform(-5, 5), -drop * scale])
        band = _Tube(structure.centre * (1, 1.5, 1) + shift, structure.radius * rng.uniform(0.5, 0.7))
        mix(_distance(grid, band), _GREY)
    mix(ball(near(head, side * 2, rng.uniform(4, 7), rng.uniform(8, 10)), rng.uniform(5, 7)), _GREY)
    mix(ball(near(body, side * 12, 4, 14), rng.uniform(8, 10)), 0.9)
    for _ in range(4):
        mix(ball(anywhere(), rng.uniform(2, 4)), _GREY)
    # Fluid: a horn on the head, a thin sulcus along the structure, pockets elsewhere.
    mix(ball(near(head, -side * 4, -2, 5), rng.uniform(4, 5.5)), _FLUID)
    sulcus = structure.centre - (side * 9, 0, 4)
    mix(_distance(grid, _Tube(sulcus, np.full(len(sulcus), rng.uniform(0.8, 1.8)))), _FLUID)
    for _ in range(4):
        mix(ball(anywhere(), rng.uniform(2, 4)), _FLUID)
    # A thin sheet of white matter, with gaps, separates the structure from its surroundings.
    mix(distance - rng.uniform(0.9, 1.5) - 0.5 * _smooth_field(rng, shape, 3.0), 0.92)
    mix(distance, _GREY + rng.normal(0, 0.02))
    texture: Array = image + 0.03 * _smooth_field(rng, shape, 1.0)
    return texture


def _scan(rng: np.random.Generator, clean: Array) -> npt.NDArray[np.uint8] | npt.NDArray[np.float32]:
    """Blur, bias field, Rician noise, and the gain and voxel type of one of many scanners."""
    blurred = gaussian_filter(clean, rng.uniform(0.3, 0.6), mode="nearest")
    coarse = rng.standard_normal((3, 3, 3))
    bias = zoom(coarse, np.array(clean.shape) / 3, order=2, mode="nearest", grid_mode=True)
    biased = blurred * np.exp(0.12 * bias)
    sigma = rng.uniform(0.02, 0.05)
    noisy = np.hypot(biased + sigma * rng.standard_normal(clean.shape), sigma * rng.standard_normal(clean.shape))
    if rng.random() < 0.23:
        return np.clip(np.round(noisy * rng.uniform(80, 150)), 0, 255).astype(np.uint8)
    return np.round(noisy * 10 ** rng.uniform(2, 5)).astype(np.float32)
