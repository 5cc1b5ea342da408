"""Make the template of `hippo-nnunet segment` from the MNI152 image inside of the package nilearn.

    pip install nilearn && python scripts/make_template.py

Each voxel of 2 mm is the mean of eight of 1 mm. nilearn's image is 0 outside of the brain. There, a rim that the
registration compares too gets 1: cerebrospinal fluid and skull are dark in a T1, and nothing is there after
skull-stripping. The brain has 2 and more.
"""

import argparse
import gzip
from importlib.util import find_spec
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from hippo_nnunet.files import atomic_path

NAME = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
RIM_MM = 6.0
TARGET = Path(__file__).parent.parent / "hippo_nnunet/segment/mni152/mni152_t1_2mm.nii.gz"


def main() -> None:
    """Write the template."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help=f"{NAME}; default: the one of the installed nilearn")
    source = parser.parse_args().source
    if source is None:
        spec = find_spec("nilearn")
        if spec is None or spec.origin is None:
            raise SystemExit("nilearn is not installed: pip install nilearn, or give --source")
        source = Path(spec.origin).parent / "datasets/data" / NAME
    image = nibabel.load(source)
    fine = np.asarray(image.dataobj, np.float32)
    fine = np.pad(fine, [(0, size % 2) for size in fine.shape])
    sizes = [part for size in fine.shape for part in (size // 2, 2)]
    means = fine.reshape(sizes).mean(axis=(1, 3, 5)).round()
    brain = ndimage.binary_closing(means > 0, iterations=3)
    rim = ndimage.distance_transform_edt(~brain, sampling=2.0) <= RIM_MM
    coarse = np.where(brain, np.maximum(means, 2), rim).astype(np.uint8)
    affine = image.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (image.affine @ [0.5, 0.5, 0.5, 1.0])[:3]
    content = nibabel.Nifti1Image(coarse, affine, dtype=np.uint8).to_bytes()
    with atomic_path(TARGET) as path:
        path.write_bytes(gzip.compress(content, 9, mtime=0))
    print(f"{TARGET}: {coarse.shape}, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
