"""The default: a cascade that spends where it pays, and goes on where gradients mislead it."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._survivors import Survivors

_CLASSES = 4  # likely classes to aim at
_PROBED, _FLAT = 16, 0.1  # samples of the probe by random search; a share of flat gradients
_CLEAR = 3  # samples, and times what a true gradient broke last, that tell of masking
_SQUARES, _MOST_SQUARES = 100, 1600  # queries of random search for each sample and round
_ROUNDS, _PATIENCE = 40, 5  # at most; those that the expected gain is read off
_NARROW = 0.2  # of the survivors, the least that a round takes
# A round must promise such a part of half the interval, and such a part of a sample.
_OF_INTERVAL, _OF_SAMPLE = 0.0115, 0.11
_CHEAP = 0.5  # of all passes before the rounds: so much they may spend whatever they promise


@dataclass(frozen=True, kw_only=True)
class Auto(Attack):
    """As strong as AutoAttack at a small fraction of its cost; nothing to set.

    Margin loss, one forward and one backward a step, steps falling like a cosine from 2 eps, and no
    step on a solved sample: 10 steps from x, 20 from an output-diversified start (2003.06878), 20
    towards each of the 4 likeliest classes. Then a probe: 10 steps with smoothed gradients
    (`core.smooth`), and 100 queries of random search (1912.00049) around the best points of the
    samples nearest to their goal. What these break the plain gradient did not find, so that it may
    be masked, as gradients of zero are, and auto escalates: rounds of smoothed
    descent from diversified starts and corners, towards classes and from the best point, and random
    search seeded with that point, as much of each as it has paid. Without masking, diversified
    restarts go on. For L2 and L1 there is a walk along the boundary (FAB, 1907.02044) besides, and
    for L1 every descent is APGD's (2103.01208), and begins with steps to the vertices of the ball
    (Frank & Wolfe, 1811.10828).

    After the first stages an attempt takes the samples nearest to their goal alone, three times
    as deep as the last that broke, and at least a third of them, a fifth in the rounds. These end
    when the next is expected to break less than about 1% of half the 95% interval of these samples'
    accuracy, or than a tenth of a sample, unless the rounds were cheap so far.

    The stages of each sample are recorded, and the report shows what each of them broke. Figures,
    and what else was tried, are in docs/auto.md.
    """

    paper: ClassVar[str] = "–"

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        pool = Survivors(victim, x, goal, threat.around(x), rng)
        if not threat.eps:
            return pool.best
        if pool.norm == "l1":  # whose descents do not begin at the samples
            pool.stage("vertices", lambda rows: pool.vertices(rows, 20), everyone=True)
        pool.stage(
            "descent from the sample",
            lambda rows: pool.climb(rows, pool.near(rows), 10),
            everyone=True,
        )
        pool.stage(
            "diversified start", lambda rows: pool.climb_diversified(rows, 20), everyone=True
        )
        last = 0
        for rank in range(pool.ranks(_CLASSES)):
            last = pool.stage(f"towards likely class {rank + 1}", partial(_aim, pool, rank))
        masked = self._probe(pool, last)
        self._go_on(pool, _Escalation(pool) if masked else _Restarts(pool))
        return pool.best

    def _probe(self, pool: Survivors, last: int) -> bool:
        """Whether gradients may be masked: something breaks what they had left, or they are zero.

        One more attempt always breaks something here and there, so the report is told of masking
        only where the probe broke clearly more than the last attempt with true gradients.
        """

        def attempt(rows: Tensor) -> None:
            pool.climb(rows, pool.near(rows), 10, smooth=True)
            pool.squares(pool.nearest(pool.left(rows), _PROBED), _areas(_SQUARES))

        flat = pool.rows[pool.flat[pool.rows]]
        broken = pool.stage("probe for masked gradients", attempt, everyone=True)
        zero = len(flat) > _FLAT * len(pool.x)
        if zero:
            pool.say(flat, "had a gradient of zero where a search began")
        if zero or broken >= max(_CLEAR, _CLEAR * last):
            pool.say(
                pool.rows,
                "withstood true gradients, which seem to be masked (smoothed gradients or random "
                "search broke samples that they had left, or they are zero), and were attacked by "
                "those instead",
            )
        return zero or broken > 0

    def _go_on(self, pool: Survivors, rounds: "_Restarts | _Escalation") -> None:
        """Rounds, until the next one promises too little."""
        begun = int((~pool.solved).sum()), len(pool.x)
        free = (1 + _CHEAP) * _passes(pool)
        pool.narrow = _NARROW
        broken: list[int] = []
        for number in range(_ROUNDS):
            if not len(pool.rows):
                return
            broken.append(pool.stage(rounds.name, partial(rounds.run, number)))
            last = broken[-_PATIENCE:]
            # Half a sample more than was seen: idle rounds do not prove the next to be one.
            expected = (sum(last) + 0.5) / len(last)
            worth = max(_OF_INTERVAL * _half_width(*begun), _OF_SAMPLE)
            if expected < worth and _passes(pool) > free:
                pool.say(
                    pool.rows,
                    "left when another round promised too little to be seen in the 95% interval",
                )
                return
        pool.say(pool.rows, f"left after {_ROUNDS} rounds, the most there are")


class _Restarts:
    """Without masking: diversified starts, then the margin with any class or with a likely one."""

    name = "restarts"

    def __init__(self, pool: Survivors) -> None:
        self.pool = pool

    def run(self, number: int, rows: Tensor) -> None:
        pool, rank = self.pool, number // 2 % _CLASSES
        _walk(pool, rows, number % _CLASSES)
        rows = pool.left(rows)
        if number % 2 == 0:
            pool.climb_diversified(rows, 20)
        elif pool.norm == "l1":
            pool.climb(rows, pool.near(rows), 40, towards=pool.likely(rows, rank))
        else:
            pool.climb_diversified(rows, 40, rank=rank)


class _Escalation:
    """Gradients are masked: smoothed ones and random search, as much of each as it has paid."""

    name = "escalation"

    def __init__(self, pool: Survivors) -> None:
        self.pool = pool
        self.idle = 0  # rounds in which smoothed descent broke nothing
        # Where gradients are zero, random search is what is left.
        zero = int(pool.flat[pool.rows].sum()) > _FLAT * len(pool.rows)
        self.least = self.squares = 3 * _SQUARES if zero else _SQUARES

    def run(self, number: int, rows: Tensor) -> None:
        pool = self.pool
        if number == 0:
            pool.stripes(rows[pool.flat[rows]])
        before = len(pool.rows)
        if self.idle < _PATIENCE or number % _PATIENCE == 0:
            self._descend(number, pool.left(rows))
        self.idle = 0 if len(pool.rows) < before else self.idle + 1
        if number % 2 == 0:
            _walk(pool, pool.left(rows), number // 2 % _CLASSES)
        before = len(pool.rows)
        pool.squares(pool.left(rows), _areas(self.squares))
        if len(pool.rows) < before and self.idle:
            self.squares = min(2 * self.squares, _MOST_SQUARES)
        else:
            self.squares = max(self.squares // 2, self.least)
        rows = pool.left(rows)
        pool.climb(rows, pool.best[rows], 20, size=0.5, smooth=number % 2 == 0)

    def _descend(self, number: int, rows: Tensor) -> None:
        if number % 2:
            self.pool.climb(rows, self.pool.corner(rows), 20, smooth=True)
        else:
            self.pool.climb_diversified(rows, 20, smooth=True)
        _aim(self.pool, number % _CLASSES, self.pool.left(rows), smooth=True)


def _aim(pool: Survivors, rank: int, rows: Tensor, *, smooth: bool = False) -> None:
    """Descend towards the likely class of that rank; a targeted goal leaves no choice."""
    if not pool.goal.targeted:
        towards = pool.likely(rows, rank)
        if pool.norm == "l1" and not smooth:
            pool.vertices(rows, 15, towards=towards)
            left = ~pool.solved[rows]
            rows, towards = rows[left], None if towards is None else towards[left]
        pool.climb(rows, pool.near(rows), 20, towards=towards, smooth=smooth)


def _walk(pool: Survivors, rows: Tensor, rank: int) -> None:
    """FAB, where the ball has no corners that steps of signs would find."""
    if pool.norm != "linf":
        pool.walk(rows, 40, towards=pool.likely(rows, rank))


def _areas(queries: int) -> list[float]:
    """The shares of a sample that windows cover, falling from 0.15 to 0.0023 of it."""
    return [0.15 / 2 ** min(10 * k // queries, 6) for k in range(queries)]


def _passes(pool: Survivors) -> int:
    """Forwards and backwards so far."""
    return int(pool.victim.ledger.forwards.sum() + pool.victim.ledger.backwards.sum())


def _half_width(left: int, n: int) -> float:
    """Half the 95 % interval of `left` robust samples of n, in samples."""
    p = (left + 0.5) / (n + 1)
    return 1.96 * math.sqrt(n * p * (1 - p))
