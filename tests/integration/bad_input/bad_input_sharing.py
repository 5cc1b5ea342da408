"""Bad input of `model export|verify|import`, `report`, `run --status` and the volumes of `predict`."""

from __future__ import annotations

import zipfile

from bad_input import Bad, Damage, World, gone, text

FILE = "{base}/a.hippo"
VERIFY = f"model verify {FILE} --device cpu"


def _shared(*names: str, manifest: str = "{}") -> Damage:
    """Write an archive that pretends to be a shared model."""

    def write(world: World) -> None:
        with zipfile.ZipFile(world.at(FILE), "w") as archive:
            archive.writestr("MANIFEST.json", manifest)
            for name in names:
                archive.writestr(name, "x")

    return write


ROWS = (
    Bad("shared model that is missing", VERIFY, (FILE + ": no such file", "model export")),
    Bad("shared model that is text", VERIFY, (FILE, "not a readable model file", "again"), (text(FILE, "hello"),)),
    Bad("shared model without a manifest", "model verify {zip}", ("{zip}: holds no MANIFEST.json", "model export")),
    Bad("shared model of an empty manifest", VERIFY, (FILE, "again"), (_shared(),)),
    Bad("shared model of a manifest that is none", VERIFY, (FILE, "again"), (_shared(manifest="["),)),
    Bad("shared model that leads out", VERIFY, (FILE, "again"), (_shared("../evil"),)),
    Bad("shared model with a pickle", VERIFY, (FILE, "again"), (_shared("weights.pth"),)),
    Bad(
        "shared model to import that is text",
        f"model import {FILE} --root {{root}}",
        (FILE, "again"),
        (text(FILE, "x"),),
    ),
    Bad(
        "model to share that is missing",
        "model export {base}/no --output {base}/a.hippo",
        ("model folder {base}/no is missing", "name a folder"),
    ),
    Bad(
        "model to share that is text",
        "model export {model} --output {base}/a.hippo",
        ("{model}", "cannot be loaded", "train it again"),
    ),
    Bad(
        "model to share to another ending",
        "model export {model} --output {base}/a.zip",
        ("{base}/a.zip", ".hippo file"),
    ),
    Bad("model to share in folds of words", "model export {model} --output {out} --folds x", ("0,1,2",), code=2),
    Bad("report of nothing", "report {base}/no", ("{base}/no", "experiment")),
    Bad(
        "report without metrics",
        "report {experiment}",
        ("per_case.csv is missing", "hippo-nnunet run"),
        (gone("{experiment}/metrics/per_case.csv"),),
    ),
    Bad(
        "report over another folder",
        "report {experiment} --output {predictions} --overwrite",
        ("{predictions}: holds 'phantom_901.nii.gz'", "choose another folder"),
    ),
    Bad("report of no case", "report {experiment} --cases 0", ("Invalid value for '--cases'",), code=2),
    Bad("status of a file", "run {zip} --status", ("{zip} is a file", "name the folder of an experiment")),
    Bad("status with a wish", "run {experiment} --status --variants UNet", ("--status takes no other option",), code=2),
    Bad("status on a device", "run {experiment} --status --device cpu", ("--status takes no other option",), code=2),
    Bad("JSON without status", "run {experiment} --json", ("--json goes with --status",), code=2),
    Bad(
        "calibration without volumes",
        "predict --input {images} --output {out} --model {model} --calibration none",
        ("--calibration", "it is for --volumes"),
        code=2,
    ),
    Bad(
        "volumes without a calibration",
        "predict --input {images} --output {out} --model {model} --volumes {base}/v.csv",
        ("--volumes with --model", "--calibration none"),
    ),
    Bad(
        "volumes that are there",
        "predict --input {images} --output {out} --model {model} --calibration none --volumes {zip}",
        ("{zip} exists already", "--overwrite"),
    ),
)
