"""Problems of an installation and their remedies: one small check for each."""

from __future__ import annotations

import os
import platform
import shutil
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hippo_nnunet.doctor.probe import PLANNER, TRAINER, Probe, probe
from hippo_nnunet.errors import DataError, DependencyError
from hippo_nnunet.experiment.manifest import installed_version
from hippo_nnunet.memory import free_memory
from hippo_nnunet.models.packaged import open_packaged
from hippo_nnunet.nnunet.paths import EXT_VARIABLE, FOLDER_VARIABLES, environment, user_cache
from hippo_nnunet.nnunet.registration import EXT_TRAINERS, WITHOUT_REGISTRATION, Shim, shims
from hippo_nnunet.threads import cpu_count

GB = 1e9
MINIMUM_DISK_GB = 2
MINIMUM_MEMORY_GB = 4
SMALL = "hippo-nnunet-predict"
"""The distribution for prediction alone, of the same files."""
NNUNET_REQUIREMENT = "nnunetv2>=2.8.1,<2.9"

DISTRIBUTIONS = ("torch", "nnunetv2", "hippo_nnunet", SMALL)

Level = Literal["ok", "note", "warning", "error"]

NEEDED_FOR = {
    "nnUNet_raw": "data convert and plan",
    "nnUNet_preprocessed": "plan and train",
    "nnUNet_results": "train, predict --dataset and model import",
}
"""Variable to those of our commands that need it, or `--root`."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was looked at.
        level: `ok`; `note`: some commands need it set first; `warning`: works with a restriction; `error`: will fail.
        finding: What was found.
        remedy: What to do; empty for `ok`.
    """

    check: str
    level: Level
    finding: str
    remedy: str = ""


@dataclass(frozen=True)
class Surroundings:
    """Everything that the checks examine.

    Attributes:
        environ: Environment variables.
        versions: Distribution (and `python`) to version; None if it is not installed.
        shims: The modules that `register` writes; empty without nnU-Net.
        probe: What nnU-Net and torch answer in a fresh process.
        compiler: Path of a C compiler; None without one.
        python_headers: Whether `Python.h` is there, which torch.compile's compiled parts include.
        memory_gb: Memory that is free for us, in gigabytes (10^9 bytes).
        cpus: Number of CPU cores that we may use, by affinity and quota.
        packaged: Name and version of the packaged model; None if it cannot be opened.
        packaged_problem: Why.
    """

    environ: Mapping[str, str]
    versions: Mapping[str, str | None]
    shims: tuple[Shim, ...]
    probe: Probe
    compiler: str | None
    python_headers: bool
    memory_gb: float
    cpus: int
    packaged: str | None
    packaged_problem: str


def survey(root: Path | None) -> Surroundings:
    """Look at this machine.

    Args:
        root: Look as if `env --root` had been evaluated for this folder; None: at the variables as they are.
    """
    environ = {**os.environ, **(environment(root) if root else {})}
    try:
        found_shims: tuple[Shim, ...] = shims()
    except DependencyError:
        found_shims = ()
    packaged, packaged_problem = None, ""
    try:
        packaged = open_packaged().title
    except DataError as error:
        packaged_problem = str(error)
    compilers = (environ.get("CC", ""), "cc", "gcc", "clang")
    return Surroundings(
        environ=environ,
        versions={"python": platform.python_version(), **{name: installed_version(name) for name in DISTRIBUTIONS}},
        shims=found_shims,
        probe=probe(environ),
        compiler=next((path for name in compilers if name and (path := shutil.which(name))), None),
        python_headers=Path(sysconfig.get_paths()["include"], "Python.h").exists(),
        memory_gb=free_memory() / GB,
        cpus=cpu_count(),
        packaged=packaged,
        packaged_problem=packaged_problem,
    )


def diagnose(surroundings: Surroundings) -> list[Finding]:
    """Run every check."""
    return [finding for check in CHECKS for finding in check(surroundings)]


def check_python(at: Surroundings) -> list[Finding]:
    """Python is one of the tested versions."""
    version = at.versions["python"] or ""
    if (3, 10) <= _numbers(version)[:2] < (3, 14):
        return [Finding("python", "ok", version)]
    return [
        Finding("python", "error", f"{version}, tested are 3.10 to 3.13", "make a new environment with Python 3.12")
    ]


def check_torch(at: Surroundings) -> list[Finding]:
    """Torch is installed, and not a version that nnU-Net rules out."""
    version = at.versions["torch"]
    if version is None:
        return [Finding("torch", "error", "not installed", "see https://pytorch.org/get-started/locally/")]
    if _numbers(version) < (2, 4) or _numbers(version)[:2] == (2, 9):
        return [Finding("torch", "error", f"{version}, needed: >=2.4, not 2.9", "pip install 'torch>=2.4,!=2.9.*'")]
    return [Finding("torch", "ok", version)]


def check_nnunet(at: Surroundings) -> list[Finding]:
    """nnU-Net is the version that this package was tested with."""
    version = at.versions["nnunetv2"]
    remedy = f"pip install '{NNUNET_REQUIREMENT}'"
    if version is None:
        return [Finding("nnunetv2", "error", "not installed", remedy)]
    if not (2, 8, 1) <= _numbers(version) < (2, 9):
        return [Finding("nnunetv2", "error", f"{version}, tested is 2.8 from 2.8.1 on", remedy)]
    return [Finding("nnunetv2", "ok", version)]


def check_packaged_model(at: Surroundings) -> list[Finding]:
    """The packaged model opens, and its files belong to one distribution."""
    what = "packaged model"
    if at.packaged is None:
        return [Finding(what, "error", at.packaged_problem, "install hippo_nnunet again")]
    if at.versions.get("hippo_nnunet") and at.versions.get(SMALL):
        text = f"hippo_nnunet and {SMALL} are both installed, with the same files"
        remedy = f"pip uninstall {SMALL}, then install hippo_nnunet again"
        return [Finding(what, "warning", text, remedy)]
    return [Finding(what, "ok", at.packaged)]


def check_folders(at: Surroundings) -> list[Finding]:
    """nnU-Net's three variables, where they are set, name folders that exist and are writable."""
    return [_check_folder(variable, at.environ.get(variable, "")) for variable in FOLDER_VARIABLES]


def _check_folder(variable: str, value: str) -> Finding:
    if not value:
        needed = f"not set; needed for nnU-Net's own commands, {NEEDED_FOR[variable]}, not for run"
        return Finding(variable, "note", needed, 'eval "$(hippo-nnunet env --root DIR)", or pass --root DIR')
    folder = Path(value).absolute()
    if folder.exists() and not folder.is_dir():
        return Finding(variable, "error", f"{folder} is a file", f"export {variable}=FOLDER")
    existing = _nearest_existing(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        if existing == folder and variable == "nnUNet_raw" and os.access(folder, os.R_OK | os.X_OK):
            return Finding(
                variable, "warning", f"{folder} is read-only", f"to add datasets, export {variable}=WRITABLE_FOLDER"
            )
        return Finding(
            variable, "error", f"{existing} is not writable", f"chmod u+rwx, or export {variable}=WRITABLE_FOLDER"
        )
    if existing != folder:
        return Finding(variable, "warning", f"{folder} does not exist yet", f"mkdir -p '{folder}'")
    return Finding(variable, "ok", str(folder))


def check_disk(at: Surroundings) -> list[Finding]:
    """The disks of nnU-Net's folders have space for data and checkpoints."""
    folders = {_nearest_existing(Path(at.environ[v])) for v in FOLDER_VARIABLES if at.environ.get(v)}
    if not folders:
        return []
    free_gb, folder = min((shutil.disk_usage(folder).free / GB, folder) for folder in folders)
    if free_gb < MINIMUM_DISK_GB:
        return [
            Finding(
                "disk",
                "error",
                f"{free_gb:.1f} GB free at {folder}, needed: {MINIMUM_DISK_GB} GB",
                "free some space, or move the nnU-Net folders to another disk",
            )
        ]
    return [Finding("disk", "ok", f"{free_gb:.0f} GB free at {folder}")]


def check_cache(at: Surroundings) -> list[Finding]:
    """The folder of the user's caches is writable."""
    cache = user_cache(at.environ)
    remedy = "export XDG_CACHE_HOME=WRITABLE_FOLDER; until then, run keeps Snakemake's cache in the experiment's folder"
    if cache is None:
        return [Finding("cache", "warning", "unknown: HOME is not set, and this user has no home folder", remedy)]
    try:
        with tempfile.TemporaryFile(dir=_nearest_existing(cache)):
            return [Finding("cache", "ok", str(cache))]
    except OSError as error:
        return [Finding("cache", "warning", f"{cache} is not writable ({error.strerror})", remedy)]


def check_registration(at: Surroundings) -> list[Finding]:
    """nnU-Net finds our classes, by registration or by its variable for external trainers.

    Read-only folders, into which nothing can be registered, are not an error, because there is another way.
    """
    if not at.shims:
        return []
    if _is_registered(at):
        return [Finding("registration", "ok", "trainers and planners registered")]
    found = ", ".join(f"{shim.path} is {shim.state}" for shim in at.shims if shim.state != "current")
    if _sees_ext_trainers(at):
        found += f"; {EXT_VARIABLE} makes the trainers available, not the planners"
    return [Finding("registration", _unregistered_level(at), found, _remedy(at))]


def check_trainer_lookup(at: Surroundings) -> list[Finding]:
    """nnU-Net resolves the name of a trainer to our class."""
    level: Level = "warning" if not _is_registered(at) and _is_read_only(at) else "error"
    return [_check_lookup(at, TRAINER, at.probe.trainer, at.probe.trainer_error, "hippo_nnunet.trainers.", level)]


def check_planner_lookup(at: Surroundings) -> list[Finding]:
    """nnU-Net resolves the name of a planner to our class, which it can only after registration."""
    level = "error" if _is_registered(at) else _unregistered_level(at)
    return [_check_lookup(at, PLANNER, at.probe.planner, at.probe.planner_error, "hippo_nnunet.planners.", level)]


def _check_lookup(at: Surroundings, name: str, found: str, error: str, package: str, level: Level) -> Finding:
    check = f"look-up of {name}"
    if at.probe.crash:
        return Finding(check, "error", f"cannot ask nnU-Net: {at.probe.crash}", "reinstall what that error names")
    if not found:
        reinstall = f"reinstall hippo_nnunet and '{NNUNET_REQUIREMENT}'"
        return Finding(check, level, error, reinstall if _is_registered(at) else _remedy(at))
    if not found.startswith(package):
        return Finding(check, "error", f"{found} has the same name", "rename or remove that class")
    return Finding(check, "ok", found)


def check_accelerator(at: Surroundings) -> list[Finding]:
    """Torch can use a GPU."""
    if at.probe.accelerator:
        return [Finding("GPU", "ok", at.probe.accelerator)]
    if at.probe.crash:
        return [Finding("GPU", "warning", "unknown: torch could not be imported", "fix the look-up first")]
    if at.probe.cuda_build:
        found, remedy = f"none that torch (CUDA {at.probe.cuda_build}) can use", "check the driver with nvidia-smi"
    else:
        found, remedy = "none: this torch is built for the CPU", "see https://pytorch.org/get-started/locally/"
    return [Finding("GPU", "warning", found, f"{remedy}; without a GPU use --device cpu")]


def check_compiler(at: Surroundings) -> list[Finding]:
    """torch.compile, which nnU-Net uses on CUDA unless told otherwise, finds a C compiler and Python's headers."""
    setting = at.environ.get("nnUNet_compile", "true").lower()
    if at.compiler and at.python_headers:
        return [Finding("C compiler", "ok", at.compiler)]
    found = f"{at.compiler}, but no Python.h" if at.compiler else "none"
    if setting not in ("true", "1", "t"):
        return [Finding("C compiler", "ok", f"{found}; not needed with nnUNet_compile={setting}")]
    package = "python3-dev" if at.compiler else "gcc"
    needed = "needed by torch.compile" if at.probe.cuda_build else "needed by torch.compile on a GPU only"
    level: Level = "error" if at.probe.accelerator and at.probe.cuda_build else "warning"
    return [Finding("C compiler", level, f"{found}; {needed}", f"install {package}, or export nnUNet_compile=f")]


def check_machine(at: Surroundings) -> list[Finding]:
    """Memory and CPU cores suffice for the data pipeline."""
    memory = Finding("memory", "ok", f"{at.memory_gb:.1f} GB free")
    if at.memory_gb < MINIMUM_MEMORY_GB:
        memory = Finding(
            "memory",
            "warning",
            f"{at.memory_gb:.1f} GB free, recommended: {MINIMUM_MEMORY_GB} GB",
            "close programs, or use the preset laptop and export nnUNet_n_proc_DA=2",
        )
    cores = Finding("CPU", "ok", f"{at.cpus} cores")
    if at.cpus < 2:
        cores = Finding(
            "CPU", "warning", "1 core, shared by data loading and training", "train with nnUNet_n_proc_DA=0"
        )
    return [memory, cores]


CHECKS: tuple[Callable[[Surroundings], list[Finding]], ...] = (
    check_python,
    check_torch,
    check_nnunet,
    check_packaged_model,
    check_folders,
    check_disk,
    check_cache,
    check_registration,
    check_trainer_lookup,
    check_planner_lookup,
    check_accelerator,
    check_compiler,
    check_machine,
)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 8, 1) for 2.8.1+cpu or 2.8.1rc1."""
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _nearest_existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _is_registered(at: Surroundings) -> bool:
    return bool(at.shims) and all(shim.state == "current" for shim in at.shims)


def _is_read_only(at: Surroundings) -> bool:
    folders = {shim.path.parent for shim in at.shims if shim.state != "current"}
    return any(folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK) for folder in folders)


def _unregistered_level(at: Surroundings) -> Level:
    return "warning" if _sees_ext_trainers(at) or _is_read_only(at) else "error"


def _remedy(at: Surroundings) -> str:
    return WITHOUT_REGISTRATION if _is_read_only(at) else "hippo-nnunet register"


def _sees_ext_trainers(at: Surroundings) -> bool:
    return str(EXT_TRAINERS) in at.environ.get(EXT_VARIABLE, "").split(os.pathsep)
