"""DeepFool: step onto the nearest linearised boundary, until one is crossed."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal, without
from robust.core.nearest import shortest
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._fab import nearest
from ._minimal import Closest, narrow

_LEAST = 1e-3  # of the margin at x: crosses where the box keeps cutting steps short


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """A few Newton-like steps, each onto the nearest of the linearised class boundaries.

    Moosavi-Dezfooli, Fawzi & Frossard, 1511.04599. The sum of all steps is put into the box, and
    not each of them: what the box cuts off is made up for by the next. Departures: a step goes a
    thousandth of the first margin further than the boundary, or the last ones would never arrive;
    a last search on the segment from x takes back what went too far. A targeted goal has one
    boundary, with the likeliest other class.

    steps           most steps taken, each one forward and a backward for each candidate
    candidates      how many of the likeliest classes, the true one counted, are considered
    overshoot       share by which a step goes beyond the linearised boundary
    """

    paper: ClassVar[str] = "1511.04599"
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    minimal: ClassVar[bool] = True
    steps: int = 50
    candidates: int = 10
    overshoot: float = 0.02

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        closest = Closest(x, threat)
        rows = torch.arange(len(x), device=x.device)
        logits = victim.logits(x)
        margin = goal.margin(logits)
        rows = rows[~closest.offer(rows, x, logits, goal)]
        count = min(self.candidates, logits.shape[1]) - 1
        classes = without(logits, goal.labels).topk(count, dim=1).indices
        part, aim, likely, now = victim[rows], goal[rows], classes[rows], x[rows]
        total = torch.zeros_like(now)
        for _ in range(self.steps):
            if not len(rows):
                break
            logits, values, slopes = part.jacobian(
                now, partial(_boundaries, goal=aim, classes=likely)
            )
            slope, value = nearest(threat.norm, values, slopes)
            reached = closest.offer(rows, now, logits, aim)
            if bool(reached.any()):
                left = ~reached
                rows, total, slope, value, likely = narrow(left, rows, total, slope, value, likely)
                part, aim = part[left], aim[left]
            gain = _LEAST * margin[rows].abs() - value.clamp(max=0)
            total += shortest(threat.norm, slope, gain)
            now = x[rows] + (1 + self.overshoot) * total
            now = now.clamp_(threat.low, threat.high)
        if len(rows):
            closest.offer(rows, now, part.logits(now), aim)
        closest.tighten(victim, goal, margin)
        return closest.x_adv


def _boundaries(logits: Tensor, goal: Goal, classes: Tensor) -> Tensor:
    """z_k − z_y for the candidates k, (n, m); to arrive at a class, its margin."""
    if goal.targeted:
        return goal.margin(logits).unsqueeze(1)
    return logits.gather(1, classes) - logits.gather(1, goal.labels.unsqueeze(1))
