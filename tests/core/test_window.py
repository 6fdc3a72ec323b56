"""Square windows of images: sums, corners, masks, pasting; each against a plain loop."""

import pytest
import torch

from robust.core import window
from robust.core.errors import RobustError
from robust.core.rng import generator

SIZES = [(5, 7), (6, 6)]


def images(size, n=6, channels=3, seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", SIZES)
def test_extent_is_the_side_of_the_smallest_square(size):
    changed = images(size, n=60) < 0.04
    changed[0] = False
    for one, side in zip(changed, window.extent(changed).tolist(), strict=True):
        at = one.any(0).nonzero()
        assert side == (int((at.amax(0) - at.amin(0)).amax()) + 1 if len(at) else 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [1, 3, 5, 9])
def test_sums_masks_and_cuts_are_of_the_same_window(size, side):
    x = images(size)
    sums = window.sums(x.sum(1), side)
    assert sums.shape[1:] == window.corners(x, side)
    best = window.best(sums)
    for i in range(len(x)):
        row, column = best[i].tolist()
        inside = x[i, :, row : row + side, column : column + side]
        assert sums[i, row, column] == sums[i].amax()
        assert float(sums[i].amax()) == pytest.approx(float(inside.double().sum()), rel=1e-6)
        mask = window.mask(x, best, side)[i, 0]
        assert int(mask.sum()) == inside[0].numel()
        assert mask[row : row + side, column : column + side].all()


@pytest.mark.parametrize("size", SIZES)
def test_what_is_pasted_can_be_cut_out_and_nothing_else_changes(size):
    x, patch = images(size), images((2, 2), n=1, seed=1)[0]
    corner = window.anywhere(generator(0), x, 2)
    z = window.paste(x, patch, corner)
    assert torch.equal(window.cut(z, corner, 2), patch.expand(6, 3, 2, 2))
    assert torch.equal(torch.where(window.mask(x, corner, 2), x, z), x)
    own = images((2, 2), seed=2)
    assert torch.equal(window.cut(window.paste(x, own, corner), corner, 2), own)


def test_anywhere_reaches_every_corner_equally():
    x = torch.zeros(6000, 1, 4, 5)
    corner = window.anywhere(generator(0), x, 3)
    found, counts = corner.unique(dim=0, return_counts=True)
    assert found.tolist() == [[r, c] for r in range(2) for c in range(3)]
    assert counts.min() > 850


def test_samples_that_are_no_images_are_refused():
    with pytest.raises(RobustError, match=r"images of shape .* not samples of shape \(20,\)"):
        window.image_size(torch.zeros(3, 20))
