"""A victim that answers from a search copy never takes its word near the goal."""

import pytest
import torch

from robust.attacks import APGD, PGD
from robust.core.goal import Goal
from robust.core.losses import margin
from robust.core.rng import generator
from robust.core.threat import Linf
from robust.core.victim import Access, Original, Victim

RNG = torch.Generator().manual_seed(0)
W = torch.randn(6, 4, generator=RNG)
X = torch.rand(40, 6, generator=RNG)
Y = (X @ W).argmax(1)
GOAL = Goal(Y)
NOISE = 0.3


def model(x):
    return x @ W


def noisy(x):
    """The model, each logit off by at most NOISE / 2, in a way that depends on x alone."""
    return model(x) + NOISE / 2 * torch.sin(1000 * x.detach() @ W.flip(0))


def eager(x):
    """Says that every sample is solved."""
    return -model(x)


def asked(function, goal=GOAL, band=NOISE, access=Access.GRADIENT):
    """A victim that answers from a copy, and the samples that the original was asked for."""
    calls = []
    original = Original(lambda x: calls.append(len(x)) or model(x), goal, band)
    return Victim(function, len(goal.labels), access, original=original), calls


def points(n=200):
    """Rows, and points around the samples, many of them at the boundary."""
    rng = torch.Generator().manual_seed(1)
    rows = torch.randint(0, len(X), (n,), generator=rng)
    return rows, X[rows] + torch.randn(n, 6, generator=rng) / 3


def all_answers(victim, x, goal):
    yield victim.logits(x)
    yield victim.gradient(x, margin, goal)[0]
    yield victim.jacobian(x, lambda logits: logits[:, :2])[0]
    yield victim.differentiable(x.clone().requires_grad_()).detach()


@pytest.mark.parametrize("goal", [GOAL, Goal((Y + 1) % 4, targeted=True)], ids=["any", "target"])
def test_success_is_what_the_original_says(goal):
    rows, x = points()
    part = goal[rows]
    truth = part.reached(model(x))
    assert bool((part.reached(noisy(x)) & ~truth).any())
    assert bool((~part.reached(noisy(x)) & truth).any())
    victim, calls = asked(noisy, goal)
    for answer in all_answers(victim[rows], x, part):
        assert torch.equal(part.reached(answer), truth)
    assert len(calls) == 4
    assert 0 < calls[0] < len(x)
    assert torch.equal(part.satisfied(victim[rows].labels(x)), truth)


def test_a_wrong_copy_solves_nothing_and_drops_nobody():
    victim, calls = asked(eager, band=0.0)
    threat = Linf(1e-4)
    x_adv = PGD(steps=5).search(victim, X, GOAL, threat, generator(0))
    kept = ~GOAL.reached(model(x_adv))
    assert bool(kept.all())
    assert victim.ledger.backwards.tolist() == [5] * len(X)
    assert calls == [len(X)] * 6


@pytest.mark.parametrize("attack", [PGD(steps=10), APGD(steps=10)], ids=["pgd", "apgd"])
def test_a_noisy_copy_misses_no_success_that_was_met(attack):
    """Every point that the search looks at and that solves a sample ends the search for it."""
    met = torch.zeros(len(X), dtype=torch.bool)
    places = {}

    def watching(x):
        rows = torch.tensor([places["victim"]._rows.tolist()])[0]
        met[rows] |= GOAL[rows].reached(model(x))
        return noisy(x)

    class Watched(Victim):
        def _forward(self, x):
            places["victim"] = self
            return super()._forward(x)

    victim = Watched(watching, len(X), original=Original(model, GOAL, NOISE))
    x_adv = attack.search(victim, X, GOAL, Linf(0.1), generator(0))
    assert 5 < int(met.sum()) < len(X)
    assert torch.equal(GOAL.reached(model(x_adv)), met)


def test_the_ledger_has_a_forward_more_and_no_query():
    near = (GOAL.margin(noisy(X)) > -NOISE).long()
    assert 0 < int(near.sum()) < len(X)
    victim, _ = asked(noisy)
    victim.gradient(X, margin, GOAL)
    assert torch.equal(victim.ledger.forwards, 1 + near)
    assert victim.ledger.queries.tolist() == [1] * len(X)
    assert victim.ledger.backwards.tolist() == [1] * len(X)
    double = torch.tensor([int(near.argmax())]).expand(3)  # one sample in several rows
    victim[double].logits(X[double])
    assert int(victim.ledger.forwards[double[0]]) == 2 + 3 * 2


def test_loss_and_gradient_are_the_copys():
    victim, _ = asked(lambda x: 2 * model(x))
    logits, value, gradient = victim.gradient(X, margin, GOAL)
    plain = Victim(lambda x: 2 * model(x), len(X))
    _, expected, slope = plain.gradient(X, margin, GOAL)
    assert torch.equal(value, expected)
    assert torch.equal(gradient, slope)
    near = GOAL.margin(2 * model(X)) > -NOISE
    assert torch.equal(logits[near], model(X)[near])
    assert torch.equal(logits[~near], 2 * model(X)[~near])


def test_a_goal_that_persists_asks_nothing_more():
    victim, calls = asked(eager)
    goal = Goal(Y, persist=True)
    logits, _, _ = victim.gradient(X, margin, goal)
    assert torch.equal(logits, eager(X))
    assert not calls
    victim.gradient(X, margin, GOAL)
    assert calls == [len(X)]


def test_the_band_grows_with_the_errors_that_are_seen():
    victim, calls = asked(lambda x: model(x) + torch.nn.functional.one_hot(Y[: len(x)], 4), band=0)
    rows, x = torch.arange(len(X)), X + 0.5 * W[:, (Y + 1) % 4].T
    own = GOAL.margin(model(x))
    assert bool((own > 1).any()) and bool(((own > -1) & (own < 1)).any())  # noqa: PT018
    victim.logits(x)
    first = calls[0]
    answer = victim[rows].logits(x)
    assert calls[1] > first
    assert victim._original.band == pytest.approx(2, rel=1e-4)
    assert torch.equal(GOAL.reached(answer), GOAL.reached(model(x)))


def test_an_answer_of_nan_is_asked_again():
    victim, calls = asked(lambda x: torch.full((len(x), 4), float("nan")))
    assert torch.equal(victim.logits(X), model(X))
    assert calls == [len(X)]
    assert victim._original.band == NOISE


def test_who_watches_sees_what_the_original_says():
    victim, _ = asked(eager)
    seen, watch = victim.watched(GOAL)
    seen.logits(X)
    assert torch.equal(watch.margin, GOAL.margin(model(X)))


def test_without_a_copy_the_model_is_asked_once():
    calls = []
    victim = Victim(lambda x: calls.append(len(x)) or model(x), len(X))
    victim.gradient(X, margin, GOAL)
    victim.logits(X)
    assert calls == [len(X)] * 2
    assert victim.ledger.forwards.tolist() == [2] * len(X)


def test_gradients_come_in_the_layout_of_the_samples():
    images = torch.rand(3, 2, 4, 4)

    def flipped(x):
        return x.contiguous(memory_format=torch.channels_last).square().mean((2, 3))

    goal = Goal(torch.zeros(3, dtype=torch.int64))
    _, _, gradient = Victim(flipped, 3).gradient(images, margin, goal)
    assert gradient.is_contiguous()
