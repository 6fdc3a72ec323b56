"""Readouts in place of a network's last linear layer, wherever that is."""

import pytest
import torch
from diagnosis_subjects import Around
from torch import nn
from torch.nn import functional

from robust.core.defended import Defended
from robust.core.rng import generator, seeded
from robust.core.threat import L1, L2, Linf, Patch
from robust.diagnosis.binarised import Network, Readouts, binarised, groups
from robust.models import load_model

X = torch.rand(3, 6, generator=generator(0))


@pytest.fixture(scope="module")
def net():
    with seeded(0):
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).eval()


def readouts(n, d=5):
    with seeded(1):
        return Readouts(torch.randn(n, d), torch.randn(n, d), torch.rand(n), 1 + torch.rand(n))


class Noisy(nn.Module):
    """Linear layers whose weights are new with every forward."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        first, _, last = self.net
        w = last.weight + 0.1 * torch.randn_like(last.weight)
        return functional.linear(first(x).tanh(), w, last.bias)


class ByHand(nn.Module):
    """The same network without a call of a linear layer."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        first, _, last = self.net
        return torch.tanh(x @ first.weight.T + first.bias) @ last.weight.T + last.bias


class Twice(nn.Module):
    """Asks the network twice where a gradient is wanted."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        if not x.requires_grad:
            return self.net(x)
        return (self.net(x) + self.net(x)) / 2


def test_features_are_what_the_last_linear_layer_reads(net):
    network = Network(net, X)
    features, logits = network.features(X)
    assert torch.equal(features, net[:2](X))
    assert torch.equal(logits, net(X))


def test_each_point_is_read_by_the_readout_of_the_sample_nearest_to_it(net):
    its = readouts(3)
    model = Network(net, X).with_readouts(its, X, Linf(0.01))
    rows = torch.tensor([2, 0, 1, 2])
    z = X[rows] + 0.01
    logits = model(z)
    features = net[:2](z)
    score = ((features - its.centre[rows]) * its.weight[rows]).sum(1)
    margin = its.scale[rows] * (score - its.threshold[rows])
    assert logits.shape == (4, 2)
    assert torch.allclose(logits[:, 1] - logits[:, 0], margin, atol=1e-5)


def test_what_comes_behind_the_layer_is_done_to_the_readouts(net):
    its, behind = readouts(3), Around(net, after=lambda z: 3 * z)
    plain = Network(net, X).with_readouts(its, X, Linf(0.01))(X)
    assert torch.equal(Network(behind, X).with_readouts(its, X, Linf(0.01))(X), 3 * plain)


def test_a_network_of_one_logit_keeps_it():
    with seeded(0):
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).eval()
    its, flat = readouts(3), Network(net, X)
    found = flat.with_readouts(its, X, Linf(0.01))(X)
    assert found.shape == (3,)
    assert torch.allclose(found, its.margin(net[:2](X)))


def test_a_network_that_is_asked_twice_is_read_twice(net):
    its = readouts(3)
    model = Network(Twice(net), X).with_readouts(its, X, Linf(0.01))
    wanted = its.margin(net[:2](X))
    for asked in (X, X.clone().requires_grad_()):
        logits = model(asked)
        assert torch.allclose(logits[:, 1] - logits[:, 0], wanted, atol=1e-5)


def test_weights_that_are_new_each_time_are_found_by_their_place(net):
    network = Network(Noisy(net), X)
    features, _ = network.features(X)
    assert torch.equal(features, net[:2](X))
    its = readouts(3)
    logits = network.with_readouts(its, X, Linf(0.01))(X)
    assert torch.allclose(logits[:, 1] - logits[:, 0], its.margin(features), atol=1e-5)


@pytest.mark.parametrize("how", ["by hand", "script", "convolution", "not the last"])
def test_where_no_such_layer_is_seen_logits_are_the_features(net, how):
    x = X
    if how == "by hand":
        model = ByHand(net)
    elif how == "not the last":
        w = torch.eye(4)[:, :3]
        model = Around(net, after=lambda z: z @ w)
    elif how == "script":
        model = torch.jit.script(net)
    else:
        x = X.view(3, 1, 2, 3)
        with seeded(0):
            model = nn.Sequential(nn.Conv2d(1, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    network = Network(model, x)
    assert network.head is None
    features, logits = network.features(x)
    assert torch.equal(features, model(x))
    assert torch.equal(logits, features)
    its = readouts(3, logits.shape[1])
    found = network.with_readouts(its, x, Linf(0.01))(x)
    assert torch.allclose(found[:, 1] - found[:, 0], its.margin(model(x)), atol=1e-5)


def test_an_exported_program_is_looked_into(net, tmp_path):
    dynamic = ({0: torch.export.Dim("n", min=1)},)
    torch.export.save(torch.export.export(net, (X,), dynamic_shapes=dynamic), tmp_path / "m.pt2")
    model = load_model(tmp_path / "m.pt2").module
    features, logits = Network(model, X).features(X)
    assert torch.allclose(features, net[:2](X), atol=1e-6)
    assert torch.allclose(logits, net(X), atol=1e-6)


def test_with_defenses_both_faces_are_read(net):
    exposed = Around(net, before=lambda x: x + 0.1)
    model = Defended(net, exposed, draws=3)
    its = readouts(3)
    put = binarised(model, lambda part: Network(part, X))(its, X, Linf(0.01))
    assert put.draws == 3
    for seen, features in ((put, net[:2](X)), (put.exposed, net[:2](X + 0.1))):
        logits = seen(X)
        assert torch.allclose(logits[:, 1] - logits[:, 0], its.margin(features), atol=1e-5)


@pytest.mark.parametrize(
    ("threat", "found"),
    [
        (Linf(0.1), [[0, 2], [1]]),
        (Linf(0.01), [[0, 1, 2]]),
        (L2(0.1), [[0, 2], [1]]),
        (L1(0.04), [[0, 2], [1]]),  # 0.15 lies within six times eps
        (Patch(1), [[0], [1], [2]]),
    ],
)
def test_a_group_holds_samples_whose_balls_lie_apart(threat, found):
    x = torch.tensor([[0.1, 0.5], [0.25, 0.5], [0.9, 0.5]])
    assert [group.tolist() for group in groups(x, threat)] == found
