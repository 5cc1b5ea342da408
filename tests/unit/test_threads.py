"""How the number of threads follows the load, on a simulated machine: its clock, counters and steps."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hippo_nnunet import threads
from hippo_nnunet.threads import AdaptiveThreads, CpuTimes, read_cpu_times

ALONE_S, ONE_THREAD_S, SPINNING_S = 0.084, 0.140, 3.67
"""A step on two cores as measured: alone, with one thread, and with two threads beside a busy process."""
TICK_S = 0.01


class Machine:
    """Cores with a load by other programs that may change over time, and steps that suffer from it."""

    def __init__(self, cores: int = 2, load: Callable[[float], float] = lambda now: 0.0) -> None:
        self.cores, self.load = cores, load
        self.now = self.busy = self.own = 0.0
        self.readable = True
        self.looks = 0
        self.lines: list[str] = []

    def clock(self) -> float:
        return self.now

    def read(self) -> CpuTimes | None:
        self.looks += 1
        return CpuTimes(self.busy // TICK_S * TICK_S, self.own) if self.readable else None

    def run(self, seconds: float, own_threads: int) -> None:
        others = min(self.load(self.now), self.cores - 0.5 * own_threads)
        own = min(own_threads, self.cores - others)
        self.now, self.own, self.busy = (
            self.now + seconds,
            self.own + own * seconds,
            self.busy + (own + others) * seconds,
        )

    def step_seconds(self, number: int) -> float:
        """A step beside so much load: it spins where the threads do not all find a free core."""
        if number > 1 and number > self.cores - self.load(self.now) + 0.05:
            return SPINNING_S
        return ONE_THREAD_S if number == 1 else ALONE_S * self.cores / number

    def steps(
        self, adapter: AdaptiveThreads, until_s: float, extra: Callable[[int], float] = lambda i: 0.0
    ) -> list[int]:
        """Step until this time; returns the number of threads of each step."""
        numbers = []
        for i in itertools.count():
            if self.now >= until_s:
                return numbers
            with adapter.step("training"):
                number = torch.get_num_threads()
                self.run(self.step_seconds(number) + extra(i), number)
            numbers.append(number)
        raise AssertionError


@pytest.fixture(autouse=True)
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.setattr(threads, "usable_cpus", lambda: [0, 1])


def adapter_on(machine: Machine, device: str = "cpu", fixed: bool = False) -> AdaptiveThreads:
    return AdaptiveThreads(torch.device(device), fixed, machine.lines.append, machine.read, machine.clock)


def test_alone_nothing_changes_and_looks_are_rare() -> None:
    machine = Machine(load=lambda now: 0.08)
    with adapter_on(machine) as adapter:
        numbers = machine.steps(adapter, 100)
    assert set(numbers) == {2}
    assert machine.lines == []
    assert machine.looks <= 100 / threads.LOOK_EVERY_S + 1


def test_a_busy_process_costs_one_slow_step_and_its_end_is_noticed() -> None:
    machine = Machine(load=lambda now: 1.0 if 10 <= now < 60 else 0.0)
    with adapter_on(machine) as adapter:
        machine.steps(adapter, 10)
        beside = machine.steps(adapter, 60)
        assert sum(number == 2 for number in beside) == 1
        assert (50 / len(beside)) < 2 * ALONE_S, "at most twice as long as alone"
        after = machine.steps(adapter, 70)
        assert after[-1] == 2
        assert sum(number == 1 for number in after) < 20
    assert len(machine.lines) == 2
    assert machine.lines[0].startswith("CPU threads: 2 -> 1, as ")
    assert machine.lines[1].startswith("CPU threads: 1 -> 2, as ")


def test_a_load_that_is_there_from_the_start_costs_no_slow_step() -> None:
    machine = Machine(load=lambda now: 1.0)
    adapter = adapter_on(machine)
    machine.run(5, 1)  # imports, data
    with adapter:
        assert set(machine.steps(adapter, 20)) == {1}
        assert adapter.current == 1
    assert torch.get_num_threads() == 2, "the limit is restored"


def test_a_light_load_is_found_by_its_slow_steps() -> None:
    machine = Machine(load=lambda now: 0.3 if now >= 5 else 0.0)
    with adapter_on(machine) as adapter:
        machine.steps(adapter, 5)
        assert set(machine.steps(adapter, 60)[2:]) == {1}


def test_raising_too_early_backs_off() -> None:
    """The other program pauses for two of every four seconds."""
    machine = Machine(load=lambda now: 1.0 if now % 4 < 2 else 0.0)
    with adapter_on(machine) as adapter:
        machine.steps(adapter, 400)
        slow = sum("-> 1" in line for line in machine.lines)
    assert 3 <= slow <= 15


def test_a_slow_step_of_an_idle_machine_changes_nothing() -> None:
    machine = Machine()
    with adapter_on(machine) as adapter:
        numbers = machine.steps(adapter, 60, extra=lambda i: 5.0 if i == 50 else 0.0)
    assert set(numbers) == {2}


def test_without_counters_slow_steps_decide_and_tries_become_rare() -> None:
    machine = Machine(load=lambda now: 1.0 if now >= 5 else 0.0)
    machine.readable = False
    with adapter_on(machine) as adapter:
        machine.steps(adapter, 5)
        numbers = machine.steps(adapter, 605)
    spinning = sum(number == 2 for number in numbers)
    assert 2 <= spinning <= 15
    assert 600 / len(numbers) < 2 * ALONE_S


def test_counters_that_stand_still_are_no_idle_machine() -> None:
    machine = Machine(load=lambda now: 1.0 if now >= 5 else 0.0)
    reading = machine.read

    def standing() -> CpuTimes | None:
        times = reading()
        return times and CpuTimes(0.0, times.own_s)

    with AdaptiveThreads(
        torch.device("cpu"), report=machine.lines.append, read=standing, clock=machine.clock
    ) as adapter:
        machine.steps(adapter, 30)
        assert "1 -> 2, as trying again" in "".join(machine.lines)
        assert adapter.current == 1


def test_on_many_cores_the_free_ones_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cpus", lambda: list(range(16)))
    torch.set_num_threads(16)
    machine = Machine(16, load=lambda now: 6.0 if 5 <= now < 20 else 0.0)
    with adapter_on(machine) as adapter:
        machine.steps(adapter, 5)
        assert set(machine.steps(adapter, 20)[1:]) == {10}
        machine.steps(adapter, 25)
        assert adapter.current == 16


def test_a_job_with_a_share_of_the_cores_keeps_it_beside_the_other_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cpus", lambda: list(range(4)))
    machine = Machine(4, load=lambda now: 2.0)
    with adapter_on(machine) as adapter:
        assert set(machine.steps(adapter, 20)) == {2}


def test_steps_are_compared_by_unit_and_by_kind() -> None:
    machine = Machine(load=lambda now: 0.2)
    with adapter_on(machine) as adapter:
        for amount, kind in [(1, "prediction"), (64, "prediction"), (1, "training"), (64, "prediction")]:
            with adapter.step(kind, amount):
                machine.run(0.05 * amount, 2)
        assert adapter.current == 2
        with adapter.step("prediction", 1):
            machine.run(0.5, 2)
        assert adapter.current == 1


@pytest.mark.parametrize(
    ("device", "fixed", "variable"), [("meta", False, ""), ("cpu", True, ""), ("cpu", False, "f"), ("cpu", False, "0")]
)
def test_it_can_be_off(device: str, fixed: bool, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(threads.VARIABLE, variable)
    machine = Machine(load=lambda now: 1.0)
    with adapter_on(machine, device, fixed) as adapter:
        assert set(machine.steps(adapter, 40)) == {2}
        assert adapter.current == 2
    assert machine.looks == 0


def test_the_limit_can_be_asked_for_within() -> None:
    machine = Machine(load=lambda now: 1.0)
    machine_adapter = adapter_on(machine)
    machine.run(5, 1)
    with machine_adapter as adapter:
        machine.steps(adapter, 6)
        with adapter.restored():
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == adapter.current == 1


def test_the_counters_of_this_system_tell_own_time_from_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    before = read_cpu_times()
    if before is None:
        pytest.skip("CPU times cannot be read here")
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        began = time.process_time()
        while time.process_time() - began < 0.3:
            pass
        after = read_cpu_times()
    finally:
        process.kill()
        process.wait()
    assert after is not None
    assert after.own_s - before.own_s == pytest.approx(0.3, abs=0.1)
    assert after.busy_s - before.busy_s > after.own_s - before.own_s - 0.05
    assert len(threads.usable_cpus()) <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/", {}, math.inf),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000", "cpu.max": "400000 100000"}, 1.5),
        ("0::/docker/host", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/../x", {"cpu.max": "300000 100000"}, 3.0),
        ("4:cpu,cpuacct:/a\n0::/", {"cpu,cpuacct/a/cpu.cfs_quota_us": "250000\n"}, 2.5),
        ("4:cpuacct,cpu:/", {"cpu/cpu.cfs_quota_us": "250000\n"}, 2.5),
        ("1:cpu:/docker/host", {"cpu/cpu.cfs_quota_us": "100000\n"}, 1.0),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1\n"}, math.inf),
        ("2:memory:/", {"memory/cpu.max": "1 1"}, math.inf),
        ("0::/", {"cpu.max": "odd"}, math.inf),
        ("odd", {"cpu.max": "1 1"}, math.inf),
    ],
)
def test_quota_of_a_control_group(groups: str, files: dict[str, str], quota: float, tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text(groups + "\n")
    for name, content in files.items():
        file = tmp_path / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.with_name("cpu.cfs_period_us").write_text("100000\n")
    assert threads.cpu_quota(tmp_path / "fs", tmp_path / "cgroup") == quota
    assert threads.cpu_quota(tmp_path / "fs", tmp_path / "missing") == math.inf


def test_cpus_by_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "usable_cpus", lambda: list(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for quota, expected in ((math.inf, 8), (16.0, 8), (2.5, 3), (2.0, 2), (0.1, 1)):
        monkeypatch.setattr(threads, "cpu_quota", lambda quota=quota: quota)
        assert threads.cpu_count() == expected
    torch.set_num_threads(4)
    threads.limit_threads()
    assert torch.get_num_threads() == 1
    torch.set_num_threads(4)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    threads.limit_threads()
    assert torch.get_num_threads() == 4
