"""TRADES and MART: their losses against the papers' formulas, and what their searches find."""

import math

import pytest
import torch
from defense_steps import THREAT, batch, criterion, gradients, network, step
from torch import nn
from torch.nn.functional import cross_entropy

import robust
from robust.core.defense import Task
from robust.core.errors import RobustError
from robust.core.rng import generator, uniform
from robust.defenses._divergence import divergence
from robust.defenses.mart import MART
from robust.defenses.trades import TRADES


def task(n=10, threat=THREAT):
    return Task(*batch(n), threat, generator(0, "attack"), criterion)


def identity():
    """A model whose logits are its input."""
    return nn.Identity()


def test_divergence_is_that_of_two_distributions():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.6, 0.3])
    by_hand = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist(), strict=True))
    found = divergence(p.log()[None] + 3, q.log()[None] - 5)  # a shift of logits means nothing
    assert found.item() == pytest.approx(by_hand, rel=1e-5)
    assert divergence(p.log()[None], p.log()[None]).item() == pytest.approx(0, abs=1e-7)


def test_trades_without_beta_is_natural_training():
    model, (x, y) = network(), batch()
    result = step(TRADES(beta=0), model)
    natural = cross_entropy(model(x), y)
    torch.testing.assert_close(result.loss, natural)
    plain = gradients(model, natural)
    for name, found in gradients(model, result.loss).items():
        torch.testing.assert_close(found, plain[name])


def test_trades_adds_beta_times_the_divergence_at_its_points():
    model, (x, y) = network(), batch()
    result = step(TRADES(beta=3), model)
    p, q = model(x).softmax(1), model(result.x_adv).softmax(1)
    moved = (p * (p.log() - q.log())).sum(1)
    torch.testing.assert_close(result.loss, cross_entropy(model(x), y) + 3 * moved.mean())
    assert torch.equal(result.logits, model(result.x_adv))


def test_trades_learns_at_both_points():
    model, (x, _) = network(), batch()
    result = step(TRADES(beta=3), model)
    apart = step(TRADES(beta=3), network())
    assert torch.equal(result.x_adv, apart.x_adv)
    p, q = model(x).log_softmax(1), model(result.x_adv).log_softmax(1)
    both = gradients(model, (p.exp() * (p - q)).sum(1).mean())
    held = gradients(model, (p.exp() * (p - q)).detach().sum(1).mean() + model(x).mean() * 0)
    assert any(not torch.allclose(both[name], held[name]) for name in both)
    natural = gradients(model, cross_entropy(model(x), batch()[1]))
    for name, found in gradients(model, result.loss).items():
        torch.testing.assert_close(found, natural[name] + 3 * both[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_search_of_trades_moves_the_answer_further_than_noise_does(norm):
    threat = robust.Threat(norm, {"linf": 0.1, "l2": 0.2, "l1": 0.3}[norm])
    model, (x, _) = network(), batch(200)
    result = step(TRADES(), model, threat, 200)
    assert bool(threat.contains(x, result.x_adv).all())
    found = divergence(model(x), model(result.x_adv))
    ball = threat.around(x)
    for number in range(20):
        noise = divergence(model(x), model(ball.random(generator(number))))
        assert (found >= noise).float().mean() > 0.97


def test_trades_needs_no_labels_to_search():
    model, (x, y) = network(), batch()
    other = TRADES().points(model, Task(x, (y + 1) % 3, THREAT, generator(0, "attack"), criterion))
    assert torch.equal(step(TRADES(), model).x_adv, other)


def test_mart_is_the_formula_of_the_paper():
    """By hand, on logits that are logarithms of these probabilities."""
    clean = torch.tensor([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    adv = torch.tensor([[0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.5, 0.2, 0.3]])  # the last one is right
    y = torch.tensor([0, 2, 0])
    by_hand = []
    for p, q, label in zip(clean.tolist(), adv.tolist(), y.tolist(), strict=True):
        other = max(value for k, value in enumerate(q) if k != label)
        boosted = -math.log(q[label]) - math.log(1 - other)
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        by_hand.append(boosted + 4 * kl * (1 - p[label]))
    at = Task(clean.log(), y, THREAT, generator(0), criterion)
    values, logits = MART(lam=4).losses(identity(), at, adv.log())
    torch.testing.assert_close(values, torch.tensor(by_hand))
    assert torch.equal(logits, adv.log())


def test_mart_stays_finite_where_the_model_is_sure_of_a_wrong_class():
    at = Task(torch.tensor([[200.0, 0, 0]]), torch.tensor([1]), THREAT, generator(0), criterion)
    values, _ = MART().losses(identity(), at, torch.tensor([[200.0, 0, 0]]).requires_grad_())
    # −log p_y = 200, and the rest of the answer is two classes of e^−200.
    assert values.item() == pytest.approx(200 + 200 - math.log(2), rel=1e-5)
    values.backward()


def test_mart_trains_where_cross_entropy_is_high():
    model, (x, y) = network(), batch(200)
    result = step(MART(), model, n=200)
    assert bool(THREAT.contains(x, result.x_adv).all())
    found = criterion(model(result.x_adv), y)
    noise = criterion(model(x + 0.1 * (2 * uniform(generator(1), x) - 1)), y)
    assert bool((found > criterion(model(x), y)).all())
    assert (found > noise).float().mean() > 0.97


@pytest.mark.parametrize("defense", [TRADES(), MART()])
def test_class_weights_and_smoothing_are_those_of_the_run(defense):
    model, y = network(), batch()[1]
    plain = step(defense, model)

    def twice(logits, y):
        return 2 * criterion(logits, y)

    once_more = criterion(model(plain.x_adv if type(defense) is MART else batch()[0]), y).mean()
    torch.testing.assert_close(step(defense, model, loss=twice).loss, plain.loss + once_more)


@pytest.mark.parametrize("kind", [TRADES, MART])
def test_the_search_leaves_no_trace_and_the_update_runs_in_training_mode(kind):
    model, alone = network(nn.BatchNorm1d(8)), network(nn.BatchNorm1d(8))
    result = step(kind(steps=3), model)
    alone(batch()[0])
    alone(result.x_adv)
    assert torch.equal(model[1].running_mean, alone[1].running_mean)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: TRADES(beta=-1), "beta must be a finite number, at least 0"),
        (lambda: TRADES(steps=0), "steps must be a finite number, at least 1"),
        (lambda: MART(lam=float("nan")), "lam must be"),
        (lambda: MART(step_size=0.0), "step_size must be a finite number above 0"),
        (lambda: TRADES().check_threat(robust.L0(3)), "answers linf, l2, l1 threats, not l0"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, match):
    with pytest.raises(RobustError, match=match):
        make()
