"""Problems with a known solution: a sound attack solves them, one that is broken does not."""

from dataclasses import dataclass, replace

import pytest
import torch
from diagnosis_subjects import Around, subject
from torch import nn

from robust.attacks import PGD, Auto, DeepFool, SigmaZero
from robust.attacks._loop import projected_ascent
from robust.core.attack import Attack
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.losses import ce, margin
from robust.core.rng import generator, seeded
from robust.core.threat import L0, L1, L2, Linf
from robust.diagnosis.probes import binarisation
from robust.diagnosis.problems import Problems

N, D, K = 6, 300, 5
EPS = Linf(0.05)


@pytest.fixture(scope="module")
def net():
    with seeded(0):
        return nn.Sequential(nn.Linear(D, 40), nn.Tanh(), nn.Linear(40, K)).eval()


@pytest.fixture(scope="module")
def samples(net):
    x = torch.rand(N, D, generator=generator(0)) * 0.8 + 0.1
    return x, net(x).argmax(1).detach()


def probed(net, samples, *attacks, threat=EPS, **run):
    return binarisation.probe(subject(net, *samples, threat, list(attacks), **run))


@dataclass(frozen=True, kw_only=True)
class Standing(Attack):
    """PGD whose step size is 0."""

    def search(self, victim, x, goal, threat, rng):
        start = threat.around(x).random(rng)
        for _ in range(20):
            victim.gradient(start, margin, goal)
        return start


@dataclass(frozen=True, kw_only=True)
class Descending(Attack):
    """PGD with the wrong sign."""

    def search(self, victim, x, goal, threat, rng):
        return projected_ascent(
            victim, x, goal, threat, rng, steps=20, step_size=threat.eps / 8, random_start=True,
            loss=lambda logits, goal: -ce(logits, goal),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Short(PGD):
    """PGD that ends a little inside of the ball."""

    def search(self, victim, x, goal, threat, rng):
        return super().search(victim, x, goal, replace(threat, eps=0.97 * threat.eps), rng)


@dataclass(frozen=True, kw_only=True)
class Aimed(PGD):
    """PGD that arrives at classes, and leaves none."""

    goals = frozenset({"targeted"})


def test_a_sound_attack_solves_all_and_random_points_none_of_the_harder_ones(net, samples):
    found = probed(net, samples, PGD(), Auto())
    assert found["features"] == "last linear layer"
    assert (found["samples"], found["left_out"], found["points"]) == (N, 0, 1000)
    assert found["solved"] == found["hard"] == found["hard_solved"] == N
    assert found["hard_by_chance"] == 0
    pgd, auto = found["attacks"]
    assert (pgd["attack"], pgd["given"], pgd["solved"], pgd["refused"]) == ("pgd", N, N, None)
    assert (auto["given"], auto["hard_given"]) == (0, 0)


@pytest.mark.parametrize("attack", [Standing(), Descending()])
def test_an_attack_that_goes_nowhere_solves_none(net, samples, attack):
    found = probed(net, samples, attack)
    assert found["samples"] == found["hard"] == N
    assert found["solved"] == found["hard_solved"] == 0


def test_in_few_dimensions_the_corner_itself_need_not_be_found():
    with seeded(0):
        net = nn.Sequential(nn.Linear(8, 40), nn.Tanh(), nn.Linear(40, K)).eval()
    x = torch.rand(N, 8, generator=generator(0)) * 0.8 + 0.1
    samples = x, net(x).argmax(1).detach()
    found = probed(net, samples, Short())
    assert found["solved"] == found["samples"] == found["hard_solved"] == found["hard"] >= N - 1
    assert probed(net, samples, Standing())["hard_solved"] == 0


def test_one_step_solves_what_is_easy_alone(net, samples):
    found = probed(net, samples, PGD(steps=1))
    assert found["solved"] == N
    assert found["hard_solved"] <= 1


def test_without_a_gradient_nothing_is_solved_but_by_who_sees_through(net, samples):
    masked = Defended(Around(net, before=lambda x: (50 * x).round() / 50), net)
    naive = probed(masked, samples, PGD(), view="naive")
    assert naive["samples"] >= N - 1
    assert naive["solved"] <= 1
    assert naive["hard_solved"] == 0
    both = probed(masked, samples, PGD())
    assert both["solved"] == both["samples"]
    assert both["hard_solved"] == both["hard"]
    run = subject(masked, *samples, EPS, [PGD(steps=1)])
    problems, hard = Problems.of(run, torch.arange(N), 300).rounds()
    assert (hard.readouts.threshold > problems.readouts.threshold).all()


def test_a_softmax_that_saturates_stays_in_place(net, samples):
    """With logits of many thousands cross-entropy has no gradient in float32, the margin has."""
    steep = Around(net, after=lambda z: 1e6 * z)
    by_loss = {
        loss: probed(steep, samples, PGD(loss=loss, random_start=False))["solved"]
        for loss in ("ce", "margin")
    }
    assert by_loss == {"ce": 0, "margin": N}


@pytest.mark.parametrize("threat", [L2(0.5), L1(2.0)])
def test_other_norms_make_problems_too(net, samples, threat):
    found = probed(net, samples, Auto(), threat=threat)
    assert found["samples"] >= N - 1
    assert found["solved"] == found["samples"]
    assert found["hard_solved"] == found["hard"] >= N - 1


def test_counts_of_coordinates_have_no_harder_round(net, samples):
    found = probed(net, samples, SigmaZero(steps=50), threat=L0(8))
    assert found["samples"] >= 1
    assert found["hard"] == 0


def test_a_targeted_run_arrives_at_the_other_side(net, samples):
    found = probed(net, samples, Aimed(), targeted="next")
    assert found["solved"] == found["samples"] >= N - 1
    assert found["attacks"][0]["refused"] is None


def test_minimal_attacks_take_one_problem_at_a_time(net, samples):
    found = probed(net, samples, DeepFool())
    assert found["solved"] == N


class Jitter(nn.Module):
    """net behind noise on its input."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x + 0.01 * torch.randn_like(x))


def test_a_random_model_decides_by_the_majority_of_draws(net, samples):
    found = probed(Jitter(net), samples, PGD(steps=10))
    assert found["samples"] >= N - 1
    assert found["solved"] == found["samples"]
    assert found["hard"] == 0
    assert probed(Jitter(net), samples, Standing(), view="naive")["solved"] == 0


def test_problems_are_what_they_are_said_to_be(net, samples):
    run = subject(net, *samples, EPS, [PGD(steps=1)])
    problems, hard = Problems.of(run, torch.arange(len(run)), 300).rounds()
    own = run.goal.margin(net(run.x)).detach()
    for one in (problems, hard):
        inside = EPS.contains(one.x, one.solution)
        at_sample, at_solution = (one.model(z).detach() for z in (one.x, one.solution))
        assert inside.all()
        assert torch.allclose(at_sample[:, 1] - at_sample[:, 0], own, rtol=1e-3)
        assert (at_solution[:, 1] > at_solution[:, 0]).all()
    # Of 299 points inside none lies across, and the solution is a corner.
    inner = Linf(0.95 * 0.05).around(problems.x).random(generator(5))
    assert (problems.model(inner)[:, 1] < problems.model(inner)[:, 0]).all()
    assert ((problems.solution - problems.x).abs() > 0.0499).all()
    far = (hard.readouts.threshold - hard.at_sample) / (
        problems.readouts.threshold - problems.at_sample
    )
    assert (far > 1.5).all()


def test_features_that_tell_nothing_leave_samples_out(samples):
    class Blind(nn.Module):
        def forward(self, x):
            score = x.flatten(1).sum(1) * 0
            return torch.stack([score + 3, score], 1)

    x, _ = samples
    found = probed(Blind().eval(), (x, torch.zeros(N, dtype=torch.int64)), PGD(steps=1))
    assert (found["samples"], found["left_out"], found["solved"]) == (0, N, 0)
    assert found["features"] == "logits"


def test_what_makes_no_sense_is_refused(net, samples):
    with pytest.raises(RobustError, match="no room"):
        probed(net, samples, PGD(), threat=Linf(0.0))
    with pytest.raises(RobustError, match="no room"):
        probed(net, samples, SigmaZero(steps=2), threat=L0(1))
    with pytest.raises(RobustError, match="surrogates"):
        probed(net, samples, PGD(), surrogates=[net])
