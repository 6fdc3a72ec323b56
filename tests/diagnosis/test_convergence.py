"""Whether more steps and restarts find more, where both are known: on one line, one boundary."""

from dataclasses import dataclass

import pytest
import torch
from diagnosis_subjects import Linear, subject
from torch import nn

from robust.attacks import APGD, BIM, FGSM, PGD, Auto, Square, Universal
from robust.core.adaptive import Adaptive
from robust.core.attack import Attack
from robust.core.eot import EOT
from robust.core.errors import RobustError
from robust.core.restarts import Restarts
from robust.core.rng import seeded, uniform
from robust.core.threat import Linf
from robust.diagnosis.probes import convergence

EPS = Linf(0.1)


def probed(gaps, *attacks, net=None, **run):
    x = torch.tensor([[0.5 - gap] for gap in gaps])
    y = torch.zeros(len(x), dtype=torch.int64)
    net = net or Linear([1.0], 0.5)
    with seeded(0):  # as the engine does around a probe
        return convergence.probe(subject(net.eval(), x, y, EPS, list(attacks), **run))


@dataclass(frozen=True, kw_only=True)
class Lucky(Attack):
    """Returns the far end of the ball for half of the samples, at random."""

    def search(self, victim, x, goal, threat, rng):
        far = threat.around(x).extreme(torch.ones_like(x))
        return torch.where(uniform(rng, x) < 0.5, far, x)


@pytest.mark.parametrize(
    ("attack", "more"),
    [
        (PGD(steps=7), PGD(steps=14)),
        (Square(queries=30), Square(queries=60)),
        (Restarts(attack=BIM(steps=3), restarts=4), Restarts(attack=BIM(steps=6), restarts=4)),
        (
            Adaptive(attack=EOT(attack=APGD(steps=5), eot=2)),
            Adaptive(attack=EOT(attack=APGD(steps=10), eot=2)),
        ),
        (FGSM(), None),
        (Auto(), None),
    ],
)
def test_what_twice_as_long_is(attack, more):
    assert convergence.longer(attack) == more


def test_samples_that_twice_the_steps_reach_are_counted():
    # Four steps of 0.01 reach 0.04, eight 0.08; nothing reaches 0.2.
    found = probed([0.03, 0.05, 0.07, 0.2], BIM(steps=4, step_size=0.01))
    assert (found["robust"], found["broken"]) == (3, 2)
    assert found["attacks"] == [
        {
            "attack": "bim,steps=4,step_size=0.01",
            "again": 0,
            "longer": "bim,steps=8,step_size=0.01",
            "more": 2,
        }
    ]


def test_other_random_numbers_are_tried_first_and_then_once_more():
    found = probed([0.05] * 64, Lucky(), batch_size=64)
    (lucky,) = found["attacks"]
    assert lucky["longer"] == "Lucky"
    assert 16 < found["robust"] < 48
    assert 0.2 < lucky["again"] / found["robust"] < 0.8
    left = found["robust"] - lucky["again"]
    assert 0 < lucky["more"] < left
    assert found["broken"] == lucky["again"] + lucky["more"]


def test_a_sample_is_counted_once_whatever_breaks_it():
    steps = BIM(steps=4, step_size=0.01), PGD(steps=4, step_size=0.01, random_start=False)
    found = probed([0.05, 0.2], *steps)
    assert found["broken"] == 1
    assert [attack["more"] for attack in found["attacks"]] == [1, 0]


def test_what_has_converged_breaks_no_more():
    found = probed([0.05, 0.2, 0.3], PGD())
    assert (found["robust"], found["broken"]) == (2, 0)


def test_where_nothing_is_left_nothing_is_run():
    found = probed([0.05], PGD())
    assert (found["robust"], found["broken"]) == (0, 0)
    assert [attack["more"] for attack in found["attacks"]] == [0]


def test_attacks_that_craft_one_thing_for_all_are_left_out():
    found = probed([0.05, 0.2], Universal(samples=2), PGD())
    assert [attack["attack"] for attack in found["attacks"]] == ["pgd"]


class Jumping(nn.Module):
    """The line, whose boundary jumps by a hair or by a lot with every draw."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def forward(self, x):
        score = x.flatten(1)[:, 0] - 0.5 + self.most * (2 * torch.rand(len(x)) - 1)
        return torch.stack([torch.zeros_like(score), score], 1)


def test_chance_alone_breaks_no_sample_of_a_random_model():
    # The best point, 0.01 below the boundary, is fooled in 45 of 100 draws: near to a half.
    found = probed([0.11] * 20 + [0.3] * 5, PGD(steps=5), net=Jumping(0.1), view="naive")
    assert found["robust"] >= 5
    assert found["broken"] == 0


def test_searches_on_surrogates_have_nothing_to_tell():
    with pytest.raises(RobustError, match="surrogates"):
        probed([0.05], PGD(), surrogates=[Linear([1.0], 0.5)])
