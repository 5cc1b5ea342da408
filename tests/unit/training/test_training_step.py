"""The training step: which way of computing it is taken, and that none changes what is trained."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hippo_nnunet.training import step
from hippo_nnunet.training.step import COMPILE_VARIABLE, COMPILED, EAGER, build, fastest, on_device, update

COMPILED_CPU = COMPILED["cpu"][0]
MANY = 10**9


@pytest.fixture(autouse=True)
def no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMPILE_VARIABLE, raising=False)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 2, 1))


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 8, 8))


def pretend_compiler(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[str]:
    """Replace the compiler by one whose steps take as long as told; returns the modes it was asked for."""
    asked: list[str] = []

    def compiler(function: Callable[..., torch.Tensor], mode: str) -> Callable[..., torch.Tensor]:
        asked.append(mode)

        def slow(*arguments: Any) -> torch.Tensor:
            time.sleep(seconds)
            return function(*arguments)

        return slow

    monkeypatch.setattr(torch, "compile", compiler)
    return asked


def slow_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    time.sleep(0.05)
    return nn.functional.cross_entropy(output, target)


def test_a_slower_compiled_step_is_not_taken(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = pretend_compiler(monkeypatch, 0.5)
    assert fastest(network, slow_loss, *batch, MANY) is EAGER
    assert asked == ["default"]


def test_a_faster_compiled_step_is_taken(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiler(function: Callable[..., torch.Tensor], mode: str) -> Callable[..., torch.Tensor]:
        return lambda data, target: nn.functional.cross_entropy(network(data), target)

    monkeypatch.setattr(torch, "compile", compiler)
    assert fastest(network, slow_loss, *batch, MANY) is COMPILED_CPU


@pytest.mark.parametrize(("switch", "steps"), [("", step.WORTH_STEPS - 1), ("", step.WORTH_STEPS), ("f", MANY)])
def test_nothing_is_compiled_where_it_cannot_pay(
    network: nn.Module,
    batch: tuple[torch.Tensor, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    switch: str,
    steps: int,
) -> None:
    if switch:
        monkeypatch.setenv(COMPILE_VARIABLE, switch)
    asked = pretend_compiler(monkeypatch, 0)
    assert fastest(network, slow_loss, *batch, steps) is EAGER
    assert not asked


def test_nnunets_switch_compiles_a_short_training_too(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMPILE_VARIABLE, "True")
    asked = pretend_compiler(monkeypatch, 0)
    fastest(network, slow_loss, *batch, 1)
    assert asked


def test_a_broken_compiler_is_a_warning(
    network: nn.Module,
    batch: tuple[torch.Tensor, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no C compiler\nfound")

    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        assert fastest(network, slow_loss, *batch, MANY) is EAGER
    assert "no C compiler found" in caplog.text


def test_measuring_leaves_no_trace(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_compiler(monkeypatch, 0)
    noisy = nn.Sequential(network, nn.Dropout(0.5))
    weights = {name: value.clone() for name, value in noisy.state_dict().items()}
    random_state = torch.get_rng_state()
    fastest(noisy, slow_loss, *batch, MANY)
    assert all(torch.equal(value, weights[name]) for name, value in noisy.state_dict().items())
    assert all(parameter.grad is None for parameter in noisy.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_channels_last_computes_the_same_loss(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    loss = nn.functional.cross_entropy
    plain = build(network, loss, EAGER)(*batch)
    other = build(network, loss, step.StepMode("channels last", channels_last=True))(*batch)
    assert next(network.parameters()).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(plain, other, atol=1e-6)
    build(network, loss, EAGER)
    assert all(parameter.is_contiguous() for parameter in network.parameters())


def test_an_update_limits_the_gradient(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    loss = 1e6 * nn.functional.cross_entropy(network(batch[0]), batch[1])
    update(loss, network, optimizer, None)
    after = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    assert (after - before).norm() == pytest.approx(step.MAX_GRADIENT_NORM, rel=1e-3)


def test_on_device_takes_one_target_or_several(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    data, target = batch
    cpu = torch.device("cpu")
    assert on_device({"data": data, "target": target, "keys": ["a", "b"]}, cpu)[1] is target
    assert [t.shape for t in on_device({"data": data, "target": [target, target]}, cpu)[1]] == [target.shape] * 2
