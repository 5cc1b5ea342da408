"""The registration of `segment` against SimpleITK's on the same variants of a head."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk  # noqa: N813 - the field's habit

from benchmarks.head_variants import Head, Variant, make
from benchmarks.segment_heads import examples
from hippo_nnunet.progress import tracked
from hippo_nnunet.segment.boxes import PLACES_MM
from hippo_nnunet.segment.registration import register
from hippo_nnunet.segment.scan import Matrix, Scan, read_scan
from hippo_nnunet.segment.template import FILE

OURS, SIMPLE_ITK = "segment", "SimpleITK"
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def benchmark_registration(folder: Path | None, variants: int) -> dict[str, Any]:
    """Register variants of every head with both, and compare with each one's own result on the unchanged head.

    Args:
        folder: See `examples`.
        variants: Number of variants of each head.

    Returns:
        For each head and program: distances of the boxes' middles in mm, and CPU seconds.
    """
    results: dict[str, Any] = {}
    programs = {OURS: _ours, SIMPLE_ITK: _simple_itk}
    with tempfile.TemporaryDirectory(prefix="hippo-registration-") as scratch:
        for name, example in examples(folder).items():
            base = {program: _places(run(example.path)) for program, run in programs.items()}
            head = Head.load(example.path, base[OURS].mean(axis=0), example.stripped)
            results[name] = {program: {"away_mm": [], "cpu_s": []} for program in programs}
            for seed in tracked(range(variants), name):
                image, moved = make(head, Variant.draw(seed))
                path = Path(scratch) / "variant.nii"
                nib.save(image, path)
                for program, run in programs.items():
                    started = time.process_time()
                    places = _places(run(path))
                    results[name][program]["cpu_s"].append(round(time.process_time() - started, 2))
                    expected = base[program] @ moved[:3, :3].T + moved[:3, 3]
                    away = float(np.linalg.norm(places - expected, axis=1).max())
                    results[name][program]["away_mm"].append(round(away, 2))
    return results


def registration_text(results: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = ["| head | program | boxes off, mm (median; worst) | within 5 mm | CPU s |", "|---|---|---|---|---|"]
    for name, programs in results.items():
        for program, one in programs.items():
            away = np.array(one["away_mm"])
            off, near = f"{np.median(away):.1f}; {away.max():.1f}", f"{(away <= 5).sum()} of {len(away)}"
            lines.append(f"| {name} | {program} | {off} | {near} | {np.median(one['cpu_s']):.1f} |")
    return "\n".join(lines)


def _places(matrix: Matrix) -> npt.NDArray[np.float64]:
    """Return the world coordinates of both boxes' middles."""
    return np.stack([(matrix @ [*place, 1.0])[:3] for place in PLACES_MM.values()])


def _ours(path: Path) -> Matrix:
    scan = read_scan(path)
    return _world(scan) @ register(scan).matrix


def _world(scan: Scan) -> Matrix:
    moved = np.eye(4)
    moved[:3, 3] = scan.origin_mm
    return moved


def _simple_itk(path: Path) -> Matrix:
    """Register with SimpleITK's usual recipe: moments, mutual information, two resolutions, rigid and then affine."""
    fixed = sitk.ReadImage(str(FILE), sitk.sitkFloat32)
    moving = sitk.ReadImage(str(path), sitk.sitkFloat32)
    rigid = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    rigid = _optimised(fixed, moving, sitk.Euler3DTransform(rigid))
    affine = sitk.AffineTransform(3)
    found = sitk.Euler3DTransform(_only(rigid))
    affine.SetCenter(found.GetCenter())
    affine.SetMatrix(found.GetMatrix())
    affine.SetTranslation(found.GetTranslation())
    affine = _optimised(fixed, moving, affine)
    points = [affine.TransformPoint(tuple(map(float, point))) for point in (*np.eye(3), np.zeros(3))]
    matrix = np.eye(4)
    matrix[:3, 3] = points[3]
    matrix[:3, :3] = (np.array(points[:3]) - points[3]).T
    return _LPS @ matrix @ _LPS


def _only(transform: Any) -> Any:
    """Return the only transform of a composite one."""
    return transform.GetNthTransform(0) if isinstance(transform, sitk.CompositeTransform) else transform


def _optimised(fixed: Any, moving: Any, start: Any) -> Any:
    method = sitk.ImageRegistrationMethod()
    method.SetGlobalDefaultNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(48)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.25)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2])
    method.SetSmoothingSigmasPerLevel([4, 2])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    return method.Execute(fixed, moving)
