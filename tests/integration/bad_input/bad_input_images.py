"""Bad images and labels of a dataset that is to be checked or converted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from bad_input import CASES, SHAPE, Bad, World, closed, cut, data, edited, folder, gone, image, text

IMAGE = "{task}/imagesTr/phantom_001.nii.gz"
LABEL = "{task}/labelsTr/phantom_001.nii.gz"
CHECK = "data check {task} --json"
CONVERT = "data convert {task} --root {base}/new"
ONES = np.ones(SHAPE, np.float32)


def _nan() -> np.ndarray:
    array = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    array[1, 1, 1] = np.nan
    return array


def _labels(value: float, dtype: type = np.uint8) -> np.ndarray:
    array = np.zeros(SHAPE, dtype)
    array[1:3, 1:3, 1:3] = 1
    array[4, 4, 4] = value
    return array


def _claims(size: int) -> bytes:
    """A header of 352 bytes that claims a cube of voxels, and no voxel behind it."""
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"][:4] = [3, size, size, size]
    header["sform_code"] = 1
    header.set_sform(np.eye(4))
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return header.binaryblock + b"\0" * 4


def _gzipped(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content)


def _unpacked(world: World) -> None:
    import gzip

    path = world.at(IMAGE)
    path.write_bytes(gzip.decompress(path.read_bytes()))


def _flattened(world: World) -> None:
    """Let the header place all voxels on one plane."""
    import nibabel as nib

    header = nib.Nifti1Header()
    header["sform_code"], header["srow_x"], header["srow_z"] = 1, [1, 0, 0, 0], [0, 0, 1, 0]
    nib.save(nib.Nifti1Image(ONES, None, header), world.at(IMAGE))


def _header(**fields: float) -> Callable[[World], None]:
    """Overwrite header fields of the image."""

    def change(world: World) -> None:
        import gzip

        import nibabel as nib

        path = world.at(IMAGE)
        content = bytearray(gzip.decompress(path.read_bytes()))
        header = nib.Nifti1Header(bytes(content[:348]), check=False)
        for name, value in fields.items():
            header[name] = value
        path.write_bytes(gzip.compress(header.binaryblock + bytes(content[348:])))

    return change


ROWS = (
    Bad(
        "label of a case is missing",
        CHECK,
        ("phantom_001.nii.gz", "the file is missing", "add it"),
        (gone(LABEL),),
        on_stdout=True,
    ),
    Bad("image is missing", CONVERT, (CASES[0], "the file is missing", "add it, or take the case out"), (gone(IMAGE),)),
    Bad("image is empty", CONVERT, ("imagesTr/phantom_001.nii.gz", "copy or download it again"), (text(IMAGE, ""),)),
    Bad("image is a folder", CONVERT, ("imagesTr/phantom_001.nii.gz", "is a folder", "put the file"), (folder(IMAGE),)),
    Bad("image is cut off", CONVERT, ("phantom_001.nii.gz: truncated or damaged", "again"), (cut(IMAGE),)),
    Bad("image is text", CONVERT, ("phantom_001.nii.gz", "damaged", "again"), (text(IMAGE, "hello " * 100),)),
    Bad(
        "image is text in gzip",
        CONVERT,
        ("phantom_001.nii.gz: no NIfTI image", "again"),
        (data(IMAGE, _gzipped(b"hello " * 100)),),
    ),
    Bad(
        "image cannot be read",
        CONVERT,
        ("imagesTr/phantom_001.nii.gz: cannot be read (Permission denied)", "permissions"),
        (closed(IMAGE),),
        unprivileged=True,
    ),
    Bad(
        "image that claims 30000 cubed voxels",
        CONVERT,
        ("phantom_001.nii.gz: truncated: 352 bytes of 54000000000352", "again"),
        (data(IMAGE, _gzipped(_claims(30000))),),
    ),
    Bad("image is 4D", CONVERT, ("4D image", "split the channels"), (image(IMAGE, np.ones((*SHAPE, 2), np.float32)),)),
    Bad(
        "image without voxels",
        CONVERT,
        ("phantom_001.nii.gz", "again"),
        (image(IMAGE, np.ones((3, 0, 4), np.float32)),),
    ),
    Bad(
        "image of two voxel sizes",
        CONVERT,
        ("phantom_001.nii.gz: two voxel sizes: 2 x 2 x 2 mm in pixdim", "1 x 1 x 1 mm in the sform", "write the true"),
        (_header(pixdim=[1, 2, 2, 2, 0, 0, 0, 0], qform_code=0),),
    ),
    Bad(
        "image in metres",
        CONVERT,
        ("phantom_001.nii.gz: its voxels of 1000 x 1000 x 1000 mm are resampled to the usual size", "GiB are free"),
        (_header(xyzt_units=1), image(LABEL, ONES.astype(np.uint8), np.diag([1000, 1000, 1000, 1.0]))),
    ),
    Bad(
        "image that is not compressed",
        CONVERT,
        ("phantom_001.nii.gz: not compressed, though its name ends in .gz", "rename it to phantom_001.nii"),
        (_unpacked,),
    ),
    Bad("image of NaN", CONVERT, ("1 of 336 voxels are NaN", "replace them"), (image(IMAGE, _nan()),)),
    Bad(
        "image of complex numbers",
        CONVERT,
        ("voxel type complex64", "save it as"),
        (image(IMAGE, np.ones(SHAPE, np.complex64)),),
    ),
    Bad("image of one intensity", CONVERT, ("constant image", "export the image again"), (image(IMAGE, ONES),)),
    Bad(
        "image with a flat affine",
        CONVERT,
        ("the affine is not finite or flattens", "write a valid affine"),
        (_flattened,),
    ),
    Bad(
        "label of another shape",
        CONVERT,
        ("shape (6, 7, 9), but its image", "resample"),
        (image(LABEL, np.ones((6, 7, 9), np.uint8)),),
    ),
    Bad(
        "label at another place",
        CONVERT,
        ("affine differs", "copy its affine"),
        (image(LABEL, _labels(2), np.diag([1, 1, 2, 1.0])),),
    ),
    Bad(
        "label value that is not declared",
        CONVERT,
        ("label values 7", "0, 1, 2", "declare the value"),
        (image(LABEL, _labels(7)),),
    ),
    Bad(
        "label with fractions",
        CONVERT,
        ("not integers: 0.5", "nearest neighbour"),
        (image(LABEL, _labels(0.5, np.float32)),),
    ),
    Bad(
        "image under two endings",
        CONVERT,
        ("imagesTs/other.nii: nnU-Net looks only for .nii.gz", "save it as"),
        (image("{task}/imagesTs/other.nii", np.arange(8.0).reshape(2, 2, 2)),),
    ),
    Bad(
        "images of several modalities",
        CONVERT,
        ("2 modalities", "nnUNetv2_convert_MSD_dataset"),
        (edited("{task}/dataset.json", lambda d: d.update(modality={"0": "T1", "1": "T2"})),),
    ),
    Bad(
        "case id that only differs by capitals",
        CHECK,
        ("is also that of", "a unique id"),
        (image("{task}/imagesTs/PHANTOM_002.nii.gz", ONES),),
        on_stdout=True,
    ),
)
