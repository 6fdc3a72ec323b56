"""What a model answers when it is asked again, and what it does meanwhile."""

import pytest
import torch
from diagnosis_subjects import Around, Linear, subject
from torch import nn

from robust.attacks.pgd import PGD
from robust.core.rng import generator, seeded
from robust.core.threat import Threat
from robust.diagnosis.probes import answers
from robust.models.wrappers import LogProbabilities

W = [3.0, -2.0, 1.0, 0.5]


@pytest.fixture
def samples():
    x = torch.rand(12, 4, generator=generator(0))
    return x, (x @ torch.tensor(W) > 1.0).long()


def probed(net, samples):
    with seeded(0):
        found = subject(net.eval(), *samples, Threat("linf", 0.01), [PGD(steps=2)], batch_size=5)
        return found, answers.probe(found)


def test_a_plain_model_answers_the_same_and_does_nothing_else(samples):
    found, facts = probed(Linear(W, 1.0), samples)
    assert facts["different"] == facts["flipping"] == facts["recording"] == facts["backwards"] == 0
    assert facts["largest"] == 0
    z = found.model(found.x)
    assert facts["scale"] == pytest.approx(float(z.detach().abs().max()))
    assert not facts["probabilities"]
    assert not facts["logarithms"]


def test_chance_is_counted_by_samples(samples):
    x, y = samples
    far = (x @ torch.tensor(W) - 1.0).abs() > 0.5

    def shaken(z):
        return z + 0.5 * (2 * torch.rand_like(z) - 1)

    found, facts = probed(Around(Linear(W, 1.0), after=shaken), (x, y))
    assert facts["different"] == len(found)
    assert 0.5 < facts["largest"] < 1
    assert 0 < facts["flipping"] <= len(found) - int(far.sum() * 0.5)


def test_answers_that_change_without_another_class(samples):
    def shaken(z):
        return z * (1 + torch.rand(len(z), 1))

    found, facts = probed(Around(Linear(W, 1.0), after=shaken), samples)
    assert facts["different"] == len(found)
    assert facts["flipping"] == 0


def test_probabilities_and_logarithms_of_them(samples):
    net = Linear(W, 1.0)
    logs = LogProbabilities(Around(net, after=lambda z: z.softmax(1)))
    _, facts = probed(logs, samples)
    assert facts["logarithms"]
    assert facts["rounded"] == 0
    sharp = LogProbabilities(Around(net, after=lambda z: (1000 * z).softmax(1)))
    found, facts = probed(sharp, samples)
    gone = (1000 * net(found.x)).softmax(1).amin(1) <= torch.finfo(torch.float32).tiny
    assert facts["logarithms"]
    assert facts["rounded"] == int(gone.sum()) > 6
    exact = Around(net, after=lambda z: (1000 * z).log_softmax(1))  # loses nothing
    _, facts = probed(exact, samples)
    assert facts["logarithms"]
    assert facts["rounded"] == 0


def test_probabilities_are_seen_where_nobody_refused_them(samples):
    found, _ = probed(Linear(W, 1.0), samples)
    found.run.model = Around(Linear(W, 1.0), after=lambda z: z.softmax(1))
    assert answers.probe(found)["probabilities"]


class Purifier(nn.Module):
    """Steps down a gradient before it answers."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        with torch.enable_grad():
            z = x.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.net(z).square().sum(), z)
        return self.net(x - 1e-4 * slope)


def test_optimisation_at_inference_is_seen(samples):
    _, facts = probed(Purifier(Linear(W, 1.0)), samples)
    assert facts["recording"] > 0


def test_a_model_that_cannot_be_watched_is_asked_all_the_same(samples):
    class Shy(Linear):
        """Runs in no mode of others."""

        def forward(self, x):
            if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
                raise RuntimeError("not here")
            return super().forward(x)

    _, facts = probed(Shy(W, 1.0), samples)
    assert facts["recording"] is facts["backwards"] is None
    assert facts["flipping"] == 0
