"""Patches: the threat, the search for a place, and one patch for all images."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import robust
from robust.attacks import FGSM, FMN, PGD, PatchAttack, UniversalPatch
from robust.attacks._places import spread
from robust.core.attack import Attack
from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.rng import generator
from robust.core.threat import Patch, Threat
from robust.core.victim import Access, Victim
from robust.registry import parse_attack


def linear(size, seed=5):
    """Two classes by a linear function of an image (1, size, size); the weights are random."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(size * size, 2, bias=False))
    with torch.no_grad():
        rng = torch.Generator().manual_seed(seed)
        net[1].weight.copy_(torch.randn(net[1].weight.shape, generator=rng))
    return net.requires_grad_(False)


def all_windows(x, side):
    for row in range(x.shape[2] - side + 1):
        for column in range(x.shape[3] - side + 1):
            yield slice(row, row + side), slice(column, column + side)


def test_distance_is_a_side_in_pixels():
    x = torch.zeros(4, 2, 6, 6)
    z = x.clone()
    z[1, 0, 2, 2] = 1
    z[2, 0, 1, 2] = z[2, 1, 3, 2] = 0.5
    z[3, 1, 0, 0] = z[3, 1, 0, 5] = 1e-30
    threat = Patch(3)
    assert threat.distance(x, z).tolist() == [0, 1, 3, 6]
    assert threat.contains(x, z).tolist() == [True, True, True, False]


def test_extreme_and_projection_are_the_best_of_all_windows(make_samples):
    x, side = make_samples((2, 4, 5), 12), 2
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    z = x + 0.8 * direction
    ball = Patch(side).around(x)
    far, near = ball.extreme(direction), ball.project(z)
    corner = (direction > 0).float()
    for i in range(len(x)):
        gains, misses = [], []
        for rows, columns in all_windows(x, side):
            point, kept = x[i].clone(), x[i].clone()
            point[:, rows, columns] = corner[i, :, rows, columns]
            kept[:, rows, columns] = z[i, :, rows, columns].clamp(0, 1)
            gains.append(float((direction[i] * (point - x[i])).sum()))
            misses.append(float((kept - z[i]).norm()))
        assert float((direction[i] * (far[i] - x[i])).sum()) == pytest.approx(max(gains), rel=1e-5)
        assert float((near[i] - z[i]).norm()) == pytest.approx(min(misses), rel=1e-5)
    assert Patch(side).contains(x, far).all()
    assert Patch(side).contains(x, near).all()


def test_random_patches_are_full_squares(make_samples):
    x = make_samples((3, 6, 6), 20)
    z = Patch(3).around(x).random(generator(0))
    assert (Patch(3).distance(x, z) == 3).all()
    assert ((x != z).any(1).flatten(1).sum(1) == 9).all()
    with pytest.raises(ValueError, match="steepest"):
        Patch(3).around(x).advance(x, x, 1.0)


@pytest.mark.parametrize("eps", [0, 1, 3, 50])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 255.0)])
def test_every_point_is_inside(eps, low, high, make_samples):
    x = make_samples((3, 5, 4), 10, low=low, high=high)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    threat = Threat("patch", eps, low, high)
    ball = threat.around(x)
    for z in (
        ball.extreme(direction),
        ball.random(generator(0)),
        ball.project(x + high * direction),
    ):
        assert threat.contains(x, z).all()
        assert torch.equal(z, x) == (eps == 0)


@dataclass(frozen=True, kw_only=True)
class TooLarge(Attack):
    """A patch, one pixel larger than it may be where `by` is 1."""

    access: ClassVar = Access.LABELS
    norms: ClassVar = frozenset({"patch"})
    by: int = 1

    def search(self, victim, x, goal, threat, rng):
        z, side = x.clone(), int(threat.eps)
        z[:, :, 1 : 1 + side, 1 : 1 + side] = 1 - x[:, :, 1 : 1 + side, 1 : 1 + side].round()
        z[:, 0, 1, side + self.by] = 1 - z[:, 0, 1, side + self.by].round()
        return z


def test_a_patch_that_is_a_pixel_too_large_is_no_success(make_net, make_samples):
    x = make_samples((1, 8, 8), 30)
    net = make_net((1, 8, 8), 4)
    y = net(x).argmax(1)
    report = robust.evaluate(
        net, x, y, threat=robust.Patch(4), attacks=[TooLarge(by=0), TooLarge()], every=True
    )
    fitting, larger = report.attacks
    assert fitting["successes"] > 0
    assert not fitting["refused"]
    assert larger["successes"] == 0
    assert larger["refused"] == {"outside the ball": 30}


@pytest.mark.parametrize("targeted", [False, True])
def test_on_a_linear_model_the_best_place_is_found_and_filled(targeted, make_samples):
    net, x, side = linear(9), make_samples((1, 9, 9), 8), 3
    y = net(x).argmax(1)
    goal = Goal(1 - y if targeted else y, targeted, persist=True)
    threat = Patch(side)
    with torch.no_grad():
        x_adv = PatchAttack().search(Victim(net, len(x)), x, goal, threat, generator(0))
    gained = goal.margin(net(x_adv)) - goal.margin(net(x))
    weight = (net[1].weight[1] - net[1].weight[0]).view(1, 1, 9, 9) * (1 - 2 * y).view(-1, 1, 1, 1)
    best = (weight * (threat.around(x).extreme(weight) - x)).flatten(1).sum(1)
    assert (gained >= 0.999 * best).all()
    assert (gained <= 1.001 * best).all()


def test_looking_for_a_place_beats_a_random_one(digits_net, digits_batch):
    x, y = digits_batch
    left = {}
    for position in ("best", "random", "2:3"):
        attack = PatchAttack(position=position, probes=30, places=4, steps=15)
        x_adv = attack(digits_net, x, y, threat=Patch(2))
        assert Patch(2).contains(x, x_adv).all()
        left[position] = float((digits_net(x_adv).argmax(1) == y).float().mean())
        if position == "2:3":
            outside = torch.ones_like(x)
            outside[:, :, 2:4, 3:5] = 0
            assert torch.equal(x_adv * outside, x * outside)
    assert left["best"] < min(left["random"], left["2:3"]) - 0.2


def test_solved_samples_leave_the_search_for_a_place(digits_net, digits_batch):
    x, y = digits_batch
    victim = Victim(digits_net, len(x))
    with torch.no_grad():
        x_adv = PatchAttack(steps=20).search(victim, x, Goal(y), Patch(2), generator(0))
    broken = digits_net(x_adv).argmax(1) != y
    forwards = victim.ledger.forwards
    assert (forwards[~broken] > forwards[broken].float().mean()).all()
    assert torch.equal(forwards, victim.ledger.queries)


def test_restarts_look_elsewhere(digits_net, digits_batch):
    x, y = digits_batch
    once, often = (
        parse_attack(text)(digits_net, x, y, threat=Patch(2))
        for text in ("patch,position=random,steps=5", "patch,position=random,steps=5,restarts=6")
    )
    assert (digits_net(often).argmax(1) == y).sum() < (digits_net(once).argmax(1) == y).sum()


def test_corners_spread_over_the_image():
    scores = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(0))
    corners = spread(scores, 100, 2)
    for i in range(3):
        at = corners[i].unique(dim=0)
        apart = (at[:, None] - at[None]).abs().amax(2) + 10 * torch.eye(len(at))
        assert apart.min() >= 2
        # Nothing is left that could be added.
        every = torch.cartesian_prod(torch.arange(6), torch.arange(7))
        assert ((every[:, None] - at[None]).abs().amax(2) < 2).any(1).all()
        values = scores[i][corners[i, :, 0], corners[i, :, 1]][: len(at)]
        assert (values.diff() <= 0).all()


@pytest.mark.parametrize("name", ["patch", "universal-patch,steps=3", "fgsm", "uniform-noise"])
def test_samples_without_pixels_are_refused_before_any_work(name, make_samples):
    def model(z):
        raise AssertionError("the model was asked")

    x, y = make_samples((20,), 3), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(RobustError, match=r"images of shape \(channels, height, width\)"):
        parse_attack(name)(model, x, y, threat=Patch(2))


def test_what_does_not_fit_a_patch_is_refused(make_net, make_samples):
    x = make_samples((1, 6, 6), 4)
    net = make_net((1, 6, 6), 3)
    y = net(x).argmax(1)
    with pytest.raises(RobustError, match=r"side 3 at position 4:0 does not fit .* 6 × 6"):
        robust.evaluate(net, x, y, threat=Patch(3), attacks="patch,position=4:0")
    with pytest.raises(RobustError, match="counts pixels: 1 or more, not 0.03"):
        FGSM()(net, x, y, threat=Patch(0.03))
    with pytest.raises(RobustError, match="counts pixels: a whole number, not 2.5"):
        FGSM()(net, x, y, threat=Patch(2.5))
    with pytest.raises(RobustError, match="counts coordinates: 1 or more, not 0.3"):
        FMN()(net, x, y, threat=robust.L0(0.3))
    with pytest.raises(RobustError, match="PGD answers linf, l2, l1 threats, not patch"):
        PGD()(net, x, y, threat=Patch(3))
    with pytest.raises(RobustError, match="PatchAttack answers patch threats, not linf"):
        PatchAttack()(net, x, y, threat=robust.Linf(0.1))
    with pytest.raises(RobustError, match="random or row:column, not best"):
        UniversalPatch(position="best")(net, x, y, threat=Patch(3))
    with pytest.raises(RobustError, match="restarts: UniversalPatch makes one thing"):
        parse_attack("universal-patch,restarts=2")


def test_no_curve_is_drawn_over_sides(digits_net, digits_batch):
    x, y = digits_batch
    report = robust.evaluate(digits_net, x, y, threat=Patch(2), attacks="patch,steps=3")
    assert [eps for eps, _ in report.curve] == [0, 2]
    assert 0 < report.robust_accuracy < report.clean_accuracy


def test_one_patch_is_on_every_image(digits_net, digits_batch):
    x, y = digits_batch
    text = "universal-patch,steps=60,placements=6"
    report = robust.evaluate(digits_net, x, y, threat=Patch(3), attacks=text, batch_size=30)
    (attack,) = report.attacks
    assert attack["crafting"]["samples"] == len(x)
    assert attack["crafting"]["forwards"] == 60 * 30
    assert attack["forwards"] <= 60 * 30 + 6 * len(x)
    patches = set()
    for example in report.gallery:
        at = (example.x != example.x_adv).any(0).nonzero()
        assert example.distance <= 3
        assert len(at[0])
        if len(at[0]) == 9:  # no pixel of it had the image's own value
            patches.add(example.x_adv[:, at[0].min() :][:, :3, at[1].min() :][:, :, :3].tobytes())
    assert len(patches) == 1
    noise = robust.evaluate(
        digits_net, x, y, threat=Patch(3), attacks="uniform-noise,samples=6", batch_size=30
    )
    assert report.robust_accuracy < noise.robust_accuracy - 0.1


def test_a_universal_patch_can_stay_in_its_place(digits_net, digits_batch):
    x, y = digits_batch
    attack = UniversalPatch(position="1:2", steps=20)
    x_adv = attack(digits_net, x, y, threat=Patch(3))
    outside = torch.ones_like(x)
    outside[:, :, 1:4, 2:5] = 0
    assert torch.equal(x_adv * outside, x * outside)
    assert (x_adv[:, :, 1:4, 2:5] == x_adv[:1, :, 1:4, 2:5]).all()
