"""Projections and maximisers against optima found another way (scipy), in every norm."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq, linprog

from robust.core.errors import RobustError
from robust.core.rng import generator
from robust.core.threat import CONVEX, L0, L1, L2, NORMS, Linf, Threat, sparse_sign

EPS = {"linf": 0.2, "l2": 0.7, "l1": 1.5}
SHAPES = [(12,), (1, 15), (2, 3, 4)]


def batch(shape, n=40, low=0.0, high=1.0, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(n, *shape, generator=rng)


def noise(like, scale, seed=1):
    return scale * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def reference_projection(x, z, threat):
    """Nearest allowed point by a root search on the ball's multiplier, per sample in float64."""
    x, z = x.double().flatten(1).numpy(), z.double().flatten(1).numpy()
    low, high = threat.low, threat.high
    out = np.empty_like(x)
    for i in range(len(x)):
        delta = z[i] - x[i]

        def at(t, x=x[i], delta=delta):
            if threat.norm == "l2":
                move = delta / (1 + t)
            else:
                move = np.sign(delta) * np.maximum(np.abs(delta) - t, 0)
            return np.clip(x + move, low, high) - x

        def excess(t, at=at):
            size = np.abs(at(t)).sum() if threat.norm == "l1" else np.linalg.norm(at(t))
            return size - threat.eps

        out[i] = x[i] + (at(0) if excess(0) <= 0 else at(brentq(excess, 0, 1e6, xtol=1e-14)))
    return out


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("scale", [0.02, 0.3, 3.0])
def test_projection_is_the_nearest_allowed_point(norm, shape, scale):
    x = batch(shape)
    x[:10] = x[:10].round()  # samples in the corners of the box
    threat = Threat(norm, EPS[norm])
    z = x + noise(x, scale)
    found = threat.around(x).project(z).flatten(1)
    assert found.numpy() == pytest.approx(reference_projection(x, z, threat), abs=2e-6)


def test_linf_projection_is_the_clamp():
    x = batch((3, 4, 4))
    z = x + noise(x, 0.5)
    expected = z.clamp(x - 0.1, x + 0.1).clamp(0, 1)
    assert torch.allclose(Linf(0.1).around(x).project(z), expected, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (0.1, 0.9)])
def test_everything_is_inside_ball_and_box_in_float64(norm, low, high):
    x = batch((3, 5, 5), low=low, high=high)
    span = high - low
    for eps in (0.0, 1e-6 * span, 8 / 255 * span, 0.3 * span, 50 * span):
        threat = Threat(norm, eps, low, high)
        ball = threat.around(x)
        direction = noise(x, 1.0)
        for z in (
            ball.project(x + direction * span),
            ball.random(generator(0)),
            ball.extreme(direction),
        ):
            delta = (z.double() - x.double()).flatten(1)
            size = {
                "linf": delta.abs().amax(1),
                "l2": delta.square().sum(1).sqrt(),
                "l1": delta.abs().sum(1),
                "l0": (delta != 0).sum(1),
            }[norm]
            assert (size <= eps).all()
            assert z.min() >= x.new_tensor(low)
            assert z.max() <= x.new_tensor(high)
            assert threat.contains(x, z).all()


def test_one_ulp_outside_is_outside():
    x = torch.full((1, 2), 0.5)
    threat = Linf(8 / 255)
    edge = threat.around(x).upper
    assert threat.contains(x, edge).all()
    assert not threat.contains(x, torch.nextafter(edge, torch.tensor(2.0))).any()
    assert not threat.contains(torch.ones(1, 2), torch.tensor([[1.0, 1.0000001]])).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", CONVEX)
def test_extreme_maximises_a_linear_function(norm, shape):
    x = batch(shape, n=12)
    direction = noise(x, 1.0)
    threat = Threat(norm, EPS[norm])
    found = (direction * (threat.around(x).extreme(direction) - x)).flatten(1).sum(1)
    for i in range(len(x)):
        g, at = direction[i].double().flatten().numpy(), x[i].double().flatten().numpy()
        room = np.where(g > 0, 1 - at, at)  # how far each coordinate can follow its slope
        if norm == "l2":

            def excess(s, g=g, room=room):
                return np.linalg.norm(np.minimum(s * np.abs(g), room)) - EPS["l2"]

            best = np.abs(g) @ np.minimum(brentq(excess, 0, 1e9) * np.abs(g), room)
        else:
            cap = room if norm == "l1" else np.minimum(room, EPS["linf"])
            total = np.ones((1, len(g))) if norm == "l1" else np.zeros((1, len(g)))
            bounds = np.stack([np.zeros_like(cap), cap], 1)
            best = -linprog(-np.abs(g), A_ub=total, b_ub=[EPS["l1"]], bounds=bounds).fun
        assert float(found[i]) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("eps", [0.0, 1e-30, 1e-24])
def test_a_change_too_small_to_square_counts(norm, eps):
    x = torch.zeros(4, 30)
    z = x + 1e-25 * torch.rand(4, 30, generator=torch.Generator().manual_seed(0))
    ball = Threat(norm, eps).around(x)
    assert ball.threat.contains(x, ball.project(z)).all()
    assert not ball.threat.contains(x, z)[0] or eps == 1e-24


def test_extreme_takes_the_whole_box_when_the_ball_is_larger():
    x = batch((6,), n=5)
    direction = noise(x, 1.0)
    for norm in NORMS:
        z = Threat(norm, 100.0).around(x).extreme(direction)
        assert torch.equal(z, (direction > 0).float())


@pytest.mark.parametrize("norm", CONVEX)
def test_a_step_has_its_length_and_climbs(norm):
    x = batch((3, 10, 10))
    gradient, sizes = noise(x, 1.0), torch.linspace(0.1, 2, len(x))
    z = Threat(norm, 1.0).around(x).advance(x, gradient, sizes)
    length = Threat(norm, 1.0).distance(x, z).numpy()
    assert length == pytest.approx(sizes.double().numpy(), rel=1e-4)
    assert ((gradient * (z - x)).flatten(1).sum(1) > 0).all()


def test_l1_step_leaves_out_what_the_box_holds_back():
    x = torch.tensor([[1.0, 0.5, 0.5]])
    z = L1(1.0).around(x).advance(x, torch.tensor([[3.0, 2.0, -1.0]]), 0.75)
    assert z.tolist() == [[1.0, 1.0, 0.25]]


def test_flat_gradient_gives_no_step():
    x = batch((8,))
    for norm in CONVEX:
        for size in (0.5, 1e4):
            z = Threat(norm, 1.0).around(x).advance(x, torch.zeros_like(x), size)
            assert torch.equal(z, x)


def test_sparse_sign_takes_the_largest():
    g = torch.tensor([[3.0, -2.0, 1.0, 0.5], [0.0, 0.0, -7.0, 0.0]])
    assert sparse_sign(g, torch.tensor([2, 2])).tolist() == [[0.5, -0.5, 0, 0], [0, 0, -1, 0]]


@pytest.mark.parametrize("norm", CONVEX)
def test_random_fills_the_ball_and_follows_the_rng(norm):
    x = torch.full((2000, 3), 0.5)
    threat = Threat(norm, 0.3)
    first = threat.around(x).random(generator(0))
    assert torch.equal(first, threat.around(x).random(generator(0)))
    assert not torch.equal(first, threat.around(x).random(generator(1)))
    # The radius of a uniform draw in d dimensions has the distribution r^d.
    radius = threat.distance(x, first) / 0.3
    assert float((radius**3).mean()) == pytest.approx(0.5, abs=0.03)
    assert float((first - x).mean()) == pytest.approx(0, abs=0.01)


def test_l0_projection_is_the_nearest_of_all_choices_of_coordinates():
    x = batch((6,), n=20)
    z = x + noise(x, 0.8)
    found = L0(2).around(x).project(z)
    for i in range(len(x)):
        candidates = []
        for kept in itertools.combinations(range(6), 2):
            point = x[i].clone()
            point[list(kept)] = z[i][list(kept)].clamp(0, 1)
            candidates.append(float((point - z[i]).norm()))
        assert float((found[i] - z[i]).norm()) == pytest.approx(min(candidates), abs=1e-6)


def test_l0_extreme_is_the_best_of_all_choices_of_coordinates():
    x = batch((6,), n=20)
    direction = noise(x, 1.0)
    found = (direction * (L0(2).around(x).extreme(direction) - x)).sum(1)
    gain = (direction * ((direction > 0).float() - x)).sort(1, descending=True).values
    assert torch.allclose(found, gain[:, :2].sum(1))


def test_l0_random_changes_as_many_coordinates_as_allowed():
    x = batch((3, 5, 5))
    threat = L0(4.9)
    z = threat.around(x).random(generator(0))
    assert (threat.distance(x, z) == 4).all()
    assert torch.equal(z, threat.around(x).random(generator(0)))
    assert not torch.equal(z, threat.around(x).random(generator(1)))


def test_l0_has_no_steepest_step():
    x = batch((6,), n=2)
    with pytest.raises(ValueError, match="steepest"):
        L0(2).around(x).advance(x, x, 1.0)


def test_indexing_narrows_the_ball():
    x = batch((4,), n=6)
    rows = torch.tensor([5, 0])
    for norm in NORMS:
        threat = Threat(norm, 2 if norm == "l0" else 0.3)
        z = x[rows] + noise(x[rows], 1.0)
        assert torch.equal(threat.around(x)[rows].project(z), threat.around(x[rows]).project(z))


def test_distances_of_known_points():
    x, z = torch.zeros(1, 2, 2), torch.tensor([[[0.1, -0.2], [0.0, 0.2]]])
    assert Linf(1).distance(x, z).item() == pytest.approx(0.2)
    assert L2(1).distance(x, z).item() == pytest.approx(0.3)
    assert L1(1).distance(x, z).item() == pytest.approx(0.5)
    assert L0(1).distance(x, z).item() == 3
    assert L1(1).distance(x, z).dtype == torch.float64


@pytest.mark.parametrize(
    "bad", [("l7", 1.0, 0, 1), ("l2", -1.0, 0, 1), ("l2", float("nan"), 0, 1), ("l2", 1.0, 1, 1)]
)
def test_bad_threats_are_refused(bad):
    with pytest.raises(RobustError):
        Threat(*bad)
