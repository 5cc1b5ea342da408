"""The model that ships with this package: its files, checked when they are opened. Imports neither torch nor pandas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hippo_nnunet.errors import DataError
from hippo_nnunet.files import hash_file, read_object

if TYPE_CHECKING:
    from hippo_nnunet.evaluation.known_images import KnownImages
    from hippo_nnunet.evaluation.volume_calibration import VolumeCalibration

FOLDER = Path(__file__).parent / "hippocampus"
"""Where the files are: package data."""
MODEL, DESCRIPTION, LICENCE, SUMS = "hippocampus.onnx", "hippocampus.json", "LICENSE", "SHA256SUMS"
FORMAT = "hippo_nnunet packaged model"
VERSION = 1
"""Version of the description; a reader refuses every other one."""
LARGEST = 25 * 10**6
"""Bytes of the model at most."""
LEVEL = 0.9
"""Coverage of the intervals where none is asked for."""
_AGAIN = (
    "install hippo_nnunet again (pip install --force-reinstall --no-deps, with what you installed it from), or name "
    "another model with --model"
)


@dataclass(frozen=True)
class PackagedModel:
    """The files of the packaged model, whose hashes were compared.

    Attributes:
        path: The ONNX file.
        sha256: Its hash.
        description: Content of the JSON file beside it: see docs/model-card.md.
    """

    path: Path
    sha256: str
    description: Mapping[str, Any]

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.description['name']} {self.description['version']}"

    @property
    def licence(self) -> str:
        """Licence of the weights."""
        return str(self.description["licence"])

    def calibration(self, level: float = LEVEL) -> VolumeCalibration:
        """Return the calibration of its volumes by its recipe's out-of-fold predictions.

        Args:
            level: Coverage of the intervals.

        Raises:
            ConfigError: The level is not between 0 and 1.
            DataError: The description does not hold it.
        """
        from hippo_nnunet.evaluation.volume_calibration import calibration_from

        try:
            return calibration_from(self.description["calibration"], level)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _other(self.path.parent / DESCRIPTION, f"its calibration cannot be read ({error!r})") from error

    def known_images(self) -> KnownImages:
        """Return what it knows of its images.

        Raises:
            DataError: The description does not hold it.
        """
        from hippo_nnunet.evaluation.known_images import KnownImages

        try:
            return KnownImages.read(self.description["images"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _other(
                self.path.parent / DESCRIPTION, f"what it knows of images cannot be read ({error!r})"
            ) from error


def open_packaged(folder: Path | None = None) -> PackagedModel:
    """Compare the files' hashes with SHA256SUMS, and read the description.

    Args:
        folder: Where the files are; None: in this package.

    Raises:
        DataError: A file is missing, damaged, or of another version.
    """
    folder = folder or FOLDER
    sums = _sums(folder / SUMS)
    for name in (MODEL, DESCRIPTION, LICENCE):
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: this file of the packaged model is missing; {_AGAIN}")
        found = hash_file(path)
        if found != sums.get(name):
            listed = str(sums.get(name))[:12]
            raise DataError(
                f"{path}: this file of the packaged model is damaged or of another version: it has SHA-256 "
                f"{found[:12]}..., {SUMS} says {listed}...; {_AGAIN}"
            )
    description = read_object(folder / DESCRIPTION, _AGAIN)
    version = description.get("format_version")
    if description.get("format") != FORMAT or version != VERSION:
        raise _other(folder / DESCRIPTION, f"it is of version {version} of the format, expected {VERSION}")
    if not all(isinstance(description.get(key), str) for key in ("name", "version", "licence", "attribution")):
        raise _other(folder / DESCRIPTION, "it does not say name, version, licence and attribution")
    return PackagedModel(folder / MODEL, sums[MODEL], description)


def _sums(path: Path) -> dict[str, str]:
    """Read a file of sha256sum: name to hash."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the packaged model is missing or damaged ({error}); {_AGAIN}") from error
    return {line[1]: line[0] for line in lines if len(line) == 2}


def _other(path: Path, problem: str) -> DataError:
    return DataError(f"{path}: the packaged model does not belong to this hippo_nnunet: {problem}; {_AGAIN}")
