"""Block flips: the toolkit's own search among directions of signs, by labels alone."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.rng import signs
from robust.core.threat import Threat
from robust.core.victim import Access, Victim

from . import _blocks
from ._square import layout
from ._walk import Walk

_TRIES = 4  # random directions asked about at eps
_LEAST = 2.0**-8  # of the data's range: the first radius asked about, where eps is less
_GAP, _FINER, _FINEST = 0.1, 0.7, 1e-4  # share of a radius that stays unknown; its factor a level
_EASIER = 0.4  # a flip is asked about this far up in the gap


@dataclass(frozen=True, kw_only=True)
class BlockFlips(Attack):
    """Flip blocks of a direction of signs, knowing each radius only as well as the flips need.

    After RayS (2006.12792), with these departures. Where a success inside eps is enough, random
    directions are asked about at eps itself first (stripes along each axis, multiplied). Blocks
    are cells of positions in all channels, halved along the longest axis. The radius of the best
    direction is known up to a gap only: a tenth of it at the level of the whole sample, less at
    each level after. A flip is asked about inside that gap, so that it must gain
    something to stay; if it does, the radius is followed down in steps that double, and only the
    last of them is bisected. What would step over eps stops at eps. Untargeted.

    queries         per sample, at most
    until_eps       a sample leaves once it is broken inside the threat's eps
    """

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset({"linf"})
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted"})
    minimal: ClassVar[bool] = True
    paper: ClassVar[str] = "2006.12792"
    queries: int = 2000
    until_eps: bool = True

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        walk = Walk(victim.limited(self.queries), x, goal, threat, until_eps=self.until_eps)
        ball = threat.around(x)
        if not walk.enough:
            walk.ask(torch.arange(len(x), device=x.device), x)
        else:
            for number in range(_TRIES):
                rows = walk.going()
                up = _stripes(x[rows], 1 + number % 2, rng)
                radius = walk.distance.new_full((len(rows),), walk.enough)
                walk.ask(rows, _blocks.point(ball[rows], up, radius))
        span = threat.high - threat.low
        first = min(max(threat.eps, _LEAST * span), span)
        state = _Descent(walk, x, first=first, span=span)
        for _ in range(self.queries):
            rows = walk.going()
            if not len(rows):
                break
            tried, asked = state.question(rows)
            state.answer(
                rows, tried, asked, walk.ask(rows, _blocks.point(ball[rows], tried, asked))
            )
        victim[walk.distance.isinf()].remark(_blocks.FAILED)
        return walk.x_adv


def _stripes(x: Tensor, width: int, rng: Generator) -> Tensor:
    """Random signs along each axis but the channels, multiplied: bool, the shape of x.

    Stripes are so many coordinates wide; each channel has its own.
    """
    channels, sizes = layout(x.shape[1:])
    up = torch.ones(len(x), channels, *sizes, dtype=torch.bool, device=x.device)
    for axis, size in enumerate(sizes):
        drawn = signs(rng, x.new_empty(len(x), channels, -(-size // width))) > 0
        along = drawn.repeat_interleave(width, 2)[:, :, :size]
        up ^= along.view(len(x), channels, *[1] * axis, size, *[1] * (len(sizes) - 1 - axis))
    return up.view(x.shape)


class _Descent:
    """Where each sample is in its search: the next question about it, and what an answer changes.

    up              the best direction, all ones at first
    radius, fails   where it succeeds (∞: nowhere yet) and where it is known to fail
    asked           the radius of the next question
    settling        its radius is being narrowed down; else a flip is asked about
    """

    def __init__(self, walk: Walk, x: Tensor, *, first: float, span: float) -> None:
        n, self.eps, self.span = len(x), walk.enough, span
        self.up = torch.ones_like(x, dtype=torch.bool)
        self.radius = torch.full_like(walk.distance, torch.inf)
        self.fails, self.step = torch.zeros_like(self.radius), torch.full_like(self.radius, 0.25)
        self.asked = torch.full_like(self.radius, first)
        self.gap = torch.full_like(self.radius, _GAP)
        self.settling = torch.ones(n, dtype=torch.bool, device=x.device)
        self.level, self.index = torch.zeros(2, n, dtype=torch.int64, device=x.device)
        sides = _blocks.cells_of(x.shape[1:])
        self.blocks = _blocks.Blocks(x.shape[1:], sides, again=0, device=x.device)

    def question(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Directions, bool (k, …), and radii, float64 (k,), to ask about."""
        up, flips = self.up[rows], (~self.settling[rows]).nonzero().squeeze(1)
        which = rows[flips]
        up[flips] ^= self.blocks.inside(self.level[which], self.index[which])
        return up, self.asked[rows]

    def answer(self, rows: Tensor, tried: Tensor, asked: Tensor, reached: Tensor) -> None:
        flips = ~self.settling[rows]
        hit, fresh, kept = rows[reached], rows[reached & flips], rows[reached & ~flips]
        self.up[hit], self.radius[hit] = tried[reached], asked[reached]
        self.fails[fresh], self.settling[fresh] = 0.0, True
        self.step[fresh] = 2 * self.gap[fresh]
        self.step[kept] *= 2
        short = ~reached & ~flips
        self.fails[rows[short]] = asked[short]
        self.settling[rows] &= self._open(rows)
        self._next_flip(rows[~self.settling[rows]])
        self._next_radius(rows)

    def _open(self, rows: Tensor) -> Tensor:
        """Whose radius is to be narrowed down: not where even the corner of the box fails."""
        radius, fails = self.radius[rows], self.fails[rows]
        wide = radius - fails > self.gap[rows] * radius
        return torch.where(radius.isinf(), fails < self.span, wide)

    def _next_flip(self, rows: Tensor) -> None:
        level = self.level[rows]
        self.level[rows], self.index[rows] = self.blocks.after(level, self.index[rows])
        finer = rows[self.level[rows] != level]
        self.gap[finer] = (_FINER * self.gap[finer]).clamp(min=_FINEST)
        self.settling[finer] = self._open(finer)

    def _next_radius(self, rows: Tensor) -> None:
        radius, fails = self.radius[rows], self.fails[rows]
        up = (2 * self.asked[rows]).clamp(max=self.span)
        down = torch.where(
            fails == 0, radius * (1 - self.step[rows].clamp(max=0.5)), (fails + radius) / 2
        )
        settling = torch.where(radius.isinf(), up, down)
        flip = torch.where(radius.isinf(), self.span, fails + _EASIER * (radius - fails))
        asked = torch.where(self.settling[rows], settling, flip)
        over = (asked < self.eps) & ((fails < self.eps) | ~self.settling[rows])
        self.asked[rows] = asked.masked_fill(over & (radius > self.eps), self.eps)
