"""Fast minimum norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.lengths import length
from robust.core.losses import margin as margin_loss
from robust.core.nearest import dual_norm, project_radius
from robust.core.threat import NORMS, Threat
from robust.core.victim import Victim

from ._minimal import Closest, cosine, narrow, unit

_FIRST_STEP = {"linf": 10.0, "l2": 1.0, "l1": 3.0, "l0": 10.0}


@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """Gradient steps in a ball around x whose radius follows the boundary.

    Pintor et al., 2102.12827. Until the first success the radius is where linearisation puts the
    boundary; from then on it shrinks after each success and else grows. Departures: it grows by its
    share before the first success too, or it would end just short of a straight boundary;
    projections are exact on ball and box together; a last search on the segment from x.

    steps           iterations, one forward and one backward each
    step_size       Euclidean length of the first step, in units of the box; falls to a hundredth of
                    it along a cosine; None: L∞ 10, L2 1, L1 3, L0 10
    gamma           share by which the radius changes at first; falls to a thousandth likewise
    """

    paper: ClassVar[str] = "2102.12827"
    norms: ClassVar[frozenset[str]] = frozenset(NORMS)
    minimal: ClassVar[bool] = True
    steps: int = 100
    step_size: float | None = None
    gamma: float = 0.05

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        closest, norm, low, high = Closest(x, threat), threat.norm, threat.low, threat.high
        longest = (self.step_size or _FIRST_STEP[norm]) * (high - low)
        rows = torch.arange(len(x), device=x.device)
        part, aim, clean, now = victim, goal, x, x
        radius = torch.zeros_like(x.flatten(1)[:, 0])
        most = threat.distance(x, torch.where(x - low > high - x, low, high)).to(x.dtype)
        for number in range(self.steps):
            logits, value, gradient = part.gradient(now, margin_loss, aim)
            reached = closest.offer(rows, now, logits, aim)
            if number == 0:
                margin = value
                rows, clean, now, gradient, radius, most, value, reached = narrow(
                    ~reached, rows, clean, now, gradient, radius, most, value, reached
                )
                part, aim = part[rows], aim[rows]
                if not len(rows):
                    return closest.x_adv
            gamma = cosine(number / self.steps, self.gamma, 0.001)
            best = closest.distance[rows].to(x.dtype)
            smaller, larger = radius * (1 - gamma), radius * (1 + gamma)
            if norm == "l0":  # by one coordinate at least
                smaller = torch.minimum(radius - 1, smaller.floor()).clamp(min=1)
                larger = torch.maximum(radius + 1, larger.floor())
            elif not bool(best.isfinite().all()):
                ahead = value.abs() / dual_norm(norm, gradient.flatten(1)).clamp(min=1e-12)
                first = length(norm, (now - clean).flatten(1)) + ahead
                larger = torch.where(best.isfinite(), larger, torch.maximum(larger, first))
            radius = torch.where(reached, torch.minimum(smaller, best), larger)
            radius = torch.minimum(radius, most)
            size = cosine(number / self.steps, longest, longest / 100)
            now = project_radius(norm, clean, now + size * unit(gradient), radius, low, high)
        closest.offer(rows, now, part.logits(now), aim)
        if norm != "l0":
            closest.tighten(victim, goal, margin)
        return closest.x_adv
