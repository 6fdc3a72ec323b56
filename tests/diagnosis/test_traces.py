"""What a probe of traces tells of searches whose every answer is known: on one line, one boundary.

A sample of class 0 lies `gap` below the boundary at 0.5, and an attack in L∞ moves it up.
"""

from dataclasses import dataclass

import pytest
import torch
from diagnosis_subjects import Linear, subject

from robust.attacks import BIM, FMN, PGD, Square
from robust.core.attack import Attack
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.losses import margin
from robust.core.threat import Linf
from robust.diagnosis.probes import traces

EPS = Linf(0.1)


def line(*gaps):
    x = torch.tensor([[0.5 - gap] for gap in gaps])
    return x, torch.zeros(len(x), dtype=torch.int64)


def probed(gaps, *attacks, net=None, **run):
    net = net or Linear([1.0], 0.5)
    return traces.probe(subject(net.eval(), *line(*gaps), EPS, list(attacks), **run))


@dataclass(frozen=True, kw_only=True)
class Forgetful(Attack):
    """Asks about the far end of the ball, and returns where it came from."""

    def search(self, victim, x, goal, threat, rng):
        victim.logits(threat.around(x).extreme(torch.ones_like(x)))
        return x


@dataclass(frozen=True, kw_only=True)
class Standing(Attack):
    """Asks for gradients, and never moves."""

    def search(self, victim, x, goal, threat, rng):
        for _ in range(5):
            victim.gradient(x, margin, goal)
        return x


def test_samples_break_at_the_answer_that_their_gap_says():
    found = probed([0.015, 0.075, 0.095, 0.2, 0.3], BIM(steps=10), batch_size=2)
    (bim,) = found["attacks"]
    assert (bim["given"], bim["broken"], bim["unbroken"]) == (5, 3, 2)
    # After 2, 8 and 10 steps: at answers 3, 9 and 11 of 11.
    assert bim["answers"] == 11
    assert bim["tenths"] == [0, 0, 1, 0, 0, 0, 0, 0, 1, 1]
    assert bim["late"] == 2
    assert (bim["silent"], bim["transferred"], bim["flat"]) == (0, 0, 0)
    assert found["silent_lost"] == found["transferred_lost"] == 0


def test_a_search_is_as_long_as_those_that_failed():
    (bim,) = probed([0.015, 0.2], BIM(steps=10))["attacks"]
    assert bim["answers"] == 11
    assert bim["late"] == 0
    (alone,) = probed([0.015, 0.005], BIM(steps=10))["attacks"]
    assert alone["answers"] == 3  # nothing was left to search on for


def test_steps_that_all_bring_the_same_are_incomplete_in_proportion():
    (bim,) = probed([0.2, 0.3], BIM(steps=20, step_size=0.002))["attacks"]
    assert bim["last_rise"] == pytest.approx([3 / 20] * 11, rel=1e-3)  # of 21 answers the last 3


def test_a_search_that_has_arrived_rises_no_more():
    (pgd,) = probed([0.2, 0.3], PGD(steps=20, random_start=False))["attacks"]
    assert pgd["last_rise"] == pytest.approx([0] * 11, abs=1e-5)
    assert pgd["flat"] == 0


def test_a_search_that_never_moves_is_flat():
    (standing,) = probed([0.2, 0.05], Standing())["attacks"]
    assert (standing["unbroken"], standing["flat"], standing["last_rise"]) == (2, 2, [])
    assert standing["attack"] == "Standing"


def test_a_success_on_the_way_that_is_not_returned_is_silent():
    found = probed([0.05, 0.2, 0.09], Forgetful(), batch_size=2)
    (forgetful,) = found["attacks"]
    assert (forgetful["silent"], forgetful["broken"], forgetful["unbroken"]) == (2, 0, 1)
    assert found["silent_lost"] == 2
    assert found["transferred_lost"] == 0


def test_what_another_attack_breaks_is_silent_but_not_lost():
    found = probed([0.05, 0.2, 0.09], Forgetful(), PGD())
    assert [attack["silent"] for attack in found["attacks"]] == [2, 0]
    assert [attack["given"] for attack in found["attacks"]] == [3, 3]
    assert found["silent_lost"] == 0


def test_each_attack_is_followed_on_what_the_former_ones_left():
    found = probed([0.05, 0.2, 0.09], PGD(), Forgetful(), BIM())
    assert [attack["given"] for attack in found["attacks"]] == [3, 1, 1]
    assert probed([0.05, 0.09], PGD(), Forgetful())["attacks"][1:] == []


def test_a_success_on_what_is_exposed_alone_did_not_transfer():
    """The attacker sees a boundary nearer by 0.06 than it is."""
    net = Defended(Linear([1.0], 0.5), Linear([1.0], 0.44))
    found = probed([0.07, 0.02, 0.2], BIM(), net=net, view="adaptive")
    (bim,) = found["attacks"]
    assert bim["attack"] == "bim,adaptive=true"
    assert (bim["transferred"], bim["broken"], bim["silent"], bim["unbroken"]) == (2, 0, 0, 1)
    assert found["transferred_lost"] == 2
    assert found["silent_lost"] == 0


def test_curves_hold_the_best_so_far_of_the_samples():
    (bim,) = probed([0.15, 0.2, 0.3], BIM(steps=10))["attacks"]
    curve = bim["curve"]
    assert curve["of"] == "margin"
    assert curve["answers"] == list(range(1, 12))
    assert curve["quantiles"]["0.5"][0] == pytest.approx(-0.2, rel=1e-3)
    assert curve["quantiles"]["0.5"][-1] == pytest.approx(-0.1, rel=1e-3)
    assert curve["quantiles"]["0.1"][-1] == pytest.approx(-0.2, rel=1e-3)
    long = probed([0.3], BIM(steps=5000, step_size=1e-6))["attacks"][0]["curve"]["answers"]
    assert len(long) <= 60
    assert long[-1] > 4000


def test_of_a_minimal_attack_distances_are_followed():
    (fmn,) = probed([0.15, 0.05, 0.3], FMN(steps=30))["attacks"]
    assert fmn["minimal"]
    assert (fmn["broken"], fmn["unbroken"], fmn["flat"]) == (1, 2, 0)
    curve = fmn["curve"]
    assert curve["of"] == "distance"
    assert curve["quantiles"]["0.5"][0] is None  # the sample itself is no success
    assert curve["quantiles"]["0.5"][-1] == pytest.approx(0.15, rel=0.02)


def test_searches_on_surrogates_have_nothing_to_tell():
    with pytest.raises(RobustError, match="surrogates"):
        probed([0.05], PGD(), surrogates=[Linear([1.0], 0.5)])


def test_nothing_but_attacks_with_gradients_is_followed():
    assert probed([0.05], Square(queries=2))["attacks"] == []
