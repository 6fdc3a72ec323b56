"""Searches along the boundary, by labels alone: optima, starts, budgets, estimates."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robust.attacks import _starts, boundary, hop_skip_jump
from robust.attacks._walk import Walk
from robust.core.goal import Goal
from robust.core.grid import Grid, rounded
from robust.core.oracle import Oracle
from robust.core.rng import generator
from robust.core.threat import L2, Linf, Threat
from robust.core.victim import Access, Pool, Victim
from robust.registry import parse_attack

BENCH = Path(__file__).resolve().parents[3] / "shared" / "bench"
CASES = [("hop-skip-jump", "linf"), ("hop-skip-jump", "l2"), ("cgba", "l2"), ("boundary", "l2")]
NAMES = sorted({name for name, _ in CASES})


class Linear(nn.Module):
    """Class 1 where ⟨w, z − ½⟩ > b; NaN about the rows that `deaf` says."""

    def __init__(self, w, b, deaf=None):
        super().__init__()
        self.w, self.b, self.deaf, self.calls = w, b, deaf, []

    def forward(self, z):
        self.calls.append(z.clone())
        score = (z - 0.5).flatten(1) @ self.w.flatten() - self.b
        answer = torch.stack([torch.zeros_like(score), score], 1)
        return answer if self.deaf is None else answer.masked_fill(self.deaf(z)[:, None], torch.nan)


def normal_of(shape):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    return w / w.norm()


def found(attack, model, x, goal, threat, *, seed=0, pool=None, budget=None):
    victim = Victim(model, len(x), Access.LABELS, pool=pool, budget=budget)
    with torch.no_grad():
        return attack.search(victim, x, goal, threat, generator(seed)), victim


def to_the_end(name, queries):
    return dataclasses.replace(parse_attack(name), queries=queries, until_eps=False)


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 40), (60,)])
@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_model_is_left_near_the_nearest_point(name, norm, shape, targeted):
    """L2: margin / ‖w‖₂, L∞: margin / ‖w‖₁; what the box holds back is none of it here."""
    w, x = normal_of(shape), torch.full((6, *shape), 0.5)
    margin = torch.linspace(0.2, 0.5, 6).double()
    net = Linear(w, 0.0)
    x = x - margin.view(-1, *[1] * len(shape)).to(x.dtype) * w
    goal = Goal(torch.full((6,), int(targeted)), targeted)
    pool = Pool(torch.cat([x, (0.5 + 0.9 * w)[None].clamp(0, 1)]), torch.tensor([0] * 6 + [1]))
    threat = Threat(norm, 0.01)
    x_adv, _ = found(to_the_end(name, 1500), net, x, goal, threat, pool=pool)
    assert goal.reached(net(x_adv)).all()
    best = margin / (w.abs().sum() if norm == "linf" else 1.0)
    ratio = threat.distance(x, x_adv) / best
    assert (ratio > 0.999).all()
    assert (ratio < {"linf": 1.5, "l2": 1.1}[norm] + 0.2 * (name == "boundary")).all()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_more_queries_never_find_less(name, norm, make_net, make_samples):
    net, x = make_net((3, 4, 4), 4), make_samples((3, 4, 4), 12)
    y, threat = net(x).argmax(1), Threat(norm, 0.01)
    distances = []
    for queries in (30, 100, 400):
        x_adv, victim = found(to_the_end(name, queries), net, x, Goal(y), threat, pool=Pool(x, y))
        assert (victim.ledger.queries <= queries).all()
        assert (net(x_adv).argmax(1) != y).all()
        distances.append(threat.distance(x, x_adv))
    assert (distances[1] <= distances[0]).all()
    assert distances[2].mean() < 0.8 * distances[0].mean()
    assert distances[2].mean() < distances[1].mean()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_uneven_budgets_are_never_exceeded(name, norm, make_net, make_samples):
    net, x = make_net((20,), 4), make_samples((20,), 14)
    y = net(x).argmax(1)
    budget = torch.tensor([0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 60, 61, 89, 500])
    attack = to_the_end(name, 120)
    for model, price in ((net, 1), (Oracle(net, labels=True), 3)):
        if price > 1:
            model.draws = price
        x_adv, victim = found(attack, model, x, Goal(y), Threat(norm, 0.01), budget=budget * price)
        spent = victim.ledger.queries
        assert (spent <= price * budget).all()
        assert (spent <= 120).all()
        assert (spent[6:] >= torch.minimum(budget[6:] * price, torch.tensor(120)) - price).all()
        assert torch.equal(x_adv[0], x[0])


@pytest.mark.parametrize("name", NAMES)
def test_known_answers_do_not_keep_a_search_going(name, make_net, make_samples):
    """An oracle that has heard it all takes no query: the search ends by its own count."""
    net, x = make_net((20,), 4), make_samples((20,), 4)
    y, oracle, attack = net(x).argmax(1), Oracle(net), to_the_end(name, 60)
    first, _ = found(attack, oracle, x, Goal(y), L2(0.01))
    again, victim = found(attack, oracle, x, Goal(y), L2(0.01))
    threat = L2(0.01)
    assert (threat.distance(x, again) <= threat.distance(x, first)).all()
    assert (victim.ledger.queries <= 60).all()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_who_is_inside_eps_leaves(name, norm, make_net, make_samples):
    net, x = make_net((3, 4, 4), 4), make_samples((3, 4, 4), 16)
    y, threat = net(x).argmax(1), Threat(norm, {"linf": 0.3, "l2": 1.0}[norm])
    attack = dataclasses.replace(parse_attack(name), queries=400)
    x_adv, victim = found(attack, net, x, Goal(y), threat)
    inside = threat.in_ball(x, x_adv)
    assert inside.sum() > 8
    assert (net(x_adv).argmax(1) != y)[inside].all()
    assert (victim.ledger.queries[inside] < 400).any()
    assert (victim.ledger.queries[~inside] > 390).all()
    _, victim = found(attack, net, x, Goal(y, persist=True), threat)
    assert (victim.ledger.queries > 390).all()


@pytest.mark.parametrize("name", NAMES)
def test_to_arrive_at_a_class_it_starts_from_the_nearest_of_the_pool(name):
    """No random point is of the class; two samples of the pool are said to be, one of them falsely.

    Only when both have been asked can the search begin.
    """
    shape = (30,)
    corner = torch.zeros(shape)
    corner[:15] = 1.0

    def model(z):
        near = (z - corner).flatten(1).norm(dim=1)
        return torch.stack([torch.ones_like(near), 4 * (1.0 - near), 0 * near], 1)

    x = torch.full((3, *shape), 0.5)
    liar, true, other = x[0] + 0.01, corner, torch.ones(shape)
    pool = Pool(torch.stack([true, other, liar]), torch.tensor([1, 2, 1]))
    net, asked = model, []
    victim = Victim(lambda z: asked.append(z.clone()) or net(z), 3, Access.LABELS, pool=pool)
    goal = Goal(torch.ones(3, dtype=torch.int64), targeted=True)
    with torch.no_grad():
        x_adv = to_the_end(name, 200).search(victim, x, goal, L2(0.01), generator(0))
    assert goal.reached(net(x_adv)).all()
    assert torch.equal(asked[0], x)
    assert torch.equal(asked[1], liar.expand(3, -1))
    assert torch.equal(asked[2], true.expand(3, -1))
    assert not victim.remarks
    assert (L2(1.0).distance(x, x_adv) < 0.99 * L2(1.0).distance(x, corner.expand(3, -1))).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_start_that_fails_fails_alone(name):
    """Samples of the upper half are answered by NaN, but for themselves: they have no start."""
    w = normal_of((30,))
    x = torch.full((4, 30), 0.5) - 0.3 * w
    x[1, 0], x[3, 0] = 0.9, 0.95
    rows = {}

    class Deaf(nn.Module):
        def forward(self, z):
            answer = Linear(w, 0.0)(z)
            deaf = torch.tensor([rows["now"][i] in (1, 3) for i in range(len(z))])
            return answer.masked_fill(deaf[:, None], torch.nan)

    class Told(Victim):
        def labels(self, z):
            rows["now"] = self._rows.tolist()
            return super().labels(z)

    victim = Told(Deaf(), 4, Access.LABELS)
    with torch.no_grad():
        x_adv = to_the_end(name, 300).search(
            victim, x, Goal(torch.zeros(4).long()), L2(0.01), generator(0)
        )
    assert torch.equal(x_adv[[1, 3]], x[[1, 3]])
    distance = L2(1.0).distance(x, x_adv)
    assert (distance[[0, 2]] > 0).all()
    assert (distance[[0, 2]] < 0.6).all()
    assert {text: rows.tolist() for text, rows in victim.remarks.items()} == {
        _starts.FAILED: [False, True, False, True]
    }
    assert (victim.ledger.queries[[1, 3]] < 30).all()


def test_a_sample_that_is_there_already_is_its_own_start():
    w = normal_of((30,))
    x = torch.full((2, 30), 0.5) + torch.tensor([[0.3], [-0.3]]) * w
    for name in NAMES:
        x_adv, victim = found(
            to_the_end(name, 50), Linear(w, 0.0), x, Goal(torch.zeros(2).long()), L2(0.01)
        )
        assert torch.equal(x_adv[0], x[0])
        assert victim.ledger.queries[0] == 1


@pytest.mark.parametrize("name", ["hop-skip-jump", "cgba"])
def test_the_last_questions_are_kept_for_a_step(name):
    """An estimate that takes all that is left would be for nothing: eight questions are kept."""
    w = normal_of((30,))
    net, x = Linear(w, 0.0), torch.full((3, 30), 0.5) - 0.2 * w
    attack = dataclasses.replace(to_the_end(name, 60), samples=500)
    victim = Victim(net, 3, Access.LABELS)
    with torch.no_grad():
        attack.search(victim, x, Goal(torch.zeros(3).long()), L2(0.01), generator(0))
    assert (victim.ledger.queries > 50).all()
    assert all(len(z) <= 3 for z in net.calls[-3:])


def test_steps_across_shrink_until_half_of_them_reach_the_goal(monkeypatch):
    """Class 1 is a small ball around where the walk starts: steps of the first length leave it."""
    sizes, across = [], boundary._across

    def spy(walk, rows, at, size, rng):
        sizes.append(float(size.mean()))
        return across(walk, rows, at, size, rng)

    monkeypatch.setattr(boundary, "_across", spy)
    x, middle = torch.full((2, 30), 0.5), torch.full((30,), 0.6)

    def model(z):
        score = 0.03 - (z - middle).norm(dim=1)
        return torch.stack([torch.zeros_like(score), score], 1)

    pool = Pool(middle[None], torch.tensor([1]))
    goal = Goal(torch.ones(2, dtype=torch.int64), targeted=True)
    found(to_the_end("boundary", 300), model, x, goal, L2(0.01), pool=pool)
    assert sizes[0] == pytest.approx(0.1)
    assert 1e-6 < sizes[-1] < 0.06


def test_a_step_that_fails_is_halved():
    """Behind a thin wall of the goal's class only short steps reach it."""
    w = normal_of((30,))

    def model(z):
        score = (z - 0.5).flatten(1) @ w
        return torch.stack(
            [torch.zeros_like(score), ((score > 0) & (score < 0.05)).float() - 0.5], 1
        )

    x = torch.full((1, 30), 0.5) - 0.4 * w
    walk = Walk(
        Victim(model, 1, Access.LABELS), x, Goal(torch.zeros(1).long()), L2(0.01), until_eps=False
    )
    side = torch.zeros(30)
    side[0] = 1.0
    at = (x + 0.4005 * w + 0.3 * (side - (side @ w) * w)).clamp(0, 1)
    assert walk.ask(torch.tensor([0]), at).all()
    far, moved = hop_skip_jump._step(walk, torch.tensor([0]), at, w[None])
    assert moved.all()
    assert L2(1.0).distance(x, far) < L2(1.0).distance(x, at)


@pytest.mark.parametrize("threat", [Linf(0.01), L2(0.01)])
def test_the_estimate_points_along_the_normal(threat):
    w = normal_of((8, 8))
    x = torch.full((5, 8, 8), 0.5) - 0.3 * w
    net = Linear(w, 0.0)
    victim = Victim(net, 5, Access.LABELS)
    walk = Walk(victim, x, Goal(torch.zeros(5).long()), threat, until_eps=False)
    rows = torch.arange(5)
    far = (x + 0.5 * w).clamp(0, 1)
    assert walk.ask(rows, far).all()
    at = walk.bisect(rows, far)
    score = (at - 0.5).flatten(1) @ w.flatten()
    assert (score > 0).all()
    assert (score < 0.01 * 0.3).all()

    def cosine(samples):
        found = walk.normal(rows, at, samples, generator(0)).flatten(1)
        return (found @ w.flatten()) / found.norm(dim=1)

    before = victim.ledger.queries.clone()
    few, many = cosine(40), cosine(2000)
    assert (victim.ledger.queries - before).tolist() == [2040] * 5
    assert (few > 0.2).all()
    assert few.mean() > 0.35
    assert (many > 0.95).all()


@pytest.mark.parametrize("threat", [Linf(0.01), L2(0.01)])
def test_probes_survive_a_grid_of_values(threat):
    """A hundredth of the distance is a tenth of a level here: were it rounded off, no probe would
    differ from the point and the estimate would be nothing.
    """
    w = normal_of((8, 8))
    x = rounded(torch.full((5, 8, 8), 0.5) - 0.3 * w, 0, 1)
    victim = Victim(Linear(w, 0.0), 5, Access.LABELS, grid=Grid(x, threat))
    walk = Walk(victim, x, Goal(torch.zeros(5).long()), threat, until_eps=False)
    rows = torch.arange(5)
    far = walk.level(rows, (x + 0.5 * w).clamp(0, 1))
    assert walk.ask(rows, far).all()
    at = walk.bisect(rows, far)
    score = (at - 0.5).flatten(1) @ w.flatten()
    assert (score > 0).all()
    assert (score < 0.01 * 0.3).all()
    found = walk.normal(rows, at, 2000, generator(0)).flatten(1)
    assert ((found @ w.flatten()) / found.norm(dim=1) > 0.9).all()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_on_a_grid_every_question_is_what_the_model_is_sent(name, norm):
    """And the search gets as near as without one, but for the levels."""
    w, shape, threat = normal_of((3, 8, 8)), (3, 8, 8), Threat(norm, 0.01)
    x = rounded(torch.full((6, *shape), 0.5) - 0.4 * w, 0, 1)
    net, moved = Linear(w, 0.0), []

    class Told(Grid):
        def snap(self, z, rows):
            sent = super().snap(z, rows)
            moved.append(float((sent - z).abs().amax()))
            return sent

    ratios = []
    for grid in (None, Told(x, threat)):
        victim = Victim(net, 6, Access.LABELS, grid=grid)
        with torch.no_grad():
            z = to_the_end(name, 800).search(
                victim, x, Goal(torch.zeros(6).long()), threat, generator(0)
            )
        assert (net(z).argmax(1) == 1).all()
        ratios.append(float(threat.distance(x, z).mean()))
    assert max(moved) < 1e-6
    assert ratios[1] < 1.15 * ratios[0] + (norm == "linf") / 255


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.33)])
def test_the_question_at_eps_is_inside_eps_on_a_grid(norm, eps):
    """So near to the boundary that the first bisection ends the search."""
    w, shape, threat = normal_of((3, 8, 8)), (3, 8, 8), Threat(norm, eps)
    x = rounded(torch.full((4, *shape), 0.5) - 0.3 * 0.01 * w, 0, 1)
    victim = Victim(Linear(w, 0.0), 4, Access.LABELS, grid=Grid(x, threat))
    walk = Walk(victim, x, Goal(torch.zeros(4).long()), threat, until_eps=True)
    rows = torch.arange(4)
    far = walk.level(rows, (x + 20 * eps * w).clamp(0, 1))
    assert walk.ask(rows, far).all()
    assert not threat.in_ball(x, far).any()
    walk.bisect(rows, far)
    assert threat.in_ball(x, walk.x_adv).all()
    assert victim.ledger.queries.tolist() == [2] * 4


def test_probes_of_one_sample_go_out_together():
    w = normal_of((30,))
    net, x = Linear(w, 0.0), torch.full((3, 30), 0.5) - 0.2 * w
    attack = dataclasses.replace(to_the_end("hop-skip-jump", 200), samples=40)
    found(attack, net, x, Goal(torch.zeros(3).long()), L2(0.01))
    assert max(len(z) for z in net.calls) == 3 * 40


def test_of_several_answers_about_a_sample_the_nearest_success_is_kept():
    w = torch.zeros(4)
    w[0] = 1.0
    walk = Walk(
        Victim(Linear(w, 0.0), 2, Access.LABELS, budget=torch.tensor([9, 2])),
        torch.zeros(2, 4), Goal(torch.zeros(2).long()), L2(0.01), until_eps=True,
    )  # fmt: skip
    z = torch.zeros(7, 4)
    z[:, 0] = torch.tensor([0.9, 0.6, 0.4, 0.8, 0.4, 0.9, 0.7])
    reached = walk.ask(torch.tensor([0, 0, 0, 0, 1, 1, 1]), z)
    assert reached.tolist() == [True, True, False, True, False, True, False]  # the last: unpaid
    assert walk.x_adv[:, 0].tolist() == pytest.approx([0.6, 0.9])
    walk.ask(torch.tensor([0]), torch.full((1, 4), 0.7))  # further away
    assert walk.x_adv[0, 0] == pytest.approx(0.6)
    equal = torch.full((3, 4), 0.5 + 0.01)
    equal[:, 1:] = torch.tensor([[0.1, 0.2, 0.0], [0.0, 0.1, 0.2], [0.2, 0.0, 0.1]])
    walk.threat = Linf(0.01)
    assert walk.ask(torch.zeros(3, dtype=torch.int64), equal).all()
    assert torch.equal(walk.x_adv[0], equal[0])  # of points equally near the first


def test_on_a_grid_a_cube_shrinks_by_a_level_or_more():
    x = torch.zeros(1, 4)
    victim = Victim(Linear(torch.ones(4), 0.0), 1, Access.LABELS, grid=Grid(x, Linf(0.01)))
    walk = Walk(victim, x, Goal(torch.zeros(1).long()), Linf(0.01), until_eps=True)
    distance = torch.tensor([8.0, 200.0]).double() / 255
    assert (255 * walk.nearer(distance)).tolist() == pytest.approx([7.0, 196.0])
    assert Walk(Victim(victim.model, 1), x, walk.goal, L2(0.01), until_eps=True).nearer(distance)[
        0
    ] == pytest.approx(0.98 * 8 / 255)


@pytest.mark.skipif(not (BENCH / "archs.py").is_file(), reason=f"no models at {BENCH}")
def test_a_natural_mnist_network_falls_to_few_queries():
    """Published for HopSkipJump: 91 % within 2000 queries, 161 of them on average."""
    sys.path.insert(0, str(BENCH))
    try:
        import archs
    finally:
        sys.path.remove(str(BENCH))
    spec = json.loads((BENCH / "reference.json").read_text())["models"]["mnist_natural"]
    net = getattr(archs, spec["arch"])().eval()
    path = BENCH / "models" / "mnist_natural.pt"
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    data = np.load(BENCH / "data" / "mnist-test.npz")
    x = torch.from_numpy(data["x"][:40]).float() / 255
    y = torch.from_numpy(data["y"][:40]).long()
    pool = Pool(x, y)
    attack = parse_attack("hop-skip-jump,queries=500")
    x_adv, victim = found(attack, net, x, Goal(y), Linf(0.3), pool=pool)
    with torch.no_grad():
        broken = Linf(0.3).contains(x, x_adv) & (net(x_adv).argmax(1) != y)
    assert broken.float().mean() >= 0.9
    assert victim.ledger.queries[broken].float().mean() < 100
    few = dataclasses.replace(parse_attack("cgba"), queries=400, until_eps=False)
    x_adv, _ = found(few, net, x[:10], Goal(y[:10]), L2(0.3), pool=pool)
    assert L2(0.3).distance(x[:10], x_adv).median() < 2.8
