"""Input-gradient regularisation: the penalty, and its gradient by double backpropagation."""

import pytest
import torch
from defense_steps import batch, criterion, network, step
from torch import nn

import robust
from robust.core.defense import Task
from robust.core.errors import RobustError
from robust.core.rng import seeded
from robust.defenses.gradient_regularisation import GradientRegularisation


def smooth():
    """Twice differentiable, in float64: differences can be trusted."""
    with seeded(0, "smooth"):
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def doubled():
    x, y = batch()
    return x.double(), y


def objective(model, strength, span=1.0):
    x, y = doubled()
    at = x.clone().requires_grad_()
    values = criterion(model(at), y)
    (slope,) = torch.autograd.grad(values.sum(), at)
    return float((values + strength * (span * slope).square().sum(1)).mean().detach())


def made(model, strength, threat=None):
    x, y = doubled()
    task = Task(x, y, threat or robust.Linf(0.1), None, criterion)
    return GradientRegularisation(strength=strength).step(model, model, task)


def test_the_loss_is_the_runs_plus_the_squared_length_of_its_gradient():
    model = smooth()
    assert made(model, 0.7).loss.item() == pytest.approx(objective(model, 0.7), rel=1e-9)
    assert made(model, 0.0).loss.item() == pytest.approx(objective(model, 0.0), rel=1e-9)


def test_lengths_are_those_on_a_scale_of_0_to_1():
    model = smooth()
    found = made(model, 0.7, robust.Linf(10, -1, 3)).loss.item()
    assert found == pytest.approx(objective(model, 0.7, span=4), rel=1e-9)


def test_the_gradient_of_the_parameters_matches_finite_differences():
    model = smooth()
    made(model, 2.0).loss.backward()
    step_size = 1e-6
    for parameter in model.parameters():
        flat, found = parameter.data.view(-1), parameter.grad.view(-1)
        for place in range(0, len(flat), 7):
            before = flat[place].item()
            flat[place] = before + step_size
            above = objective(model, 2.0)
            flat[place] = before - step_size
            below = objective(model, 2.0)
            flat[place] = before
            assert found[place].item() == pytest.approx(
                (above - below) / (2 * step_size), rel=1e-5, abs=1e-8
            )


def test_it_leaves_samples_and_parameters_as_they_are():
    model, (x, _) = network(), batch()
    result = step(GradientRegularisation(), model)
    assert result.x_adv.grad is None
    assert torch.equal(result.x_adv, x)
    assert all(p.grad is None for p in model.parameters())
    assert not GradientRegularisation().attacks


def test_it_differentiates_what_an_attacker_sees():
    model = smooth()

    class Blind(nn.Module):
        def forward(self, x):
            return model(x.detach())

    x, y = doubled()
    task = Task(x, y, robust.Linf(0.1), None, criterion)
    result = GradientRegularisation(strength=1.0).step(Blind(), model, task)
    assert result.loss.item() == pytest.approx(objective(model, 1.0), rel=1e-9)


def test_a_negative_strength_is_refused():
    with pytest.raises(RobustError, match="strength must be a finite number, at least 0"):
        GradientRegularisation(strength=-1)
