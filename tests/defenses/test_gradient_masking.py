"""Defenses that hide gradients: what they compute, and that an attacker gets the gradient back."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from robust.core.defended import compose
from robust.core.defense import Frame
from robust.core.errors import RobustError
from robust.core.rng import generator
from robust.core.threat import Threat
from robust.data import DataSpec, open_data
from robust.defenses.kwta import KWTA
from robust.defenses.quantisation import Quantisation
from robust.defenses.saturation import Saturation
from robust.defenses.thermometer import Thermometer
from robust.models import build, load_model, save_checkpoint
from robust.registry import parse_attack

UNIT = Frame((4,), 3)


def row(*values):
    return torch.tensor([values])


@pytest.fixture(scope="module")
def digits_samples():
    source = open_data(DataSpec("digits", "test"))
    batch = source.batch(source.ids[:80])
    return batch.x, batch.y


class Caught(nn.Module):
    """Remembers what reaches it."""

    def forward(self, x):
        self.x = x
        return x.flatten(1)[:, :3]


# k-winners-take-all


def winners(u, **config):
    """What the layer makes of activations u (n, …)."""
    net = nn.Sequential(nn.Identity(), nn.ReLU())
    return KWTA(**config).wrap(net, Frame(tuple(u.shape[1:]), 3))(u)


def test_the_k_largest_of_each_sample_survive_as_they_are():
    u = torch.randn(5, 3, 4, 4, generator=generator(0))
    found = winners(u, ratio=0.25)
    assert ((found != 0).flatten(1).sum(1) == 12).all()
    for before, after in zip(u.flatten(1), found.flatten(1), strict=True):
        kept = after != 0
        assert torch.equal(after[kept], before[kept])
        assert before[kept].min() > before[~kept].max()


def test_winners_below_zero_and_ties():
    assert torch.equal(winners(row(-3.0, -1.0, -2.0, -4.0), ratio=0.5), row(0.0, -1.0, -2.0, 0.0))
    assert (winners(torch.ones(1, 8), ratio=0.25) != 0).sum() == 2
    assert torch.equal(winners(row(1.0, 2.0, 3.0), ratio=0.01), row(0.0, 0.0, 3.0))  # one at least
    u = torch.randn(2, 7, generator=generator(1))
    assert torch.equal(winners(u, ratio=1.0), u)


def test_units_that_nearly_won_are_in_the_attackers_gradient():
    net = nn.ReLU()
    u = row(4.0, 3.0, 2.9, -9.0).requires_grad_()
    defense, frame = KWTA(ratio=0.5), Frame((4,), 4)
    deployed, exposed = defense.wrap(net, frame), defense.expose(net, frame)
    (naive,) = torch.autograd.grad(deployed(u).sum(), u)
    assert torch.equal(naive, row(1.0, 1.0, 0.0, 0.0))
    logits = exposed(u)
    assert torch.equal(logits.detach(), row(4.0, 3.0, 0.0, 0.0))
    (seen,) = torch.autograd.grad(logits.sum(), u)
    # By hand: u σ(s), s = (u − 3) / (0.1 · spread), has the slope σ + u σ (1 − σ) / (0.1 · spread).
    width = 0.1 * u.detach().std(correction=0)
    gate = torch.sigmoid((u.detach() - 3) / width)
    torch.testing.assert_close(seen, gate + u.detach() * gate * (1 - gate) / width)
    assert seen[0, 2] > 1


# Thermometer encoding


def test_bits_fill_up_by_hand():
    caught = Caught()
    x = row([[0.0, 0.05], [0.25, 0.74]], [[0.75, 0.76], [1.0, 0.5]])  # (1, 2, 2, 2)
    frame = Frame((2, 2, 2), 3)
    Thermometer(levels=4).wrap(caught, frame)(x)
    assert caught.x.shape == (1, 8, 2, 2)
    bits = caught.x[0]
    assert bits[:4, 0, 0].tolist() == [0, 0, 0, 0]  # 0 of the first channel
    assert bits[:4, 0, 1].tolist() == [1, 0, 0, 0]  # 0.05
    assert bits[:4, 1, 0].tolist() == [1, 0, 0, 0]  # 0.25, not above its threshold
    assert bits[:4, 1, 1].tolist() == [1, 1, 1, 0]  # 0.74
    assert bits[4:, 0, 0].tolist() == [1, 1, 1, 0]  # 0.75 of the second
    assert bits[4:, 0, 1].tolist() == [1, 1, 1, 1]  # 0.76
    assert bits[4:, 1, 0].tolist() == [1, 1, 1, 1]
    assert bits[4:, 1, 1].tolist() == [1, 1, 0, 0]


def test_bits_of_another_range_and_of_features():
    x = torch.rand(6, 4, generator=generator(0))
    codes = []
    for frame, scaled in ((UNIT, x), (Frame((4,), 3, -1.0, 3.0), 4 * x - 1)):
        defense, caught = Thermometer(levels=5), Caught()
        assert defense.frame_behind(frame) == Frame((20,), 3)
        defense.wrap(caught, frame)(scaled)
        codes.append(caught.x)
    assert torch.equal(*codes)
    assert torch.equal(codes[0].view(6, 4, 5).sum(2), (x * 5).ceil())


def test_the_attacker_takes_ramps_for_bits():
    x = row(0.1, 0.3, 0.6, 0.9).requires_grad_()
    weight = torch.arange(1.0, 17.0)
    model = nn.Linear(16, 1, bias=False)
    model.weight.data = weight.view(1, -1)
    defense = Thermometer(levels=4)
    defended = compose(model, [defense], ["thermometer"], UNIT)
    (naive,) = torch.autograd.grad(defended(x).sum(), x)
    assert not naive.any()
    (seen,) = torch.autograd.grad(defended.exposed(x).sum(), x)
    # Each value moves the bits whose thresholds lie below it: 1, 2, 3 and 4 of four.
    ours = weight.view(4, 4)
    expected = torch.stack([ours[i, : i + 1].sum() for i in range(4)])
    torch.testing.assert_close(seen[0], expected)


def test_a_checkpoint_of_bits_builds_its_network_for_them(tmp_path):
    frame = Frame((1, 8, 8), 10)
    defense = Thermometer(levels=3)
    net = build("small-cnn", (3, 8, 8), 10).eval()
    defended = compose(net, [defense], ["thermometer"], frame)
    assert defended.behind.shape == (3, 8, 8)
    about = {"arch": "small-cnn", "shape": (1, 8, 8), "num_classes": 10}
    save_checkpoint(tmp_path / "m.pt", net, **about, defended=defended)
    loaded = load_model(tmp_path / "m.pt")
    assert loaded.info.shape == (1, 8, 8)
    assert loaded.net[0].weight.shape[1] == 3
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.module(x), defended(x))


def test_a_model_for_other_samples_is_refused():
    net = build("small-cnn", (1, 8, 8), 10)
    with pytest.raises(RobustError, match="^thermometer does not fit the model"):
        compose(net, [Thermometer()], ["thermometer"], Frame((1, 8, 8), 10))


# Quantisation


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [0.0, 0.0, 1.0, 1.0]),
        ({"threshold": 0.2}, [0.0, 1.0, 1.0, 1.0]),
        ({"levels": 3}, [0.0, 0.5, 0.5, 1.0]),
        ({"levels": 3, "threshold": 0.9}, [0.0, 0.0, 0.5, 0.5]),
        ({"levels": 11}, [0.0, 0.4, 0.6, 0.9]),
    ],
)
def test_values_are_cut_by_hand(config, expected):
    for frame in (UNIT, Frame((4,), 3, -2.0, 6.0)):
        x = frame.own(row(0.0, 0.4, 0.55, 0.9))
        found = Quantisation(**config).transform(x, frame)
        torch.testing.assert_close(frame.unit(found), row(*expected))


def test_each_threshold_is_a_sigmoid_to_the_attacker():
    x = row(0.05, 0.25, 0.5, 0.74).requires_grad_()
    defense = Quantisation(levels=3, slope=8.0)  # thresholds at 0.25 and 0.75
    defended = compose(nn.Identity(), [defense], ["quantisation"], UNIT)
    (naive,) = torch.autograd.grad(defended(x).sum(), x)
    assert not naive.any()
    (seen,) = torch.autograd.grad(defended.exposed(x).sum(), x)
    gate = torch.sigmoid(8 * row(-0.4, 0.0, 0.5, -0.02))
    torch.testing.assert_close(seen, 8 * gate * (1 - gate))


# Saturating logits


def test_no_loss_is_left_and_logits_before_have_one(digits_net):
    defended = compose(digits_net, [Saturation()], ["saturation"], Frame((1, 8, 8), 10))
    x = torch.rand(32, 1, 8, 8, generator=generator(0)).requires_grad_()
    y = digits_net(x).argmax(1)
    torch.testing.assert_close(defended(x), 1000 * digits_net(x))
    loss = cross_entropy(defended(x), y, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert (gradient.flatten(1) == 0).all(1).float().mean() > 0.8
    (seen,) = torch.autograd.grad(cross_entropy(defended.exposed(x), y), x)
    (plain,) = torch.autograd.grad(cross_entropy(digits_net(x), y), x)
    assert torch.equal(seen, plain)


@pytest.mark.parametrize(
    ("cls", "config", "said"),
    [
        (KWTA, {"ratio": 0.0}, "ratio is a share above 0"),
        (KWTA, {"ratio": 1.5}, "ratio is a share above 0"),
        (KWTA, {"width": 0.0}, "width must be a finite number above 0"),
        (Thermometer, {"levels": 1}, "levels is a number from 2 on"),
        (Quantisation, {"levels": 1}, "levels is a number from 2 on"),
        (Quantisation, {"threshold": 1.0}, "threshold is a share between"),
        (Quantisation, {"slope": float("nan")}, "slope must be a finite number above 0"),
        (Saturation, {"scale": -1.0}, "scale must be a finite number above 0"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(cls, config, said):
    with pytest.raises(RobustError, match=said):
        cls(**config)


def test_layers_without_a_relu_are_refused():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    with pytest.raises(RobustError, match="kwta: no ReLU was seen in the model"):
        compose(net, [KWTA()], ["kwta"], UNIT)


# All together: works as published against plain gradients, and falls to who knows it


@pytest.mark.parametrize("name", ["quantisation", "saturation"])
def test_pgd_is_held_off_and_the_adaptive_attacker_is_not(name, digits_net, digits_samples):
    x, y = digits_samples
    defense = {"quantisation": Quantisation(levels=4), "saturation": Saturation()}[name]
    defended = compose(digits_net, [defense], [name], Frame((1, 8, 8), 10))
    threat = Threat("linf", 0.2)

    def left(text):
        with torch.no_grad():
            x_adv = parse_attack(text)(defended, x, y, threat=threat, seed=0)
            return (defended(x_adv).argmax(1) == y).float().mean()

    assert left("pgd,steps=10") > 0.8
    assert left("pgd,steps=30,loss=margin,adaptive=true") < 0.1
