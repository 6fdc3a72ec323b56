"""Free adversarial training: one backward for weights and perturbation, and what lives on."""

import dataclasses

import pytest
import torch
from defense_steps import THREAT, batch, criterion, network
from torch import nn
from torch.nn.functional import cross_entropy

import robust
from robust.core.defense import Task
from robust.core.errors import RobustError
from robust.core.rng import generator
from robust.defenses.free import Free


def updates(defense, model, memory, threat=THREAT, samples=None, seen=None, lr=0.5):
    """The steps of one batch, each followed by one of SGD, as the engine makes them."""
    made = []
    x, y = samples or batch()
    task = Task(x, y, threat, generator(0), criterion)
    todo = defense.updates(model, seen or model, task, memory)
    for result in todo:
        model.zero_grad()
        result.loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= lr * parameter.grad
        made.append(result)
    return made


def slope(model, x, y):
    at = x.clone().requires_grad_()
    return torch.autograd.grad(cross_entropy(model(at), y), at)[0]


def test_one_replay_is_a_step_of_fgsm_from_the_carried_perturbation():
    model, (x, y) = network(), batch()
    carried = 0.05 * torch.ones_like(x)
    memory = {"delta": carried.clone()}
    start = (x + carried).clamp(0, 1)
    gradient = slope(model, start, y)  # before the update changes the weights
    (result,) = updates(Free(replays=1), model, memory)
    assert torch.equal(result.x_adv, start)
    stepped = torch.minimum(start + 0.1 * gradient.sign(), x + 0.1)
    expected = torch.maximum(stepped, x - 0.1).clamp(0, 1)
    torch.testing.assert_close(x + memory["delta"], expected)


def test_replays_go_on_from_the_weights_and_the_perturbation_of_the_last_one():
    model, (x, y) = network(), batch()
    memory = {}
    first, second, third = updates(Free(replays=3), model, memory)
    assert torch.equal(first.x_adv, x)  # a run begins without perturbation
    fresh = network()
    gradient = slope(fresh, x, y)
    expected = THREAT.around(x).project(x + 0.1 * gradient.sign())
    torch.testing.assert_close(second.x_adv, expected)
    assert not torch.equal(second.x_adv, third.x_adv)
    for result in (first, second, third):
        assert bool(THREAT.contains(x, result.x_adv).all())
    # The loss at the second point is that of the weights after the first step.
    loss = cross_entropy(fresh(x), y)
    with torch.no_grad():
        for parameter, g in zip(
            fresh.parameters(), torch.autograd.grad(loss, list(fresh.parameters())), strict=True
        ):
            parameter -= 0.5 * g
    torch.testing.assert_close(second.loss.detach(), cross_entropy(fresh(expected), y).detach())


def test_the_perturbation_lives_on_in_the_next_batch_whatever_its_size():
    model = network()
    memory = {}
    updates(Free(replays=2), model, memory)
    delta = memory["delta"].clone()
    x, y = (part[:7] for part in batch(12))
    (first, _) = updates(Free(replays=2), model, memory, samples=(x, y))
    torch.testing.assert_close(first.x_adv, THREAT.around(x).project(x + delta[:7]))
    longer = batch(13)
    memory = {"delta": delta}
    (first, _) = updates(Free(replays=2), model, memory, samples=longer)
    assert first.x_adv.shape == (13, 6)


def test_a_smaller_eps_cuts_what_was_carried():
    (result,) = updates(Free(replays=1), network(), {"delta": torch.ones(10, 6)}, robust.Linf(0.01))
    assert bool(robust.Linf(0.01).contains(batch()[0], result.x_adv).all())


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms_keep_to_their_ball(norm):
    threat = robust.Threat(norm, 0.3)
    results = updates(Free(replays=4), network(), {}, threat)
    assert bool((results[-1].x_adv != batch()[0]).any())
    for result in results:
        assert bool(threat.contains(batch()[0], result.x_adv).all())


def test_it_learns_through_what_an_attacker_sees():
    """Deployed, the defense gives no gradient to the input, and no perturbation would move."""

    class Rounded(nn.Module):
        def __init__(self, net, exposed):
            super().__init__()
            self.net, self.exposed = net, exposed

        def forward(self, x):
            rounded = (x * 3).round() / 3
            return self.net(x + (rounded - x).detach() if self.exposed else rounded.detach())

    net = network()
    first, second = updates(
        Free(replays=2), Rounded(net, False), {}, seen=Rounded(net, True), lr=0.0
    )
    assert bool((first.x_adv != second.x_adv).any())


def test_a_plain_defense_makes_one_update_a_batch():
    from robust.defenses.adversarial_training import AdversarialTraining

    assert len(updates(AdversarialTraining(attack=None), network(), {})) == 1
    assert len(updates(Free(replays=5), network(), {})) == 5


def test_a_step_alone_begins_without_perturbation():
    x, y = batch()
    model = network()
    result = Free().step(model, model, Task(x, y, THREAT, generator(0), criterion))
    torch.testing.assert_close(result.loss, cross_entropy(model(x), y))


def test_values_that_cannot_be_meant_are_refused():
    with pytest.raises(RobustError, match="replays must be a finite number, at least 1"):
        dataclasses.replace(Free(), replays=0)
    with pytest.raises(RobustError, match="answers linf, l2, l1 threats"):
        Free().check_threat(robust.Patch(2))
