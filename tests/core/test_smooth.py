"""Smoothed gradients: the forward is the model's own, the backward a sigmoid."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from robust.core.smooth import smoothed

RELUS = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "functional": functional.relu,
    "functional in place": lambda u: functional.relu(u, inplace=True),
    "torch": torch.relu,
    "method": lambda u: u.relu(),
    "method in place": lambda u: u.relu_(),
    "aten": torch.ops.aten.relu.default,
}


def values():
    return torch.linspace(-2, 2, 41, dtype=torch.float64)


@pytest.mark.parametrize("name", RELUS)
def test_forward_is_relu_and_backward_its_smooth_stand_in(name):
    u = values().requires_grad_()
    with smoothed(0.3):
        z = RELUS[name](u * 1.0)
    assert torch.equal(z, u.clamp(min=0))
    (slope,) = torch.autograd.grad(z.sum(), u)
    expected = torch.sigmoid(u / (0.3 * u.std(correction=0)))
    assert torch.allclose(slope, expected)


def test_what_is_in_place_changes_its_argument():
    u = values().requires_grad_()
    with smoothed(0.3):
        now = u * 1.0
        functional.relu(now, inplace=True)
    assert torch.equal(now, u.clamp(min=0))


def test_nothing_changes_outside_or_without_gradient():
    u = values().requires_grad_()
    with smoothed(0.3), torch.no_grad():
        assert torch.equal(torch.relu(u), u.clamp(min=0))
    (slope,) = torch.autograd.grad(torch.relu(u).sum(), u)
    assert set(slope.tolist()) <= {0.0, 1.0}


def test_a_dead_network_gets_a_gradient():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        net[0].bias.fill_(-5)
    x = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    (plain,) = torch.autograd.grad(net(x).sum(), x)
    assert not plain.any()
    with smoothed(5.0):
        (smooth,) = torch.autograd.grad(net(x).sum(), x)
    assert smooth.abs().min() > 0


def test_equal_inputs_give_a_finite_gradient():
    u = torch.zeros(5, requires_grad=True)
    with smoothed(0.2):
        (slope,) = torch.autograd.grad(torch.relu(u).sum(), u)
    assert torch.equal(slope, torch.full((5,), 0.5))


STEPS = {
    "round": torch.round,
    "method": lambda u: u.round(),
    "decimals": lambda u: torch.round(u, decimals=1),
    "floor": torch.floor,
    "ceil": lambda u: u.ceil(),
    "trunc": torch.trunc,
    "aten": torch.ops.aten.floor.default,
}


@pytest.mark.parametrize("name", STEPS)
def test_rounding_is_itself_forward_and_straight_backward(name):
    u = values().requires_grad_()
    with smoothed(0.3):
        z = STEPS[name](u)
    assert torch.allclose(z, STEPS[name](u.detach()), atol=1e-12)
    (slope,) = torch.autograd.grad(z.sum(), u)
    assert torch.equal(slope, torch.ones_like(u))
    (plain,) = torch.autograd.grad(STEPS[name](u).sum(), u)
    assert not plain.any()
