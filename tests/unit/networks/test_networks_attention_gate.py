"""The additive attention gate, against values worked out by hand and against plain convolutions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hippo_nnunet.networks.attention_gate import AttentionGate


def test_matches_hand_computation() -> None:
    gate = AttentionGate(nn.Conv2d, skip_features=2, signal_features=1, gate_features=2)
    with torch.no_grad():
        gate.theta.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]).view(2, 2, 1, 1))
        gate.phi.weight.copy_(torch.tensor([[3.0], [1.0]]).view(2, 1, 1, 1))
        gate.phi.bias.copy_(torch.tensor([0.5, -1.0]))
        gate.psi.weight.copy_(torch.tensor([[0.5, 4.0]]).view(1, 2, 1, 1))
        gate.psi.bias.copy_(torch.tensor([-2.0]))
    skip = torch.tensor([[1.0, -2.0], [2.0, 0.0]]).view(1, 2, 1, 2)  # positions (1, 2) and (-2, 0)
    signal = torch.tensor([[0.5, 2.0]]).view(1, 1, 1, 2)

    gated, alpha = gate(skip, signal)

    # Position 0: theta (5, -1) + phi (2, -0.5) = (7, -1.5), relu (7, 0), psi 0.5 * 7 + 4 * 0 - 2 = 1.5
    # Position 1: theta (-2, 2) + phi (6.5, 1) = (4.5, 3), relu (4.5, 3), psi 2.25 + 12 - 2 = 12.25
    expected = torch.tensor([1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(-12.25))]).view(1, 1, 1, 2)
    torch.testing.assert_close(alpha, expected)
    torch.testing.assert_close(gated, skip * expected)


@pytest.mark.parametrize(("conv_op", "spatial"), [(nn.Conv1d, (5,)), (nn.Conv2d, (3, 4)), (nn.Conv3d, (2, 3, 4))])
def test_equals_the_convolutions_it_stands_for(conv_op: type[nn.Module], spatial: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    gate = AttentionGate(conv_op, skip_features=6, signal_features=5, gate_features=3).double()
    nn.init.normal_(gate.psi.weight)
    skip, signal = torch.randn(2, 6, *spatial).double(), torch.randn(2, 5, *spatial).double()

    gated, alpha = gate(skip, signal)

    expected = torch.sigmoid(gate.psi(torch.relu(gate.theta(skip) + gate.phi(signal))))
    assert alpha.shape == (2, 1, *spatial)
    torch.testing.assert_close(alpha, expected)
    torch.testing.assert_close(gated, skip * expected)


def test_gradients_are_those_of_the_formula() -> None:
    torch.manual_seed(0)
    gate = AttentionGate(nn.Conv2d, skip_features=2, signal_features=2, gate_features=2).double()
    nn.init.normal_(gate.psi.weight)
    skip = torch.randn(2, 2, 2, 3, dtype=torch.double, requires_grad=True)
    signal = torch.randn(2, 2, 2, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: gate(a, b)[0], (skip, signal))

    gate(skip, signal)[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gate.parameters())


def test_starts_mostly_open_and_nearly_uniform() -> None:
    torch.manual_seed(0)
    _, alpha = AttentionGate(nn.Conv2d, 16, 16, 8)(torch.randn(2, 16, 8, 8), torch.randn(2, 16, 8, 8))
    assert alpha.min() > 0.8
    assert alpha.max() < 0.95  # not in the flat part, or it could not learn to close


def test_an_open_gate_passes_the_skip_unchanged() -> None:
    gate = AttentionGate(nn.Conv2d, 2, 2, 1)
    nn.init.zeros_(gate.psi.weight)
    nn.init.constant_(gate.psi.bias, 100.0)
    skip = torch.randn(1, 2, 3, 3)
    gated, alpha = gate(skip, torch.randn(1, 2, 3, 3))
    assert torch.equal(gated, skip)
    assert torch.equal(alpha, torch.ones(1, 1, 3, 3))


def test_reports_the_outputs_of_its_three_convolutions() -> None:
    assert AttentionGate(nn.Conv3d, 8, 8, 4).compute_conv_feature_map_size((2, 3, 5)) == (4 + 4 + 1) * 30
