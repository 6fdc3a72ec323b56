"""Several threats at once: the worst point of each sample, or the mean over all."""

import pytest
import torch
from defense_steps import batch, criterion, network, step

import robust
from robust.attacks.fgsm import FGSM
from robust.attacks.pgd import PGD
from robust.core.errors import RobustError
from robust.core.threat import L1, L2, Linf
from robust.core.trainer import OnPoints
from robust.defenses.adversarial_training import AdversarialTraining
from robust.defenses.awp import AWP
from robust.defenses.free import Free
from robust.defenses.trades import TRADES
from robust.defenses.union import Union

MADRY = AdversarialTraining(attack=PGD(steps=3, random_start=False))
THREATS = (Linf(0.1), L2(0.25), L1(0.4))


def alone(model, threat, around=MADRY):
    return step(around, model, threat, 100)


def test_max_takes_the_worst_point_of_each_sample():
    model, (x, y) = network(), batch(100)
    result = step(Union(around=MADRY, threats=THREATS), model, THREATS[0], 100)
    points = [alone(model, threat).x_adv for threat in THREATS]
    losses = torch.stack([criterion(model(at), y) for at in points])
    worst = losses.argmax(0)
    assert len(worst.unique()) > 1  # no threat is the worst one everywhere
    for row, at in enumerate(result.x_adv):
        assert torch.equal(at, points[worst[row]][row])
    torch.testing.assert_close(result.loss, losses.amax(0).mean())
    assert result.logits.shape == (100, 3)
    assert result.loss >= max(alone(model, threat).loss for threat in THREATS)
    inside = torch.stack([t.contains(x, result.x_adv) for t in THREATS])
    assert bool(inside.any(0).all())


def test_average_is_the_mean_loss_over_all_points():
    model = network()
    result = step(Union(around=MADRY, threats=THREATS, how="average"), model, THREATS[0], 100)
    each = [alone(model, threat) for threat in THREATS]
    torch.testing.assert_close(result.loss, torch.stack([one.loss for one in each]).mean())
    assert torch.equal(result.x_adv, each[0].x_adv)  # of the run's own threat
    torch.testing.assert_close(result.logits, each[0].logits)


def test_the_other_threats_grow_and_shrink_with_the_runs():
    seen = []

    class Spy(AdversarialTraining):
        def points(self, seen_model, task):
            seen.append(task.threat)
            return task.x

    union = Union(around=Spy(attack=FGSM()), threats=(Linf(0.1), L2(0.5)))
    step(union, network(), Linf(0.025))
    assert seen[0] == Linf(0.025)
    assert (seen[1].norm, seen[1].eps) == ("l2", pytest.approx(0.125))


@pytest.mark.parametrize("how", ["max", "average"])
def test_it_composes_with_trades_and_with_weight_perturbation(how):
    model = network()
    around = Union(around=TRADES(beta=2, steps=3), threats=THREATS[:2], how=how)
    assert isinstance(around, OnPoints)
    plain = step(around, model, THREATS[0])
    made = step(AWP(around=around, gamma=0.1), model, THREATS[0])
    assert made.loss > plain.loss
    made.loss.backward()
    made.after()


def test_every_threat_must_be_answered():
    around = AdversarialTraining(attack=FGSM())
    Union(around=around, threats=(Linf(0.1), robust.L0(3))).check_threat(Linf(0.1))
    with pytest.raises(RobustError, match="PGD answers .* not l0"):
        Union(around=MADRY, threats=(Linf(0.1), robust.L0(3))).check_threat(Linf(0.1))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Union(around=Free(), threats=THREATS), "--also wants training against an attack"),
        (
            lambda: Union(around=AdversarialTraining(attack=None), threats=THREATS),
            "--also wants training against an attack",
        ),
        (lambda: Union(around=MADRY, threats=THREATS[:1]), "at least two threats"),
        (
            lambda: Union(around=MADRY, threats=(Linf(0.1), L2(1, 0, 255))),
            "share the range of the data",
        ),
        (lambda: Union(around=MADRY, threats=THREATS, how="min"), "max or average, not 'min'"),
        (
            lambda: Union(around=AdversarialTraining(attack=PGD(step_size=0.01)), threats=THREATS),
            "step_size is a length in one norm",
        ),
        (
            lambda: Union(around=TRADES(step_size=0.01), threats=THREATS),
            "step_size is a length in one norm",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make, match):
    with pytest.raises(RobustError, match=match):
        make()
