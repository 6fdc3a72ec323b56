"""HopSkipJump: the normal of the boundary from labels alone."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.threat import Threat
from robust.core.victim import Access, Victim

from . import _starts
from ._minimal import unit, wide
from ._walk import Walk

_TRIES = 6  # lengths of a step, each half as long


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(Attack):
    """HopSkipJump: from a point next to the boundary a step along its normal, then back to it.

    Chen, Jordan & Wainwright, 1904.02144. The normal is estimated from the labels of random probes;
    the step is halved until it reaches the goal; bisection towards x ends each round. Departures,
    all for fewer queries: estimates of earlier rounds count, too; every estimate takes as many
    probes; L∞ moves along the estimate cut by the ball instead of its signs; a step must reach
    the goal where it is nearer to x than before, so that no round leads away; probes lie further
    out (1 % of the distance; the paper: 1/d) and bisection ends earlier, as wide as they need.

    queries     per sample, in all
    samples     random probes in each estimate
    decay       the share of earlier estimates that is kept after a step; 0: as in the paper
    until_eps   a sample leaves once it is broken inside the threat's eps
    """

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    minimal: ClassVar[bool] = True
    paper: ClassVar[str] = "1904.02144"
    queries: int = 2000
    samples: int = 50
    decay: float = 0.8
    until_eps: bool = True

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        walk = Walk(victim.limited(self.queries), x, goal, threat, until_eps=self.until_eps)
        at, rows = _starts.at_boundary(walk, rng)
        summed = torch.zeros_like(x)
        for _ in range(self.queries):
            rows = walk.going(rows)
            if not len(rows):
                break
            summed[rows] += walk.normal(rows, at[rows], self.samples, rng)
            far, moved = _step(walk, rows, at[rows], summed[rows])
            summed[rows[moved]] *= self.decay
            at[rows[moved]] = walk.bisect(rows[moved], far[moved])
        return walk.x_adv


def _step(walk: Walk, rows: Tensor, at: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
    """The longest step along the normal that reaches the goal nearer to x; and who found one."""
    x, threat = walk.x[rows], walk.threat
    distance = threat.distance(x, at)
    way, size = unit(normal), distance.to(at.dtype)
    if threat.norm == "linf":  # as long as a step of signs
        way = way / wide(way.flatten(1).abs().mean(1).clamp(min=1e-12), at)
    far, left = at.clone(), torch.arange(len(rows), device=at.device)
    for _ in range(_TRIES):
        left = left[walk.may(rows[left])]
        if not len(left):
            break
        z = torch.clamp(at[left] + wide(size[left], at) * way[left], threat.low, threat.high)
        share = walk.nearer(distance[left]) / threat.distance(x[left], z).clamp(min=1e-12)
        z = walk.at(rows[left], z, share.clamp(max=1))
        reached = walk.ask(rows[left], z)
        far[left[reached]], left = z[reached], left[~reached]
        size[left] /= 2
    return far, (far != at).flatten(1).any(1)
