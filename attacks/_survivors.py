"""The samples that no attempt has broken yet, and the attempts that `auto` makes on them."""

import contextlib
import dataclasses
import math

import torch
from torch import Generator, Tensor

from robust.core.goal import Goal, without
from robust.core.losses import margin
from robust.core.rng import uniform
from robust.core.smooth import smoothed
from robust.core.threat import Ball
from robust.core.victim import Victim

from ._square import climb_windows

_SMALLEST_STEP = 1e-3  # of eps


class Survivors:
    """A batch under attack: for each sample the best point of all attempts, and its margin.

    best (n, …), margin (n,) and solved (n,) are of the whole batch; every attempt takes `rows`,
    positions in it, and drops each of them as soon as it is solved.
    """

    def __init__(self, victim: Victim, x: Tensor, goal: Goal, ball: Ball) -> None:
        self.victim, self.x, self.goal, self.ball = victim, x, goal, ball
        self.best = x.clone()
        self.margin = torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device)
        self.solved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.likely = x.new_zeros((len(x), 0), dtype=torch.int64)

    @property
    def rows(self) -> Tensor:
        """Positions of what is left."""
        return (~self.solved).nonzero().squeeze(1)

    def left(self, rows: Tensor) -> Tensor:
        """Those of `rows` that are not solved."""
        return rows[~self.solved[rows]]

    def look(self) -> None:
        """Ask for the clean samples: who is solved already, and which classes are likely."""
        logits = self.victim.logits(self.x)
        self._enter(torch.arange(len(self.x), device=self.x.device), self.x, logits)
        others = without(logits, self.goal.labels)
        self.likely = others.argsort(dim=1, descending=True, stable=True)[:, :-1]

    def climb(
        self,
        rows: Tensor,
        start: Tensor,
        steps: int,
        *,
        size: float = 2.0,
        towards: Tensor | None = None,
        smooth: bool = False,
    ) -> None:
        """`steps` steps up the margin, their length falling from size·eps to 0 like a cosine.

        towards (len(rows),) are classes to aim at; any success counts. smooth: gradients as in
        `core.smooth`, the width of the kink falling from 0.2 to 0.02 of the spread.
        """
        if not len(rows):
            return
        victim, goal, ball = self.victim[rows], self.goal[rows], self.ball[rows]
        if towards is not None:
            goal = dataclasses.replace(goal, towards=towards)
        now = start
        for number in range(steps):
            done = number / steps
            with smoothed(0.2 * (1 - done) + 0.02) if smooth else contextlib.nullcontext():
                logits, _, gradient = victim.gradient(now, margin, goal)
            left = ~self._enter(rows, now, logits)
            if not bool(left.all()):
                rows, now, gradient = rows[left], now[left], gradient[left]
                victim, goal, ball = victim[left], goal[left], ball[left]
                if not len(rows):
                    return
            length = size * (1 + math.cos(math.pi * done)) / 2
            step = ball.threat.eps * max(length, _SMALLEST_STEP)
            now = ball.project(ball.advance(now, gradient, step))
        self._enter(rows, now, victim.logits(now))

    def diversified(self, rows: Tensor, rng: Generator, *, smooth: bool = False) -> Tensor:
        """Starts far apart in logits (2003.06878): a random point, and two steps up w·z, w random.

        Points of the ball for the samples `rows`, solved meanwhile or not.
        """
        victim, goal, ball = self.victim[rows], self.goal[rows], self.ball[rows]
        now = ball.random(rng)
        classes = self.likely.shape[1] + 1
        weights = 2 * uniform(rng, now.new_empty(len(rows), classes)) - 1

        def loss(logits: Tensor, goal: Goal) -> Tensor:
            return (weights.to(logits.dtype) * logits).sum(1)

        for _ in range(2):
            with smoothed(0.2) if smooth else contextlib.nullcontext():
                logits, _, gradient = victim.gradient(now, loss, goal)
            self._enter(rows, now, logits)
            now = ball.project(ball.advance(now, gradient, ball.threat.eps))
        return now

    def squares(self, rows: Tensor, rng: Generator, areas: list[float]) -> None:
        """Random search over windows from the best points of `rows`, one query for each area."""
        if not len(rows):
            return
        found, value, solved = climb_windows(
            self.victim[rows],
            self.best[rows],
            self.margin[rows],
            self.goal[rows],
            self.ball[rows],
            rng,
            loss=lambda logits, goal: goal.margin(logits),
            areas=areas,
        )
        self.best[rows], self.margin[rows] = found, value
        self.solved[rows] |= solved

    def nearest(self, rows: Tensor, count: int) -> Tensor:
        """The `count` of `rows` that came nearest to their goal."""
        order = self.margin[rows].argsort(descending=True, stable=True)
        return rows[order[:count].sort().values]

    def _enter(self, rows: Tensor, now: Tensor, logits: Tensor) -> Tensor:
        """Keep what is better than before; bool (len(rows),): who is solved by it."""
        goal = self.goal[rows]
        value = goal.margin(logits).to(self.margin.dtype)
        solved = goal.reached(logits) & (not goal.persist)
        better = (solved & ~self.solved[rows]) | (~self.solved[rows] & (value > self.margin[rows]))
        self.best[rows[better]], self.margin[rows[better]] = now[better], value[better]
        self.solved[rows] |= solved
        return solved
