"""N-FGSM: where its points lie."""

import pytest
import torch
from defense_steps import batch, criterion, network, step
from torch.nn.functional import cross_entropy

import robust
from robust.core.errors import RobustError
from robust.core.rng import generator, uniform
from robust.defenses.n_fgsm import NFGSM


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(("k", "alpha"), [(2.0, 1.0), (0.5, 1.5), (0.0, 1.0)])
def test_points_lie_within_noise_plus_step_and_the_box_and_beyond_the_ball(norm, k, alpha):
    eps = {"linf": 0.1, "l2": 0.2, "l1": 0.3}[norm]
    threat, (x, _) = robust.Threat(norm, eps), batch(300)
    result = step(NFGSM(k=k, alpha=alpha), network(), threat, 300)
    away = threat.distance(x, result.x_adv)
    assert bool((away <= (k + alpha) * eps * (1 + 1e-6)).all())
    assert bool(threat.in_box(result.x_adv).all())
    if k + alpha > 1:
        assert bool((away > eps).any())


def test_the_points_are_those_of_the_algorithm():
    model, (x, y) = network(), batch(50)
    eps, k, alpha = 0.05, 2.0, 1.25
    result = step(NFGSM(k=k, alpha=alpha), model, robust.Linf(eps), 50)
    start = (x + k * eps * (2 * uniform(generator(0, "attack"), x) - 1)).clamp(0, 1)
    start.requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(start), y), start)
    expected = (start + alpha * eps * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(result.x_adv, expected)
    torch.testing.assert_close(result.loss, criterion(model(expected), y).mean())


def test_values_that_cannot_be_meant_are_refused():
    with pytest.raises(RobustError, match="k must be a finite number, at least 0"):
        NFGSM(k=-1)
    with pytest.raises(RobustError, match="alpha must be a finite number above 0"):
        NFGSM(alpha=0)
