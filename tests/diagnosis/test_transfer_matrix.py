"""Which model's examples fool which: on linear models, where that is known."""

import json

import pytest
import torch
from diagnosis_subjects import Around, Linear, subject
from torch import nn

from robust.attacks.bim import BIM
from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.rng import generator
from robust.core.threat import Threat
from robust.diagnosis.probes import transfer

# Only the first value matters to one, only the last to the other, both to the third.
FIRST, LAST = Linear([1.0, 0, 0, 0], 0.5), Linear([0, 0, 0, 1.0], 0.5)
BOTH = Linear([1.0, 0, 0, 1.0], 1.0)
NEAR = Threat("linf", 0.15, 0.0, 1.0)


@pytest.fixture
def samples():
    """Twelve samples 0.1 from the boundary in the first value and the last, on the same side."""
    side = torch.tensor([-0.1, 0.1] * 6)
    x = torch.full((12, 4), 0.5) + side.unsqueeze(1) * torch.tensor([1.0, 0, 0, 1])
    return x, (side > 0).long()


def probed(net, samples, surrogates, **options):
    found = transfer.probe(
        subject(net, *samples, NEAR, [BIM(steps=5)], surrogates=surrogates, **options)
    )
    assert json.loads(json.dumps(found)) == found
    return found


def test_examples_fool_what_looks_at_the_same(samples):
    found = probed(BOTH, samples, [FIRST, LAST])
    assert found["models"] == ["Linear (1)", "Linear (2)", "Linear (3)"]
    assert found["given"] == [12, 12, 12]
    # 0.15 in one value takes the third model three quarters of the way; its own examples use both.
    assert found["broken"] == [[12, 0, 0], [0, 12, 0], [12, 12, 12]]
    assert found["attack"].startswith("bim")
    assert found["why"] == ""


def test_each_model_counts_the_samples_that_it_gets_right(samples):
    x, y = samples
    x = x.clone()
    x[:4, 0] = 1 - x[:4, 0]  # on the other side of FIRST
    found = probed(LAST, (x, y), [FIRST, LAST])
    assert found["given"] == [8, 12, 12]
    assert found["broken"][0] == [8, 0, 0]
    assert found["broken"][1] == [0, 12, 12]


def test_a_search_goes_on_where_its_own_model_is_fooled(samples):
    x, y = samples
    x, y = x[y == 0], y[y == 0]
    further = Linear([1.0, 0, 0, 0], 0.53)  # 0.13 away; a step of the search is 0.03
    assert probed(further, (x, y), [FIRST])["broken"] == [[6, 6], [6, 6]]


class Flat(nn.Module):
    """Scores without a path back to the input."""

    def forward(self, x):
        return BOTH(x.detach())


def test_a_model_without_gradients_has_no_row(samples):
    found = probed(Flat(), samples, [FIRST])
    assert found["broken"][1] is None
    assert found["broken"][0][0] == 12
    assert "no gradient" in found["why"]


def test_candidates_that_leave_the_ball_fool_nobody(samples, monkeypatch):
    def far(self, victim, x, goal, threat, rng):
        return 1 - x

    whole = subject(BOTH, *samples, NEAR, [BIM(steps=5)], surrogates=[FIRST])
    monkeypatch.setattr(BIM, "search", far)
    assert transfer.probe(whole)["broken"][0] == [0, 0]
    wide = Threat("linf", 0.25, 0.0, 1.0)
    monkeypatch.undo()
    whole = subject(BOTH, *samples, wide, [BIM(steps=5)], surrogates=[FIRST])
    monkeypatch.setattr(BIM, "search", far)
    assert transfer.probe(whole)["broken"][0] == [12, 12]


def test_a_random_model_is_fooled_in_half_of_the_draws(samples):
    noisy = Around(BOTH, before=lambda x: x + 0.001 * torch.randn_like(x))
    found = probed(noisy, samples, [FIRST, BOTH])
    assert found["given"] == [12, 12, 12]
    assert found["broken"][1][2] == 12
    assert found["broken"][2][2] == 12


def test_a_defended_surrogate_is_searched_through_its_defense(samples):
    rounded = Around(BOTH, before=lambda x: (x * 255).round() / 255)  # no gradient passes
    defended = Defended(rounded, BOTH)
    found = probed(BOTH, samples, [defended])
    assert found["broken"] == [[12, 12], [12, 12]]


def test_targets_count_as_goals(samples):
    found = probed(BOTH, samples, [FIRST], targeted="next")
    assert found["broken"][1] == [12, 12]


def test_one_model_alone_has_no_matrix(samples):
    with pytest.raises(RobustError, match="no other model"):
        transfer.probe(subject(BOTH, *samples, NEAR, [BIM(steps=5)]))


def test_the_same_run_gives_the_same_matrix(samples):
    nets = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval() for _ in range(3)]
    for seed, net in enumerate(nets):
        for p in net.parameters():
            p.data = torch.randn(p.shape, generator=generator(seed))
    x = torch.rand(40, 4, generator=generator(9))
    y = nets[0](x).argmax(1)
    found = [probed(nets[0], (x, y), nets[1:], amount="subset") for _ in range(2)]
    assert found[0] == found[1]
    assert found[0]["given"][2] == 32
