"""Randomness: every draw comes from a generator whose seed is derived from the run's seed.

Numbers are drawn on the CPU and then moved, so that a seed means the same on every device.
"""

import contextlib
import hashlib
from collections.abc import Iterator

import torch
from torch import Generator, Tensor


def derive(seed: int, *names: object) -> int:
    """A seed of its own for each purpose: the same for the same names, unrelated otherwise."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: object) -> Generator:
    """A CPU generator seeded by derive(seed, *names)."""
    return Generator().manual_seed(derive(seed, *names))


@contextlib.contextmanager
def seeded(seed: int, *names: object) -> Iterator[None]:
    """Seed torch's global generators (random layers, initialisation) and restore them after."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *names))
        yield


def uniform(rng: Generator, like: Tensor) -> Tensor:
    """Uniform on [0, 1), of the shape, dtype and device of `like`."""
    return torch.rand(like.shape, generator=rng, dtype=like.dtype).to(like.device)


def normal(rng: Generator, like: Tensor) -> Tensor:
    """Standard normal."""
    return torch.randn(like.shape, generator=rng, dtype=like.dtype).to(like.device)


def exponential(rng: Generator, like: Tensor) -> Tensor:
    """Exponential with mean 1."""
    return torch.empty(like.shape, dtype=like.dtype).exponential_(generator=rng).to(like.device)


def signs(rng: Generator, like: Tensor) -> Tensor:
    """−1 or 1 with equal probability."""
    return torch.randint(0, 2, like.shape, generator=rng).mul_(2).sub_(1).to(like)
