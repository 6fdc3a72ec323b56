"""On a linear model the optimum is known: gradient attacks must find (nearly) all of it."""

import pytest
import torch
from torch import nn

from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import CONVEX, Threat
from robust.core.victim import Victim
from robust.registry import parse_attack

EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
# Share of the best possible gain in margin that each must reach, for every sample.
NEEDED = {
    "fgsm,loss=margin": 0.9999,
    "bim,loss=margin": 0.9,
    "pgd,loss=margin": 0.94,
    "momentum-pgd,loss=margin": 0.9,
    "apgd,loss=margin": 0.999,
    "apgd-t,loss=margin": 0.999,
}


def linear(features):
    net = nn.Linear(features, 2, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.randn(2, features, generator=torch.Generator().manual_seed(5)))
    return net.requires_grad_(False)


def best_gain(w, x, norm, eps):
    """The largest Σ w·δ over ball ∩ box, by a fine bisection on the Lagrange multiplier."""
    w, x = w.double(), x.double()
    room = torch.where(w > 0, 1 - x, x)
    size = w.abs().expand_as(x)
    if norm == "linf":
        return (size * room.clamp(max=eps)).sum(1)
    if norm == "l1":  # the knapsack: largest slopes first
        order = size.argsort(1, descending=True)
        filled, slopes = room.gather(1, order), size.gather(1, order)
        before = filled.cumsum(1) - filled
        return (slopes * torch.minimum(filled, (eps - before).clamp(min=0))).sum(1)
    low, high = torch.zeros(len(x), 1).double(), torch.full((len(x), 1), 1e4).double()
    for _ in range(200):
        middle = (low + high) / 2
        over = torch.minimum(middle * size, room).norm(dim=1, keepdim=True) > eps
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (size * torch.minimum(low * size, room)).sum(1)


@pytest.mark.parametrize("shape", [(1, 8, 8), (30,)])
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("name", NEEDED)
def test_margin_gained_is_the_best_possible(name, norm, targeted, n, shape):
    features = torch.Size(shape).numel()
    net = linear(features)
    x = torch.rand(n, *shape, generator=torch.Generator().manual_seed(n))
    y = net(x.flatten(1)).argmax(1)
    other = 1 - y
    goal = Goal(other if targeted else y, targeted, persist=True)  # go to the end of the ball
    threat = Threat(norm, EPS[norm])
    victim = Victim(lambda z: net(z.flatten(1)), n)
    with torch.no_grad():
        x_adv = parse_attack(name).search(victim, x, goal, threat, generator(0))
    for i in range(n):
        w = net.weight[other[i]] - net.weight[y[i]]
        gain = float((x_adv[i] - x[i]).flatten() @ w)
        best = float(best_gain(w, x[i : i + 1].flatten(1), norm, EPS[norm]))
        needed = min(NEEDED[name], 0.98) if norm == "l1" and "apgd" in name else NEEDED[name]
        assert needed * best <= gain <= best * (1 + 1e-5)
