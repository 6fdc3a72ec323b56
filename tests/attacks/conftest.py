"""Small models that attacks are tried on."""

import pytest
import torch
from torch import nn


def small_net(shape, classes, seed=0):
    """A two-layer network with random weights, sharp enough to be attacked."""
    features = torch.Size(shape).numel()
    net = nn.Sequential(nn.Flatten(), nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, classes))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=rng) / parameter.shape[-1] ** 0.5
            )
        net[3].weight *= 5
    return net.eval()


def samples(shape, n, low=0.0, high=1.0, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(n, *shape, generator=rng)


@pytest.fixture
def make_net():
    return small_net


@pytest.fixture
def make_samples():
    return samples


@pytest.fixture(scope="session")
def digits_batch():
    """120 test digits: x, y."""
    from robust.data import DataSpec, open_data

    source = open_data(DataSpec("digits"))
    batch = source.batch(source.ids[:120])
    return batch.x, batch.y
