"""The default: a cascade that spends where it pays, and goes on where gradients mislead it."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._survivors import Survivors

_CLASSES = 4  # likely classes to aim at
_PROBED, _PROBES = 16, 100  # samples, and queries for each, of the search that notices masking
_ROUNDS = 12
_SHARE, _IDLE = 0.4, 3
_SEARCH = [0.15 / 2**k for k in (0, 1, 2, 3, 4, 5, 6, 6, 6, 6) for _ in range(10)]


@dataclass(frozen=True, kw_only=True)
class Auto(Attack):
    """As strong as AutoAttack at a fraction of its cost; nothing to set. docs/auto.md has figures.

    Margin loss, one forward and one backward a step, steps falling like a cosine from 2 eps, and no
    step on a solved sample: 10 steps from x, 20 from an output-diversified start (2003.06878), 20
    towards each of the 4 likeliest classes. Then a probe: 10 steps with smoothed ReLU gradients
    (`core.smooth`), and 100 queries of random search (1912.00049) around the best points of the
    samples nearest to their goal. What these break the plain gradient could not find, so they tell
    that gradients are masked, and auto escalates on the two fifths nearest to their goal: rounds of
    smoothed descent from diversified starts, towards classes and from the best point, and random
    search seeded with that point, until three rounds in a row break nothing. Without masking,
    diversified restarts on the nearer half go on while they break something.

    The stages of each sample are recorded, and the report shows what each of them broke.
    """

    paper: ClassVar[str] = "–"

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        pool = Survivors(victim, x, goal, threat.around(x))
        pool.look()
        for stage in (self._descend, self._diversify, self._aim):
            stage(pool, rng)
        if self._probe(pool, rng):
            self._escalate(pool, rng)
        else:
            self._restart(pool, rng)
        return pool.best

    def _descend(self, pool: Survivors, rng: Generator) -> None:
        rows = _enter(pool, "descent from the sample")
        pool.climb(rows, pool.x[rows], 10)

    def _diversify(self, pool: Survivors, rng: Generator) -> None:
        rows = _enter(pool, "diversified start")
        _from_diversified(pool, rows, rng)

    def _aim(self, pool: Survivors, rng: Generator) -> None:
        if pool.goal.targeted:
            return
        for rank in range(min(_CLASSES, pool.likely.shape[1])):
            rows = _enter(pool, f"towards likely class {rank + 1}")
            pool.climb(rows, pool.x[rows], 20, towards=pool.likely[rows, rank])

    def _probe(self, pool: Survivors, rng: Generator) -> bool:
        """Whether something other than the true gradient breaks what the gradient left."""
        rows = _enter(pool, "probe for masked gradients")
        left = len(rows)
        pool.climb(rows, pool.x[rows], 10, smooth=True)
        pool.squares(pool.nearest(pool.rows, _PROBED), rng, _SEARCH[:_PROBES])
        return len(pool.rows) < left

    def _escalate(self, pool: Survivors, rng: Generator) -> None:
        idle = 0
        for number in range(_ROUNDS):
            before = len(pool.rows)
            if idle == _IDLE or not before:
                return
            rows = pool.nearest(pool.rows, max(_PROBED, math.ceil(before * _SHARE)))
            pool.victim[rows].mark(f"escalation round {number + 1}")
            _from_diversified(pool, rows, rng, smooth=True)
            rows = pool.left(rows)
            if not pool.goal.targeted:
                rank = number % min(_CLASSES, pool.likely.shape[1])
                pool.climb(rows, pool.x[rows], 20, towards=pool.likely[rows, rank], smooth=True)
            pool.squares(pool.left(rows), rng, _SEARCH)
            rows = pool.left(rows)
            pool.climb(rows, pool.best[rows], 20, size=0.5, smooth=number % 2 == 0)
            idle = 0 if len(pool.rows) < before else idle + 1

    def _restart(self, pool: Survivors, rng: Generator) -> None:
        """Restarts on the half that came nearest, while the last one broke something."""
        for number in range(_ROUNDS):
            rows = pool.nearest(pool.rows, (len(pool.rows) + 1) // 2)
            before = len(pool.rows)
            if not before:
                return
            pool.victim[rows].mark(f"restart {number + 1}")
            _from_diversified(pool, rows, rng)
            if len(pool.rows) == before:
                return


def _enter(pool: Survivors, stage: str) -> Tensor:
    rows = pool.rows
    if len(rows):
        pool.victim[rows].mark(stage)
    return rows


def _from_diversified(
    pool: Survivors, rows: Tensor, rng: Generator, *, smooth: bool = False
) -> None:
    if not len(rows):
        return
    start = pool.diversified(rows, rng, smooth=smooth)
    left = ~pool.solved[rows]
    pool.climb(rows[left], start[left], 20, smooth=smooth)
