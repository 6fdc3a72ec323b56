"""Rows → how an attack's success and distances came with its queries."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust.core.outcome import AttackRows, Ints

POINTS = 100  # of a curve in report.json
_KEPT = 64  # numbers of queries at which each sample's distance is kept
_USUAL = 100_000  # queries, where nobody says how many an attack may ask

Point = tuple[int, float]
Spread = tuple[int, float | None, float | None, float | None]


@dataclass
class Economy:
    """What one attack's queries bought, added up shard by shard.

    eps     what counts as a success lies inside it
    counts  numbers of queries at which distances are kept, ascending

    `traced` says that some sample has a trace. `most` is the most queries that a sample took,
    `missed` counts the samples without any success, near or far.
    """

    eps: float
    counts: Ints
    given: int = 0
    missed: int = 0
    most: int = 0
    traced: bool = False
    _first: list[Ints] = field(default_factory=list)
    _distances: list[NDArray[np.float32]] = field(default_factory=list)

    def add(self, rows: AttackRows) -> None:
        k = len(rows.rows)
        self.given += k
        self.most = max(self.most, int(rows.queries.max(initial=0)))
        self._first.append(self._queries_at_success(rows))
        self.traced |= len(rows.trace_rows) > 0
        # The last column holds whatever came behind the last count.
        nearest = np.full((k, len(self.counts) + 1), np.inf, dtype=np.float32)
        columns = np.searchsorted(self.counts, rows.trace_queries)
        np.minimum.at(nearest, (rows.trace_rows, columns), rows.trace_distance.astype(np.float32))
        nearest = np.minimum.accumulate(nearest, axis=1)
        found = np.isfinite(nearest[:, -1])
        self.missed += int((~found).sum())
        self._distances.append(nearest[found])

    def _queries_at_success(self, rows: AttackRows) -> Ints:
        """Of the successes: queries at the first one inside eps; all of them where none was seen,
        as of attacks whose answers nobody followed.
        """
        never = np.iinfo(np.int64).max
        first = np.full(len(rows.rows), never)
        inside = rows.trace_distance <= self.eps
        np.minimum.at(first, rows.trace_rows[inside], rows.trace_queries[inside])
        queries: Ints = np.where(first < never, first, rows.queries)[rows.success]
        return queries

    @property
    def successes(self) -> Ints:
        """Queries of each success, ascending."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *self._first]))

    @property
    def mean(self) -> float | None:
        queries = self.successes
        return float(queries.mean()) if len(queries) else None

    def quantile(self, q: float) -> float | None:
        """Of the queries that successes took: the fewest by which a share q of them was found."""
        queries = self.successes
        return float(np.quantile(queries, q, method="inverted_cdf")) if len(queries) else None

    @property
    def median(self) -> float | None:
        """Of the queries that successes took."""
        queries = self.successes
        return float(np.median(queries)) if len(queries) else None

    def success(self) -> list[Point]:
        """(queries, fraction of the given samples with a success by then), at most 100 points.

        From the first success to the most queries that any sample took; empty without a query.
        """
        queries = self.successes
        if not self.given or not self.most:
            return []
        at, counts = np.unique(queries, return_counts=True)
        by = counts.cumsum()
        kept = np.unique(np.linspace(0, len(at) - 1, POINTS - 1).round().astype(np.int64))
        points = [(int(at[i]), float(by[i]) / self.given) for i in kept if len(at)]
        if not points or points[-1][0] < self.most:
            points.append((self.most, len(queries) / self.given))
        return points

    def distance(self) -> list[Spread]:
        """(queries, lower quartile, median, upper quartile of the distance) over all samples given.

        A sample without a success by then is infinitely far away, and so the median is None until
        half of them have one. Empty before the first quartile is known.
        """
        if not (self._distances and self.given):
            return []
        near = np.concatenate(self._distances)
        within = [(i, int(c)) for i, c in enumerate(self.counts) if c < self.most]
        points = list[Spread]()
        for i, count in [*within, (len(self.counts), self.most)]:
            far = np.full(self.missed, np.inf, dtype=np.float32)
            column = np.concatenate([near[:, i], far])
            # No mean of two: between a distance and ∞ there is none.
            found = np.quantile(column, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()
            low, median, high = (float(f"{d:.6g}") if math.isfinite(d) else None for d in found)
            if low is not None:
                points.append((count, low, median, high))
        return points


def at(curve: Iterable[Point], queries: float) -> float:
    """The height of a curve of `Economy.success` after so many queries."""
    return max((height for count, height in curve if count <= queries), default=0.0)


def counts(attack: Mapping[str, Any], most: int | None) -> Ints:
    """Numbers of queries, evenly over the orders of magnitude, up to what an attack may ask.

    attack      as the spec describes it
    most        of a whole run, if there is such a budget
    """
    params = attack.get("params") or {}
    own = params.get("queries")
    bounds = [own * params.get("restarts", 1) if own else None, most]
    last = min((int(bound) for bound in bounds if bound), default=_USUAL)
    return np.unique(np.geomspace(1, last, _KEPT).round().astype(np.int64))
