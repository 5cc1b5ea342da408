"""Surfaces of reference and predictions as meshes in mm, with the signed distance between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.ndimage import find_objects, map_coordinates
from scipy.spatial import KDTree
from skimage.measure import marching_cubes

from hippo_nnunet.pages.report.viewer_cases import ViewedCase
from hippo_nnunet.pages.report.viewer_slices import packed

MOST_DISTANCE_MM = 3.0
"""The colours of distances end here: one stray voxel far away would leave all others the same colour."""
MOST_FACES = 120_000
"""Triangles of all surfaces of a case together."""
_FEWEST_FACES = 400
_UNIT_MM = 0.02
_DISTANCE_UNIT_MM = 0.01
_LIMIT = 32_000
_NEIGHBOURS = 16
_CHUNK = 20_000
# Taubin 1995, "A signal processing approach to fair surface design": a shrinking and a swelling step in turn.
_SHRINK, _SWELL, _ROUNDS = 0.5, -0.53, 6

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Surface:
    """A closed surface of triangles.

    Attributes:
        vertices: Shape (n, 3), in mm, RAS+.
        faces: Vertex indices, shape (m, 3), counter-clockwise seen from outside.
    """

    vertices: Floats
    faces: Integers


def surface_data(case: ViewedCase, labels: int) -> dict[str, Any]:
    """Mesh every label of the reference and of every prediction.

    Args:
        case: The case.
        labels: How many labels there are.

    Returns:
        JSON-able: `extent`, half the size in mm of a box around everything, whose centre is the meshes' origin;
        `limit` of the distance's colours in mm; the units of what is packed, in mm; `meshes`, by `reference` or the
        model's position, then by the label's position (see `_mesh_data`), with the signed distance to the reference's
        surface for the vertices of predictions. A label without a voxel has None.
    """
    maps = {"reference": case.reference, **{str(n): found for n, found in case.predictions.items()}}
    most = max(_FEWEST_FACES, MOST_FACES // (len(maps) * labels))
    surfaces: dict[str, list[tuple[Surface, Floats | None] | None]] = {name: [] for name in maps}
    for value in range(1, labels + 1):
        mask = case.reference == value
        target = surface_of(mask, case.affine)
        for name, array in maps.items():
            found = target if name == "reference" else surface_of(array == value, case.affine)
            distance = None
            if name != "reference" and found is not None and target is not None:
                distance = signed_distance_mm(found.vertices, target, mask, case.affine)
            surfaces[name].append(None if found is None else (found, distance))
    found_ones = [entry for entries in surfaces.values() for entry in entries if entry is not None]
    everything = np.concatenate([surface.vertices for surface, _ in found_ones] or [np.zeros((1, 3))])
    low, high = everything.min(axis=0), everything.max(axis=0)
    centre, extent = (low + high) / 2, np.maximum((high - low) / 2, 1.0)
    unit = max(_UNIT_MM, float(extent.max()) / _LIMIT)
    largest = np.concatenate([np.abs(distance) for _, distance in found_ones if distance is not None] or [np.zeros(1)])
    limit = float(min(MOST_DISTANCE_MM, np.ceil(max(np.percentile(largest, 99), max(case.spacing_mm)))))
    return {
        "extent": extent.round(3).tolist(),
        "unit": unit,
        "distance_unit": _DISTANCE_UNIT_MM,
        "limit": limit,
        "clipped": bool(largest.max() > limit),
        "meshes": {
            name: [None if entry is None else _mesh_data(*entry, centre, unit, most) for entry in entries]
            for name, entries in surfaces.items()
        },
    }


def surface_of(mask: npt.NDArray[np.bool_], affine: Floats) -> Surface | None:
    """Run marching cubes half-way between the voxels in and out of a mask.

    Args:
        mask: Shape (a, b, c).
        affine: Voxel-to-world matrix, shape (4, 4), in mm.

    Returns:
        The surface, closed where the mask touches the image's edge; None for an empty mask.
    """
    if not mask.any():
        return None
    (box,) = find_objects(mask.view(np.uint8))
    direction = "ascent" if np.linalg.det(affine[:3, :3]) > 0 else "descent"
    vertices, faces, _, _ = marching_cubes(np.pad(mask[box], 1).astype(np.float32), 0.5, gradient_direction=direction)
    inside = vertices.astype(np.float64) + [part.start - 1 for part in box]
    return Surface(inside @ affine[:3, :3].T + affine[:3, 3], faces.astype(np.int64))


def signed_distance_mm(points: Floats, target: Surface, mask: npt.NDArray[np.bool_], affine: Floats) -> Floats:
    """Distance of points to a surface, negative inside.

    Args:
        points: Shape (n, 3), in mm, RAS+.
        target: The surface.
        mask: What it encloses, shape (a, b, c).
        affine: Voxel-to-world matrix of the mask, shape (4, 4), in mm.

    Returns:
        Shape (n,), in mm. The nearest point is looked for on the 16 triangles whose centres are nearest, which
        marching cubes makes about equally small.
    """
    corners = target.vertices[target.faces]
    count = min(_NEIGHBOURS, len(corners))
    _, nearest = KDTree(corners.mean(axis=1)).query(points, k=count)
    nearest = nearest.reshape(len(points), count)
    distance = np.concatenate(
        [
            _to_triangles(points[start : start + _CHUNK, None], corners[nearest[start : start + _CHUNK]]).min(axis=1)
            for start in range(0, len(points), _CHUNK)
        ]
    )
    voxels = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    inside = map_coordinates(mask.astype(np.float32), voxels.T, order=1, mode="constant") > 0.5
    return np.where(inside, -distance, distance)


def smoothed(surface: Surface) -> Surface:
    """Smooth a surface lightly, without shrinking it (Taubin's filter)."""
    count = len(surface.vertices)
    first, second = surface.faces.ravel(), np.roll(surface.faces, 1, axis=1).ravel()
    ones = np.ones(2 * len(first))
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    links = sparse.csr_matrix((ones, (rows, columns)), shape=(count, count))
    links.data[:] = 1.0
    mean = sparse.diags(1 / np.maximum(np.asarray(links.sum(axis=1)).ravel(), 1)) @ links
    vertices = surface.vertices
    for factor in (_SHRINK, _SWELL) * _ROUNDS:
        vertices = vertices + factor * (mean @ vertices - vertices)
    return Surface(vertices, surface.faces)


def decimated(surface: Surface, values: Floats, most: int) -> tuple[Surface, Floats]:
    """Merge vertices that lie in the same cell of a grid, coarser until few enough triangles are left.

    Args:
        surface: The surface.
        values: Of each vertex, shape (n,); merged vertices get their mean.
        most: Triangles at most.
    """
    coarse, merged = surface, values
    edges = surface.vertices[surface.faces[:, 1:]] - surface.vertices[surface.faces[:, :1]]
    area = float(np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1).sum() / 2)
    cell = float(np.sqrt(area / most))
    while len(coarse.faces) > most:
        keys = np.floor(surface.vertices / cell).astype(np.int64)
        _, index, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        index = index.ravel()
        sums = np.stack([np.bincount(index, column) for column in (*surface.vertices.T, values)], axis=1)
        means = sums / counts[:, None]
        faces = index[surface.faces]
        proper = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
        coarse, merged = Surface(means[:, :3], faces[proper]), means[:, 3]
        cell *= 1.25
    return coarse, merged


def _mesh_data(surface: Surface, distance: Floats | None, centre: Floats, unit: float, most: int) -> dict[str, Any]:
    """Smooth, thin out and pack a surface: axis by axis and as differences, which compress well."""
    values = np.zeros(len(surface.vertices)) if distance is None else distance
    looks, values = decimated(smoothed(surface), values, most)
    vertices = np.rint((looks.vertices - centre) / unit).astype(np.int32)
    data = {
        "vertices": packed(np.diff(vertices.T, axis=1, prepend=0).astype(np.int32)),
        "faces": packed(np.diff(looks.faces.ravel(), prepend=0).astype(np.int32)),
    }
    if distance is not None:
        units = np.clip(np.rint(values / _DISTANCE_UNIT_MM), -_LIMIT, _LIMIT)
        data["distance"] = packed(units.astype(np.int16))
    return data


def _to_triangles(points: Floats, corners: Floats) -> Floats:
    """Distance of points, shape (n, 1, 3), to triangles, shape (n, k, 3, 3): shape (n, k)."""
    edges = np.roll(corners, -1, axis=2) - corners
    from_corner = points[:, :, None] - corners
    along = np.einsum("nkci,nkci->nkc", from_corner, edges) / np.einsum("nkci,nkci->nkc", edges, edges)
    to_edges = np.linalg.norm(from_corner - np.clip(along, 0, 1)[..., None] * edges, axis=-1).min(axis=-1)
    normal = np.cross(edges[:, :, 0], edges[:, :, 1])
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    sides = np.einsum("nkci,nki->nkc", np.cross(edges, from_corner), normal)
    height = np.abs(np.einsum("nki,nki->nk", from_corner[:, :, 0], normal))
    return np.where((sides >= 0).all(axis=-1), height, to_edges)
