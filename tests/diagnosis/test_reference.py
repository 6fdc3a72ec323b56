"""The attacks that a run is held against, on models whose optimum is known."""

import math

import pytest
import torch
from diagnosis_subjects import Around, Linear, subject
from torch import nn

from robust.attacks.fgsm import FGSM
from robust.attacks.pgd import PGD
from robust.attacks.square import Square
from robust.attacks.uniform_noise import UniformNoise
from robust.core.errors import RobustError
from robust.core.restarts import Restarts
from robust.core.rng import generator, seeded
from robust.core.threat import Threat
from robust.diagnosis.probes import reference
from robust.registry import label, parse_attack

W = [3.0, -2.0, 1.0, 0.5]
CONVEX = {"plain", "one-step", "margin", "noise", "random-search", "second"}
EASIER = {"larger", "unbounded", "plain-larger", "plain-unbounded"}


@pytest.fixture
def samples():
    x = 0.2 + 0.6 * torch.rand(24, 4, generator=generator(0))
    return x, (x @ torch.tensor(W) > 1.0).long()


def probed(samples, attacks, threat=None, net=None, **run):
    threat = threat or Threat("linf", 0.05)
    found = subject((net or Linear(W, 1.0)).eval(), *samples, threat, attacks, **run)
    return found, reference.probe(found)


def within(found, reach):
    """Places of the samples whose margin steps of `reach` in L∞ overcome."""
    distance = (found.x.flatten(1) @ torch.tensor(W) - 1.0).abs() / torch.tensor(W).abs().sum()
    return (distance < reach).nonzero().squeeze(1).tolist()


class Weak(FGSM):
    """Looks nowhere."""

    def search(self, victim, x, goal, threat, rng):
        victim.gradient(x, lambda logits, goal: goal.margin(logits), goal)
        return x.clone()


def test_what_a_good_run_left_nobody_breaks(samples):
    found, facts = probed(samples, [PGD(loss="margin")])
    attacks = facts["attacks"]
    assert set(attacks) == CONVEX | EASIER
    left = facts["robust"]
    assert set(left) == set(range(len(found))) - set(within(found, 0.05))
    for name in CONVEX:
        assert not set(attacks[name]["broken"]) & set(left), name
    assert attacks["one-step"]["broken"] == attacks["plain"]["broken"] == within(found, 0.05)
    assert attacks["second"]["labels"] == ["auto"]
    assert attacks["second"]["given"] == len(left)
    # A linear model is overcome by a step of 2 eps, or else by one that is long enough.
    assert attacks["larger"]["broken"] == sorted(set(left) & set(within(found, 0.1)))
    stand = set(left) - set(attacks["larger"]["broken"])
    assert attacks["unbounded"]["given"] == len(stand)
    assert set(attacks["unbounded"]["broken"]) == stand
    assert attacks["plain-larger"]["broken"] == attacks["larger"]["broken"]


def test_what_a_crippled_run_left_the_others_break(samples):
    found, facts = probed(samples, [Weak()])
    attacks, left = facts["attacks"], set(facts["robust"])
    assert left == set(range(len(found)))
    reachable = within(found, 0.05)
    assert len(reachable) >= 2
    for name in ("one-step", "plain", "margin", "second"):
        assert attacks[name]["broken"] == reachable, name
    assert attacks["larger"]["broken"] == attacks["unbounded"]["broken"] == []
    assert attacks["larger"]["given"] == attacks["unbounded"]["given"] == len(found)
    assert attacks["plain-unbounded"]["given"] > 0


def test_naive_attacks_are_held_against_what_is_deployed(samples):
    """Cross-entropy of a model with huge logits has no gradient, and the margin has."""
    sharp = Around(Linear(W, 1.0), after=lambda z: 1e4 * z)
    found, facts = probed(samples, [PGD(loss="margin")], net=sharp)
    attacks = facts["attacks"]
    reachable = set(within(found, 0.05))
    assert len(attacks["plain"]["broken"]) < len(reachable)
    assert set(attacks["margin"]["broken"]) | set(attacks["plain"]["broken"]) == reachable
    assert not set(facts["robust"]) & reachable


@pytest.mark.parametrize(("norm", "whole"), [("l2", 2.0), ("l1", 4.0)])
def test_the_other_norms_reach_the_whole_box(samples, norm, whole):
    _, facts = probed(samples, [PGD()], Threat(norm, 0.05))
    attacks = facts["attacks"]
    assert attacks["unbounded"]["eps"] == pytest.approx(whole, rel=1e-5)
    assert attacks["larger"]["eps"] == pytest.approx(0.1)
    given = attacks["larger"]["given"]
    assert len(attacks["larger"]["broken"]) + len(attacks["unbounded"]["broken"]) == given


def test_threats_that_count(samples):
    _, facts = probed(samples, [UniformNoise(samples=1)], Threat("l0", 1))
    attacks = facts["attacks"]
    assert attacks["plain"]["labels"] == ["fmn"]
    assert attacks["second"]["labels"] == ["sigma-zero"]
    assert "Square answers" in attacks["random-search"]["why"]
    assert "PGD answers" in attacks["margin"]["why"]
    assert attacks["plain-larger"]["eps"] == 2
    assert attacks["plain-unbounded"]["eps"] == 4
    assert "larger" not in attacks  # the run has no attack with gradients


def test_patches(samples):
    x, y = samples
    x = x.view(-1, 1, 2, 2)
    _, facts = probed((x, y), [parse_attack("patch,steps=2")], Threat("patch", 1))
    attacks = facts["attacks"]
    assert attacks["second"]["labels"] == ["patch,restarts=3"]
    assert attacks["unbounded"]["eps"] == 2
    assert "why" in attacks["random-search"]


def test_the_second_opinion_is_of_another_attack(samples):
    def labels(*attacks, threat=Threat("linf", 0.05)):  # noqa: B008  # frozen
        given = [parse_attack(text) for text in attacks]
        found = subject(Linear(W, 1.0).eval(), *samples, threat, given)
        return [label(attack) for attack in reference._second(found)]

    assert labels("pgd,steps=2", "square,queries=5") == ["auto"]
    other = labels("auto")
    assert other[0].startswith("apgd-t")
    assert labels("auto,restarts=2") == other
    assert labels("auto", "apgd-t,steps=1") == other  # both are held: other random numbers
    assert labels("auto", threat=Threat("l1", 0.1)) == ["pdpgd", other[0]]
    assert labels("pdpgd", threat=Threat("l1", 0.1)) == ["auto"]


def test_steps_grow_with_eps():
    attack = Restarts(attack=PGD(step_size=0.01), restarts=2)
    assert reference._scaled(attack, 3).attack.step_size == pytest.approx(0.03)
    assert reference._scaled(PGD(), 3) == PGD()
    assert reference._scaled(Square(), 3) == Square()


def test_small_steps_still_reach_the_whole_box(samples):
    _, facts = probed(samples, [PGD(steps=20, step_size=0.005)])
    attacks = facts["attacks"]
    assert len(attacks["unbounded"]["broken"]) == attacks["unbounded"]["given"] > 0


def test_attacks_on_a_random_model_go_on_after_a_lucky_answer(samples):
    class Noisy(nn.Module):
        def forward(self, x):
            return Linear(W, 1.0)(x + 0.25 * torch.randn_like(x))

    with seeded(0):
        threat = Threat("linf", 0.2)
        found, facts = probed(samples, [PGD()], threat, Noisy(), view="naive")
        assert found.random
        plain, (first,) = facts["attacks"]["plain"], found.search(PGD())
    assert plain["labels"] == ["pgd"]
    assert set(plain["broken"]) >= set(within(found, 0.2))  # what it would reach without noise
    assert int(first.success.sum()) < len(plain["broken"])
    assert facts["attacks"]["second"]["labels"] == ["apgd,steps=50,loss=margin,adaptive=true"]


def test_attackers_who_have_other_models_alone(samples):
    with pytest.raises(RobustError, match="search on other models"):
        probed(samples, [PGD(steps=2)], surrogates=[Linear(W, 0.9)])


def test_facts_are_the_same_again(samples):
    assert probed(samples, [PGD(steps=2)])[1] == probed(samples, [PGD(steps=2)])[1]


def test_an_eps_that_spans_the_range(samples):
    _, facts = probed(samples, [PGD(steps=2)], Threat("linf", 0.6))
    attacks = facts["attacks"]
    assert attacks["larger"]["eps"] == pytest.approx(1.0, rel=1e-5)
    assert math.isclose(attacks["unbounded"]["eps"], attacks["larger"]["eps"])


def test_an_attack_is_known_again_whatever_it_is_wrapped_into():
    known = reference._known(parse_attack("apgd,loss=dlr"))
    assert reference._known(parse_attack("apgd,loss=dlr,restarts=2,eot=3")) == known
    assert reference._known(parse_attack("apgd")) != known
