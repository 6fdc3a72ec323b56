"""Probabilities taken as logits: what a sigmoid or a softmax hid comes back."""

import pytest
import torch

from robust.models.wrappers import LogProbabilities

Z = torch.tensor([[2.0], [-1.0], [0.0]])


@pytest.mark.parametrize("shape", [(3, 1), (3,)])
def test_one_probability_becomes_its_logit(shape):
    z = Z.view(shape)
    assert torch.allclose(LogProbabilities(torch.sigmoid)(z), z, atol=1e-6)


def test_several_become_logits_up_to_a_shift():
    z = torch.tensor([[2.0, 1.0, -3.0]])
    found = LogProbabilities(lambda x: x.softmax(1))(z)
    assert torch.allclose(found - found[:, :1], z - z[:, :1], atol=1e-6)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_saturated_probabilities_stay_finite(p):
    x = torch.full((1, 1), p, requires_grad=True)
    z = LogProbabilities(torch.nn.Identity())(x)
    z.sum().backward()
    assert z.isfinite().all()
    assert x.grad.isfinite().all()
