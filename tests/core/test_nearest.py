"""Nearest points, against bisection and against what defines them."""

import pytest
import torch

from robust.core.nearest import dual_norm, project_radius, shortest, shrink, step_to_plane
from robust.core.threat import CONVEX, NORMS, Threat

LOW, HIGH = -0.5, 1.0


def draw(n=6, shape=(2, 9), seed=0):
    rng = torch.Generator().manual_seed(seed)
    z = LOW + (HIGH - LOW) * torch.rand(n, *shape, generator=rng)
    z = torch.where(torch.rand(z.shape, generator=rng) < 0.3, (z > 0.2) * 1.5 - 0.5, z)
    slope = torch.randn(z.shape, generator=rng)
    slope[:, 0, 0] = 0
    return z, slope


def farthest(z, slope, ahead):
    """The most that ⟨slope, ·⟩ can gain in the direction `ahead` within the box."""
    room = torch.where(slope * ahead > 0, HIGH - z, z - LOW)
    return (slope.abs() * room).flatten(1).sum(1)


@pytest.mark.parametrize("norm", CONVEX)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_step_reaches_the_plane_and_no_shorter_one_does(norm, sign, share):
    z, slope = draw()
    gain = sign * share * farthest(z, slope, sign)
    step = step_to_plane(norm, z, slope, gain, LOW, HIGH)
    assert torch.allclose((slope * step).flatten(1).sum(1), gain, rtol=1e-4, atol=1e-5)
    assert (z + step).min() >= LOW - 1e-6
    assert (z + step).max() <= HIGH + 1e-6
    # With a little less length even the best point of the ball gains less than that.
    for i, length in enumerate(Threat(norm, 1.0).distance(z, z + step)):
        ball = Threat(norm, 0.999 * float(length), LOW, HIGH).around(z[i : i + 1])
        best = (ball.extreme(sign * slope[i : i + 1]) - z[i : i + 1]) * slope[i : i + 1]
        assert sign * float(best.sum()) < abs(float(gain[i]))


@pytest.mark.parametrize("norm", CONVEX)
def test_a_plane_beyond_the_box_gives_its_corner(norm):
    z, slope = draw()
    step = step_to_plane(norm, z, slope, 2 * farthest(z, slope, 1), LOW, HIGH)
    corner = torch.where(slope > 0, HIGH, torch.where(slope < 0, LOW, z))
    assert torch.allclose(z + step, corner, atol=1e-6)
    nowhere = step_to_plane(norm, z, torch.zeros_like(slope), torch.ones(6), LOW, HIGH)
    assert not nowhere.any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_a_box_the_length_is_gain_over_dual_norm(norm):
    _, slope = draw()
    gain = torch.linspace(-2, 3, 6)
    step = shortest(norm, slope, gain)
    assert torch.allclose((slope * step).flatten(1).sum(1), gain, atol=1e-5)
    length = Threat(norm, 1.0).distance(torch.zeros_like(step), step).float()
    assert torch.allclose(length, gain.abs() / dual_norm(norm, slope.flatten(1)), atol=1e-6)


@pytest.mark.parametrize("norm", CONVEX)
def test_the_dual_norm_is_the_most_that_a_unit_step_gains(norm):
    _, slope = draw()
    ball = Threat(norm, 1.0, -10, 10).around(torch.zeros_like(slope))
    gained = (slope * ball.extreme(slope)).flatten(1).sum(1)
    assert torch.allclose(dual_norm(norm, slope.flatten(1)), gained, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 9), (2, 150)])  # a few and many of the largest coordinates
@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_that_of_the_ball_of_each_radius(norm, shape):
    x, direction = draw(shape=shape)
    z = x + direction
    whole = Threat(norm, 1.0).distance(x, z.clamp(LOW, HIGH)).float()
    shares = torch.tensor([0.02, 0.2, 0.5, 0.9, 1.0, 2.0])
    radius = (whole * shares).round() if norm == "l0" else whole * shares
    found = project_radius(norm, x, z, radius, LOW, HIGH)
    for i, eps in enumerate(radius.tolist()):
        ball = Threat(norm, eps, LOW, HIGH).around(x[i : i + 1])
        assert torch.allclose(found[i : i + 1], ball.project(z[i : i + 1]), atol=2e-4)


@pytest.mark.parametrize("norm", CONVEX)
def test_shrinking_minimises_what_it_says(norm):
    _, delta = draw()
    amount = torch.tensor([0.0, 0.1, 0.5, 1.0, 3.0, 100.0])

    def cost(d):
        length = Threat(norm, 1.0).distance(torch.zeros_like(d), d)
        return amount.double() * length + (d - delta).double().square().flatten(1).sum(1) / 2

    found = shrink(norm, delta, amount)
    assert torch.allclose(found[0], delta[0], atol=1e-5)
    assert not found[5].any()
    rng = torch.Generator().manual_seed(1)
    for scale in (1e-3, 1e-2, 0.1):
        for _ in range(50):
            other = found + scale * torch.randn(delta.shape, generator=rng)
            assert (cost(found) <= cost(other) + 1e-6).all()
        assert (cost(found) <= cost((1 - scale) * found) + 1e-6).all()
        assert (cost(found) <= cost((1 + scale) * found) + 1e-6).all()
