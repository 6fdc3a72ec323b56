"""Cosine bases of samples of any shape: the vectors that are smooth along the axes of a sample."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def wave(size: int, frequency: int) -> Tensor:
    """One vector of the orthonormal cosine basis (DCT-II) of that many positions: (size,)."""
    places = (torch.arange(size, dtype=torch.float64) + 0.5) * (math.pi * frequency / size)
    return torch.cos(places) * math.sqrt((2 if frequency else 1) / size)


def waves(sizes: Sequence[int], frequencies: Sequence[int]) -> Tensor:
    """The vector of the basis along all axes: float64 (*sizes), of length 1."""
    found = torch.ones(())
    for size, frequency in zip(sizes, frequencies, strict=True):
        found = found.unsqueeze(-1) * wave(size, frequency)
    return found


def frequencies(sizes: Sequence[int]) -> Tensor:
    """Of each vector of the basis: int64 (∏ sizes, axes), the last axis fastest."""
    return torch.cartesian_prod(*(torch.arange(size) for size in sizes)).view(-1, len(sizes))
