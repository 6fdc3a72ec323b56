"""Decoupled direction and norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import ce
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._minimal import Closest, cosine, narrow, unit, wide


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Steps up the cross-entropy on a sphere around x that shrinks after a success and else grows.

    Rony et al., 1811.09600. Departures: points are not rounded to 8 bits; a last search on the
    segment from x takes back what the sphere's factor leaves.

    steps           iterations, one forward and one backward each
    step_size       first step, in units of the box; falls to a hundredth of it along a cosine
    gamma           the sphere's radius changes by this share
    """

    paper: ClassVar[str] = "1811.09600"
    norms: ClassVar[frozenset[str]] = frozenset({"l2"})
    minimal: ClassVar[bool] = True
    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        closest, span = Closest(x, threat), threat.high - threat.low
        rows = torch.arange(len(x), device=x.device)
        part, aim, now = victim, goal, x
        radius = torch.full_like(x.flatten(1)[:, 0], span)
        for number in range(self.steps):
            logits, _, gradient = part.gradient(now, ce, aim)
            reached = closest.offer(rows, now, logits, aim)
            if number == 0:
                margin = goal.margin(logits)
                rows, now, gradient, radius, reached = narrow(
                    ~reached, rows, now, gradient, radius, reached
                )
                part, aim = part[rows], aim[rows]
                if not len(rows):
                    return closest.x_adv
            size = span * cosine(number / self.steps, self.step_size, self.step_size / 100)
            delta = now - x[rows] + size * unit(gradient)
            radius = radius * torch.where(reached, 1 - self.gamma, 1 + self.gamma)
            now = (x[rows] + wide(radius, x) * unit(delta)).clamp_(threat.low, threat.high)
        closest.offer(rows, now, part.logits(now), aim)
        closest.tighten(victim, goal, margin)
        return closest.x_adv
