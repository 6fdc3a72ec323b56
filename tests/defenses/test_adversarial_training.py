"""Adversarial training: which samples are attacked, in which mode, and what the loss is."""

import pytest
import torch
from defense_steps import THREAT, batch, criterion, network, step
from torch import nn
from torch.nn.functional import cross_entropy

from robust.attacks.deepfool import DeepFool
from robust.attacks.fgsm import FGSM
from robust.attacks.pgd import PGD
from robust.attacks.universal import Universal
from robust.core.defense import Task
from robust.core.errors import RobustError
from robust.core.rng import generator, seeded
from robust.defenses.adversarial_training import AdversarialTraining


@pytest.mark.parametrize(
    "defense",
    [AdversarialTraining(attack=None), AdversarialTraining(attack=PGD(steps=2), mix=0.0)],
)
def test_natural_training_is_the_mean_loss_on_the_samples_as_they_are(defense):
    model, (x, y) = network(), batch()
    result = step(defense, model)
    assert torch.equal(result.x_adv, x)
    torch.testing.assert_close(result.loss, cross_entropy(model(x), y))
    assert torch.equal(result.logits, model(x))
    assert not result.logits.requires_grad
    assert not defense.attacks


@pytest.mark.parametrize(("mix", "count"), [(1.0, 10), (0.5, 5), (0.34, 3)])
def test_mix_is_the_share_of_the_batch_that_is_attacked(mix, count):
    model, (x, y) = network(), batch()
    defense = AdversarialTraining(attack=PGD(steps=3), mix=mix)
    result = step(defense, model)
    moved = (result.x_adv != x).flatten(1).any(1)
    assert moved.tolist() == [True] * count + [False] * (10 - count)
    assert bool(THREAT.contains(x, result.x_adv).all())
    torch.testing.assert_close(result.loss, cross_entropy(model(result.x_adv), y))
    attacked = cross_entropy(model(result.x_adv)[:count], y[:count])
    assert attacked > cross_entropy(model(x)[:count], y[:count])
    assert defense.attacks


def test_the_attack_goes_on_after_success():
    model, (x, y) = network(), batch()
    wrong = model(x).argmax(1) != y
    assert bool(wrong.any())  # solved before the first step: an attack on a goal would leave them
    result = step(AdversarialTraining(attack=FGSM()), model)
    assert bool((result.x_adv != x).flatten(1).any(1)[wrong].all())


def test_the_attack_leaves_no_trace_in_the_statistics_of_batchnorm():
    model, alone = network(nn.BatchNorm1d(8)), network(nn.BatchNorm1d(8))
    result = step(AdversarialTraining(attack=PGD(steps=3)), model)
    alone(result.x_adv)
    assert torch.equal(model[1].running_mean, alone[1].running_mean)
    assert int(model[1].num_batches_tracked) == 1


def test_the_attack_sees_the_model_in_eval_mode_and_every_module_gets_its_mode_back():
    modes = []

    class Spy(nn.Module):
        def forward(self, x):
            modes.append(self.training)
            return x

    model = network(Spy(), nn.BatchNorm1d(8))
    model[2].eval()  # a frozen layer
    step(AdversarialTraining(attack=PGD(steps=2)), model)
    assert modes == [False, False, True]
    assert model.training
    assert not model[2].training


def test_the_attack_gives_parameters_no_gradient():
    model = network()
    step(AdversarialTraining(attack=PGD(steps=2)), model)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_model_with_one_logit_learns_two_classes():
    with seeded(0, "one"):
        model = nn.Linear(6, 1)
    x, y = batch()[0], batch()[1] % 2
    task = Task(x, y, THREAT, generator(0), criterion)
    result = AdversarialTraining(attack=None).step(model, model, task)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y.float())
    torch.testing.assert_close(result.loss, expected)


@pytest.mark.parametrize("mix", [-0.1, 1.1, float("nan")])
def test_a_mix_that_is_no_share_is_refused(mix):
    with pytest.raises(RobustError, match="mix is a share from 0 to 1"):
        AdversarialTraining(attack=None, mix=mix)


@pytest.mark.parametrize(
    ("attack", "match"), [(DeepFool(), "smallest perturbation"), (Universal(), "one thing for all")]
)
def test_attacks_that_no_training_can_use_are_refused(attack, match):
    with pytest.raises(RobustError, match=match):
        AdversarialTraining(attack=attack)
