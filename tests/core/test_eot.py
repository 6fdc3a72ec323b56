"""Expectation over transformation: means of a randomised model's answers, and their cost."""

import pytest
import torch

from robust.attacks import APGD, EOT, FGSM, PGD, Restarts, Square
from robust.core.eot import _Averaged
from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.rng import generator, seeded
from robust.core.threat import Linf
from robust.core.victim import Access, Victim
from robust.registry import label, name_of, parse_attack

N, D, K = 12, 20, 4


class Noisy:
    """A linear model whose weights are drawn anew for every forward."""

    def __init__(self, spread=1.0):
        self.weight = torch.randn(D, K, generator=torch.Generator().manual_seed(0))
        self.spread, self.answers = spread, []

    def __call__(self, x):
        logits = x @ (self.weight + self.spread * torch.randn(D, K))
        self.answers.append(logits.detach())
        return logits


def batch():
    x = torch.rand(N, D, generator=torch.Generator().manual_seed(1))
    return x, Goal((x @ Noisy().weight).argmax(1))


def gradients(draws, times=30):
    x, goal = batch()
    victim = _Averaged.over(Victim(Noisy(), N), draws)
    with seeded(5):
        return torch.stack([victim.gradient(x, LOSSES["ce"], goal)[2] for _ in range(times)])


def test_the_variance_of_the_gradient_falls_with_the_draws():
    one, many = gradients(1).var(0).mean(), gradients(16).var(0).mean()
    assert float(one / many) == pytest.approx(16, rel=0.25)


def test_it_is_the_mean_of_losses_and_gradients_not_the_loss_of_a_mean():
    x, goal = batch()
    model = Noisy()
    with seeded(3):
        logits, value, gradient = _Averaged.over(Victim(model, N), 8).gradient(
            x, LOSSES["ce"], goal
        )
    drawn = model.answers
    assert len(drawn) == 8
    assert torch.allclose(logits, torch.stack(drawn).mean(0), atol=1e-5)
    values = torch.stack([LOSSES["ce"](z, goal) for z in drawn])
    assert torch.allclose(value, values.mean(0), atol=1e-5)
    assert not torch.allclose(value, LOSSES["ce"](logits, goal), atol=1e-2)
    with seeded(3):
        single = [Victim(model, N).gradient(x, LOSSES["ce"], goal)[2] for _ in range(8)]
    assert torch.allclose(gradient, torch.stack(single).mean(0), atol=1e-5)
    with seeded(3):
        asked = _Averaged.over(Victim(model, N), 8).logits(x)
    assert torch.allclose(asked, logits, atol=1e-5)


def test_a_single_draw_changes_nothing():
    x, goal = batch()
    found = []
    for attack in (PGD(steps=5), EOT(attack=PGD(steps=5), eot=1)):
        with seeded(4), torch.no_grad():
            found.append(attack.search(Victim(Noisy(), N), x, goal, Linf(0.1), generator(0)))
    assert torch.equal(*found)


@pytest.mark.parametrize("eot", [1, 7])
def test_every_draw_is_in_the_ledger(eot):
    x, goal = batch()
    goal = Goal(goal.labels, persist=True)
    victim = Victim(Noisy(), N)
    with torch.no_grad():
        EOT(attack=PGD(steps=5), eot=eot).search(victim, x, goal, Linf(0.1), generator(0))
    assert victim.ledger.forwards.tolist() == [5 * eot] * N
    assert victim.ledger.queries.tolist() == [5 * eot] * N
    assert victim.ledger.backwards.tolist() == [5 * eot] * N
    _Averaged.over(victim, eot)[torch.tensor([0, 3])].logits(x[[0, 3]])
    assert victim.ledger.forwards.tolist() == [5 * eot + eot * (i in (0, 3)) for i in range(N)]


def test_solved_samples_leave_and_the_rest_go_on():
    x, goal = batch()
    model = Noisy(0.5)
    sizes = []
    victim = Victim(lambda z: sizes.append(len(z)) or model(z), N)
    with seeded(2), torch.no_grad():
        EOT(attack=APGD(steps=10), eot=3).search(victim, x, goal, Linf(0.05), generator(0))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < N
    assert all(sizes[i] == sizes[i + 1] == sizes[i + 2] for i in range(0, len(sizes), 3))
    assert int(victim.ledger.forwards.sum()) == sum(sizes)


def test_restarts_see_the_margin_of_the_mean():
    """A lucky draw is no success: restarts inside or around go on until the mean has crossed."""
    x = torch.rand(N, D, generator=torch.Generator().manual_seed(1))
    goal = Goal(torch.zeros(N, dtype=torch.int64))

    class Lucky:
        number = 0

        def __call__(self, z):
            self.number += 1
            wins = self.number % 4 == 0  # one of four draws
            return torch.tensor([[0.0, 1.0 if wins else -1.0]]) + 0 * z[:, :2]

    inner = FGSM(random_start=True)
    for attack in (
        EOT(attack=Restarts(attack=inner, restarts=3), eot=4),
        Restarts(attack=EOT(attack=inner, eot=4), restarts=3),
    ):
        victim = Victim(Lucky(), N)
        with torch.no_grad():
            attack.search(victim, x, goal, Linf(0.1), generator(0))
        assert victim.ledger.forwards.tolist() == [3 * 2 * 4] * N


def test_names_parameters_and_refusals():
    attack = parse_attack("apgd,eot=20,restarts=5")
    assert attack == EOT(attack=Restarts(attack=APGD(), restarts=5), eot=20)
    assert label(attack) == "apgd,eot=20,restarts=5"
    assert parse_attack(label(attack)) == attack
    assert parse_attack("apgd,restarts=5,eot=20") == attack
    assert name_of(attack) == "apgd"
    assert attack.params == {**APGD().params, "eot": 20, "restarts": 5}
    assert (attack.access, attack.norms) == (APGD().access, APGD().norms)
    with pytest.raises(RobustError, match="eot must be at least 1"):
        parse_attack("apgd,eot=0")
    with pytest.raises(RobustError, match="eot averages gradients, and Square uses scores only"):
        EOT(attack=Square())
    with pytest.raises(RobustError, match="eot must be a whole number"):
        parse_attack("apgd,eot=x")
    assert Square.access == Access.SCORES
