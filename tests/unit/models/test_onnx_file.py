"""ONNX files of others: each way to harm a reader is refused in one line, before onnxruntime sees the file."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from model_forge import DATASET, DESCRIPTION, PLANS
from onnx import TensorProto, helper, numpy_helper

from hippo_nnunet.errors import ConfigError, DataError, DependencyError, UpstreamError
from hippo_nnunet.inference.batched_predictor import BatchedPredictor
from hippo_nnunet.inference.members import find_members
from hippo_nnunet.inference.onnx_network import OnnxNetwork, allowed_threads
from hippo_nnunet.inference.onnx_predict import OnnxOptions, predict_onnx
from hippo_nnunet.inference.openvino_use import WORTH_VOXELS
from hippo_nnunet.inference.sliding_window import PreprocessedImage
from hippo_nnunet.models import onnx_file
from hippo_nnunet.models.container import open_container
from hippo_nnunet.models.onnx_file import KEY, VERSION, open_onnx, parse_onnx, with_document
from hippo_nnunet.models.onnx_graph import OPSET, metadata

HASHES = {"0": "0" * 64}
Change = Callable[[Any], object]


def unchanged(_: Any) -> None:
    pass


WEIGHTS = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)


def graph(change: Change = unchanged, patch: tuple[int, ...] = (16, 16), weights: Any = WEIGHTS) -> bytes:
    """A model of one convolution, from 1 channel to 3 heads."""
    around = [weights.shape[-1] // 2] * 4
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["patches", "w"], ["logits"], name="conv", pads=around)],
            "tiny",
            [helper.make_tensor_value_info("patches", TensorProto.FLOAT, ["batch", 1, *patch])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3, *patch])],
            [numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    change(model)
    return bytes(model.SerializeToString())


def file(content: bytes | None = None, **changed: Any) -> bytes:
    """The bytes of a right file; keywords replace entries of the document."""
    exported = graph() if content is None else content
    made = with_document(exported, DESCRIPTION, PLANS, DATASET, HASHES)
    if not changed:
        return made
    document = json.loads(made[made.index(b'{\n "format"') :])
    return exported + metadata(KEY, json.dumps(document | changed).encode())


def refuse(tmp_path: Path, content: bytes, message: str) -> None:
    """Reader and prediction refuse the file in one line that names it, and write nothing."""
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    for read in (lambda: open_onnx(path), lambda: predict_onnx(tmp_path / "images", tmp_path / "out", [path])):
        with pytest.raises(DataError, match=message) as error:
            read()
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [path]


def test_a_right_file_is_read_and_computes(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(file())
    model = open_onnx(path)
    assert model.mirroring_axes == (0, 1)
    assert model.labels.heads == 3
    assert model.checkpoints == HASHES
    assert model.configuration["patch_size"] == [16, 16]
    onnx.checker.check_model(onnx.load(path))
    image = np.random.default_rng(0).normal(size=(1, 2, 17, 9)).astype(np.float32)
    logits = OnnxNetwork(model).predict(image)
    np.testing.assert_allclose(logits, image * np.arange(3)[:, None, None, None], rtol=1e-6)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("shape", [(2, 9, 20), (3, 41, 16)])
def test_windows_and_mirroring_are_those_of_torch(tmp_path: Path, mirror: bool, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    weights, image = (rng.normal(size=size).astype(np.float32) for size in ((3, 1, 3, 3), (1, *shape)))
    network = torch.nn.Conv2d(1, 3, 3, padding=1, bias=False)
    network.weight.data = torch.from_numpy(weights)
    predictor = BatchedPredictor(torch.device("cpu"), mirror, "torch")
    plans: Any = SimpleNamespace(get_label_manager=lambda _: SimpleNamespace(num_segmentation_heads=3))
    configuration: Any = SimpleNamespace(patch_size=[16, 16])
    predictor.manual_initialization(network, plans, configuration, None, {}, "UNetTrainer", (0, 1))
    expected = predictor.predict_image(PreprocessedImage(torch.from_numpy(image)))
    model = parse_onnx(tmp_path, file(graph(weights=weights)))
    found = OnnxNetwork(model, mirror).predict(image)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    other = OnnxNetwork(model, not mirror).predict(image)
    assert np.abs(other - expected.numpy()).max() > 0.1


needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


def network_and_image() -> tuple[OnnxNetwork, Any]:
    rng = np.random.default_rng(1)
    weights, image = (rng.normal(size=size).astype(np.float32) for size in ((3, 1, 3, 3), (1, 40, 41, 16)))
    return OnnxNetwork(parse_onnx(Path("m.onnx"), file(graph(weights=weights)))), image


@needs_openvino
def test_openvino_computes_the_same_for_any_batch() -> None:
    network, image = network_and_image()
    before = network.predict(image)
    network.choose("openvino", 1)
    assert network._compute != network._onnxruntime
    np.testing.assert_allclose(network.predict(image), before, atol=1e-5)


@needs_openvino
def test_auto_takes_openvino_for_many_voxels_only() -> None:
    network, _ = network_and_image()  # with four mirrored copies
    network.choose("auto", WORTH_VOXELS // 4 - 1)
    network.choose("onnxruntime", WORTH_VOXELS)
    assert network._compute == network._onnxruntime
    network.choose("auto", WORTH_VOXELS // 4)
    assert network._compute != network._onnxruntime


@needs_openvino
@pytest.mark.parametrize(
    ("compiled", "message"),
    [
        (lambda patches: np.repeat(patches, 3, axis=1), "its logits differ from onnxruntime's by"),
        (lambda patches: np.repeat(patches * np.nan, 3, axis=1), "its logits differ from onnxruntime's by nan"),
        (None, "it cannot compute the graph"),
    ],
)
def test_openvino_is_not_used_where_it_fails(
    compiled: Any, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network, _ = network_and_image()
    monkeypatch.setattr("hippo_nnunet.inference.openvino_graph.compile_graph", lambda *_: compiled)
    with caplog.at_level(logging.WARNING):
        network.choose("auto", WORTH_VOXELS)
    assert f"OpenVINO is not used: {message}" in caplog.text
    assert network._compute == network._onnxruntime
    with pytest.raises(UpstreamError, match=f"{message}.*; predict with --backend onnxruntime"):
        network.choose("openvino", 1)


def test_backends_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"'torch' is none for an ONNX file.*one of auto, onnxruntime, openvino"):
        predict_onnx(tmp_path, tmp_path / "out", [], OnnxOptions(backend="torch"))
    monkeypatch.setattr("hippo_nnunet.inference.openvino_use.find_spec", lambda _: None)
    with pytest.raises(DependencyError, match=r"pip install 'openvino.*', or --backend onnxruntime"):
        predict_onnx(tmp_path, tmp_path / "out", [], OnnxOptions(backend="openvino"))


def test_threads_are_the_cpus_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hippo_nnunet.inference.onnx_network.cpu_count", lambda: 4)
    for value, threads in (("2", 2), ("9", 4), ("0", 4), ("", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert allowed_threads() == threads


def test_regions_are_read_without_torch(tmp_path: Path) -> None:
    regions = {"labels": {"background": 0, "whole": [1, 2], "a": 2, "ignore": 3}, "regions_class_order": [1, 2]}
    path = tmp_path / "m.onnx"
    path.write_bytes(file(dataset={**DATASET, **regions}))
    assert open_onnx(path).labels.regions == ((1, 2), (2,))
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from hippo_nnunet.evaluation.labels import named_labels\n"
        "from hippo_nnunet.inference.onnx_predict import open_onnx\n"
        "names, ignore = named_labels(open_onnx(Path(sys.argv[1])).dataset_json)\n"
        "print(names, ignore, *sorted({'torch', 'nnunetv2', 'onnx', 'scipy.ndimage'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'whole': (1, 2), 'a': 2} 3"


def external(model: Any) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="../secret")


def elsewhere(model: Any) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def in_attribute(model: Any) -> None:
    tensor = TensorProto(name="t", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def looping(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", [""], ["x"], body=body))


def with_subgraph(model: Any) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "body", [], [])))


def calling(model: Any) -> None:
    model.functions.add(name="f", domain="own")


def sparse(model: Any) -> None:
    model.graph.sparse_initializer.add()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "weights in another file"),
        (elsewhere, "weights in another file"),
        (in_attribute, "weights in another file"),
        (looping, "the operator 'Loop'"),
        (with_subgraph, "an attribute holds field 6"),
        (calling, "the model holds field 25"),
        (sparse, "the graph holds field 15"),
        (lambda model: setattr(model.graph.node[0], "op_type", "PyOp"), "the operator 'PyOp'"),
        (lambda model: setattr(model.graph.node[0], "domain", "com.microsoft"), "domain 'com.microsoft'"),
        (lambda model: model.opset_import.append(helper.make_opsetid("own", 1)), "domain 'own'"),
        (lambda model: setattr(model.opset_import[0], "version", 3), "operators of version 3"),
        (lambda model: setattr(model.graph.node[0], "doc_string", "/a/path.py"), "a node holds field 6"),
    ],
)
def test_graphs_that_reach_out_are_refused(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        with_document(graph(change), DESCRIPTION, PLANS, DATASET, HASHES)
    made = file()
    refuse(tmp_path, graph(change) + made[len(graph()) :], message)


def test_a_second_graph_or_document_is_refused(tmp_path: Path) -> None:
    refuse(tmp_path, graph() + file(), "2 graphs, expected 1")
    refuse(tmp_path, file() + metadata(KEY, b"{}"), "metadata 'hippo_nnunet' is there twice")


def test_damage_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = file()
    refuse(tmp_path, b"", "0 graphs")
    refuse(tmp_path, made[:-1], "truncated")
    refuse(tmp_path, made[:40], "truncated")
    refuse(tmp_path, b"PK\x03\x04" + made, "not a readable ONNX file")
    flipped = bytearray(made)
    flipped[made.index(np.float32(2).tobytes())] ^= 1
    refuse(tmp_path, bytes(flipped), "its graph has SHA-256")
    monkeypatch.setattr(onnx_file, "LARGEST", 100)
    refuse(tmp_path, made, f"has {len(made)} bytes, an ONNX file at most 100")


def test_every_truncation_and_byte_is_survived(tmp_path: Path) -> None:
    """Whatever the damage: a message, or a file that says the same."""
    made, rng = file(), np.random.default_rng(0)
    expected = onnx_file.parse_onnx(tmp_path, made)
    for _ in range(300):
        damaged = bytearray(made)
        damaged[rng.integers(len(made))] = rng.integers(256)
        del damaged[len(made) - rng.integers(2) * rng.integers(len(made)) :]
        try:
            found = onnx_file.parse_onnx(tmp_path, bytes(damaged))
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert found.labels.heads == expected.labels.heads


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no metadata 'hippo_nnunet', so labels and preprocessing are unknown"),
        (metadata("other", b"{}"), "has no metadata 'hippo_nnunet'"),
        (metadata(KEY, b"{"), "is not JSON"),
        (metadata(KEY, b"[1]"), "does not say 'hippo_nnunet onnx model'"),
        (metadata(KEY, b"[" * 100_000), "is not JSON"),
        (metadata(KEY, b"\xff"), "is not JSON"),
    ],
)
def test_files_without_a_document_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    refuse(tmp_path, graph() + content, message)


def changed(source: dict[str, Any], **entries: Any) -> dict[str, Any]:
    return copy.deepcopy(source) | entries


def configured(**entries: Any) -> dict[str, Any]:
    made = copy.deepcopy(PLANS)
    made["configurations"]["2d"] |= entries
    return made


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": "other"}, "does not say"),
        ({"format_version": VERSION + 1}, "is of version 2 of the format, .* update it with pip"),
        ({"format_version": "1"}, "does not say"),
        ({"model": None}, "metadata model is 'None'"),
        ({"model": changed(DESCRIPTION, folds=[])}, "folds is"),
        ({"model": changed(DESCRIPTION, mirroring_axes=[2])}, "mirroring_axes is"),
        ({"model": changed(DESCRIPTION, configuration="3d")}, "no configuration '3d'"),
        (
            {"model": changed(DESCRIPTION, trainer="CLIPGuidedUNetTrainer", clip={"name": "m", "sha256": "0" * 64})},
            "guided by a CLIP encoder",
        ),
        ({"model": changed(DESCRIPTION, trainer="UNetTrainer_5slices_fast")}, "sees adjacent slices"),
        ({"plans": configured(spacing=[0, 1])}, "spacing is"),
        ({"plans": configured(patch_size=[10**6, 10**6])}, "patch_size is"),
        (
            {"plans": configured(resampling_fn_data="resample_torch_fornnunet", resampling_fn_data_kwargs={})},
            "resampling_fn_data is resample_torch",
        ),
        ({"plans": configured(normalization_schemes=["Evil"])}, "normalization_schemes is 'Evil'"),
        ({"plans": configured(previous_stage="2d")}, "second stage of a cascade"),
        ({"plans": changed(PLANS, image_reader_writer="SimpleITKIOWithReorient")}, "image_reader_writer is"),
        ({"dataset": changed(DATASET, labels={"background": 0, "a": 2})}, "not consecutive"),
        ({"dataset": changed(DATASET, labels={"background": 0, "a": [1, 2], "b": 2})}, "regions_class_order"),
        ({"dataset": changed(DATASET, file_ending=".png")}, "file_ending is"),
        ({"postprocessing": "largest_foreground"}, "postprocessing is 'largest_foreground', expected 'none'"),
        ({"checkpoints": {"0": "0"}}, "checkpoints does not give"),
        ({"checkpoints": {"1": "0" * 64}}, "checkpoints does not give"),
        ({"graph_sha256": "0" * 64}, "its graph has SHA-256"),
    ],
)
def test_every_entry_is_checked(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    refuse(tmp_path, file(**entries), message)


def test_a_graph_that_does_not_fit_its_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(file(graph(patch=(8, 16))))
    with pytest.raises(DataError, match=r"m\.onnx: its graph has .*\[1, 8, 16\].*, its metadata .*\[1, 16, 16\]"):
        OnnxNetwork(open_onnx(path))
    path.write_bytes(file(graph(lambda model: model.graph.node[0].input.append("missing"))))
    with pytest.raises(DataError, match=r"m\.onnx: onnxruntime refuses its graph"):
        OnnxNetwork(open_onnx(path))


def test_files_that_are_not_there_and_mixtures_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(DataError, match="no such file"):
        open_onnx(path)
    path.write_bytes(file())
    with pytest.raises(ConfigError, match="together with ONNX files only"):
        find_members([path], None, "checkpoint_final.pth")
    with pytest.raises(DataError, match="an ONNX file, which only 'predict' reads"):
        open_container(path)
    with pytest.raises(ConfigError, match="is given twice"):
        predict_onnx(tmp_path, tmp_path / "out", [path, path])
