"""Does an oracle answer at random? A handful of repeated queries tell, before a run."""

import torch
from torch import Tensor

from .core.oracle import Oracle
from .preflight import forward, guarded

DRAWS = 5  # of an oracle that turned out to be random, where nobody declared their number
CHECKS = 20  # repeated checks of each candidate then
_SAMPLES = 3
_REPEATS = 3
_HALVINGS = 10
_AT_BOUNDARY = 12
_NOISE = 1e-4  # what the same scores may differ by for reasons of floating point alone


def answers_at_random(oracle: Oracle, x: Tensor) -> bool:
    """Whether the same question gets different answers; x (n, …) are samples of the data.

    Scores: a few samples are asked three times. Labels: each sample is asked twice; and as they
    hardly change far from a boundary, where two samples have different classes, the boundary
    between them is found by bisection, and the last point is asked twelve times.
    """
    with guarded(x), torch.no_grad():
        if not oracle.labels:
            answers, _ = oracle.draw(x[:_SAMPLES], range(_REPEATS))
            scale = answers.abs().amax().clamp(min=1)
            return bool((answers.amax(1) - answers.amin(1)).amax() > _NOISE * scale)
        for points, repeats in ((x, 2), (_between(oracle, x), _AT_BOUNDARY)):
            answers, _ = oracle.draw(points, range(repeats))
            labels = answers.argmax(2)
            if bool((labels != labels[:, :1]).any()):
                return True
        return False


def _between(oracle: Oracle, x: Tensor) -> Tensor:
    """Points next to a boundary, of up to two pairs of samples; the samples themselves where all
    have one class.
    """
    labels = forward(oracle, x).argmax(1)
    other = (labels != labels[0]).nonzero().squeeze(1)[:2]
    if not len(other):
        return x[:2]
    low, high = x[:1].expand(len(other), *x.shape[1:]).clone(), x[other].clone()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        same = (forward(oracle, middle).argmax(1) == labels[0]).view(-1, *[1] * (x.dim() - 1))
        low, high = torch.where(same, middle, low), torch.where(same, high, middle)
    return high
