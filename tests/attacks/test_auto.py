"""`auto`: its stages, what makes it escalate, and that it is at least as strong as the cascade."""

import pytest
import torch
from torch import nn

from robust.attacks import APGDT, FGSM, Auto
from robust.attacks._survivors import Survivors
from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import L1, L2, Linf, Threat
from robust.core.victim import Victim
from robust.data import DataSpec, open_data


def attack(model, x, y, threat, *, seed=0, **options):
    victim = Victim(model, len(x))
    goal = Goal(y, **options)
    with torch.no_grad():
        x_adv = Auto().search(victim, x, goal, threat, generator(seed))
    return victim, x_adv


@pytest.fixture(scope="module")
def digits():
    source = open_data(DataSpec("digits", split="test"))
    batch = source.batch(source.ids[:120])
    return batch.x, batch.y


class Masked(nn.Module):
    """A linear model behind units that are dead at every sample: no gradient, but breakable."""

    def __init__(self, dead):
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        self.weight = torch.randn(64, generator=rng)
        self.dead = dead

    def forward(self, x):
        score = (x.flatten(1) - 0.5) @ self.weight
        shown = torch.relu(score.abs() - self.dead) * score.sign()
        return torch.stack([shown + 0.01, torch.zeros_like(shown)], 1)


def test_as_strong_as_targeted_apgd_on_fewer_steps(digits_net, digits):
    x, y = digits
    for threat in (Linf(0.08), L2(0.5), L1(1.5)):
        victim, x_adv = attack(digits_net, x, y, threat)
        left = (digits_net(x_adv).argmax(1) == y).sum()
        other = Victim(digits_net, len(x))
        with torch.no_grad():
            z = APGDT().search(other, x, Goal(y), threat, generator(0))
        assert left <= (digits_net(z).argmax(1) == y).sum()
        assert victim.ledger.backwards.sum() < other.ledger.backwards.sum()


def test_the_seed_alone_decides(digits_net, digits):
    x, y = digits
    first = attack(digits_net, x, y, Linf(0.06), seed=1)[1]
    assert torch.equal(first, attack(digits_net, x, y, Linf(0.06), seed=1)[1])
    assert not torch.equal(first, attack(digits_net, x, y, Linf(0.06), seed=2)[1])


def test_dead_units_are_noticed_and_seen_through():
    x = 0.5 + 0.02 * torch.rand(24, 64, generator=torch.Generator().manual_seed(1))
    net = Masked(dead=1.5)
    y = net(x).argmax(1)
    assert (y == 0).all()
    victim, x_adv = attack(net, x, y, Linf(0.3))
    plain = [k for k in victim.marks if k.startswith(("descent", "towards", "diversified"))]
    assert plain
    assert "probe for masked gradients" in victim.marks
    assert any("seem to be masked" in text for text in victim.remarks)
    assert (net(x_adv).argmax(1) == 1).float().mean() >= 0.9


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.4), L1(2.0)])
def test_a_linear_model_is_not_called_masked(threat, digits):
    x, y = digits
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        centres = torch.stack([x[y == k].flatten(1).mean(0) for k in range(10)])
        net[1].weight.copy_(8 * centres)
        net[1].bias.copy_(-4 * centres.square().sum(1))
    right = net(x).argmax(1) == y
    victim, x_adv = attack(net, x[right], y[right], threat)
    assert 0.1 < (net(x_adv).argmax(1) == y[right]).float().mean() < 0.95
    assert not any("masked" in text or "zero" in text for text in victim.remarks)


def test_few_classes_are_aimed_at_once_each_and_surrogates_say_nothing(make_net, make_samples):
    net, x = make_net((20,), 3), make_samples((20,), 30)
    y = net(x).argmax(1)
    victim, _ = attack(net, x, y, Linf(0.02))
    assert [k for k in victim.marks if k.startswith("towards")] == [
        "towards likely class 1",
        "towards likely class 2",
    ]
    assert victim.remarks
    victim, _ = attack(net, x, y, Linf(0.02), persist=True)
    assert not victim.remarks


def test_without_masking_it_does_not_escalate(digits_net, digits):
    x, y = digits
    victim, _ = attack(digits_net, x, y, Linf(0.03))
    assert not any(stage.startswith("escalation") for stage in victim.marks)
    assert "restarts" in victim.marks
    assert not any("masked" in text for text in victim.remarks)


def test_nobody_is_asked_again_once_solved(digits_net, digits):
    x, y = digits
    victim, x_adv = attack(digits_net, x, y, Linf(0.05))
    solved = digits_net(x_adv).argmax(1) != y
    first, second, *later = victim.marks.values()
    assert first.all()
    assert second.sum() < first.sum()
    assert not torch.stack([entered & ~second for entered in later]).any()
    assert (solved & ~second).any()
    assert (victim.ledger.forwards[solved & ~second] <= 11).all()
    left = ~solved
    # Who is left took part in all that everyone took part in, and the end is told of them alone.
    assert victim.marks["probe for masked gradients"][left].all()
    (told,) = victim.remarks.values()
    assert torch.equal(told, left)


class Plateaus(nn.Module):
    """A linear model of pixels that are rounded to eighths: every gradient is zero."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        score = ((x * 8).round() / 8 - 0.5).flatten(1) @ self.weight
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("rounds", [torch.round, lambda x: (x.detach() + 0.5).floor() + 0 * x])
def test_zero_gradients_are_noticed_and_told(rounds):
    """Whether the rounding can be seen through or not."""
    rng = torch.Generator().manual_seed(4)
    net = Plateaus(torch.randn(64, generator=rng))
    net.forward = lambda x: Plateaus.forward(net, rounds(x * 8) / 8)
    x = torch.rand(40, 1, 8, 8, generator=rng)
    y = net(x).argmax(1)
    victim, x_adv = attack(net, x, y, Linf(0.1))
    left = net(x_adv).argmax(1) == y
    flat = victim.remarks["had a gradient of zero where a search began"]
    assert flat.any()
    assert "escalation" in victim.marks
    # What the best of all points within 0.1 cannot break: each pixel moves to an eighth.
    up, down = (rounds((x + s * 0.1).clamp(0, 1) * 8) / 8 for s in (1, -1))
    score = torch.stack([up, down]).flatten(2) * net.weight
    sign = torch.where(y == 0, 1.0, -1.0).unsqueeze(1)
    best = (score * sign).amin(0).sum(1) - 0.5 * net.weight.sum() * sign.squeeze(1)
    assert not (left & (best < -0.5)).any()


def test_reach_follows_the_depth_at_which_samples_break(digits_net, digits):
    x, y = digits
    pool = Survivors(Victim(digits_net, 120), x, Goal(y), Linf(0.05).around(x), generator(0))
    pool.margin = torch.linspace(0, -1, 120)
    taken = []

    def breaking(*places):
        def attempt(rows):
            taken.append(rows)
            pool.solved[list(places)] = True

        return attempt

    assert pool.stage("first", breaking(3, 7), everyone=True) == 2
    assert pool.reach == pytest.approx(0.35)  # 3 × 8 / 120 is less
    assert pool.stage("second", breaking(20)) == 1
    assert len(taken[1]) == 42  # of 118
    assert taken[1].tolist() == [row for row in range(44) if row not in (3, 7)]
    assert pool.reach == pytest.approx(3 * 19 / 118)
    assert pool.stage("third", breaking()) == 0
    assert pool.reach == pytest.approx(0.35)
    assert pool.victim.marks["second"].sum() == 42


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.3), L1(2.0)])
def test_survivors_keep_the_best_point_of_all_attempts(threat, digits_net, digits):
    x, y = digits[0][:20], digits[1][:20]
    goal = Goal(y, persist=True)
    pool = Survivors(Victim(digits_net, 20), x, goal, threat.around(x), generator(0))
    attempts = [
        lambda: pool.climb(pool.rows, x, 5),
        lambda: pool.climb_diversified(pool.rows, 5, rank=1),
        lambda: pool.stripes(pool.rows),
        lambda: pool.squares(pool.rows, [0.2, 0.1]),
        lambda: pool.walk(pool.rows, 20, towards=pool.likely(pool.rows, 0)),
    ]
    with torch.no_grad():
        for attempt in attempts:
            before = pool.margin.clone()
            attempt()
            assert (pool.margin >= before).all()
            logits = digits_net(pool.best)
            assert torch.allclose(goal.margin(logits), pool.margin, atol=1e-5)
            assert threat.contains(x, pool.best).all()
    assert not pool.solved.any()
    assert (pool.margin > 0).any()


def test_the_rounds_end_and_say_why(digits_net, digits):
    x, y = digits
    victim, x_adv = attack(digits_net, x, y, Linf(0.02))
    left = digits_net(x_adv).argmax(1) == y
    assert left.sum() > 60
    ((text, told),) = victim.remarks.items()
    assert "promised too little to be seen in the 95% interval" in text
    assert torch.equal(told, left)


def test_targeted_goals_arrive(digits_net, digits):
    x, y = digits
    target = (y + 1) % 10
    _, x_adv = attack(digits_net, x, target, Threat("linf", 0.4), targeted=True)
    assert (digits_net(x_adv).argmax(1) == target).float().mean() >= 0.9


def test_under_l1_it_takes_the_vertices_that_one_step_finds(digits_net, digits):
    x, y = digits
    x, y = x[digits_net(x).argmax(1) == y], y[digits_net(x).argmax(1) == y]
    pool = Survivors(Victim(digits_net, len(x)), x, Goal(y), L1(1.5).around(x), generator(0))
    with torch.no_grad():
        pool.vertices(pool.rows, 1)
        step = FGSM()(digits_net, x, y, threat=L1(1.5))
        one = int(pool.solved.sum())
        assert one >= 0.9 * int((digits_net(step).argmax(1) != y).sum()) > 5
        pool.vertices(pool.rows, 20)
        assert int(pool.solved.sum()) > one
        assert L1(1.5).contains(x, pool.best).all()
        before = pool.solved.clone()
        pool.vertices(pool.rows, 20, towards=pool.likely(pool.rows, 1))
        assert bool((pool.solved >= before).all())
    x_adv = attack(digits_net, x, y, L1(1.5))[1]
    assert int((digits_net(x_adv).argmax(1) != y).sum()) >= int(pool.solved.sum())
