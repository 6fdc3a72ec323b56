"""The engine of certification: sample by sample, noisy copies in, votes out."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Generator, Tensor, nn

from robust.core.rng import generator, seeded
from robust.data import Source
from robust.evaluation import order_of
from robust.preflight import forward, frozen, refuse_bad_answers

from .cohen import decide
from .spec import CertifySpec

_BLOCK = 128  # copies whose noise is drawn at once, whatever the batch size


@dataclass(frozen=True)
class Row:
    """What was measured and is proven of one sample.

    id, label   its stable position in the data and its true class
    bare        the class that the classifier itself gives, without noise
    selection, estimation   class → votes of the n0 and n noisy copies, those without left out
    prediction, p, radius   see `Decision`
    seconds     wall time (the one figure that is not reproducible)
    """

    id: int
    label: int
    bare: int
    selection: dict[int, int]
    estimation: dict[int, int]
    prediction: int
    p: float
    radius: float
    seconds: float


class Rows(Protocol):
    """Where the engine puts what it has measured."""

    def read(self) -> list[Row]: ...
    def append(self, row: Row) -> None: ...


@dataclass
class MemoryRows:
    """Rows kept in memory, for the Python API without a run folder."""

    rows: list[Row] = field(default_factory=list)

    def read(self) -> list[Row]:
        return list(self.rows)

    def append(self, row: Row) -> None:
        self.rows.append(row)


@dataclass(frozen=True)
class Started:
    """So many samples, of which an earlier process has left these rows."""

    total: int
    rows: list[Row]


@dataclass(frozen=True)
class SampleDone:
    """A sample is measured and stored."""

    row: Row


Event = Started | SampleDone


@dataclass
class Certifying:
    """One classifier f and one data set: what `run` needs beside the spec.

    model       samples to logits, on the spec's device; only the largest one of each counts. Put
                into eval mode and given back as it was
    """

    spec: CertifySpec
    model: nn.Module
    source: Source

    def run(self, store: Rows) -> Iterator[Event]:
        """Certify every sample that the store does not have yet.

        A sample's noise comes from the seed and its id alone: neither the batch size, nor which
        others there are, nor an interruption changes a number.
        """
        spec, rows = self.spec, store.read()
        order = order_of(self.source, spec.shuffle, spec.seed)[: spec.limit]
        done = {row.id for row in rows}
        yield Started(len(order), rows)
        with frozen(self.model):
            for number in map(int, order):
                if number in done:
                    continue
                with seeded(spec.seed, "certify", "model", number):
                    row = self._certify(number)
                store.append(row)
                yield SampleDone(row)

    def _certify(self, number: int) -> Row:
        began, spec = time.perf_counter(), self.spec
        batch = self.source.batch([number])
        x = batch.x.to(spec.device)
        bare = forward(self.model, x)
        refuse_bad_answers(bare, batch.ids)
        rng = generator(spec.seed, "certify", number)
        selection = self._votes(batch.ids, x, spec.n0, rng)
        estimation = self._votes(batch.ids, x, spec.n, rng)
        found = decide(selection, estimation, sigma=spec.sigma, alpha=spec.alpha)
        return Row(
            id=number,
            label=int(batch.y[0]),
            bare=int(bare.argmax(1)[0]),
            selection=selection,
            estimation=estimation,
            prediction=found.prediction,
            p=found.p,
            radius=found.radius,
            seconds=time.perf_counter() - began,
        )

    def _votes(self, ids: Tensor, x: Tensor, n: int, rng: Generator) -> dict[int, int]:
        """How many of n noisy copies of x (1, …) the classifier puts into each class."""
        spec, counts = self.spec, dict[int, int]()
        for noise in _noise(tuple(x.shape[1:]), n, spec.batch_size, rng):
            logits = forward(self.model, x + spec.sigma * noise.to(x.device))
            refuse_bad_answers(logits, ids.expand(len(logits)))
            for number, count in enumerate(logits.argmax(1).bincount().tolist()):
                if count:
                    counts[number] = counts.get(number, 0) + count
        return dict(sorted(counts.items()))


def _noise(shape: tuple[int, ...], n: int, size: int, rng: Generator) -> Iterator[Tensor]:
    """Standard normal noise for n copies, `size` at once, drawn in blocks that know of no size."""
    kept = torch.empty(0, *shape)
    for start in range(0, n, _BLOCK):
        block = torch.randn(min(_BLOCK, n - start), *shape, generator=rng)
        kept = torch.cat([kept, block])
        while len(kept) >= size:
            yield kept[:size]
            kept = kept[size:]
    if len(kept):
        yield kept
