"""The precision of a training: which one a device gets, and that half precision stays near to single."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hippo_nnunet.errors import ConfigError
from hippo_nnunet.training import precision
from hippo_nnunet.training.precision import autocast, exact_on_cpu, exact_outputs, half_precision
from hippo_nnunet.training.precision_choice import VARIABLE
from hippo_nnunet.training.step import EAGER, build, update

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(), nn.Conv2d(8, 3, 3)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(("fast", "half"), [(True, torch.bfloat16), (False, None)])
def test_a_processor_that_multiplies_in_bfloat16_does(
    monkeypatch: pytest.MonkeyPatch, fast: bool, half: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert half_precision(CPU) == half


def test_a_pytorch_that_cannot_tell_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert half_precision(CPU) is None


@pytest.mark.parametrize(("said", "half"), [("float32", None), ("bfloat16", torch.bfloat16)])
@pytest.mark.parametrize("fast", [True, False])
def test_the_variable_decides(monkeypatch: pytest.MonkeyPatch, said: str, half: torch.dtype | None, fast: bool) -> None:
    monkeypatch.setenv(VARIABLE, said)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: fast, raising=False)
    assert half_precision(CPU) == half
    assert precision.precision_name(half) == said


def test_the_variable_is_about_cpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "float32")
    assert half_precision(torch.device("cuda")) == torch.float16
    assert half_precision(torch.device("mps")) is None


def test_another_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "float16")
    with pytest.raises(ConfigError, match="HIPPO_PRECISION=float16: expected float32 or bfloat16"):
        half_precision(CPU)


def test_outputs_are_float32_while_asked_for() -> None:
    model, image = network(), torch.randn(2, 1, 8, 8)
    with autocast(CPU, torch.bfloat16):
        assert model(image).dtype == torch.bfloat16
        with exact_outputs(model):
            assert model(image).dtype == torch.float32
        assert model(image).dtype == torch.bfloat16
    with autocast(CPU, None):
        assert model(image).dtype == torch.float32
    deep = exact_on_cpu([torch.ones(2, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16)])
    assert [output.dtype for output in deep] == [torch.float32, torch.float32]


def test_a_step_in_bfloat16_goes_where_one_in_float32_goes() -> None:
    torch.manual_seed(1)
    image, target = torch.randn(8, 1, 16, 16), torch.randint(0, 3, (8, 14, 14))
    losses, moves = [], []
    for half in (None, torch.bfloat16):
        model = network()
        before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        with autocast(CPU, half):
            loss = build(model, nn.functional.cross_entropy, EAGER)(image, target)
        update(loss, model, torch.optim.SGD(model.parameters(), lr=1.0), None)
        assert loss.dtype == torch.float32
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
        losses.append(loss.item())
        moves.append(nn.utils.parameters_to_vector(model.parameters()).detach() - before)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert nn.functional.cosine_similarity(*moves, dim=0) > 0.999
