"""Functions that a network calls, replaced: whatever the name by which it calls them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from robust.core.intercept import Intercepting
from robust.core.smooth import smoothed


class Names(nn.Module):
    """ReLU by every name."""

    def forward(self, x):
        x = functional.relu(x)
        x = torch.relu(x - 1)
        x = (x - 1).relu()
        x = nn.ReLU()(x - 1)
        x = nn.ReLU(inplace=True)(x - 1)
        x = functional.relu(x - 1, inplace=True)
        x = torch.relu(input=x - 1)
        return (x - 1).relu_()


def plain(old, number, training, u, *args, **kwargs):
    return u


def test_every_name_is_seen_and_counted():
    seen = []

    def new(old, number, training, u, *args, **kwargs):
        seen.append(number)
        return u

    x = torch.full((2, 3), -5.0)
    module = Intercepting(Names(), {"relu": new})
    assert torch.equal(module(x), x - 7)  # nothing was cut off
    assert seen == list(range(8))
    assert module.calls == {"relu": 8}
    module(x)
    assert seen == 2 * list(range(8))  # each forward counts anew


def test_it_sees_nothing_of_what_runs_outside():
    module = Intercepting(Names(), {"relu": plain})
    module(torch.ones(1, 2))
    assert torch.equal(torch.relu(torch.tensor([-1.0])), torch.zeros(1))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 4), (2, 4)),
        (nn.Conv1d(2, 3, 1), (2, 2, 5)),
        (nn.Conv2d(2, 3, 1), (2, 2, 4, 4)),
        (nn.Conv3d(2, 3, 1), (2, 2, 3, 3, 3)),
    ],
)
def test_layers_are_called_with_something_else(layer, shape):
    def twice(old, number, training, u, *args, **kwargs):
        return old(2 * u, *args, **kwargs)

    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    module = Intercepting(nn.Sequential(layer), {"linear": twice})
    assert torch.allclose(module(x), layer(2 * x))
    assert module.calls == {"linear": 1}


def test_exported_programs_are_seen(tmp_path):
    from robust.models import load_model

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    torch.export.save(
        torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)),
        tmp_path / "m.pt2",
    )
    program = load_model(tmp_path / "m.pt2").module
    module = Intercepting(program, {"relu": plain, "linear": lambda old, number, training, u, *a,
                                    **k: old(u, *a, **k)})  # fmt: skip
    assert torch.allclose(module(x), net[2](net[0](x)), atol=1e-6)
    assert module.calls == {"relu": 1, "linear": 2}


def test_the_mode_is_handed_over():
    modes = []

    def new(old, number, training, u, *args, **kwargs):
        modes.append(training)
        return old(u)

    module = Intercepting(nn.ReLU(), {"relu": new})
    module.train()(torch.ones(1))
    module.eval()(torch.ones(1))
    assert modes == [True, False]


def test_what_takes_the_place_may_call_the_old_one_smoothed():
    def halved(old, number, training, u, *args, **kwargs):
        return old(u) / 2

    x = torch.tensor([[-0.5, 2.0, -1.0]]).requires_grad_()
    module = Intercepting(nn.ReLU(), {"relu": halved})
    with smoothed(1.0):
        out = module(x)
    (found,) = torch.autograd.grad(out.sum(), x)
    spread = x.detach().double().std(correction=0).float()
    assert torch.allclose(out, x.clamp(min=0) / 2)
    assert torch.allclose(found, torch.sigmoid(x.detach() / spread) / 2)
