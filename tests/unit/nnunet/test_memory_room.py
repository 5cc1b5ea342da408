"""Whether the cases fit: the machine's memory, control groups, and what a refusal says."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hippo_nnunet import memory
from hippo_nnunet.errors import DataError, DependencyError
from hippo_nnunet.memory import free_memory
from hippo_nnunet.nnunet import memory_cases
from hippo_nnunet.nnunet.memory_cases import compact, load_bank, memory_shortfall


class Dataset:
    """What is used of nnU-Net's dataset."""

    source_folder = "preprocessed"

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        self.shapes = dict(zip("abcdef", shapes, strict=False))
        self.identifiers = list(self.shapes)

    def load_case(self, key: str) -> tuple:
        shape = self.shapes[key]
        if shape == ():
            raise RuntimeError("damaged")
        seg = np.zeros((1, *shape[1:]), np.int8)
        seg[0, 1, 1:3, 1] = 1
        locations = {1: np.insert(np.argwhere(seg[0] == 1), 0, 0, axis=1), 2: []}
        return np.full(shape, ord(key), np.float32), seg, None, {"class_locations": locations}


def write(folder, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))


def test_without_control_groups_the_machines_memory_counts(machine, tmp_path):
    assert free_memory(tmp_path / "none", tmp_path / "none") == 10_000


@pytest.mark.parametrize(
    ("limit", "parent", "free"), [("3000", "max", 1500), ("max", "2500", 700), ("max", "max", 10_000)]
)
def test_the_tightest_group_counts_and_page_cache_is_free(machine, tmp_path, limit, parent, free):
    groups, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("0::/job/step\n")
    write(
        groups / "job" / "step", memory__max=limit, memory__current="1700", memory__stat="anon 9\ninactive_file 200\n"
    )
    write(groups / "job", memory__max=parent, memory__current="1900", memory__stat="inactive_file 100\n")
    assert free_memory(groups, own) == free


def test_the_older_groups_are_read_too(machine, tmp_path):
    groups, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n")
    files = {
        "memory__limit_in_bytes": "4000",
        "memory__usage_in_bytes": "1000",
        "memory__stat": "total_inactive_file 50",
    }
    write(groups / "memory", **files)
    assert free_memory(groups, own) == 3050
    write(groups / "memory" / "docker" / "abc", **files | {"memory__usage_in_bytes": "4500"})
    assert free_memory(groups, own) == 0


def test_what_does_not_fit_is_refused_with_both_figures(monkeypatch):
    dataset = Dataset((2, 4, 5, 6), (2, 4, 5, 7))
    needed = 4 * 5 * 13 * (2 * 4 + 1)
    cpu = torch.device("cpu")
    monkeypatch.setattr(memory_cases, "free_memory", lambda: 2 * needed)
    assert memory_shortfall([dataset], cpu, label_bytes=1) is None
    monkeypatch.setattr(memory_cases, "free_memory", lambda: 2 * needed - 1)
    assert "GB, 50% of the free memory is" in str(memory_shortfall([dataset], cpu, label_bytes=1))
    assert memory_shortfall([dataset, dataset], cpu, label_bytes=1) is not None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * needed, 9 * needed))
    gpu = torch.device("cuda:0")
    assert memory_shortfall([dataset], gpu, label_bytes=1) is None
    assert "25% of the free memory of cuda:0" in str(memory_shortfall([dataset, dataset], gpu, label_bytes=1))


def test_cases_are_held_in_order_with_compact_locations():
    bank = load_bank(Dataset((2, 4, 5, 6), (2, 3, 4, 4)), torch.device("cpu"), torch.int8)
    assert [c.key for c in bank.cases] == ["a", "b"]
    assert [c.image.unique().tolist() for c in bank.cases] == [[97], [98]]
    assert bank.cases[0].labels.dtype == torch.int8 and bank.values == (-1, 0, 1)
    assert list(bank.cases[1].locations) == [1]
    assert bank.cases[1].locations[1].dtype == np.int16
    assert bank.cases[1].locations[1].tolist() == [[1, 1, 1], [1, 2, 1]]
    assert compact(np.array([[40000, 1, 1]]), (40001, 2, 2)).dtype == np.int32


def test_a_damaged_case_is_named():
    with pytest.raises(DataError, match=r"preprocessed case .b. cannot be read .*delete preprocessed"):
        load_bank(Dataset((1, 4, 5, 6), ()), torch.device("cpu"), torch.int16)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
            True,
        ),
        (RuntimeError("ITK ERROR: Image: Failed to allocate memory for image."), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("x.so: failed to map segment from shared object: Operation not permitted"), False),
        (RuntimeError("the axes are not orthonormal"), False),
        (OSError(28, "No space left on device"), False),
        (ValueError("memory"), False),
    ],
)
def test_what_means_that_memory_ran_out(error: Exception, expected: bool) -> None:
    assert memory.is_out_of_memory(error) is expected


def test_a_model_that_does_not_fit_is_not_called_damaged(tmp_path, monkeypatch):
    from hippo_nnunet.inference import loading
    from hippo_nnunet.inference.members import Member, load_member

    def fails(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loading, "load_model", fails)
    with pytest.raises(DependencyError, match=r"m: not enough memory, .* GiB are free: close other programs"):
        load_member(Member(tmp_path / "m", (0,), "checkpoint_final.pth", {}, {}), torch.device("cpu"), True)


def test_ulimit_counts(machine, tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    used = SimpleNamespace(memory_info=lambda: SimpleNamespace(vms=4000))
    monkeypatch.setattr(memory.psutil, "Process", lambda: used)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (7000, resource.RLIM_INFINITY))
    assert free_memory(tmp_path / "none", tmp_path / "none") == 3000
