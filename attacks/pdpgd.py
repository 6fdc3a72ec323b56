"""Primal-dual proximal gradient descent."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import softplus

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.nearest import dual_norm, shrink
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._minimal import Closest, cosine, narrow, wide

_DUAL_STEP = 0.2


@dataclass(frozen=True, kw_only=True)
class PDPGD(Attack):
    """Two players: one lowers the norm and the penalty by proximal gradient steps, the other moves
    the weights of both.

    Matyasko & Chau, 2106.01538. The weight of the penalty, softplus(−margin), rises while a sample
    is not adversarial and falls while it is. Departures: the step is scaled by the length of each
    sample's gradient instead of coordinate by coordinate, so that every proximal step is exact, and
    has no momentum, which overshoots; a last search on the segment from x.

    steps           iterations, one forward and one backward each
    step_size       first step, in units of the box; falls to a hundredth of it along a cosine
    """

    paper: ClassVar[str] = "2106.01538"
    minimal: ClassVar[bool] = True
    steps: int = 100
    step_size: float = 3.0

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        closest, span, norm = Closest(x, threat), threat.high - threat.low, threat.norm
        rows = torch.arange(len(x), device=x.device)
        part, aim, now = victim, goal, x
        for number in range(self.steps):
            logits, _, gradient = part.gradient(now, _penalty, aim)
            reached = closest.offer(rows, now, logits, aim)
            if number == 0:
                margin = goal.margin(logits)
                rows, now, gradient, reached = narrow(~reached, rows, now, gradient, reached)
                part, aim = part[rows], aim[rows]
                if not len(rows):
                    return closest.x_adv
                weight = torch.zeros_like(margin[rows], dtype=x.dtype)
            slope = gradient.flatten(1)
            length = torch.linalg.vector_norm(slope, dim=1).clamp(min=1e-12)
            weight = weight + _DUAL_STEP * torch.where(reached, -1.0, 1.0)
            size = span * self.step_size * cosine(number / self.steps, 1.0, 0.01)
            share = weight.sigmoid()
            moved = now - x[rows] + wide(size * share / length, x) * gradient
            amount = size * (1 - share) * dual_norm(norm, slope) / length
            now = torch.clamp(x[rows] + shrink(norm, moved, amount), threat.low, threat.high)
        closest.offer(rows, now, part.logits(now), aim)
        closest.tighten(victim, goal, margin)
        return closest.x_adv


def _penalty(logits: Tensor, goal: Goal) -> Tensor:
    return -softplus(-goal.margin(logits))
