"""`auto`: its stages, what makes it escalate, and that it is at least as strong as the cascade."""

import pytest
import torch
from torch import nn

from robust.attacks import APGDT, Auto
from robust.attacks._survivors import Survivors
from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import L2, Linf, Threat
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
    for threat in (Linf(0.08), L2(0.5)):
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
    assert (net(x_adv).argmax(1) == 1).float().mean() >= 0.9


def test_without_masking_it_does_not_escalate(digits_net, digits):
    x, y = digits
    victim, _ = attack(digits_net, x, y, Linf(0.03))
    assert not any(stage.startswith("escalation") for stage in victim.marks)
    assert "restart 1" in victim.marks


def test_each_stage_takes_in_only_what_the_former_left(digits_net, digits):
    x, y = digits
    victim, x_adv = attack(digits_net, x, y, Linf(0.05))
    solved = digits_net(x_adv).argmax(1) != y
    sizes = [int(entered.sum()) for entered in victim.marks.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == int((digits_net(x).argmax(1) == y).sum())
    never = [entered & ~next(iter(victim.marks.values())) for entered in victim.marks.values()]
    assert not torch.stack(never).any()
    assert solved.any()
    # Nobody is asked again once solved: the costs of the first stage bound what it solved.
    first = solved & ~victim.marks["diversified start"]
    assert (victim.ledger.forwards[first] <= 1 + 11).all()


def test_survivors_keep_the_best_point_of_all_attempts(digits_net, digits):
    x, y = digits[0][:20], digits[1][:20]
    pool = Survivors(Victim(digits_net, 20), x, Goal(y, persist=True), Linf(0.05).around(x))
    with torch.no_grad():
        pool.look()
        for start in (x, pool.ball.random(generator(0))):
            before = pool.margin.clone()
            pool.climb(pool.rows, start, 5)
            pool.squares(pool.rows, generator(1), [0.2, 0.1])
            assert (pool.margin >= before).all()
            assert torch.allclose(pool.goal.margin(digits_net(pool.best)), pool.margin, atol=1e-5)
    assert not pool.solved.any()


def test_targeted_goals_arrive(digits_net, digits):
    x, y = digits
    target = (y + 1) % 10
    _, x_adv = attack(digits_net, x, target, Threat("linf", 0.4), targeted=True)
    assert (digits_net(x_adv).argmax(1) == target).float().mean() >= 0.9
