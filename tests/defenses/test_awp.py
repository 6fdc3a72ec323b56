"""Adversarial weight perturbation: how far weights move, where to, and that they come back."""

import pytest
import torch
from defense_steps import THREAT, batch, criterion, gradients, network, step
from torch import nn
from torch.nn.functional import cross_entropy

import robust
from robust.attacks.pgd import PGD
from robust.core.defense import Task
from robust.core.errors import RobustError
from robust.core.rng import generator
from robust.defenses.adversarial_training import AdversarialTraining
from robust.defenses.awp import AWP
from robust.defenses.free import Free
from robust.defenses.mart import MART
from robust.defenses.trades import TRADES

MADRY = AdversarialTraining(attack=PGD(steps=3))
KINDS = [MADRY, AdversarialTraining(attack=None), TRADES(steps=3), MART(steps=3)]


def values(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("around", KINDS)
def test_weights_are_back_bit_for_bit_and_the_gradient_is_that_of_the_perturbed_ones(around):
    model = network(nn.BatchNorm1d(8))
    before = values(model)
    result = step(AWP(around=around, gamma=0.3), model)
    moved = values(model)
    assert any(not torch.equal(before[name], moved[name]) for name in before)
    result.loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    result.after()
    after = values(model)
    assert all(torch.equal(before[name], after[name]) for name in before)

    other = network(nn.BatchNorm1d(8))
    with torch.no_grad():
        for name, p in other.named_parameters():
            p.copy_(moved[name])
    task = Task(*batch(), THREAT, generator(0), criterion)
    losses, _ = around.losses(other, task, result.x_adv)
    losses.mean().backward()
    for name, p in other.named_parameters():
        assert torch.equal(p.grad, found[name])


@pytest.mark.parametrize("gamma", [0.005, 0.1])
@pytest.mark.parametrize("around", KINDS)
def test_each_weight_moves_by_gamma_times_its_own_length_up_the_loss(around, gamma):
    model = network(nn.BatchNorm1d(8))
    before = values(model)
    plain = step(around, network(nn.BatchNorm1d(8)))
    assert plain.after is None
    result = step(AWP(around=around, gamma=gamma), model)
    assert torch.equal(result.x_adv, plain.x_adv)  # the search sees the weights as they are
    fresh = network(nn.BatchNorm1d(8))
    up = gradients(fresh, step(around, fresh).loss)
    for name, p in model.named_parameters():
        moved = p.detach() - before[name]
        if p.dim() == 1:  # biases, and what BatchNorm has
            assert not moved.any()
            continue
        length = moved.norm() / before[name].norm()
        assert length.item() == pytest.approx(gamma, rel=1e-3)
        cosine = (moved * up[name]).sum() / moved.norm() / up[name].norm()
        assert cosine.item() > 0.999
    assert result.loss > plain.loss


def test_statistics_of_batchnorm_see_the_update_alone():
    model, alone = network(nn.BatchNorm1d(8)), network(nn.BatchNorm1d(8))
    result = step(AWP(around=MADRY, gamma=0.1), model)
    with torch.no_grad():
        for p, moved in zip(alone.parameters(), model.parameters(), strict=True):
            p.copy_(moved)
    alone(result.x_adv)
    assert torch.equal(model[1].running_mean, alone[1].running_mean)
    assert torch.equal(model[1].running_var, alone[1].running_var)
    assert int(model[1].num_batches_tracked) == 1


def test_frozen_weights_and_flat_gradients_do_not_move():
    model = network()
    model[0].weight.requires_grad_(False)
    before = values(model)
    step(AWP(around=MADRY, gamma=0.1), model)
    assert torch.equal(before["0.weight"], values(model)["0.weight"])

    dead = network()
    with torch.no_grad():
        dead[0].bias.fill_(-100)  # no unit is alive: the first layer has a gradient of zeros
    before = values(dead)
    result = step(AWP(around=MADRY, gamma=0.1), dead)
    assert torch.equal(before["0.weight"], values(dead)["0.weight"])
    assert result.loss.isfinite()


def test_weights_are_back_where_the_second_pass_fails():
    class Fails(AdversarialTraining):
        calls = 0

        def losses(self, model, task, x_adv):
            Fails.calls += 1
            if Fails.calls == 2:
                raise KeyboardInterrupt
            return super().losses(model, task, x_adv)

    model = network()
    before = values(model)
    with pytest.raises(KeyboardInterrupt):
        step(AWP(around=Fails(attack=None), gamma=0.1), model)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_tiny_gradient_still_has_a_direction():
    model = network()
    before = values(model)

    def tiny(logits, y):
        return 1e-25 * criterion(logits, y)

    step(AWP(around=AdversarialTraining(attack=None), gamma=0.1), model, loss=tiny)
    length = (model[2].weight.detach() - before["2.weight"]).norm() / before["2.weight"].norm()
    assert length.item() == pytest.approx(0.1, rel=1e-3)


def test_it_is_judged_like_what_it_goes_around():
    assert AWP(around=MADRY).attacks
    assert not AWP(around=AdversarialTraining(attack=None)).attacks
    with pytest.raises(RobustError, match="answers linf, l2, l1 threats"):
        AWP(around=TRADES()).check_threat(robust.L0(2))


def test_the_loss_of_a_natural_run_is_that_at_the_perturbed_weights():
    model = network()
    result = step(AWP(around=AdversarialTraining(attack=None), gamma=0.1), model)
    torch.testing.assert_close(result.loss, cross_entropy(model(batch()[0]), batch()[1]))


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(RobustError, match="gamma must be a finite number above 0"):
        AWP(around=MADRY, gamma=-0.1)
    with pytest.raises(RobustError, match="such as pgd, n-fgsm, trades or mart, and free does not"):
        AWP(around=Free())
