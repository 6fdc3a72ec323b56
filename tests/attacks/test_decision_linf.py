"""RayS and block flips: budgets, known optima in L∞, who leaves when; real models if there are."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robust.attacks import BlockFlips, RayS, _blocks
from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import Linf
from robust.core.victim import Access, Victim

BENCH = Path(__file__).resolve().parents[3] / "shared" / "bench"
ATTACKS = [RayS, BlockFlips]
both = pytest.mark.parametrize("attack", ATTACKS)


class Watched:
    """A model that keeps every batch that it is asked about."""

    def __init__(self, net):
        self.net, self.asked = net, []

    def __call__(self, x):
        self.asked.append(x.clone())
        return self.net(x)


def search(model, x, y, threat, attack, *, seed=0, budget=None, persist=False):
    victim = Victim(model, len(x), Access.LABELS, budget=budget)
    with torch.no_grad():
        x_adv = attack.search(victim, x, Goal(y, persist=persist), threat, generator(seed))
    return x_adv, victim


def plane(shape, seed=0):
    """A model of two classes, class 1 where w·x > 0.6 Σ|w| / d + w·x₀ at x₀ = ½: and w."""
    w = torch.randn(torch.Size(shape).numel(), generator=torch.Generator().manual_seed(seed))
    net = nn.Sequential(nn.Flatten(), nn.Linear(len(w), 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros_like(w), w]))
        net[1].bias.copy_(torch.stack([torch.tensor(0.0), -0.5 * w.sum() - 0.1 * w.abs().sum()]))
    return net, w


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 40), (20,), (2, 3, 2, 5)])
@both
def test_finds_the_corner_that_is_optimal_for_a_plane(attack, shape):
    """From ½ it is 0.1 away (margin / ‖w‖₁), in the direction of the signs of w alone."""
    net, w = plane(shape)
    x, y = torch.full((3, *shape), 0.5), torch.zeros(3, dtype=torch.int64)
    found = []
    for queries in (40, 200, 1500):
        x_adv, _ = search(net, x, y, Linf(0.3), attack(queries=queries, until_eps=False))
        assert (net(x_adv).argmax(1) == 1).all()
        found.append(float(Linf(0.3).distance(x, x_adv).max()))
    assert found[0] >= found[1] >= found[2] >= 0.1 - 1e-6
    assert found[2] < 0.102
    signs = (x_adv - x).flatten(1).sign()
    large = w.abs() > 0.1
    assert (signs[:, large] == w.sign()[large]).all()


@both
def test_no_budget_is_exceeded_however_uneven(attack, make_net, make_samples):
    net, x = make_net((3, 6, 6), 4), make_samples((3, 6, 6), 12)
    y = net(x).argmax(1)
    budget = torch.tensor([0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144])
    for until_eps in (False, True):
        made = attack(queries=100, until_eps=until_eps)
        x_adv, victim = search(net, x, y, Linf(0.001), made, budget=budget)
        assert torch.equal(victim.ledger.queries, budget.clamp(max=100))
        assert torch.equal(x_adv[0], x[0])


@both
def test_a_sample_leaves_at_its_first_success_inside_eps(attack, make_net, make_samples):
    net, x = make_net((3, 4, 4), 4), make_samples((3, 4, 4), 24)
    y, threat = net(x).argmax(1), Linf(0.2)
    model = Watched(net)
    x_adv, victim = search(model, x, y, threat, attack(queries=400))
    inside = threat.contains(x, x_adv) & (net(x_adv).argmax(1) != y)
    assert inside.float().mean() > 0.8
    spent = victim.ledger.queries
    assert (spent[~inside] == 400).all()
    assert (spent[inside] < 400).all()
    # Each success in the ball is the last point that its sample was asked about.
    sizes = [len(z) for z in model.asked]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == int(spent.sum())
    # Nothing else keeps it: the same search to the end finds nearer ones with all its queries.
    nearer, victim = search(net, x, y, threat, attack(queries=400, until_eps=False))
    assert (victim.ledger.queries == 400).all()
    assert threat.distance(x, nearer).mean() < 0.8 * threat.distance(x, x_adv).mean()


@both
def test_a_goal_that_persists_is_never_solved(attack, make_net, make_samples):
    net, x = make_net((20,), 4), make_samples((20,), 6)
    _, victim = search(net, x, net(x).argmax(1), Linf(0.4), attack(queries=60), persist=True)
    assert (victim.ledger.queries == 60).all()


@both
def test_where_nothing_succeeds_x_comes_back_with_a_remark(attack, make_samples):
    x = make_samples((3, 4, 4), 4)
    x_adv, victim = search(
        lambda z: torch.tensor([[1.0, 0.0]]).expand(len(z), -1),
        x,
        torch.tensor([0, 0, 1, 0]),  # the third is misclassified as it is
        Linf(0.1),
        attack(queries=50),
    )
    assert torch.equal(x_adv[[0, 1, 3]], x[[0, 1, 3]])
    ((text, failed),) = victim.remarks.items()
    assert text == _blocks.FAILED  # not that it had no start: there is none to have
    assert failed.tolist() == [True, True, False, True]
    assert victim.ledger.queries.tolist() == [50, 50, 1, 50]


@both
def test_every_question_is_a_corner_of_a_cube_in_the_box(attack, make_net, make_samples):
    net, x = make_net((2, 5), 3), make_samples((2, 5), 8, low=-1.0)
    model, threat = Watched(net), Linf(0.05, low=-1.0)
    search(model, x, net(x).argmax(1), threat, attack(queries=150, until_eps=False))
    for z in model.asked:
        assert threat.in_box(z).all()
        move = (z - x).abs()
        radius = move.flatten(1).amax(1).view(-1, 1, 1)
        at_the_box = (z == -1) | (z == 1)
        assert (((move - radius).abs() < 1e-5) | at_the_box).all()


def test_blocks_of_a_level_hold_each_coordinate_once():
    for shape, sides in [((13,), _blocks.rows_of(13)), ((3, 5, 8), _blocks.cells_of((3, 5, 8)))]:
        blocks = _blocks.Blocks(shape, sides, again=1, device=torch.device("cpu"))
        level, index = torch.zeros(2, 1, dtype=torch.int64)
        held = torch.zeros(len(sides), *shape, dtype=torch.int64)
        for _ in range(2000):
            now = int(level)
            held[now] += blocks.inside(level, index)[0]
            level, index = blocks.after(level, index)
            if int(level) < now:
                break
        assert int(level) == 1
        assert (held == 1).all()
    assert _blocks.rows_of(13) == [(13,), (7,), (4,), (2,), (1,)]
    assert _blocks.cells_of((3, 5, 8)) == [
        (3, 5, 8), (3, 5, 4), (3, 3, 4), (3, 3, 2), (3, 2, 2), (3, 1, 2), (3, 1, 1), (1, 1, 1),
    ]  # fmt: skip
    assert _blocks.cells_of((8,)) == [(8,), (4,), (2,), (1,)]


def test_rays_bisects_as_published():
    """All ones turned over first, at the corner of the box; then halves, quarters, …"""
    net, _ = plane((8,), seed=3)
    x = torch.full((1, 8), 0.5)
    model = Watched(net)
    search(model, x, torch.zeros(1, dtype=torch.int64), Linf(0.01), RayS(queries=400))
    corners = [z[0].mul(2).sub(1).sign().int().tolist() for z in model.asked[1:]]
    assert model.asked[1].tolist() == [[0.0] * 8]
    assert corners[0] == [-1] * 8
    if net(model.asked[1]).argmax() == 0:
        assert corners[1] == [-1] * 4 + [1] * 4


@pytest.mark.skipif(
    not (BENCH / "models" / "mnist_natural.pt").is_file(), reason=f"no models at {BENCH}"
)
@pytest.mark.parametrize(("attack", "mean", "median"), [(RayS, 102, 48), (BlockFlips, 50, 5)])
def test_queries_on_a_real_model(attack, mean, median):
    """The first test images of MNIST at 0.3: RayS, the authors' code, takes 102, median 48."""
    spec = json.loads((BENCH / "reference.json").read_text())["models"]["mnist_natural"]
    module = importlib.util.spec_from_file_location("bench_archs", BENCH / "archs.py")
    archs = importlib.util.module_from_spec(module)
    module.loader.exec_module(archs)
    net = getattr(archs, spec["arch"])()
    net.load_state_dict(torch.load(BENCH / "models" / "mnist_natural.pt", weights_only=True))
    net.eval()
    data = np.load(BENCH / "data" / "mnist-test.npz")
    x = torch.from_numpy(data["x"][:100]).float() / 255
    y = torch.from_numpy(data["y"][:100]).long()
    right = net(x).argmax(1) == y
    x, y, threat = x[right], y[right], Linf(0.3)
    x_adv, victim = search(net, x, y, threat, attack(queries=2000))
    assert (threat.contains(x, x_adv) & (net(x_adv).argmax(1) != y)).all()
    assert victim.ledger.queries.double().mean() < mean
    assert victim.ledger.queries.median() <= median
