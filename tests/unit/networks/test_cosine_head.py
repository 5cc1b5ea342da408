"""CosineHead: cosines in single precision, the start, and fewer rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.head import NNUNET, OURS, PLAIN, _Job, _measure, plain_cosine_logits
from hippo_nnunet.networks.cosine_head import NORM_FLOOR, CosineHead, text_coordinates


def unit_rows(n: int, dim: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return F.normalize(torch.randn(n, dim, dtype=dtype), dim=1)


def plain(head: CosineHead, features: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return plain_cosine_logits(features, head.weight, head.bias, text, scale)


def gradients(
    form: Callable[..., torch.Tensor],
    head: CosineHead,
    features: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor,
    gradient: torch.Tensor,
) -> list[torch.Tensor]:
    """Logits, and the gradients of features, weight, bias and scale."""
    features, scale = features.detach().requires_grad_(), scale.detach().requires_grad_()
    logits = form(head, features, text, scale)
    inputs = [features, head.weight, head.bias, scale]
    return [logits.detach(), *torch.autograd.grad(logits, inputs, gradient.to(logits.dtype))]


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    return ((value.double() - expected.double()).norm() / expected.double().norm()).item()


def errors(values: list[torch.Tensor], exact: list[torch.Tensor], gradient: torch.Tensor) -> list[float]:
    """Relative errors of what ``gradients`` returns; that of the scale, a sum of both signs, relative to its terms."""
    terms = (gradient * exact[0]).abs().sum() / 100
    scale_error = ((values[-1] - exact[-1]).abs() / terms).item()
    return [*(relative_error(a, b) for a, b in zip(values[:-1], exact[:-1], strict=True)), scale_error]


@pytest.mark.parametrize("size", [(9, 5), (4, 3, 3)], ids=["2d", "3d"])
def test_equals_convolutions_forward_and_backward(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head, text, scale = CosineHead(23, 64), unit_rows(3, 64), torch.tensor(100.0)
    features = F.leaky_relu(torch.randn(5, 23, *size))
    gradient = torch.randn(5, 3, *size)
    ours = gradients(CosineHead.forward, head, features, text, scale, gradient)
    exact = gradients(plain, head.double(), features.double(), text.double(), scale.double(), gradient)
    assert ours[0].shape == (5, 3, *size)
    assert all(value.dtype == torch.float32 for value in ours)
    assert max(errors(ours, exact, gradient)) < 1e-5  # what is asked for is 1e-4
    assert torch.allclose(ours[0].double(), exact[0], rtol=1e-4, atol=1e-3)  # logits reach 100


def test_gradients_in_double_precision() -> None:
    torch.manual_seed(0)
    head, text = CosineHead(4, 7, initial_norm=3.0).double(), unit_rows(3, 7, torch.float64)
    features = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)

    def logits(f: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(head, {"weight": weight, "bias": bias}, (f, text, s))

    assert torch.autograd.gradcheck(logits, (features, head.weight, head.bias, scale))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_is_single_precision_under_autocast(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head, text, scale = CosineHead(8, 32), unit_rows(3, 32), torch.tensor(100.0)
    features = torch.randn(2, 8, 4, 4).to(dtype)
    gradient = torch.randn(2, 3, 4, 4)

    def under_autocast(*arguments: Any) -> torch.Tensor:
        with torch.autocast("cpu", dtype=dtype):
            return CosineHead.forward(*arguments)

    ours = gradients(under_autocast, head, features, text, scale, gradient)
    exact = gradients(plain, head, features.float(), text, scale, gradient)
    assert ours[0].dtype == torch.float32 and ours[1].dtype == dtype
    found = errors(ours, exact, gradient)
    assert found.pop(1) < torch.finfo(dtype).eps  # the features' gradient: only the result is rounded
    assert max(found) < 1e-5


def test_large_half_precision_features_do_not_overflow() -> None:
    torch.manual_seed(0)
    head, text = CosineHead(8, 32), unit_rows(3, 32)
    features = (torch.randn(1, 8, 3, 3).sign() * 60000).half().requires_grad_()
    with torch.autocast("cpu", dtype=torch.float16):
        logits = head(features, text, torch.tensor(100.0))
    assert relative_error(logits, plain(head, features.float(), text, torch.tensor(100.0))) < 1e-5
    logits.square().mean().backward()
    assert features.grad is not None and features.grad.isfinite().all()


def test_any_memory_layout() -> None:
    torch.manual_seed(0)
    head, text, scale = CosineHead(6, 16), unit_rows(2, 16), torch.tensor(10.0)
    features = torch.randn(2, 6, 4, 5)
    gradient = torch.ones(()).expand(2, 2, 4, 5)
    expected = gradients(CosineHead.forward, head, features, text, scale, gradient)
    for other in (features.to(memory_format=torch.channels_last), features.mT.contiguous().mT):
        got = gradients(CosineHead.forward, head, other, text, scale, gradient)
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(got, expected, strict=True))


def test_norms_below_the_floor_are_raised_to_it() -> None:
    torch.manual_seed(0)
    head, text = CosineHead(3, 8).double(), unit_rows(2, 8, torch.float64)
    features = torch.randn(1, 3, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        head.bias.copy_(-head.weight @ features[0, :, 0, 0])  # no embedding there
        features[0, :, 1, 0] = features[0, :, 0, 0] + 1e-6  # and hardly any there
    size = torch.sqrt(head.weight.square().sum() + head.bias.square().sum()).item()

    def floored(head: CosineHead, f: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        e = torch.einsum("dc,bcyx->bdyx", head.weight, f) + head.bias[:, None, None]
        return scale * torch.einsum("kd,bdyx->bkyx", text, F.normalize(e, dim=1, eps=NORM_FLOOR * size))

    gradient, scale = torch.randn(1, 2, 2, 3), torch.tensor(10.0, dtype=torch.float64)
    ours = gradients(CosineHead.forward, head, features, text, scale, gradient)
    exact = gradients(floored, head, features, text, scale, gradient)
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-8) for a, b in zip(ours, exact, strict=True))
    single = gradients(CosineHead.forward, head.float(), features.float(), text.float(), scale.float(), gradient)
    assert all(value.isfinite().all() for value in single)
    assert single[0].abs().max() <= 10 * (1 + 1e-5)


def test_what_is_kept_for_the_backward_pass() -> None:
    """What the decoder's estimate of memory counts, and the logits."""
    kept: dict[int, torch.Size] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.shape
        return tensor

    head, text = CosineHead(4, 200, classes=3), unit_rows(3, 200)
    features = torch.randn(2, 4, 30, 30, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        head(features, text, torch.tensor(1.0, requires_grad=True))
    by_pixel = [shape[1] for shape in kept.values() if math.prod(shape[2:]) == 900]
    assert sorted(by_pixel) in ([1, 3, 4, head.rows], [1, 1, 3, 4, head.rows])


def test_no_embedding_at_all_gives_finite_numbers() -> None:
    head, text, scale = CosineHead(3, 8), unit_rows(2, 8), torch.tensor(10.0)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    values = gradients(CosineHead.forward, head, torch.zeros(1, 3, 2, 2), text, scale, torch.ones(1, 2, 2, 2))
    assert all(value.isfinite().all() for value in values)
    assert values[0].abs().max() == 0


def test_starts_with_the_norm_asked_for_and_spread_cosines() -> None:
    torch.manual_seed(0)
    head = CosineHead(64, 512, initial_norm=50.0)
    features = F.leaky_relu(torch.randn(2000, 64))
    norms = (features @ head.weight.T + head.bias).norm(dim=1)
    assert norms.mean().item() == pytest.approx(50.0, rel=0.1)
    assert head.bias.norm() > 5  # the norm where all features are zero
    cosines = head(features[:, :, None], unit_rows(20, 512), torch.ones(()))
    assert cosines.square().mean().sqrt().item() == pytest.approx(1 / math.sqrt(512), rel=0.3)


def test_forgets_texts() -> None:
    torch.manual_seed(0)
    head, features = CosineHead(6, 16), torch.randn(2, 6, 4, 4)
    text = unit_rows(3, 16)
    text[2] = text[1]  # two classes with one text
    before = head.weight.detach().clone()
    head.project_out(text)
    logits = head(features, text, torch.tensor(100.0))
    assert logits.abs().max() < 1e-4
    loss = F.cross_entropy(logits, torch.zeros(2, 4, 4, dtype=torch.long))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), rel=1e-4)
    assert head.weight.grad is not None and head.weight.grad.norm() > 0
    other = F.normalize(torch.linalg.qr(text.T, mode="complete")[0][:, 5:6].T, dim=1)  # at right angles to the texts
    assert torch.allclose(other @ head.weight, other @ before, atol=1e-4)
    kept = head.weight.detach().clone()
    head.project_out(unit_rows(16, 16))  # would leave nothing
    assert torch.equal(head.weight, kept)


@pytest.mark.parametrize("weight_decay", [0.0, 3e-3])
def test_fewer_rows_score_and_learn_as_all_of_them(weight_decay: float) -> None:
    """Both start from the same Gram matrix and the same scores; steps of SGD as nnU-Net's keep them together."""
    torch.manual_seed(0)
    features, classes, dim = 6, 3, 40
    text = unit_rows(classes, dim, torch.float64)
    few = CosineHead(features, dim, 10.0, classes).double()
    full = CosineHead(features, dim, 10.0).double()
    assert few.rows == classes + features + 1
    basis = text_coordinates(torch.eye(dim, dtype=torch.float64), dim, text)
    turned = torch.linalg.qr(torch.randn(dim - classes, dim - classes, dtype=torch.float64))[0]  # any frame will do
    across = basis[:, classes:] @ turned[:, : features + 1]
    with torch.no_grad():
        for name in ("weight", "bias"):
            rows = getattr(few, name)
            getattr(full, name).copy_(basis[:, :classes] @ rows[:classes] + across @ rows[classes:])
    coordinates = text_coordinates(text, few.rows)
    optimizers = [
        torch.optim.SGD(head.parameters(), 0.1, momentum=0.99, nesterov=True, weight_decay=weight_decay)
        for head in (few, full)
    ]
    start = few.weight.detach().clone()
    for _ in range(20):
        x, target = torch.randn(4, features, 5, dtype=torch.float64), torch.randint(classes, (4, 5))
        scores = [head(x, t, torch.tensor(20.0)) for head, t in ((few, coordinates), (full, text))]
        assert torch.allclose(*scores, atol=1e-8)
        for optimizer, score in zip(optimizers, scores, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(score, target).backward()
            optimizer.step()
    assert (few.weight - start).norm() > 0.1 * start.norm()


def test_fewer_rows_start_with_the_gram_matrix_of_all_of_them() -> None:
    torch.manual_seed(3)
    few = CosineHead(16, 512, 100.0, classes=3)
    gram = few.weight[3:].T @ few.weight[3:] / 100.0**2
    assert few.rows == 20
    assert torch.allclose(gram, torch.eye(16) * 2 / 16, atol=0.03)  # 20 drawn rows would scatter by 0.04 and more
    assert gram.diagonal().std() < 0.015


def test_coordinates_keep_what_texts_have_in_common() -> None:
    torch.manual_seed(0)
    text = unit_rows(4, 30)
    text[3] = text[0]  # two classes with one text
    coordinates = text_coordinates(text, 9)
    assert torch.allclose(coordinates @ coordinates.T, text @ text.T, atol=1e-6)
    assert torch.allclose(text_coordinates(text, 20)[:, :9], coordinates, atol=1e-6)
    assert torch.allclose(text_coordinates(text[:2], 9, learned=text), coordinates[:2], atol=1e-6)
    many = unit_rows(12, 8)  # more texts than dimensions
    assert torch.allclose(text_coordinates(many, 8) @ text_coordinates(many, 8).T, many @ many.T, atol=1e-6)


def test_benchmark_measures_every_form() -> None:
    threads = torch.get_num_threads()
    job = _Job(OURS, batch=2, size=(4, 4), features=3, classes=2, repeats=2, device="cpu", threads=threads)
    for side in (PLAIN, OURS, NNUNET):
        measured = _measure(replace(job, side=side))
        assert len(measured["all_seconds"]) == 2
        assert min(measured["all_seconds"]) <= measured["seconds"] <= max(measured["all_seconds"])
        assert measured["peak_mib"] > 0
