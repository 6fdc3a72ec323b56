"""What the tests of training defenses share: a batch, networks, and one step of training."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import robust
from robust.core.defense import Task
from robust.core.rng import generator, seeded

THREAT = robust.Linf(0.1)


def criterion(logits, y):
    return cross_entropy(logits, y, reduction="none")


def batch(n=10):
    rng = generator(0, "batch")
    return torch.rand(n, 6, generator=rng), torch.randint(0, 3, (n,), generator=rng)


def network(*layers):
    with seeded(0, "network"):
        return nn.Sequential(nn.Linear(6, 8), *layers, nn.ReLU(), nn.Linear(8, 3))


def step(defense, model, threat=THREAT, n=10, loss=criterion, seen=None):
    rng = generator(0, "attack")
    return defense.step(model, seen or model, Task(*batch(n), threat, rng, loss))


def gradients(model, loss):
    """Of each parameter, by name."""
    names = [name for name, _ in model.named_parameters()]
    found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    return dict(zip(names, found, strict=True))
