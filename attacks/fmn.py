"""Fast minimum norm."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import margin as margin_loss
from robust.core.nearest import dual_norm, project_radius
from robust.core.threat import NORMS, Threat
from robust.core.victim import Victim

from ._minimal import Closest, cosine, unit


@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """Gradient steps in a ball around x whose radius follows the boundary.

    Pintor et al., 2102.12827. Until the first success the radius is where linearisation puts the
    boundary; from then on it shrinks after each success and else grows. Departures: projections are
    exact on ball and box together; a last search on the segment from x.

    steps           iterations, one forward and one backward each
    step_size       first step, in units of the box; falls to a hundredth of it along a cosine
    gamma           share by which the radius changes at first; falls to a thousandth likewise
    tighten         forwards of the last search (none for L0)
    """

    paper: ClassVar[str] = "2102.12827"
    norms: ClassVar[frozenset[str]] = frozenset(NORMS)
    minimal: ClassVar[bool] = True
    steps: int = 100
    step_size: float = 1.0
    gamma: float = 0.05
    tighten: int = 3

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        closest, norm, low, high = Closest(x, threat), threat.norm, threat.low, threat.high
        rows = torch.arange(len(x), device=x.device)
        part, aim, now, radius = victim, goal, x, torch.zeros_like(x.flatten(1)[:, 0])
        most = threat.distance(x, torch.where(x - low > high - x, low, high)).to(x.dtype)
        for number in range(self.steps):
            logits, value, gradient = part.gradient(now, margin_loss, aim)
            reached = closest.offer(rows, now, logits, aim)
            if number == 0:
                margin, left = value, ~reached
                rows, now, gradient, radius = rows[left], now[left], gradient[left], radius[left]
                part, aim, reached, value = part[left], aim[left], reached[left], value[left]
                if not len(rows):
                    return closest.x_adv
            gamma = cosine(number / self.steps, self.gamma, 0.001)
            best = closest.distance[rows].to(x.dtype)
            if norm == "l0":
                smaller = torch.minimum(radius - 1, (radius * (1 - gamma)).floor())
                larger = torch.maximum(radius + 1, (radius * (1 + gamma)).floor())
            else:
                smaller, larger = radius * (1 - gamma), radius * (1 + gamma)
                ahead = value.abs() / dual_norm(norm, gradient.flatten(1)).clamp(min=1e-12)
                first = threat.distance(x[rows], now).to(x.dtype) + ahead
                larger = torch.where(best.isfinite(), larger, first)
            radius = torch.where(reached, torch.minimum(smaller, best), larger)
            radius = torch.minimum(radius, most[rows])
            if norm == "l0":
                radius = radius.clamp(min=1)
            size = (high - low) * self.step_size * cosine(number / self.steps, 1.0, 0.01)
            now = project_radius(norm, x[rows], now + size * unit(gradient), radius, low, high)
        closest.offer(rows, now, part.logits(now), aim)
        if norm != "l0":
            closest.tighten(victim, goal, margin, self.tighten)
        return closest.x_adv
