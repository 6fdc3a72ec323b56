"""The ledger counts, access is enforced, parameters get no gradient."""

import pytest
import torch
from torch import nn

from robust.core.errors import RobustError
from robust.core.goal import Goal
from robust.core.losses import ce
from robust.core.victim import Access, Victim

X = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))


def linear():
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0]]))
        net.bias.zero_()
    return net


def test_ledger_counts_each_sample_once_per_answer():
    victim = Victim(linear(), 4)
    victim.logits(X)
    part = victim[torch.tensor([True, False, True, False])]
    part.labels(X[::2])
    part[torch.tensor([1])].gradient(X[2:3], ce, Goal(torch.tensor([0])))
    assert victim.ledger.forwards.tolist() == [2, 1, 3, 1]
    assert victim.ledger.queries.tolist() == [2, 1, 3, 1]
    assert victim.ledger.backwards.tolist() == [0, 0, 1, 0]


def test_gradient_is_right_and_parameters_get_none():
    net = linear()
    goal = Goal(torch.zeros(4, dtype=torch.int64))
    logits, value, gradient = Victim(net, 4).gradient(X, ce, goal)
    p = net(X).softmax(1).detach()
    expected = p[:, 1:] * (net.weight[1] - net.weight[0]).detach()
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert torch.allclose(value, -p[:, 0].log(), atol=1e-6)
    assert torch.equal(logits, net(X).detach())
    assert net.weight.grad is None
    assert not logits.requires_grad
    assert not X.requires_grad


def test_access_is_enforced():
    goal = Goal(torch.zeros(4, dtype=torch.int64))
    labels = Victim(linear(), 4, Access.LABELS)
    assert labels.labels(X).shape == (4,)
    with pytest.raises(RobustError, match="needs access to scores"):
        labels.logits(X)
    with pytest.raises(RobustError, match="needs access to gradient"):
        Victim(linear(), 4, Access.SCORES).gradient(X, ce, goal)
    assert not labels.ledger.forwards.gt(1).any()


def test_a_model_without_gradient_is_told_so():
    goal = Goal(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(RobustError, match="no gradient"):
        Victim(lambda x: (x > 0.5).float(), 4).gradient(X, ce, goal)


def test_nan_in_a_gradient_counts_as_flat():
    def model(x):
        return torch.stack([(x[:, 0] - x[:, 0]).sqrt() + x[:, 1], x[:, 2]], 1)

    goal = Goal(torch.zeros(4, dtype=torch.int64))
    _, _, gradient = Victim(model, 4).gradient(X, ce, goal)
    assert gradient.isfinite().all()
    assert not gradient[:, 0].any()
    assert gradient[:, 2].all()


def test_watch_keeps_the_best_margin_of_each_sample():
    victim, watch = Victim(lambda x: x, 3).watched(Goal(torch.zeros(3, dtype=torch.int64)))
    victim.logits(torch.tensor([[1.0, 0.0], [1.0, 3.0], [2.0, 0.0]]))
    victim[torch.tensor([2, 0])].logits(torch.tensor([[2.0, 1.0], [1.0, -5.0]]))
    assert watch.margin.tolist() == [-1, 2, -1]


def test_a_wrong_number_of_rows_is_a_bug():
    with pytest.raises(ValueError, match="rows"):
        Victim(linear(), 3).logits(X)
