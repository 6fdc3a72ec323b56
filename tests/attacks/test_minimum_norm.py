"""Minimum-norm attacks against the known optimum of a linear model, and against one another."""

import pytest
import torch
from torch import nn

from robust.attacks._minimal import Closest
from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import NORMS, Threat
from robust.core.victim import Access, Victim
from robust.registry import names, parse_attack

# With gradients: what searches by labels alone has its optimum tests in test_decision_*.py.
MINIMAL = [
    name
    for name in names("attacks")
    if parse_attack(name).minimal and parse_attack(name).access == Access.GRADIENT
]
# Where the defaults would take long; the optimum is found with fewer steps.
FEWER = {"cw": "steps=200", "sigma-zero": "steps=100"}
CASES = [(name, norm) for name in MINIMAL for norm in NORMS if norm in parse_attack(name).norms]


def made(name):
    return parse_attack(f"{name},{FEWER[name]}" if name in FEWER else name)


def linear(features):
    net = nn.Sequential(nn.Flatten(), nn.Linear(features, 2, bias=False))
    with torch.no_grad():
        rng = torch.Generator().manual_seed(5)
        net[1].weight.copy_(torch.randn(2, features, generator=rng))
    return net.requires_grad_(False)


def samples(net, n, shape):
    """n samples some way off the boundary: nearer, float32 decides more than the attack does."""
    rng = torch.Generator().manual_seed(n)
    x = torch.rand(8 * n, *shape, generator=rng)
    x = torch.where(torch.rand(x.shape, generator=rng) < 0.5, x.round(), x)  # the box is felt
    away = (net(x)[:, 0] - net(x)[:, 1]).abs() / (net[1].weight[0] - net[1].weight[1]).norm()
    return x[away > 0.05][:n]


def shortest(norm, w, x, need):
    """The least length with which Σ w·δ reaches `need` inside the box [0, 1], in float64."""
    w, x = w.double(), x.double()
    size, room = w.abs(), torch.where(w > 0, 1 - x, x)
    if norm in ("l0", "l1"):  # the knapsack: the best coordinates first
        order = (size * room if norm == "l0" else size).argsort(descending=True)
        gains = (size * room)[order].cumsum(0)
        full = int((gains < need).sum())
        if norm == "l0":
            return float(full + 1)
        before = float(gains[full - 1]) if full else 0.0
        return float(room[order][:full].sum() + (need - before) / size[order][full])
    low, high = 0.0, 1e3
    for _ in range(100):
        middle = (low + high) / 2
        moved = torch.minimum(middle * (size if norm == "l2" else torch.ones_like(size)), room)
        low, high = (low, middle) if float((size * moved).sum()) >= need else (middle, high)
    return high if norm == "linf" else float(torch.minimum(high * size, room).norm())


@pytest.mark.parametrize("shape", [(1, 8, 8), (30,)])
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_distance_is_the_least_possible(name, norm, targeted, n, shape):
    net = linear(torch.Size(shape).numel())
    x = samples(net, n, shape)
    y = net(x).argmax(1)
    other = 1 - y
    threat = Threat(norm, 0.0)  # the attack has to ignore it
    with torch.no_grad():
        victim, goal = Victim(net, n), Goal(other if targeted else y, targeted)
        x_adv = made(name).search(victim, x, goal, threat, generator(0))
    assert torch.equal(net(x_adv).argmax(1), other)
    assert threat.in_box(x_adv).all()
    found = threat.distance(x, x_adv)
    for i in range(n):
        w = net[1].weight[other[i]] - net[1].weight[y[i]]
        best = shortest(norm, w, x[i].flatten(), -float(w @ x[i].flatten()))
        assert best * (1 - 1e-4) <= float(found[i]) <= 1.05 * best


# Mean of the distance over the least that any attack finds for the sample: an attack that follows
# the likeliest class alone misses some that are nearer.
ABOVE = {"linf": 1.05, "l2": 1.05, "l1": 1.1, "l0": 1.02}


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_network_they_agree(norm, digits_net):
    from robust.data import DataSpec, open_data

    source = open_data(DataSpec("digits", split="test"))
    batch = source.batch(source.ids[:40])
    right = digits_net(batch.x).argmax(1) == batch.y
    x, y, threat = batch.x[right], batch.y[right], Threat(norm, 1.0)
    found = {}
    for name in (name for name, its in CASES if its == norm):
        x_adv = made(name)(digits_net, x, y, threat=threat)
        assert (digits_net(x_adv).argmax(1) != y).all()
        found[name] = threat.distance(x, x_adv)
    best = torch.stack(list(found.values())).amin(0)
    above = {name: float((distance / best).mean()) for name, distance in found.items()}
    assert max(above.values()) <= ABOVE[norm], above


def test_the_last_search_finds_the_boundary_between_x_and_a_success():
    net, n = linear(30), 8
    x = torch.rand(n, 30, generator=torch.Generator().manual_seed(2))
    y = net(x).argmax(1)
    w = net[1].weight[1 - y] - net[1].weight[y]
    crossing = -(w * x).sum(1) / w.square().sum(1)
    far = x + (crossing * torch.linspace(1.01, 3, n)).unsqueeze(1) * w
    threat, goal, victim = Threat("l2", 0.0, -10, 10), Goal(y), Victim(net, n)
    closest = Closest(x, threat)
    assert closest.offer(torch.arange(n), far, victim.logits(far), goal).all()
    before = closest.distance.clone()
    closest.tighten(victim, goal, goal.margin(victim.logits(x)))
    best = crossing.double() * w.double().norm(dim=1)
    assert (closest.distance <= before).all()
    assert (closest.distance[1:] <= 1.04 * best[1:]).all()
    assert torch.equal(net(closest.x_adv).argmax(1), 1 - y)
    assert (victim.ledger.forwards == 5).all()


def test_the_last_look_goes_without_the_coordinates_that_matter_least():
    net, n = linear(30), 8
    x = samples(net, n, (30,))
    y = net(x).argmax(1)
    w = net[1].weight[1 - y] - net[1].weight[y]
    far = (w > 0).float()  # every coordinate changed, where a few are enough
    threat, goal, victim = Threat("l0", 0.0), Goal(y), Victim(net, n)
    closest = Closest(x, threat)
    assert closest.offer(torch.arange(n), far, victim.logits(far), goal).all()
    before = closest.distance.clone()
    closest.thin(victim, goal)
    best = [shortest("l0", w[i], x[i], -float(w[i] @ x[i])) for i in range(n)]
    assert (closest.distance < before).all()
    assert (closest.distance <= torch.tensor(best) + 2).all()  # four halvings of thirty
    assert torch.equal(net(closest.x_adv).argmax(1), 1 - y)
    assert (victim.ledger.backwards == 1).all()


def test_a_success_within_rounding_of_the_boundary_does_not_count():
    closest = Closest(torch.zeros(3, 2), Threat("l2", 0.0))
    z = torch.full((3, 2), 0.1)
    logits = torch.tensor([[1.0, 1.0 + 1e-6], [1.0, 1.001], [1.0, 0.5]])
    reached = closest.offer(torch.arange(3), z, logits, Goal(torch.zeros(3, dtype=torch.int64)))
    assert reached.tolist() == [False, True, False]
    assert closest.distance.isfinite().tolist() == [False, True, False]
    # At x itself nothing has to be found, and what the model says is what counts.
    start = closest.offer(
        torch.arange(3), closest.x, logits, Goal(torch.zeros(3, dtype=torch.int64))
    )
    assert start.tolist() == [True, True, False]
