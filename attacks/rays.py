"""RayS."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.threat import Threat
from robust.core.victim import Access, Victim

from . import _blocks
from ._minimal import wide
from ._walk import Walk

_TOLERANCE = 1e-3  # of a radius in Euclidean length, as published


@dataclass(frozen=True, kw_only=True)
class RayS(Attack):
    """RayS: flip blocks of a direction of signs, keep what brings the boundary nearer.

    Chen & Gu, 2006.12792. The direction begins as all ones; its blocks, of coordinates in a row,
    are halved after each pass. A flip is asked about once, at the radius of the best direction so
    far (∞ at first: the corner of the box); if that is a success, its own radius is found by
    bisection, to 0.001 in Euclidean length. Nothing is random. As published it is untargeted: from
    all ones a given class is seldom reached. Departures: x is asked about first; a sample leaves at
    the first success inside eps, not at the end of a bisection; after the single coordinates these
    are tried again, until the queries are spent.

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
        walk.ask(torch.arange(len(x), device=x.device), x)
        flat = x.flatten(1)
        size, ball = flat.shape[1], threat.around(flat)
        sides = _blocks.rows_of(size)
        blocks = _blocks.Blocks((size,), sides, again=len(sides) - 1, device=x.device)
        up = torch.ones_like(flat, dtype=torch.bool)
        level, index = torch.zeros(2, len(x), dtype=torch.int64, device=x.device)
        # The radius of the best direction, and where it is known to fail while it is bisected.
        radius = torch.full_like(walk.distance, math.inf)
        fails = torch.zeros_like(radius)
        bisected = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(self.queries):
            rows = walk.going()
            if not len(rows):
                break
            old = bisected[rows]
            tried = up[rows] ^ (blocks.inside(level[rows], index[rows]) & wide(~old, flat))
            asked = torch.where(old, (fails[rows] + radius[rows]) / 2, radius[rows])
            z = _blocks.point(ball[rows], tried, asked).view(-1, *x.shape[1:])
            reached = walk.ask(rows, z)
            hit, missed = rows[reached], rows[~reached & old]
            up[hit], radius[hit] = (
                tried[reached],
                asked[reached].clamp(max=threat.high - threat.low),
            )
            fails[missed] = asked[~reached & old]
            fresh = rows[reached & ~old]
            fails[fresh], bisected[fresh] = 0.0, True
            bisected[rows] &= (radius - fails)[rows] > _TOLERANCE / math.sqrt(size)
            done = rows[~bisected[rows]]
            level[done], index[done] = blocks.after(level[done], index[done])
        victim[walk.distance.isinf()].remark(_blocks.FAILED)
        return walk.x_adv
