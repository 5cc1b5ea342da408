"""The training step: which way of computing it is taken, and that none changes what is trained."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hippo_nnunet.training import step
from hippo_nnunet.training.step import (
    COMPILE_VARIABLE,
    EAGER,
    StepMode,
    build,
    fastest,
    step_modes,
    to_device,
    update,
    zero_momentum,
)

CPU = torch.device("cpu")
_, CHANNELS_LAST, COMPILED_CPU = step_modes(CPU)
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

    def compiler(
        function: Callable[..., torch.Tensor], mode: str = "default", options: dict[str, Any] | None = None
    ) -> Callable[..., torch.Tensor]:
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
    assert fastest(network, slow_loss, *batch, MANY).compiled is None
    assert asked == ["default"]


def test_a_faster_compiled_step_is_taken(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiler(
        function: Callable[..., torch.Tensor], mode: str = "default", options: dict[str, Any] | None = None
    ) -> Callable[..., torch.Tensor]:
        return lambda data, target: nn.functional.cross_entropy(network(data), target)

    monkeypatch.setattr(torch, "compile", compiler)
    assert fastest(network, slow_loss, *batch, MANY) is COMPILED_CPU


def test_channels_last_is_taken_only_if_it_is_clearly_faster(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    eager, last = 0.1, {"now": 0.098}
    monkeypatch.setattr(step, "_seconds", lambda _n, _l, mode, *_: last["now"] if mode.channels_last else eager)
    assert fastest(network, slow_loss, *batch, step.WORTH_STEPS) is EAGER
    last["now"] = 0.09
    assert fastest(network, slow_loss, *batch, step.WORTH_STEPS) is CHANNELS_LAST
    monkeypatch.setenv(COMPILE_VARIABLE, "f")
    assert fastest(network, slow_loss, *batch, MANY) is CHANNELS_LAST, "not compiled"
    assert fastest(network, slow_loss, *batch, step.WORTH_STEPS - 1) is EAGER, "not measured"


@pytest.mark.parametrize(
    ("switch", "steps"),
    [("", step.WORTH_STEPS - 1), ("", step.WORTH_STEPS), ("f", MANY), ("False", MANY), ("0", MANY)],
)
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
    assert fastest(network, slow_loss, *batch, steps).compiled is None
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
        assert fastest(network, slow_loss, *batch, MANY).compiled is None
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
    other = build(network, loss, CHANNELS_LAST)(*batch)
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


def test_measuring_does_not_accumulate_gradients(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA graphs overwrite the gradients that an earlier pass returned, so that adding to them raises."""
    pretend_compiler(monkeypatch, 0)
    before = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        before.append([parameter.grad for parameter in network.parameters()])
        return slow_loss(output, target)

    fastest(network, loss, *batch, MANY)
    assert len(before) > 2
    assert all(gradient is None for gradients in before for gradient in gradients)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize(("first", "second"), [(CHANNELS_LAST, EAGER), (EAGER, CHANNELS_LAST)])
def test_a_fused_optimiser_continues_in_another_memory_format(
    batch: tuple[torch.Tensor, torch.Tensor],
    kind: type[torch.optim.Optimizer],
    first: StepMode,
    second: StepMode,
) -> None:
    """On the CPU, fused kernels mix up the elements of tensors with different strides; on a GPU they raise."""
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    # without normalisation, whose zero gradients of the bias before it AdamW would blow up
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 2, 3, padding=1))

    def trained(second: StepMode, fused: bool) -> torch.Tensor:
        model = copy.deepcopy(network)
        optimizer = kind(model.parameters(), lr=0.1, fused=fused, **settings)  # type: ignore[call-arg]
        for mode in (first, second):
            forward_loss = build(model, nn.functional.cross_entropy, mode, optimizer)
            for parameter, state in optimizer.state.items():
                values = [v for v in state.values() if isinstance(v, torch.Tensor) and v.shape == parameter.shape]
                assert values
                assert all(value.stride() == parameter.stride() for value in values)
            for _ in range(2):
                optimizer.zero_grad()
                update(forward_loss(*batch), model, optimizer, None)
        return nn.utils.parameters_to_vector([parameter.contiguous() for parameter in model.parameters()])

    torch.testing.assert_close(trained(second, fused=True), trained(first, fused=False), rtol=1e-4, atol=1e-5)


def test_every_device_can_train_eagerly() -> None:
    for device in ("cpu", "cuda", "mps"):
        assert step_modes(torch.device(device))[0] is EAGER
    assert {mode.compiled for mode in step_modes(torch.device("cuda"))} == {None, "default", "reduce-overhead"}


def test_a_batch_has_one_target_or_several(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    data, target = batch
    assert to_device({"data": data, "target": target, "keys": ["a", "b"]}, CPU)[1] is target
    assert [t.shape for t in to_device({"data": data, "target": [target, target]}, CPU)[1]] == [target.shape] * 2


def test_a_first_step_that_overflows_leaves_fused_sgd_as_it_was(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """What the gradient scaler does in float16 on a GPU, here with a scale that overflows float32."""
    other = copy.deepcopy(network)
    weights = []
    for trained, fused in ((network, True), (other, False)):
        optimizer = torch.optim.SGD(trained.parameters(), 0.01, momentum=0.99, nesterov=True, fused=fused)
        if fused:
            zero_momentum(optimizer)
        before = [parameter.detach().clone() for parameter in trained.parameters()]
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-127)
        # memory that is freed with large numbers in it is what an unfilled buffer gets
        freed = [torch.full_like(parameter, 1e9) for parameter in trained.parameters() for _ in range(20)]
        del freed
        for number in range(4):
            optimizer.zero_grad(set_to_none=True)
            update(100 * nn.functional.cross_entropy(trained(batch[0]), batch[1]), trained, optimizer, scaler)
            if number == 0:
                assert all(torch.equal(b, p) for b, p in zip(before, trained.parameters(), strict=True))
        assert scaler.get_scale() == 1
        weights.append(torch.cat([parameter.detach().flatten() for parameter in trained.parameters()]))
    assert torch.allclose(*weights, atol=1e-5)
    assert not torch.allclose(weights[0], torch.cat([b.flatten() for b in before]), atol=1e-3)
