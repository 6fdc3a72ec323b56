"""Attacks by scores: what their estimates and bases are, what they spend, and whom they reach."""

import itertools
import math

import pytest
import torch

from robust.attacks import _cosines, _estimated, _regression, _square
from robust.core.goal import Goal
from robust.core.grid import Grid
from robust.core.losses import margin
from robust.core.oracle import Oracle
from robust.core.rng import generator, normal, signs
from robust.core.threat import L2, Linf, Threat
from robust.core.victim import Access, Victim
from robust.registry import parse_attack

NAMES = ("square", "guided-square", "nes", "spsa", "simba", "simba,basis=pixel")
CASES = [(name, norm) for name in NAMES for norm in ("linf", "l2")]
SHAPES = [(3, 6, 6), (1, 40), (25,)]


class Linear:
    """Class 1 leads class 0 by ⟨w, z − 1/2⟩ − `far`; every point asked about is kept."""

    def __init__(self, shape, far=1e3, classes=2, seed=5):
        self.w = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        self.far, self.classes, self.asked = far, classes, []

    def __call__(self, z):
        self.asked.append(z.clone())
        score = ((z - 0.5) * self.w).flatten(1).sum(1)
        rest = [torch.full_like(score, -1e4)] * (self.classes - 2)
        return torch.stack([torch.full_like(score, self.far), score, *rest], 1)

    def gain(self, x, z):
        return ((z - x) * self.w).flatten(1).sum(1)


def centre(shape, n=4):
    return torch.full((n, *shape), 0.5)


def search(text, model, x, goal, threat, *, seed=0, budget=None):
    budget = None if budget is None else torch.as_tensor(budget)
    victim = Victim(model, len(x), Access.SCORES, budget=budget)
    with torch.no_grad():
        return parse_attack(text).search(victim, x, goal, threat, generator(seed)), victim.ledger


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))


@pytest.mark.parametrize("draw", [normal, signs])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_estimate_points_where_the_loss_rises(draw, shape):
    """Of a linear loss with enough pairs; with few, as far as the theory says: √(k / (k + d))."""
    model, x = Linear(shape), centre(shape)
    goal, ball = Goal(torch.zeros(4).long()), Linf(0.4).around(x)
    d = x[0].numel()
    for pairs, least, most in ((20 * d, 0.95, 1.0), (10, 0.1, 0.65)):
        with torch.no_grad():
            found = _estimated.probe(
                Victim(model, 4, Access.SCORES), x, goal, ball, generator(0),
                pairs=torch.full((4,), pairs), together=64, sigma=0.05, draw=draw, loss=margin,
            )  # fmt: skip
        aligned = cosine(found.gradient, model.w.expand_as(x))
        assert least < aligned.mean() < most
        assert not found.solved.any()


def test_an_estimate_keeps_the_best_of_its_questions():
    shape = (12,)
    model, x = Linear(shape), centre(shape, 3)
    goal, ball = Goal(torch.zeros(3).long()), Linf(0.1).around(x)
    pairs = torch.tensor([5, 0, 9])
    with torch.no_grad():
        victim = Victim(model, 3, Access.SCORES)
        found = _estimated.probe(
            victim, x, goal, ball, generator(0),
            pairs=pairs, together=12, sigma=0.05, draw=normal, loss=margin,
        )  # fmt: skip
    assert victim.ledger.queries.tolist() == [10, 0, 18]
    assert torch.equal(found.point[1], x[1])
    assert not found.gradient[1].any()
    asked = torch.cat(model.asked)
    assert sum(len(z) for z in model.asked) == 28
    assert max(len(z) for z in model.asked) <= 12
    value = margin(model(found.point), Goal(torch.zeros(3).long()))
    assert torch.allclose(value[[0, 2]], found.value[[0, 2]])
    best = margin(model(asked), Goal(torch.zeros(28).long())).amax()
    assert found.value.amax() == pytest.approx(float(best))


def test_mirrored_questions_are_mirrored_and_inside_the_ball():
    model, x = Linear((20,)), centre((20,))
    search("nes,queries=21,samples=5", model, x, Goal(torch.zeros(4).long()), Linf(0.1))
    first, both = model.asked[0], torch.cat(model.asked[1:6])
    assert torch.equal(first, x)
    pairs = both[:40].view(5, 2, 4, 20)
    assert torch.allclose(pairs.mean(1), x.expand(5, 4, 20), atol=1e-6)
    assert all(Linf(0.1).contains(x, z).all() for z in pairs.flatten(0, 1))


@pytest.mark.parametrize("sizes", [(7,), (4, 6), (3, 2, 5)])
def test_cosines_are_an_orthonormal_basis(sizes):
    basis = torch.stack([_cosines.waves(sizes, w.tolist()) for w in _cosines.frequencies(sizes)])
    flat = basis.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(math.prod(sizes)).double(), atol=1e-12)


@pytest.mark.parametrize("basis", ["dct", "pixel"])
@pytest.mark.parametrize("shape", [(2, 8, 16), (1, 24), (10,)])
def test_simba_goes_through_a_whole_basis_the_smooth_part_first(basis, shape):
    vectors = parse_attack(f"simba,basis={basis}")._vectors(torch.zeros(1, *shape), generator(0))
    d = math.prod(shape)
    first = torch.cat([next(vectors) for _ in range(d)]).flatten(1)
    again = torch.cat([next(vectors) for _ in range(d)]).flatten(1)
    assert torch.allclose(first @ first.T, torch.eye(d), atol=1e-5)
    assert torch.allclose(again @ again.T, torch.eye(d), atol=1e-5)
    assert not torch.equal(first, again)
    if basis == "dct":
        rough = first.view(d, *shape).diff(dim=-1).flatten(1).norm(dim=1)
        assert rough[: max(1, d // 16)].amax() < 0.6 * rough[-d // 2 :].mean()


def test_simba_asks_up_then_down_and_keeps_what_rises():
    model, x = Linear((6,)), centre((6,), 1)
    z, ledger = search(
        "simba,basis=pixel,queries=100,step_size=0.1",
        model,
        x,
        Goal(torch.zeros(1).long()),
        L2(5.0),
    )
    # Once through the basis: one question where the slope is up, two where it is down.
    falls = int((model.w < 0).sum())
    order = torch.cat(model.asked)[: 1 + 6 + falls]
    assert torch.allclose((order[-1:] - x).abs()[model.w.view(1, -1) > 0], torch.tensor(0.1))
    steps = order.diff(dim=0)
    assert ((steps.abs() > 1e-6).sum(1) <= 2).all()
    assert torch.equal((z - x).sign(), model.w.sign().view(1, -1))
    assert int(ledger.queries) <= 100


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.05), ("linf", 3 / 255)])
def test_simba_takes_steps_of_a_level_where_values_are_sent_as_8_bits(norm, eps):
    """A tenth of eps would be less than half a level in all coordinates: nothing but x was asked.
    Below a level there is nothing to ask.
    """
    shape = (1, 8, 8)
    model, x = Linear(shape), torch.full((1, *shape), 128 / 255)
    goal, threat, gains = Goal(torch.zeros(1).long()), Threat(norm, eps), []
    text = "simba,queries=300" + (",step_size=0.001" if norm == "linf" else "")
    for grid in (None, Grid(x, threat)):
        oracle = Oracle(model)
        victim = Victim(oracle, 1, Access.SCORES, grid=grid)
        with torch.no_grad():
            parse_attack(text).search(victim, x, goal, threat, generator(0))
        gains.append(max(float(model.gain(x, z).amax()) for z in model.asked))
        model.asked.clear()
        assert oracle.repeated <= oracle.asked / 3
    assert gains[1] > 0.6 * gains[0]
    threat = Threat(norm, 0.9 / 255)
    victim = Victim(model, 1, Access.SCORES, grid=Grid(x, threat))
    with torch.no_grad():
        z = parse_attack(text).search(victim, x, goal, threat, generator(0))
    assert torch.equal(z, x)
    assert not model.asked
    ((remark, rows),) = victim.remarks.items()
    assert remark.startswith("cannot be moved")
    assert rows.all()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
def test_a_linear_loss_is_climbed(name, norm, eps, targeted):
    """The optimum is known: most of it is found, by the sign of the slope or along it."""
    shape = (1, 6, 6)
    model, x, threat = Linear(shape), centre(shape), Threat(norm, eps)
    goal = Goal(torch.full((4,), int(targeted)), targeted)
    z, _ = search(f"{name},queries=1500", model, x, goal, threat)
    best = model.gain(x, threat.around(x).extreme(model.w.expand_as(x)))
    share = model.gain(x, z) / best
    stuck = (name, norm) in (("square", "l2"), ("simba", "linf"))  # cosines cut off by the ball
    assert (share >= (0.6 if stuck else 0.9)).all()
    assert (share <= 1 + 1e-5).all()
    if norm == "l2":
        assert (threat.distance(x, z) >= 0.98 * eps).all()  # the length is spent


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("queries", [1, 2, 3, 4, 22, 61])
def test_the_budget_is_never_exceeded(name, norm, queries):
    model, x = Linear((3, 6, 6)), centre((3, 6, 6))
    _, ledger = search(
        f"{name},queries={queries}", model, x, Goal(torch.zeros(4).long()), Threat(norm, 0.1)
    )
    assert (ledger.queries <= queries).all()
    assert (ledger.queries >= queries - 2).all()  # a pair and a step are asked about, or nothing


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_each_sample_has_a_budget_of_its_own(name, norm):
    model, x = Linear((1, 40)), centre((1, 40), 6)
    budget = [0, 1, 2, 17, 40, 90]
    z, ledger = search(
        f"{name},queries=50", model, x, Goal(torch.zeros(6).long()), Threat(norm, 0.1),
        budget=budget,
    )  # fmt: skip
    for spent, given in zip(ledger.queries.tolist(), budget, strict=True):
        most = min(given, 50)
        assert most - 2 <= spent <= most
    assert torch.equal(z[0], x[0])
    # What the others may not ask is not lost on those that can: they climb on.
    gain = model.gain(x, z)
    assert gain[5] > max(gain[1], gain[2])


@pytest.mark.parametrize(("name", "expected"), [("square", 60), ("guided-square", 5000)])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_sides_of_squares_follow_what_can_be_paid_for(name, expected, draws, monkeypatch):
    """A budget of the victim's is as good as `queries`; guided squares stay large under one."""
    share, scales = _square.share, set()
    monkeypatch.setattr(
        _square,
        "share",
        lambda p, number, queries: scales.add(queries) or share(p, number, queries),
    )
    oracle = Oracle(Linear((1, 9, 9)))
    oracle.draws = draws
    budget = [60 * draws, 7, 60 * draws + draws - 1]
    x, goal = centre((1, 9, 9), 3), Goal(torch.zeros(3).long())
    search(f"{name},queries=5000", oracle, x, goal, Linf(0.1), budget=budget)
    assert scales == {expected}
    scales.clear()
    search(f"{name},queries=30", Linear((1, 9, 9)), x, goal, Linf(0.1), budget=[10**6] * 3)
    assert scales == {30}


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_draws_are_paid_for_and_known_answers_are_not(name, norm):
    """An oracle of three draws: a question costs three queries. Where all is known the search ends
    all the same.
    """

    class Net(torch.nn.Module):
        def forward(self, z):
            return Linear((1, 12))(z)

    oracle, x = Oracle(Net()), torch.tensor([[[0.4] * 12], [[0.6] * 12]])
    oracle.draws = 3
    for eps in (0.1, 0.1, 0.0):
        before = oracle.asked
        _, ledger = search(
            f"{name},queries=50", oracle, x, Goal(torch.zeros(2).long()), Threat(norm, eps)
        )
        assert int(ledger.queries.sum()) == oracle.asked - before
        assert (ledger.queries <= 50).all()
        if before == 0:
            assert (ledger.queries >= 42).all()
    assert (ledger.queries <= 3).all()  # with no room it asks about x alone, again and again


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_nothing_to_spend_asks_nothing(name, norm):
    model, x = Linear((12,)), centre((12,))
    z, ledger = search(
        name, model, x, Goal(torch.zeros(4).long()), Threat(norm, 0.1), budget=[0] * 4
    )
    assert torch.equal(z, x)
    assert not model.asked
    assert not ledger.queries.any()


@pytest.mark.parametrize(("name", "norm"), CASES)
def test_where_it_fails_it_returns_its_best_point(name, norm):
    model, x = Linear((3, 5, 5)), centre((3, 5, 5), 1)
    goal = Goal(torch.zeros(1).long())
    z, _ = search(f"{name},queries=60", model, x, goal, Threat(norm, 0.1))
    asked = torch.cat(model.asked)
    values = margin(model(asked), Goal(torch.zeros(len(asked)).long()))
    assert margin(model(z), goal) == pytest.approx(float(values.amax()))


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("targeted", [False, True])
def test_solved_samples_leave_with_the_point_that_solved_them(name, norm, shape, targeted):
    """A linear boundary at a third of what the ball holds: all are reached, each leaves at once."""
    x = centre(shape, 8)
    threat = Threat(norm, 0.2 if norm == "linf" else 0.8)
    model = Linear(shape, classes=3)
    best = float(model.gain(x, threat.around(x).extreme(model.w.expand_as(x)))[0])
    model.far = best / 3
    goal = Goal(torch.full((8,), int(targeted)), targeted)
    z, ledger = search(f"{name},queries=3000", model, x, goal, threat)
    assert goal.reached(model(z)).all()
    assert threat.contains(x, z).all()
    assert (ledger.queries < 3000).all()
    asked = torch.cat(model.asked[:-1])
    assert len(asked) == int(ledger.queries.sum())
    reached = Goal(torch.full((len(asked),), int(targeted)), targeted).reached(model(asked))
    assert int(reached.sum()) <= 8 * (1.5 if name in ("nes", "spsa") else 1)


def test_a_guide_learns_the_smooth_part_of_a_gradient():
    shape, n = (1, 8, 8), 3
    x = centre(shape, n)
    ball = Linf(0.1).around(x)
    smooth = sum(
        a * _cosines.waves(shape, w) for a, w in ((1.0, (0, 1, 0)), (-2.0, (0, 2, 1)))
    ).to(x)  # fmt: skip
    guide = _regression.Guide(x, *_square.layout(shape), 12)
    rng = generator(0)
    for _ in range(60):
        move = 0.1 * signs(rng, x)
        guide.learn(move, (move * smooth).flatten(1).sum(1))
    assert (cosine(guide.gradient(), smooth.expand(n, *shape)) > 0.97).all()
    assert (cosine(guide.point(ball) - x, smooth.sign().expand(n, *shape)) > 0.9).all()


def test_a_guide_takes_no_harm_from_empty_moves_and_broken_answers():
    x = centre((10,), 3)
    guide = _regression.Guide(x, *_square.layout((10,)), 64)
    assert guide.basis.shape == (10, 10)
    guide.learn(torch.zeros_like(x), torch.ones(3))
    guide.learn(torch.ones_like(x), torch.tensor([float("nan"), float("inf"), 1.0]))
    found = guide.gradient()
    assert found.isfinite().all()
    assert not found[:2].any()
    assert found[2].sum() > 0
    guide.keep(torch.tensor([False, True, True]))
    assert len(guide.gradient()) == 2


def test_a_guide_is_due_at_first_soon_and_then_after_a_tenth():
    guide = _regression.Guide(centre((4,)), 1, (4,), 4)
    due = [number for number in range(1000) if guide.due(number)]
    assert due[:3] == [10, 15, 20]
    assert all(b - a == max(5, a // 10) for a, b in itertools.pairwise(due))


def test_windows_of_one_sign():
    sign = _square._signs(generator(0), torch.zeros(4000, 3, 1), 3, 0.5).squeeze(2)
    same = (sign == sign[:, :1]).all(1).float().mean()
    assert float(same) == pytest.approx(0.5 + 0.5 / 4, abs=0.03)
    assert float((sign > 0).float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("broken", [lambda n: n == 0, lambda n: n % 3 == 0, lambda n: n < 5])
@pytest.mark.parametrize("answer", [float("nan"), -float("inf")])
@pytest.mark.parametrize(("name", "norm"), CASES)
def test_broken_answers_neither_stay_nor_stop_the_climb(name, norm, answer, broken):
    """The first, every third, or the first five: of those that follow the best is returned."""
    shape, count = (1, 6, 6), itertools.count()
    net, x, goal = Linear(shape), centre(shape, 1), Goal(torch.zeros(1).long())
    asked = []

    def model(z):
        out = net(z)
        for row in range(len(z)):
            if broken(next(count)):
                out[row, 1] = answer
            else:
                asked.append(z[row : row + 1])
        return out

    threat = Threat(norm, 0.1 if norm == "linf" else 0.5)
    z, _ = search(f"{name},queries=600", model, x, goal, threat)
    best = net.gain(x, threat.around(x).extreme(net.w.expand_as(x)))
    assert z.isfinite().all()
    assert float(net.gain(x, z) / best) > 0.35
    assert float(net.gain(x, z)) == pytest.approx(
        max(float(net.gain(x, one)) for one in asked), rel=1e-4
    )


@pytest.mark.parametrize("name", [*NAMES, "guided-square,p_init=0.3"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.7)])
def test_every_question_is_inside_the_ball(name, norm, eps):
    """Whatever is kept: with a model that likes each answer better than the one before."""
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    asked, count = [], itertools.count(1)

    def model(z):
        asked.append(z.clone())
        return torch.tensor([[1 + 1 / next(count), 0.0, 0.0]]).expand(len(z), -1)

    threat = Threat(norm, eps)
    for seed in range(3):
        search(f"{name},queries=300", model, x, Goal(torch.zeros(1).long()), threat, seed=seed)
    assert all(threat.contains(x.expand_as(z), z).all() for z in asked)
