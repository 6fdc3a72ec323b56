"""The batches of an epoch: a pass over the data, and a share of each batch from a second source."""

from collections.abc import Iterator

import torch
from torch import Tensor

from robust.core.rng import generator

from .data import Samples, cut
from .spec import TrainSpec


class Feed:
    """What a run trains on, batch by batch, in an order of the seed's.

    An epoch is one pass over `samples`. With `extra` samples each batch has that share of them,
    rounded, from passes over them that go on from batch to batch.
    """

    def __init__(self, spec: TrainSpec, samples: Samples, extra: Samples | None) -> None:
        self.seed, self.samples, self.extra = spec.seed, samples, extra
        self.share = spec.extra_fraction if extra is not None else 0.0
        self.size = max(1, round(spec.batch_size * (1 - self.share)))

    @property
    def steps(self) -> int:
        """How many batches an epoch has."""
        return -(-len(self.samples) // self.size)

    @property
    def count(self) -> int:
        """How many samples an epoch has, those of both sources."""
        return len(self.samples) + sum(self._counts())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, y) of each batch from number `start` on."""
        chunks = cut(self._order("order", epoch, self.samples), self.size)
        if self.extra is None:
            yield from self.samples.stream(chunks[start:])
            return
        counts = self._counts()
        orders: list[Tensor] = []
        while sum(map(len, orders)) < sum(counts):
            orders.append(self._order(f"extra {len(orders)}", epoch, self.extra))
        others = list(torch.split(torch.cat(orders)[: sum(counts)], counts))
        own, more = self.samples.stream(chunks[start:]), self.extra.stream(others[start:])
        pairs = zip(own, more, strict=True)
        for number, ((x, y), (x_more, y_more)) in enumerate(pairs, start):
            # Mixed, for adversarial training with --mix takes the first samples of a batch.
            mixing = generator(self.seed, "mixing", epoch, number)
            rows = torch.randperm(len(x) + len(x_more), generator=mixing).to(x.device)
            yield torch.cat([x, x_more])[rows], torch.cat([y, y_more])[rows]

    def _counts(self) -> list[int]:
        """How many samples of the second source each batch has."""
        sizes = [len(chunk) for chunk in cut(torch.arange(len(self.samples)), self.size)]
        return [round(size * self.share / (1 - self.share)) for size in sizes]

    def _order(self, name: str, epoch: int, samples: Samples) -> Tensor:
        return torch.randperm(len(samples), generator=generator(self.seed, name, epoch))
