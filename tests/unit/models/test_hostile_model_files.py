"""Files of others: each way to harm a reader is refused in one line, before anything is written."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_forge import DATASET, DESCRIPTION, PLANS, entries, forge, manifest, members, unpacked, weights, write
from safetensors.torch import save

from hippo_nnunet.errors import DataError
from hippo_nnunet.inference.loading import load_model_file
from hippo_nnunet.inference.predict import PredictOptions, predict
from hippo_nnunet.models.container import MANIFEST, MOST_MEMBERS, open_container, write_container
from hippo_nnunet.models.model_file import open_model
from hippo_nnunet.models.tensors import pack
from hippo_nnunet.sharing.installing import install_model

GOOD = members()
Forger = Callable[[Path], object]


def refuse(path: Path, message: str) -> None:
    """All three readers refuse the file with the same words, and write nothing."""
    folder = path.parent
    before = sorted(folder.rglob("*"))
    for read in (
        lambda: open_model(path),
        lambda: install_model(path, folder / "root"),
        lambda: predict(folder / "images", folder / "out", [path], PredictOptions(device="cpu")),
    ):
        with pytest.raises(DataError) as error:
            read()
        assert re.search(message, str(error.value)), str(error.value)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)
    assert sorted(folder.rglob("*")) == before


def test_a_right_file_is_read(tmp_path: Path) -> None:
    model = open_model(write(tmp_path / "m.hippo", GOOD))
    assert model.folder_name == "UNetTrainer_fast__TinyPlans__2d"
    loaded = load_model_file(model, model.folds)
    for name, tensor in weights().items():
        assert torch.equal(loaded["parameters"][0][name], tensor)


# -- the archive ------------------------------------------------------------------------------------------------------


def info(name: str, mode: int = 0o100644, **changed: Any) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system, made.external_attr = 3, mode << 16
    for key, value in changed.items():
        setattr(made, key, value)
    return made


def with_entry(name: str | zipfile.ZipInfo, content: bytes = b"x") -> Forger:
    """A right file with one more entry, which the manifest names as well."""
    plain = name if isinstance(name, str) else name.filename
    return lambda path: forge(path, [*entries(GOOD, manifest({**GOOD, plain: content})), (name, content)])


def with_bytes(old: bytes, new: bytes) -> Forger:
    """A right file with an entry READMEx evil, then some of its bytes changed."""

    def made(path: Path) -> None:
        with_entry("README.md#evil")(path)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return made


def with_header(field: int, value: int, width: str) -> Forger:
    """A right file whose first entry's record in the central directory is changed."""

    def made(path: Path) -> None:
        forge(path, entries(GOOD))
        content = bytearray(path.read_bytes())
        struct.pack_into(width, content, content.index(b"PK\x01\x02") + field, value)
        path.write_bytes(content)

    return made


def raw(content: bytes) -> Forger:
    return lambda path: path.write_bytes(content)


def with_manifest(content: bytes) -> Forger:
    return lambda path: forge(path, entries(GOOD, content))


def deflated(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries({**GOOD, "README.md": bytes(900_000)}):
            archive.writestr(name, content)


def size_of_all_lies(path: Path) -> None:
    """Every entry claims both sizes of 2 MiB, as if they shared their bytes."""
    forge(path, entries(GOOD))
    content = bytearray(path.read_bytes())
    for found in re.finditer(rb"PK\x01\x02", bytes(content)):
        struct.pack_into("<II", content, found.start() + 20, 2**18, 2**18)
    path.write_bytes(content)


MANIFEST_OF_GOOD = json.loads(manifest(GOOD))
ARCHIVES: dict[str, tuple[Forger, str]] = {
    "traversal": (with_entry("../evil"), "leads out of the file"),
    "traversal inside": (with_entry("weights/../../evil"), "leads out of the file"),
    "dot": (with_entry("./README.md"), "leads out of the file"),
    "absolute": (with_entry("/tmp/evil"), "leads out of the file"),
    "drive": (with_entry("C:evil"), "leads out of the file"),
    "backslash": (with_entry("..\\evil"), "leads out of the file"),
    "share": (with_entry("//host/share"), "leads out of the file"),
    "nul": (with_bytes(b"README.md#evil", b"README.md\0evil"), "leads out of the file"),
    "escape": (with_entry("\x1b[2Jx"), "leads out of the file"),
    "symbolic link": (with_entry(info("metrics/per_case.csv", 0o120777), b"/etc/passwd"), "is a link"),
    "fifo": (with_entry(info("metrics/per_case.csv", 0o010644)), "special file"),
    "device": (with_entry(info("metrics/per_case.csv", 0o020644)), "special file"),
    "folder": (with_entry("weights/", b""), "a folder"),
    "compressed": (deflated, "is compressed"),
    "bzip2": (with_header(10, 12, "<H"), "is compressed"),
    "encrypted": (with_header(8, 1, "<H"), "is encrypted"),
    "oversized": (with_entry("example/expected.json", bytes(2**26 + 1)), "at most 67108864 are allowed"),
    "oversized text": (lambda p: forge(p, entries({**GOOD, "README.md": bytes(2**20 + 1)})), "at most 1048576"),
    "declared size": (with_header(24, 7, "<I"), "is compressed"),
    "overlapping": (size_of_all_lies, "overlap"),
    "twice": (with_entry("README.md"), "is there twice"),
    "case": (with_entry("readme.md"), "differs from another in case only"),
    "unicode case": (with_entry("MANIFEST.JSON"), "differs from another in case only"),
    "many": (
        lambda p: forge(p, [*entries(GOOD), *((f"weights/fold_{n}.x", b"") for n in range(MOST_MEMBERS))]),
        "at most 64",
    ),
    "extra": (lambda p: forge(p, [*entries(GOOD), ("metrics/per_case.csv", b"")]), "is not in the manifest"),
    "missing": (lambda p: forge(p, entries(GOOD)[1:]), "in the manifest, but missing"),
    "pth": (with_entry("weights/fold_1.pth"), "a pickle can run code"),
    "pkl": (with_entry("weights/fold_1.PKL"), "a pickle can run code"),
    "script": (with_entry("trainers/evil.py"), "nothing that a model holds"),
    "manifest missing": (lambda p: forge(p, GOOD.items()), "holds no MANIFEST.json"),
    "manifest broken": (with_manifest(b"{"), "is not JSON"),
    "manifest deep": (with_manifest(b"[" * 200_000), "is not JSON"),
    "manifest a list": (with_manifest(b"[]"), "is not a JSON object"),
    "manifest without hash": (with_manifest(manifest(GOOD, members={"README.md": {"size": 1}})), "size and sha256"),
    "manifest names only": (with_manifest(manifest(GOOD, members=["README.md"])), "size and sha256"),
    "hash no hash": (
        with_manifest(manifest(GOOD, members={"README.md": {"size": 8, "sha256": "0" * 63}})),
        "no size and SHA-256",
    ),
    "size no number": (
        with_manifest(manifest(GOOD, members={"README.md": {"size": "8", "sha256": "0" * 64}})),
        "no size and SHA-256",
    ),
    "format": (with_manifest(manifest(GOOD, format="other")), "does not say"),
    "version zero": (with_manifest(manifest(GOOD, format_version=0)), "does not say"),
    "version true": (with_manifest(manifest(GOOD, format_version=True)), "does not say"),
    "future": (with_manifest(manifest(GOOD, format_version=2, new=[])), "version 2 of the format.*update"),
    "no zip": (raw(b"hello"), "not a readable model file"),
    "empty": (raw(b""), "not a readable model file"),
    "checkpoint": (lambda p: torch.save({"network_weights": {}}, p), "holds no MANIFEST.json.*model folder"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_is_refused(name: str, tmp_path: Path) -> None:
    make, message = ARCHIVES[name]
    path = tmp_path / "m.hippo"
    make(path)
    refuse(path, message)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.999])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    path = write(tmp_path / "m.hippo", GOOD)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refuse(path, "not a readable model file")


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("honest_checksum", [True, False])
def test_a_changed_member_is_refused(name: str, honest_checksum: bool, tmp_path: Path) -> None:
    """One bit of each member: with zip's own checksum left wrong, and made right."""
    changed = bytearray(GOOD[name])
    changed[len(changed) // 2] ^= 1
    path = tmp_path / "m.hippo"
    if honest_checksum:
        forge(path, entries({**GOOD, name: bytes(changed)}, manifest(GOOD)))
        refuse(path, "the manifest says")
        return
    content = forge(path, entries(GOOD)).read_bytes()
    assert content.count(GOOD[name]) == 1
    path.write_bytes(content.replace(GOOD[name], bytes(changed)))
    refuse(path, "Bad CRC-32|the manifest says")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.hippo", GOOD)
    container = open_container(path)
    write(path, {**GOOD, "README.md": b"# other\n"})
    with pytest.raises(DataError, match="has changed"):
        container.read("README.md")


def test_a_checkpoint_with_many_members_is_told_from_a_model(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_final.pth"
    torch.save({str(number): torch.ones(number + 1) for number in range(MOST_MEMBERS + 1)}, path)
    refuse(path, r"holds no MANIFEST.json.*a checkpoint \(.pth\) is given by the model folder around it")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        open_model(tmp_path / "none.hippo")


# -- what it says -----------------------------------------------------------------------------------------------------


def changed_plans(path: str, value: Any) -> bytes:
    """PLANS with one entry changed, named by its path from the configuration, or from the top after a slash."""
    plans = copy.deepcopy(PLANS)
    place: Any = plans if path.startswith("/") else plans["configurations"]["2d"]
    *way, last = path.strip("/").split(".")
    for step in way:
        place = place[step]
    place[last] = value
    return json.dumps(plans).encode()


def says(**changed: Any) -> dict[str, bytes]:
    return {"model": json.dumps({**DESCRIPTION, **changed}).encode()}


def plans(path: str, value: Any) -> dict[str, bytes]:
    return {"plans": changed_plans(path, value)}


def dropped(entry: str) -> dict[str, bytes]:
    changed = copy.deepcopy(PLANS)
    del changed["configurations"]["2d"][entry]
    return {"plans": json.dumps(changed).encode()}


def described(**changed: Any) -> dict[str, bytes]:
    return {"dataset": json.dumps({**DATASET, **changed}).encode()}


def labels(value: dict[str, Any]) -> dict[str, bytes]:
    return described(labels=value)


NETWORK = "architecture.network_class_name"
CONV = "architecture.arch_kwargs.conv_op"
CLASS = "nnU-Net would import and call it"
CONTENTS: dict[str, tuple[dict[str, bytes], str]] = {
    "os.system": (plans(NETWORK, "os.system"), CLASS),
    "through a module": (plans(NETWORK, "dynamic_network_architectures.architectures.unet.torch.load"), CLASS),
    "lower case": (plans(NETWORK, "dynamic_network_architectures.architectures.unet.np"), CLASS),
    "other package": (plans(NETWORK, "evil.PlainConvUNet"), CLASS),
    "look-alike": (plans(NETWORK, "dynamic_network_architectures_evil.architectures.unet.PlainConvUNet"), CLASS),
    "no text": (plans(NETWORK, ["os.system"]), CLASS),
    "layer": (plans(CONV, "os.system"), CLASS),
    "builtin": (plans(CONV, "builtins.eval"), CLASS),
    "torch.load": (plans(CONV, "torch.load"), CLASS),
    "torch.hub": (plans(CONV, "torch.hub.load"), CLASS),
    "further import": (plans("architecture._kw_requires_import", ["conv_bias"]), CLASS),
    "import of nothing": (plans("architecture._kw_requires_import", ["evil"]), "not nnU-Net's plans"),
    "reader": (plans("/image_reader_writer", "load_pickle"), "image_reader_writer is 'load_pickle'"),
    "label manager": (plans("/label_manager", "os"), "label_manager is 'os'"),
    "preprocessor": (plans("preprocessor_name", "load_pickle"), "preprocessor_name is 'load_pickle'"),
    "normalization": (plans("normalization_schemes", ["os"]), "normalization_schemes is 'os'"),
    "resampling": (plans("resampling_fn_data", "load_pickle"), "resampling_fn_data is 'load_pickle'"),
    "axes": (plans("/transpose_forward", [0, 1, 7]), "an order of the axes"),
    "patch": (plans("patch_size", [10**6, 10**6]), "patch_size"),
    "patch of text": (plans("patch_size", ["16", "16"]), "patch_size"),
    "spacing": (plans("spacing", [0, 1]), "spacing"),
    "channels": (plans("architecture.arch_kwargs.features_per_stage", [4, 10**9]), "has the number 1000000000"),
    "no configurations": (plans("/configurations", None), "not nnU-Net's plans"),
    "configuration missing": (says(configuration="3d_fullres"), "has no configuration '3d_fullres'"),
    "dataset's name": (plans("/dataset_name", "../../evil"), "dataset_name is '../../evil'"),
    "plans' name": (plans("/plans_name", "a/b"), "plans_name is 'a/b'"),
    "trainer's name": (says(trainer="../evil"), "trainer is '../evil'"),
    "trainer with a double underscore": (says(trainer="a__b"), "trainer is 'a__b'"),
    "trainer none": (says(trainer=None), "trainer is 'None'"),
    "unknown recipe": (says(trainer="UNetTrainer_magic"), "unknown word 'magic'"),
    "clip missing": (says(trainer="CLIPGuidedUNetTrainer_mini"), "clip does not give"),
    "no folds": (says(folds=[]), "folds is"),
    "fold's name": (says(folds=["../0"]), "folds is"),
    "fold twice": (says(folds=[0, 0]), "folds is"),
    "fold true": (says(folds=[True]), "folds is"),
    "fold missing": (says(folds=[0, 1]), "has no weights of fold 1"),
    "axes to mirror": (says(mirroring_axes=[5]), "mirroring_axes"),
    "third axis of a 2D patch": (says(mirroring_axes=[2]), "mirroring_axes"),
    "axis twice": (says(mirroring_axes=[0, 0]), "mirroring_axes"),
    "axis a float": (says(mirroring_axes=[0.0]), "mirroring_axes"),
    "axis true": (says(mirroring_axes=[True]), "mirroring_axes"),
    "axes of text": (says(mirroring_axes="01"), "mirroring_axes"),
    "no way back": (plans("/transpose_forward", [1, 2, 0]), "transpose_backward is .* does not undo"),
    "axes true": (plans("/transpose_forward", [False, True, 2]), "an order of the axes"),
    "axes missing": (plans("/transpose_backward", None), "an order of the axes"),
    "spacing empty": (plans("spacing", []), "spacing"),
    "spacing NaN": (plans("spacing", [1.0, math.nan]), "spacing"),
    "spacing true": (plans("spacing", [True, 1.0]), "spacing"),
    "normalization empty": (plans("normalization_schemes", []), "normalization_schemes"),
    "normalization of two channels": (plans("normalization_schemes", ["NoNormalization"] * 2), "use_mask_for_norm"),
    "mask of two channels": (plans("use_mask_for_norm", [False, False]), "use_mask_for_norm"),
    "CT without numbers": (plans("normalization_schemes", ["CTNormalization"]), "CTNormalization of channel 0 needs"),
    "no intensities": (plans("/foreground_intensity_properties_per_channel", {}), "of channel 0 needs"),
    "resampling's argument": (plans("resampling_fn_data_kwargs.evil", 1), "resampling_fn_data_kwargs has evil=1"),
    "resampling's order": (plans("resampling_fn_seg_kwargs.order", 10**9), "has order=1000000000"),
    "resampling's order true": (plans("resampling_fn_seg_kwargs.order", True), "has order=True"),
    "resampling's type": (plans("resampling_fn_data_kwargs.is_seg", "no"), "has is_seg=no"),
    "resampling missing": (dropped("resampling_fn_probabilities"), "has no resampling_fn_probabilities"),
    "spacing missing": (dropped("spacing"), "has no spacing"),
    "label below 0": (labels({"background": 0, "a": -1}), "label value -1"),
    "label above 16 bits": (labels({"background": 0, "a": 10**18}), "label value 1000000000000000000"),
    "label true": (labels({"background": 0, "a": True}), "label value True"),
    "label of text": (labels({"background": 0, "a": "1"}), "label value '1'"),
    "no background": (labels({"a": 1}), "background"),
    "labels with a gap": (labels({"background": 0, "a": 5}), "not consecutive"),
    "regions without order": (labels({"background": 0, "a": [1, 2], "b": 2}), "regions"),
    "channel of another name": (described(channel_names={"x": "MRI"}), "channel_names numbers"),
    "inherits from itself": (plans("inherits_from", "2d"), "inherits from itself"),
    "model.json broken": ({"model": b"{"}, "is not JSON"),
    "plans.json a list": ({"plans": b"[]"}, "is not a JSON object"),
    "plans.json no UTF-8": ({"plans": b"\xff"}, "is not JSON"),
    "ending": ({"dataset": json.dumps({**DATASET, "file_ending": ".exe"}).encode()}, "file_ending"),
    "channels missing": ({"dataset": json.dumps({**DATASET, "channel_names": {}}).encode()}, "channel_names"),
    "labels missing": ({"dataset": json.dumps({**DATASET, "labels": None}).encode()}, "labels"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_a_hostile_description_is_refused(name: str, tmp_path: Path) -> None:
    changed, message = CONTENTS[name]
    refuse(write(tmp_path / "m.hippo", members(weights=GOOD["weights/fold_0.safetensors"], **changed)), message)


# -- weights ----------------------------------------------------------------------------------------------------------


class Evil:
    """Its pickle leaves a file behind when it is loaded."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def with_tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> bytes:
    """Weights with one tensor changed, or left out; not through `pack`, which would refuse some itself."""
    changed = {key: tensor.clone() for key, tensor in weights().items()}
    made = change(changed.pop(name, torch.zeros(1)))
    return save({**changed, **({} if made is None else {name: made})})


BIAS = "decoder.seg_layers.0.bias"
WEIGHTS: dict[str, tuple[bytes, str]] = {
    "nan": (with_tensor(BIAS, lambda t: t * float("nan")), "NaN or infinite"),
    "infinite": (with_tensor(BIAS, lambda t: t + float("inf")), "NaN or infinite"),
    "missing": (with_tensor(BIAS, lambda t: None), f"weight {BIAS} is missing"),
    "more": (with_tensor("evil", lambda t: t), "weight evil is .* has missing"),
    "shape": (with_tensor(BIAS, lambda t: torch.zeros(7)), rf"weight {BIAS} is \[7\]"),
    "type": (with_tensor(BIAS, lambda t: t.double()), "torch.float64"),
    "alias": (save(weights_ := {k: t.clone() for k, t in weights().items()}, {"same_as": '{"a": "none"}'}), "no safet"),
    "aliases no JSON": (save(weights_, {"same_as": "{"}), "no safetensors"),
    "empty": (b"", "no safetensors"),
    "long header": (struct.pack("<Q", 2**60) + b"{}", "no safetensors"),
    "pickle": (pickle.dumps({"a": 1}, protocol=2), "a pickle, which can run code"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_hostile_weights_are_refused(name: str, tmp_path: Path) -> None:
    content, message = WEIGHTS[name]
    path = write(tmp_path / "m.hippo", members(weights=content))
    model = open_model(path)
    for read in (lambda: load_model_file(model, model.folds), lambda: install_model(path, tmp_path / "root")):
        with pytest.raises(DataError, match=message) as error:
            read()
        assert str(path) in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["m.hippo"]


def test_a_pickle_in_place_of_weights_runs_nothing(tmp_path: Path) -> None:
    canary, checkpoint = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save({"network_weights": Evil(canary)}, checkpoint)
    model = open_model(write(tmp_path / "m.hippo", members(weights=checkpoint.read_bytes())))
    with pytest.raises(DataError, match="a pickle, which can run code"):
        load_model_file(model, model.folds)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("architecture.arch_kwargs.n_stages", 3),
        ("architecture.arch_kwargs.n_stages", "2"),
        ("architecture.arch_kwargs.evil", 1),
        ("architecture.arch_kwargs.strides", [[1], [2, 2]]),
        ("architecture.arch_kwargs.kernel_sizes", [[3, 3], [0, 3]]),
        ("architecture.arch_kwargs.norm_op_kwargs", {"eps": "x"}),
        ("architecture.arch_kwargs.conv_op", "torch.nn.Identity"),
        ("architecture.arch_kwargs.nonlin", "torch.nn.Softplus"),
        ("patch_size", [15, 16]),
        ("patch_size", [16, 16, 16]),
    ],
)
def test_a_network_that_cannot_work_is_refused_before_anything_is_installed(
    entry: str, value: Any, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.hippo", members(plans=changed_plans(entry, value)))
    with pytest.raises(DataError, match=re.escape(str(path))):
        install_model(path, tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("path", ["torch.nn.Nothing", "torch.nn.modules.conv.Union", "torch.nn.modules.nothing.Conv2d"])
def test_a_layer_that_is_none_is_refused(path: str, tmp_path: Path) -> None:
    model = open_model(write(tmp_path / "m.hippo", members(plans=changed_plans(CONV, path))))
    with pytest.raises(DataError, match="is no network or layer that is installed here"):
        load_model_file(model, model.folds)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_the_same_members_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write(tmp_path / f"{n}.hippo", members()).read_bytes() for n in (1, 2))
    assert one == other
    assert unpacked(tmp_path / "1.hippo") == GOOD
    assert MANIFEST.encode() in one


def test_equal_tensors_are_stored_once() -> None:
    tensor = torch.arange(1000.0)
    assert len(pack({"a": tensor, "b": tensor.clone()})) < 1.1 * len(pack({"a": tensor}))


def test_a_file_is_not_replaced_nor_half_written(tmp_path: Path) -> None:
    path = write(tmp_path / "m.hippo", GOOD)
    before = path.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        write_container(path, {})

    def fail() -> bytes:
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left"):
        write_container(path, {"README.md": fail}, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
