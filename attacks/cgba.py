"""CGBA: along circles towards the sample, by labels alone."""

import math
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

_PRECISE = 2e-3  # radians
_WIDER = 1.5  # the first angle asked, in those of the last round
_QUESTIONS = 12


@dataclass(frozen=True, kw_only=True)
class CGBA(Attack):
    """Where a circle through x and a point of the boundary meets the boundary again, L2.

    Reza, Rahmati, Wu & Dai, 2308.03163. The circle has x and the point at the ends of a diameter
    and lies in the plane of the boundary's normal, estimated from the labels of random probes: were
    the boundary flat, its nearest point would lie on it. The angle is found by bisection; round t
    takes √t times as many probes as the first. Departures: estimates of earlier rounds count, too;
    probes go in all directions (the paper: in the low frequencies of large images) and as far out
    as those of `hop-skip-jump`; bisection starts from the angle of the last round. Targeted goals
    take the same path (the paper has a variant of its own, CGBA-H).

    queries     per sample, in all
    samples     random probes in the first estimate
    decay       the share of earlier estimates that is kept after a step; 0: as in the paper
    until_eps   a sample leaves once it is broken inside the threat's eps
    """

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    minimal: ClassVar[bool] = True
    paper: ClassVar[str] = "2308.03163"
    queries: int = 2000
    samples: int = 30
    decay: float = 0.4
    until_eps: bool = True

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        walk = Walk(victim.limited(self.queries), x, goal, threat, until_eps=self.until_eps)
        at, rows = _starts.at_boundary(walk, rng)
        summed = torch.zeros_like(x)
        angle = torch.full_like(walk.distance, math.pi / 8)
        for number in range(1, self.queries + 1):
            rows = walk.going(rows)
            if not len(rows):
                break
            samples = int(self.samples * math.sqrt(number))
            summed[rows] += walk.normal(rows, at[rows], samples, rng)
            at[rows], found = _along_circle(walk, rows, at[rows], summed[rows], angle[rows])
            summed[rows[found > 0]] *= self.decay
            angle[rows] = torch.where(found > 0, found, angle[rows] / 4).clamp(min=_PRECISE)
        return walk.x_adv


def _along_circle(
    walk: Walk, rows: Tensor, at: Tensor, normal: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """The point of the circle furthest from `at` that is seen to reach the goal, and its angle."""
    x, threat = walk.x[rows], walk.threat
    distance = threat.distance(x, at).to(at.dtype)
    outward, normal = unit(at - x), unit(normal)
    across = unit(normal - wide((normal * outward).flatten(1).sum(1), at) * outward)
    near, high = torch.zeros_like(before), torch.full_like(before, math.pi / 2)
    middle, found = (_WIDER * before).clamp(max=math.pi / 4), at.clone()
    for _ in range(_QUESTIONS):
        left = ((high - near > _PRECISE) & walk.may(rows)).nonzero().squeeze(1)
        if not len(left):
            break
        cos, sin = (wide(f(middle[left]).to(at.dtype), at) for f in (torch.cos, torch.sin))
        step = wide(distance[left], at) * cos * (cos * outward[left] + sin * across[left])
        z = walk.level(rows[left], torch.clamp(x[left] + step, threat.low, threat.high))
        reached = walk.ask(rows[left], z)
        hit, missed = left[reached], left[~reached]
        found[hit], near[hit], high[missed] = z[reached], middle[hit], middle[missed]
        # While nothing bounds the angle from above, it grows by leaps.
        middle = torch.where(
            high > 1.5, torch.minimum(2 * near, (near + high) / 2), (near + high) / 2
        )
    return found, near
