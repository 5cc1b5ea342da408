"""Affine registration of a head to the template: a search over rotations and all shifts, then least squares.

Source: ours. The search is template matching by normalised cross-correlation through Fourier transforms. The fit
follows SPM's affine registration (Friston et al. 1995, Human Brain Mapping 3; Ashburner et al. 1997, NeuroImage 6):
Gauss-Newton on intensity differences with a prior on scales and shears. It compares brain and rim only, so that neck,
face, scalp and skull-stripping do not matter, and expects the contrast of a T1, so that another one is noticed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from hippo_nnunet.segment.scan import Floats, Matrix, Scan
from hippo_nnunet.segment.template import BRAIN, Template, block_means, coarse_template

FIT_MM = 4.0
"""Voxel edge of the fit; the search has twice that."""
PITCHES, ROLLS, YAWS = (-40, -20, 0, 20, 40), (-20, 0, 20), (-20, 0, 20)
"""Degrees of the rotations searched, around the axes to the right, to the front and up. The fit bridges the gaps."""
STARTS = 8
"""Best rotations of the search from which a fit starts."""
SHAPE = np.array([0.92, 0.95, 0.88])
"""Usual length of a brain over the template's, along (x, y, z): the MNI152 is larger and taller than most."""
BRIGHTEST = 1.5
"""Limit of intensities, in medians of what is not air: fat is much brighter than brain."""
LEAST_OVERLAP = 0.5
"""Share of brain and rim that the search wants within the field of view."""
LEAST_INSIDE = 0.25
"""Share of brain and rim within the field of view below which there is nothing to compare."""
_SIZE_SD, _STRETCH_SD = 0.12, 0.04
"""Standard deviations of the logarithm of the size and of stretches and shears: wide for human brains."""
_DEPTH = 2
"""Voxels from the brain's edge to where the contrast of its tissues is measured."""
_TISSUE = 150.0
"""The template's median of what is not air."""
_NEIGHBOURHOOD, _AIR = 2.0, 0.1
"""Of the local contrast: standard deviation of the neighbourhood in voxels; contrast that counts as noise."""
_INDEPENDENT = 1 / 30
"""Share of the voxels that count as independent: neighbours resemble each other."""
_OUTLIER = 8.0
"""Robust standard deviations at which a voxel's weight is 0."""


@dataclass(frozen=True)
class Registration:
    """Where a head lies.

    Attributes:
        matrix: MNI coordinates in mm to mm in the scan's frame, shape (4, 4).
        similarity: Correlation of scan and template within brain and rim, after a fit of the bias field; -1 to 1.
        contrast: Correlation of their local contrast deep inside of the brain, of white and grey matter and fluid;
            -1 to 1.
        inside: Share of brain and rim within the field of view.
    """

    matrix: Matrix
    similarity: float
    contrast: float
    inside: float

    @property
    def rotation(self) -> Matrix:
        """The rotation nearest to the matrix, shape (3, 3)."""
        left, _, right = np.linalg.svd(self.matrix[:3, :3])
        return np.asarray(left @ right)

    @property
    def scales(self) -> tuple[float, float, float]:
        """Principal stretches, ascending: the scan's lengths over the template's."""
        low, middle, high = sorted(np.linalg.svd(self.matrix[:3, :3], compute_uv=False).tolist())
        return low, middle, high

    @property
    def rotation_degrees(self) -> float:
        """Angle of the rotation."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.rotation) - 1) / 2, -1, 1))))


def register(scan: Scan) -> Registration:
    """Register a T1 of a head, with or without skull and neck, rotated by up to 30 degrees, anywhere in the image.

    Deterministic; whether the result can be used is up to the caller: see `hippo_nnunet.segment.checks`.
    """
    fine = _resampled(scan)
    coarse = fine.halved()
    fits = [_fit(coarse, start, coarse_template(4), affine=False, steps=10) for start in _search(coarse)]
    best = max(fits, key=lambda fit: fit.similarity)
    return _fit(fine, best.matrix, coarse_template(2), affine=True, steps=12)


@dataclass(frozen=True)
class _Level:
    """A scan on a grid along the frame's axes.

    Attributes:
        image: float32 (x, y, z), 0 outside of the field of view.
        inside: Share of each voxel within the field of view.
        edge_mm: Voxel edge.
    """

    image: Floats
    inside: Floats
    edge_mm: float

    def indices(self, points_mm: Matrix) -> Matrix:
        """Return the voxel coordinates, shape (3, points), of points in the frame, shape (points, 3)."""
        return (points_mm / self.edge_mm + (np.array(self.image.shape) - 1) / 2).T

    def halved(self) -> _Level:
        """Return the same with voxels of twice the edge; sizes are even, so the frame's origin stays in the middle."""
        return _Level(block_means(self.image, (2, 2, 2)), block_means(self.inside, (2, 2, 2)), 2 * self.edge_mm)


def _resampled(scan: Scan) -> _Level:
    """Average and interpolate to cubic voxels along the frame's axes that hold the whole field of view."""
    factors = tuple(max(1, int(FIT_MM / edge + 1e-3)) for edge in scan.spacing_mm)
    means = block_means(scan.image, factors)
    to_frame = scan.to_frame @ np.diag([*factors, 1.0])
    to_frame[:3, 3] += scan.matrix @ ((np.array(factors) - 1) / 2)
    corners = np.array(list(product(*((-0.5, size - 0.5) for size in means.shape))))
    reach = np.abs(corners @ to_frame[:3, :3].T + to_frame[:3, 3]).max(axis=0)
    size = 2 * np.ceil(reach / FIT_MM).astype(int)
    back = np.linalg.inv(to_frame)
    step = back[:3, :3] * FIT_MM
    offset = back[:3, 3] - step @ ((size - 1) / 2)
    means = means - np.percentile(means, 1)  # air; images with an offset exist
    tissue = np.median(means[means > 0.8 * means.mean()])
    means = np.minimum(means / tissue, BRIGHTEST)
    image, inside = (
        ndimage.affine_transform(voxels, step, offset, tuple(size), order=1)
        for voxels in (means, np.ones(means.shape, np.float32))
    )
    return _Level(image, inside, FIT_MM)


def _search(level: _Level) -> list[Matrix]:
    """Return the best starts of several rotations, each with its best shift."""
    template = _contrast_template()
    points = template.points_mm()
    middle = points.mean(axis=0)
    radius = int(np.ceil(np.linalg.norm(points - middle, axis=1).max() * SHAPE.max() / level.edge_mm)) + 1
    shape = tuple(fft.next_fast_len(size + 2 * radius, real=True) for size in level.image.shape)
    image = _local_contrast(level.image, level.inside)
    fields = [level.inside, image * level.inside, image**2 * level.inside]
    spectra = [fft.rfftn(field.astype(np.float32), shape) for field in fields]
    found = []
    for angles in product(PITCHES, ROLLS, YAWS):
        turn = rotation_matrix(*angles) * SHAPE
        score = _correlation(spectra, *_turned(template, middle, turn, radius, level.edge_mm), shape)
        place = np.unravel_index(int(score.argmax()), score.shape)
        centre = (np.array(place) - radius - (np.array(level.image.shape) - 1) / 2) * level.edge_mm
        start = np.eye(4)
        start[:3, :3] = turn
        start[:3, 3] = centre - turn @ middle
        found.append((float(score[place]), start))
    found.sort(key=lambda one: -one[0])
    return [start for _, start in found[:STARTS]]


def _local_contrast(image: Floats, inside: Floats) -> Floats:
    """Subtract the mean of a neighbourhood of 16 mm, and divide by its standard deviation: a bias field vanishes."""

    def mean(voxels: Floats) -> Floats:
        return np.asarray(ndimage.gaussian_filter(voxels * inside, _NEIGHBOURHOOD, mode="constant") / weight)

    weight = ndimage.gaussian_filter(inside, _NEIGHBOURHOOD, mode="constant") + 1e-3
    middle = mean(image)
    variance = np.maximum(mean(image**2) - middle**2, 0)
    return np.asarray((image - middle) / np.sqrt(variance + _AIR**2), np.float32)


@lru_cache(maxsize=1)
def _contrast_template() -> Template:
    """Return the template of the search: local contrast, with surroundings of nothing."""
    template, around = coarse_template(4), 6
    padded = np.pad(template.image, around) / _TISSUE
    contrast = _local_contrast(padded, np.ones_like(padded))
    return replace(template, image=contrast[(slice(around, -around),) * 3])


def _turned(template: Template, middle: Matrix, turn: Matrix, radius: int, edge_mm: float) -> tuple[Floats, Floats]:
    """Return the template and its mask, rotated around the brain's middle, on a cube of the scan's grid."""
    side = 2 * radius + 1
    back = np.linalg.inv(turn)
    to_index = np.linalg.inv(template.affine)
    step = to_index[:3, :3] @ back * edge_mm
    offset = to_index[:3, :3] @ middle + to_index[:3, 3] - step @ np.full(3, radius)
    mask = template.mask.astype(np.float32)
    patch, inside = (
        ndimage.affine_transform(array, step, offset, (side,) * 3, order=1, mode="constant")
        for array in (template.image, mask)
    )
    return patch, inside


def _correlation(
    spectra: Sequence[npt.NDArray[np.complex64]], patch: Floats, mask: Floats, shape: tuple[int, ...]
) -> Floats:
    """Return the correlation of a patch with the image at each shift, within the mask and the field of view.

    Args:
        spectra: Transforms of the field of view, and of the image and its square within it.
        patch: The template, rotated.
        mask: Weights of its voxels.
        shape: Of the transforms, large enough that nothing wraps around.

    Returns:
        -1 to 1 for each shift; -1 where less than half of the mask lies within the field of view.

    Source: Padfield 2012, IEEE Transactions on Image Processing 21, "Masked object registration in the Fourier domain".
    """
    weight = mask / mask.sum()
    backwards = (slice(None, None, -1),) * 3
    centred = (patch - (weight * patch).sum()) * weight
    ones, first, second = (
        fft.rfftn(field[backwards], shape) for field in (weight, centred, (patch - (weight * patch).sum()) * centred)
    )
    inside, image, square = spectra
    share, of_image, of_square, of_patch, of_patch_square, both = (
        fft.irfftn(spectrum, shape)
        for spectrum in (inside * ones, image * ones, square * ones, inside * first, inside * second, image * first)
    )
    enough = share > LEAST_OVERLAP
    share = np.maximum(share, LEAST_OVERLAP)
    spread = np.maximum(of_square - of_image**2 / share, 1e-3 * of_square.max())
    spread *= np.maximum(of_patch_square - of_patch**2 / share, 1e-3 * of_patch_square.max())
    return np.where(enough, (both - of_patch * of_image / share) / np.sqrt(spread), -1.0)


def _generators(affine: bool) -> npt.NDArray[np.float64]:
    """Return the directions in which a matrix is changed, shape (parameters, 4, 4): shifts, rotations, stretches."""
    made = []
    for axis in range(3):
        made.append(_unit((axis, 3)))
    for one, other in ((1, 2), (2, 0), (0, 1)):
        made.append(_unit((other, one)) - _unit((one, other)))
    made.append(np.diag([1.0, 1.0, 1.0, 0.0]))
    if affine:
        made += [np.diag([1.0, -1.0, 0.0, 0.0]), np.diag([1.0, 1.0, -2.0, 0.0]) / np.sqrt(3)]
        made += [_unit((one, other)) + _unit((other, one)) for one, other in ((1, 2), (2, 0), (0, 1))]
    return np.stack(made)


def rotation_matrix(pitch: float, roll: float, yaw: float) -> Matrix:
    """Return the matrix of rotations, in degrees, around the axes to the right, to the front and up, in this order."""
    matrix = np.eye(3)
    for axis, degrees in enumerate((pitch, roll, yaw)):
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        one, other = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[one, one] = turn[other, other] = cosine
        turn[other, one], turn[one, other] = sine, -sine
        matrix = turn @ matrix
    return matrix


def _exponential(small: Matrix) -> Matrix:
    """Return the matrix exponential of a step's change by its series: quicker to import than scipy's."""
    term = total = np.eye(4)
    for number in range(1, 9):
        term = term @ small / number
        total = total + term
    return total


def _unit(place: tuple[int, int]) -> Matrix:
    matrix = np.zeros((4, 4))
    matrix[place] = 1
    return matrix


def _fit(level: _Level, start: Matrix, template: Template, affine: bool, steps: int) -> Registration:
    """Fit a matrix (MNI to frame) by Gauss-Newton with robust weights."""
    generators = _generators(affine)
    points = template.points_mm()
    middle = points.mean(axis=0)
    centred = points - middle
    there = template.image[template.mask].astype(np.float64)
    slopes_there = _gradient(template.image, template.mask) @ np.linalg.inv(template.affine[:3, :3])
    slopes_here = [slope / level.edge_mm for slope in np.gradient(level.image)]
    bias = _bias_terms(centred)
    matrix = start.copy()
    matrix[:3, 3] += start[:3, :3] @ middle  # the points are centred
    homogeneous = np.column_stack([centred, np.ones(len(centred))])
    moved = np.einsum("kij,nj->kni", generators[:, :3], homogeneous)
    for step in range(steps + 1):
        places = level.indices(homogeneous @ matrix[:3].T)
        inside = ndimage.map_coordinates(level.inside, places, order=1) > 0.5
        share = float(inside.mean())
        if share < LEAST_INSIDE:
            return Registration(_uncentred(matrix, middle), -1.0, -1.0, share)
        here = ndimage.map_coordinates(level.image, places, order=1)[inside].astype(np.float64)
        model, weight, sigma = _model(here, there[inside], bias[inside])
        if step == steps:
            break
        gain = float(model.std() / there[inside].std())
        slopes = np.stack([ndimage.map_coordinates(one, places[:, inside], order=1) for one in slopes_here], 1)
        slopes = 0.5 * (slopes @ matrix[:3, :3] + gain * slopes_there[inside])
        jacobian = np.stack([(slopes * field[inside]).sum(axis=1) for field in moved], axis=1)
        change = _step(jacobian, here - model, weight * _INDEPENDENT / sigma**2, matrix, affine)
        matrix = matrix @ _exponential(np.einsum("k,kij->ij", change, generators))
    matrix = _uncentred(matrix, middle)
    return Registration(matrix, _correlated(here, model), _contrast(level, matrix, template), share)


def _contrast(level: _Level, matrix: Matrix, template: Template) -> float:
    """Correlate the local contrast of scan and template deep inside of the brain."""
    to_index = matrix @ template.affine
    step = to_index[:3, :3] / level.edge_mm
    offset = to_index[:3, 3] / level.edge_mm + (np.array(level.image.shape) - 1) / 2
    here, inside = (
        ndimage.affine_transform(field, step, offset, template.image.shape, order=1)
        for field in (level.image, level.inside)
    )
    brain = template.image >= BRAIN
    near = (inside * brain).astype(np.float32)
    deep = ndimage.binary_erosion(brain, iterations=_DEPTH) & (inside > 0.5)
    if not deep.any():
        return -1.0
    return _correlated(_local_contrast(here, near)[deep], _local_contrast(template.image / _TISSUE, near)[deep])


def _uncentred(matrix: Matrix, middle: Matrix) -> Matrix:
    """Return the matrix of points that are not relative to the middle."""
    moved = matrix.copy()
    moved[:3, 3] -= matrix[:3, :3] @ middle
    return moved


def _step(jacobian: Matrix, residual: Matrix, weight: Matrix, matrix: Matrix, affine: bool) -> Matrix:
    """Solve for a change of the parameters; the prior holds the logarithms of the stretches."""
    hessian = jacobian.T @ (weight[:, None] * jacobian)
    slope = -jacobian.T @ (weight * residual)
    squares, vectors = np.linalg.eigh(matrix[:3, :3].T @ matrix[:3, :3])
    stretch = (vectors * (0.5 * np.log(squares))) @ vectors.T
    size = np.trace(stretch) / 3
    usual = np.log(SHAPE)
    now, sds = [size - usual.mean()], [_SIZE_SD]
    if affine:
        x, y, z = np.diag(stretch) - usual
        now += [(x - y) / 2, (x + y - 2 * z) / np.sqrt(12), stretch[1, 2], stretch[2, 0], stretch[0, 1]]
        sds += [_STRETCH_SD] * 5
    for number, (value, sd) in enumerate(zip(now, sds, strict=True), 6):
        hessian[number, number] += 1 / sd**2
        slope[number] -= value / sd**2
    return np.linalg.solve(hessian, slope)


def _model(here: Matrix, there: Matrix, bias: Matrix) -> tuple[Matrix, Matrix, float]:
    """Explain the scan's intensities by the template's times a smooth field, and a constant.

    Returns:
        The explained intensities, a weight for each point (0 for an outlier), and the residuals' robust standard
        deviation.
    """
    terms = np.column_stack([there[:, None] * bias, np.ones(len(there))])
    weight = np.ones(len(here))
    for _ in range(3):
        weighted = terms * weight[:, None]
        gram = terms.T @ weighted
        gram[np.diag_indices_from(gram)] *= 1 + 1e-4
        model = terms @ np.linalg.solve(gram, weighted.T @ here)
        residual = here - model
        sigma = 1.4826 * float(np.median(np.abs(residual))) + 1e-9 * float(np.abs(here).max()) + 1e-30
        weight = np.clip(1 - (residual / (_OUTLIER * sigma)) ** 2, 0, None) ** 2
    return model, weight, sigma


def _correlated(one: Matrix, other: Matrix) -> float:
    """Return the correlation; 0 where one does not vary."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _bias_terms(centred: Matrix) -> Matrix:
    """Return the terms of a quadratic field at points within about 90 mm, shape (points, 10)."""
    x, y, z = (centred / 90).T
    return np.column_stack([np.ones(len(x)), x, y, z, x * x, y * y, z * z, x * y, y * z, z * x])


def _gradient(image: Floats, mask: npt.NDArray[np.bool_]) -> Matrix:
    """Return the differences for one voxel along each axis, at the mask's voxels, shape (voxels, 3)."""
    return np.stack([np.asarray(slope)[mask] for slope in np.gradient(image)], axis=1).astype(np.float64)
