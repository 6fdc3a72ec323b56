"""Small networks, and a count of what they are asked that is nobody's ledger."""

import pytest
import torch
from torch import nn


class Counting(nn.Module):
    """A network that counts the rows of its forwards and backwards, and what types come in."""

    def __init__(self, net):
        super().__init__()
        self.net, self.forwards, self.backwards, self.types = net, 0, 0, set()

    def forward(self, x):
        self.forwards += len(x)
        self.types.add(x.dtype)
        logits = self.net(x)
        if logits.requires_grad:
            logits.register_hook(self._back)
        return logits

    def _back(self, gradient):
        self.backwards += len(gradient)


def network(shape=(3, 8, 8), classes=4, seed=0):
    """Two layers of random weights, sharp enough to be attacked; parameters want gradients."""
    features = torch.Size(shape).numel()
    net = nn.Sequential(nn.Flatten(), nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, classes))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=rng) / parameter.shape[-1] ** 0.5
            )
        net[3].weight *= 5
    return Counting(net.eval())


def samples(shape=(3, 8, 8), n=8):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make_net():
    return network


@pytest.fixture
def make_samples():
    return samples
