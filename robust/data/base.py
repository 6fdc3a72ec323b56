"""Source: random access to samples by stable id; batches: a stream of them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust.core.errors import RobustError
from robust.core.grid import rounded
from robust.core.rng import generator

Ids = Sequence[int] | NDArray[Any] | Tensor


@dataclass(frozen=True)
class Batch:
    """Samples in the order that was asked for.

    ids  int64 (n,), each sample's stable position in the whole source
    x    float32 (n, *shape) in [low, high]
    y    int64 (n,), or 0 and 1, int64 (n, K), where labels are sets
    """

    ids: Tensor
    x: Tensor
    y: Tensor


class Source(ABC):
    """Samples that can be read in any order, so that shuffled and resumed streams both work.

    shape    one sample, channels first
    classes  the names of the classes, if the source has them
    low, high  the box that holds every x
    multi_label  labels are sets: 0 and 1 for each of K labels, in place of one class
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...] | None
    low: float
    high: float
    multi_label: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, ids: Ids) -> Batch:
        """The samples with these ids, in this order. IndexError if the source has no such id."""

    @abstractmethod
    def labels(self) -> NDArray[np.int64]:
        """Every label (n,) or set (n, K), in the order of `ids`, without decoding pixels."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A sha256 (hex) of the content: the same data has the same one."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id of every sample, rising. 0 … n−1, but for a part of a larger source."""
        return np.arange(len(self))

    @property
    def image(self) -> bool:
        """Whether samples are images, so that rounding them to 8 bits makes sense."""
        return len(self.shape) == 3 and self.shape[0] in (1, 3, 4)


class Subset(Source):
    """Some samples of another source, under the ids that they have there."""

    def __init__(self, base: Source, ids: NDArray[np.int64]) -> None:
        """ids: of `base`, rising, without repetition."""
        self.base = base
        self._ids = ids
        self.shape, self.classes = base.shape, base.classes
        self.low, self.high = base.low, base.high
        self.multi_label = base.multi_label

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Positions in the whole source."""
        return self._ids

    def batch(self, ids: Ids) -> Batch:
        """The samples with these ids. IndexError for one outside this part."""
        wanted = np.asarray(ids, dtype=np.int64)
        missing = wanted[~np.isin(wanted, self._ids)]
        if len(missing):
            raise IndexError(f"sample {missing[0]} is not in this part of the data")
        return self.base.batch(wanted)

    def labels(self) -> NDArray[np.int64]:
        """Every label of this part."""
        return self.base.labels()[np.searchsorted(self.base.ids, self._ids)]

    def fingerprint(self) -> str:
        """Of the whole source's content and of which samples these are."""
        sha = hashlib.sha256(self.base.fingerprint().encode())
        sha.update(self._ids.astype("<i8").tobytes())
        return sha.hexdigest()


class EightBit(Subset):
    """Another source with every value rounded to 8 bits, as a service is sent it."""

    def __init__(self, base: Source) -> None:
        super().__init__(base, base.ids)

    def batch(self, ids: Ids) -> Batch:
        """The samples with these ids, rounded."""
        batch = super().batch(ids)
        return Batch(batch.ids, rounded(batch.x, self.low, self.high), batch.y)

    def fingerprint(self) -> str:
        """That of the content as it was before rounding."""
        return self.base.fingerprint()


def hold_out(source: Source, part: str, fraction: float, seed: int, name: str) -> Source:
    """The "held-in" or the "held-out" part: complementary, drawn from the seed, none empty."""
    n = len(source)
    if n < 2:
        raise RobustError(f"{name} has only {n} sample: too few to hold some out")
    count = min(max(round(n * fraction), 1), n - 1)
    drawn = torch.randperm(n, generator=generator(seed, "hold-out")).numpy()
    chosen = drawn[:count] if part == "held-out" else drawn[count:]
    return Subset(source, source.ids[np.sort(chosen)])


def batches(
    source: Source,
    size: int,
    *,
    order: Ids | None = None,
    limit: int | None = None,
    start: int = 0,
) -> Iterator[Batch]:
    """A stream of batches of `size` samples; the last may be smaller.

    order  ids to read, in this order (default: all, rising). To shuffle, permute `source.ids`
    limit  at most this many samples
    start  whole batches to skip, without reading them: where a resumed stream goes on

    Raises RobustError for a size, limit or start out of range.
    """
    if size < 1:
        raise RobustError(f"the batch size must be at least 1, not {size}")
    if limit is not None and limit < 1:
        raise RobustError(f"the limit must be at least 1, not {limit}")
    if start < 0:
        raise RobustError(f"the stream cannot start at batch {start}")
    ids = np.asarray(source.ids if order is None else order, dtype=np.int64)[:limit]
    return (source.batch(ids[i : i + size]) for i in range(start * size, len(ids), size))


def check_ids(ids: Ids, n: int) -> NDArray[np.int64]:
    """ids as int64. IndexError for one that is not in 0 … n−1."""
    wanted = np.asarray(ids, dtype=np.int64)
    outside = wanted[(wanted < 0) | (wanted >= n)]
    if len(outside):
        raise IndexError(f"no sample {outside[0]}: the data has {n}")
    return wanted
