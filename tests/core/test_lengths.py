"""Steps of a given length, against sorting and against bisection in float64."""

import pytest
import torch

from robust.core import lengths


def draw(n=60, d=500, seed=0, tail=1.0):
    """Sizes over many orders of magnitude where the tail is heavy."""
    return (tail * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))).exp()


@pytest.mark.parametrize("tail", [0.1, 1.0, 10.0])
def test_a_bound_is_reached_by_as_many_as_asked(tail):
    size = draw(tail=tail)
    size[0], size[1, 10:], size[2, ::2] = 0, 0, 3.0
    count = torch.randint(1, 500, (60, 1), generator=torch.Generator().manual_seed(1)).float()
    count[1] = 400
    largest = size.sort(1, descending=True).values.gather(1, count.long() - 1)
    bound = lengths.at_least(size, count)
    reached = (size >= bound) & (size > 0)
    assert torch.equal(reached, (size >= largest) & (size > 0))


@pytest.mark.parametrize("tail", [0.3, 1.0, 3.0])
def test_a_shift_leaves_the_limit(tail):
    """Rooms with heavy tails: the sum is far from convex."""
    size, room = draw(tail=tail), draw(seed=1, tail=tail)
    whole = torch.minimum(size, room).sum(1, keepdim=True)
    limit = whole * torch.linspace(0.01, 1.2, 60).unsqueeze(1)
    shift = lengths.shift(size, room, limit)
    left = torch.minimum((size.double() - shift).clamp(min=0), room).sum(1, keepdim=True)
    ulp = 60 * torch.finfo(torch.float32).eps * shift  # of λ itself, in each that is free
    assert ((left - torch.minimum(limit, whole)).abs() <= 2e-6 * limit + ulp).all()
    assert not shift[limit >= whole].any()


def test_rows_that_have_found_their_shift_keep_it(monkeypatch):
    """Newton's method is quick where it is left alone: a dozen passes for all rows."""
    monkeypatch.setattr(lengths, "_PASSES", 12)
    size, room = draw(), draw(seed=1)
    whole = torch.minimum(size, room).sum(1, keepdim=True)
    limit = whole * torch.linspace(0.01, 1.2, 60).unsqueeze(1)
    shift = lengths.shift(size, room, limit)
    left = torch.minimum((size - shift).clamp(min=0), room).sum(1, keepdim=True)
    assert torch.allclose(left, torch.minimum(limit, whole), rtol=2e-6)


@pytest.mark.parametrize("share", [1e-3, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("tail", [0.1, 1.0, 4.0])
def test_a_stretched_step_has_its_length(share, tail):
    """Heavy tails: most coordinates move invisibly little until the few largest are cut."""
    x = torch.rand(60, 500, generator=torch.Generator().manual_seed(2))
    size = draw(tail=tail)
    way = size / size.amax(1, keepdim=True) * (x - 0.5).sign()
    whole = (torch.where(way > 0, 1 - x, x)).norm(dim=1, keepdim=True)
    z = lengths.stretched(x, way, share * whole, 0.0, 1.0)
    found = (z.double() - x.double()).norm(dim=1, keepdim=True)
    assert torch.allclose(found, share * whole.double(), rtol=2e-6, atol=1e-7)
    for i in range(0, 60, 12):  # one factor for all that is not cut
        uncut = (z[i] > 0) & (z[i] < 1) & ((z[i] - x[i]).abs() > 1e-3)
        factor = (z[i] - x[i])[uncut] / way[i][uncut]
        assert factor.numel() == 0 or float(factor.amax() / factor.amin()) < 1 + 1e-3


def test_filling_spends_all_on_the_largest():
    size, room = draw(n=5), torch.full((5, 500), 0.5)
    size[4, 3:] = 0
    need = torch.tensor([[0.2], [3.0], [20.0], [90.0], [9.0]])
    step = lengths.fill(size, room, need)
    rank = size.argsort(dim=1, descending=True).argsort(dim=1)
    full = (need / 0.5).floor()
    assert torch.equal(step[:4] == 0.5, (rank < full)[:4])
    assert torch.allclose(step.sum(1, keepdim=True)[:4], need[:4], rtol=1e-5)
    assert step[4].tolist() == [0.5] * 3 + [0.0] * 497
