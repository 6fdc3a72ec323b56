"""The samples that no attempt has broken yet, and the attempts that `auto` makes on them."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from robust.core.goal import Goal, without
from robust.core.losses import margin
from robust.core.rng import signs, uniform
from robust.core.smooth import smoothed
from robust.core.threat import Ball
from robust.core.victim import Victim

from . import _apgd, _fab
from ._minimal import Closest
from ._square import climb_windows, first_point

_SMALLEST_STEP = 1e-3  # of eps
_LEAST = 16  # samples that an attempt takes, if there are so many
_WIDER = 3.0  # reach: so many times the depth at which a sample broke last


class Survivors:
    """A batch under attack: for each sample the best point of all attempts, and its margin.

    best (n, …), margin (n,) and solved (n,) are of the whole batch; every attempt takes `rows`,
    positions in it, and drops each of them as soon as it is solved.

    logits      of the best points, (n, K); None before anything was asked
    flat        bool (n,): no plain climb has begun on a gradient that was not zero
    reach       what share of the survivors, nearest to their goal first, is worth an attempt;
                at least `narrow`
    """

    def __init__(self, victim: Victim, x: Tensor, goal: Goal, ball: Ball, rng: Generator) -> None:
        self.victim, self.x, self.goal, self.ball, self.rng = victim, x, goal, ball, rng
        self.norm = ball.threat.norm
        self.best = x.clone()
        self.margin = torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device)
        self.solved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.flat = torch.ones_like(self.solved)
        self.logits: Tensor | None = None
        self.reach, self.narrow = 1.0, 0.35

    @property
    def rows(self) -> Tensor:
        """Positions of what is left."""
        return (~self.solved).nonzero().squeeze(1)

    def left(self, rows: Tensor) -> Tensor:
        """Those of `rows` that are not solved."""
        return rows[~self.solved[rows]]

    def stage(self, name: str, attempt: Callable[[Tensor], None], *, everyone: bool = False) -> int:
        """Attempt to break the survivors within reach, or all of them: how many it broke.

        Reach follows the depth at which samples break, in the order of their margins before: what
        lies three times as deep as the last that broke is left alone. It halves where none does.
        """
        alive = self.rows
        if not len(alive):
            return 0
        order = alive[self.margin[alive].argsort(descending=True, stable=True)]
        count = len(alive) if everyone else max(_LEAST, math.ceil(self.reach * len(alive)))
        rows = order[:count].sort().values
        self.victim[rows].mark(name)
        attempt(rows)
        broken = self.solved[order].nonzero().squeeze(1)
        deepest = (int(broken[-1]) + 1) / len(order) if len(broken) else 0.0
        if everyone or len(broken):
            self.reach = min(1.0, max(self.narrow, _WIDER * deepest))
        else:
            self.reach = max(self.narrow, self.reach / 2)
        return len(broken)

    def ranks(self, most: int) -> int:
        """How many other classes there are to aim at, `most` at most; a targeted goal has none."""
        if self.goal.targeted or self.logits is None:
            return 0
        return min(most, self.logits.shape[1] - 1)

    def say(self, rows: Tensor, text: str) -> None:
        """Tell the report something about `rows`, unless nobody counts as solved anyway."""
        if not self.goal.persist:
            self.victim[rows].remark(text)

    def likely(self, rows: Tensor, rank: int) -> Tensor | None:
        """The other class of that rank by its logit at the best point, from 0, for each of `rows`;
        None for a targeted goal, which has one class to arrive at.
        """
        if self.goal.targeted or not len(rows):
            return None
        assert self.logits is not None
        others = without(self.logits[rows], self.goal.labels[rows])
        order = others.argsort(dim=1, descending=True, stable=True)[:, :-1]
        return order[:, rank % order.shape[1]]

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
        `core.smooth`, the width of the kink falling from 0.2 to 0.02 of the spread. For L1, where
        steps of one length for all do badly, it is APGD, with twice as many steps.
        """
        if not len(rows):
            return
        if self.norm == "l1":
            self._climb_sparse(rows, start, 2 * steps, towards=towards, smooth=smooth)
            return
        victim, goal, ball = self.victim[rows], self.goal[rows], self.ball[rows]
        if towards is not None:
            goal = dataclasses.replace(goal, towards=towards)
        now = start
        for number in range(steps):
            done = number / steps
            with smoothed(0.2 * (1 - done) + 0.02) if smooth else contextlib.nullcontext():
                logits, _, gradient = victim.gradient(now, margin, goal)
            if not (number or smooth):
                self.flat[rows] &= (gradient == 0).flatten(1).all(1)
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

    def _climb_sparse(
        self, rows: Tensor, start: Tensor, steps: int, *, towards: Tensor | None, smooth: bool
    ) -> None:
        victim, ball = self.victim[rows], self.ball[rows]
        goal = dataclasses.replace(self.goal[rows], towards=towards)
        with smoothed(0.1) if smooth else contextlib.nullcontext():
            run = _apgd.climb(victim, start, goal, ball, steps=steps, loss=margin, rho=0.75)
        if not smooth:
            self.flat[rows] &= (run.x_adv == start).flatten(1).all(1)
        self._enter(rows, run.x_adv, victim.logits(run.x_adv))

    def vertices(self, rows: Tensor, steps: int, *, towards: Tensor | None = None) -> None:
        """`steps` steps of Frank & Wolfe from the samples (1811.10828): the t-th, counted from 0,
        goes 2 / (t + 2) of the way to the vertex of ball ∩ box that the gradient of the margin
        points at. Where an L1 ball holds the change of a few values, vertices are what descents
        miss.
        """
        if not len(rows):
            return
        victim, goal, ball = self.victim[rows], self.goal[rows], self.ball[rows]
        if towards is not None:
            goal = dataclasses.replace(goal, towards=towards)
        now = ball.x
        for number in range(steps):
            logits, _, gradient = victim.gradient(now, margin, goal)
            left = ~self._enter(rows, now, logits)
            if not bool(left.all()):
                rows, now, gradient = rows[left], now[left], gradient[left]
                victim, goal, ball = victim[left], goal[left], ball[left]
                if not len(rows):
                    return
            share = 2 / (number + 2)
            now = ball.project(now + share * (ball.extreme(gradient) - now))
        self._enter(rows, now, victim.logits(now))

    def walk(self, rows: Tensor, steps: int, *, towards: Tensor | None = None) -> None:
        """`steps` steps of FAB along the boundary with one class, and ten from the point of the
        ball that is nearest to the closest success.
        """
        if not len(rows):
            return
        threat, goal = self.ball.threat, self.goal[rows]
        if towards is not None:
            goal = dataclasses.replace(goal, towards=towards)
        everyone, closest = (
            torch.arange(len(rows), device=rows.device),
            Closest(self.x[rows], threat),
        )
        _fab.search(
            self.victim[rows],
            self.x[rows],
            goal,
            everyone,
            closest,
            lambda logits, goal: goal.lead(logits).unsqueeze(1),
            _fab.Settings(steps=steps, alpha_max=0.1, eta=1.05, beta=0.9, done_at=threat.eps),
        )
        found = closest.distance.isfinite()
        rows = rows[found]
        if len(rows):
            start = self.ball[rows].project(closest.x_adv[found])
            self.climb(
                rows, start, 10, size=0.5, towards=None if towards is None else towards[found]
            )

    def climb_diversified(
        self, rows: Tensor, steps: int, *, rank: int | None = None, smooth: bool = False
    ) -> None:
        """A climb that begins far apart in logits (2003.06878): at a random point, and two steps up
        w·z from there, w random. Towards the likely class of that rank, if any.
        """
        if not len(rows):
            return
        victim, goal, ball = self.victim[rows], self.goal[rows], self.ball[rows]
        assert self.logits is not None
        now = ball.random(self.rng)
        weights = 2 * uniform(self.rng, now.new_empty(len(rows), self.logits.shape[1])) - 1

        def spread(logits: Tensor, goal: Goal) -> Tensor:
            return (weights.to(logits.dtype) * logits).sum(1)

        for _ in range(2):
            with smoothed(0.2) if smooth else contextlib.nullcontext():
                logits, _, gradient = victim.gradient(now, spread, goal)
            left = ~self._enter(rows, now, logits)
            now = ball.project(ball.advance(now, gradient, ball.threat.eps))
            if not bool(left.all()):
                rows, now, weights = rows[left], now[left], weights[left]
                victim, goal, ball = victim[left], goal[left], ball[left]
                if not len(rows):
                    return
        towards = None if rank is None else self.likely(rows, rank)
        self.climb(rows, now, steps, towards=towards, smooth=smooth)

    def near(self, rows: Tensor) -> Tensor:
        """Where a plain descent starts: at the samples; for L1, whose sparse steps find little
        from there, at random in the widest ball.
        """
        if self.norm != "l1":
            return self.x[rows]
        return _apgd.random_start(_apgd.wider(self.ball[rows], 3), self.rng)

    def corner(self, rows: Tensor) -> Tensor:
        """A random corner of ball ∩ box for each of the samples `rows`."""
        ball = self.ball[rows]
        return ball.extreme(signs(self.rng, ball.x))

    def stripes(self, rows: Tensor) -> None:
        """Ask about the points where `square` starts."""
        if len(rows):
            self.ask(rows, first_point(self.ball[rows], self.rng))

    def ask(self, rows: Tensor, at: Tensor) -> None:
        """Ask about the points `at`, one for each of `rows`."""
        self._enter(rows, at, self.victim[rows].logits(at))

    def squares(self, rows: Tensor, areas: Sequence[float]) -> None:
        """Random search over windows from the best points of `rows`, one query for each area."""
        if not len(rows):
            return
        found, value, solved = climb_windows(
            self.victim[rows],
            self.best[rows],
            self.margin[rows],
            self.goal[rows],
            self.ball[rows],
            self.rng,
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
        taken = rows[better]
        self.best[taken], self.margin[taken] = now[better], value[better]
        if self.logits is None:
            self.logits = logits.new_zeros(len(self.x), logits.shape[1])
        self.logits[taken] = logits[better]
        self.solved[rows] |= solved
        return solved
