"""Functions of a network with others in their place, however the network calls them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from robust.core.intercept import Intercepting


def doubled_relu(old, number, training, u, *rest, **more):
    return 2 * old(u, *rest, **more)


class ByHand(nn.Module):
    """A ReLU that is called in one of the ways there are."""

    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x):
        return self.call(x * 1)


def returns_nothing(name):
    def call(u):
        getattr(u, name)()
        return u

    return call


def in_place(u):
    functional.relu(u, inplace=True)
    return u


def in_place_by_position(u):
    functional.relu(u, True)
    return u


@pytest.mark.parametrize(
    "call",
    [
        torch.relu,
        functional.relu,
        lambda u: functional.relu(input=u),
        lambda u: u.relu(),
        nn.ReLU(),
        nn.ReLU(inplace=True),
        lambda u: functional.relu(u, True),
        in_place,
        in_place_by_position,
        returns_nothing("relu_"),
    ],
)
def test_a_relu_is_replaced_however_it_is_called(call):
    model = Intercepting(ByHand(call), {"relu": doubled_relu})
    x = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    answer = model(x)
    assert answer.tolist() == [[0.0, 4.0]]
    assert model.calls == {"relu": 1}
    answer.sum().backward()
    assert x.grad.tolist() == [[0.0, 2.0]]


@pytest.mark.parametrize("decomposed", [False, True])
def test_of_an_exported_linear_layer_the_input_is_seen(decomposed):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.linspace(-1, 1, 6).view(2, 3)
    program = torch.export.export(net, (x,))
    if decomposed:
        program = program.run_decompositions()
    seen = []

    def spy(old, number, training, u, *rest, **more):
        seen.append(u)
        return old(u, *rest, **more)

    answer = Intercepting(program.module(), {"linear": spy})(x)
    torch.testing.assert_close(answer, net(x))
    assert [tuple(u.shape) for u in seen] == [(2, 3), (2, 4)]
    torch.testing.assert_close(seen[0], x)


def test_calls_are_numbered_anew_with_every_forward():
    numbers = []

    def spy(old, number, training, u, *rest, **more):
        numbers.append((number, training))
        return old(u, *rest, **more)

    model = Intercepting(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), {"linear": spy})
    model(torch.zeros(1, 2))
    model.eval()(torch.zeros(1, 2))
    assert numbers == [(0, True), (1, True), (0, False), (1, False)]
