"""Targeted fast adaptive boundary: one likely class after the other."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal, without
from robust.core.threat import Threat
from robust.core.victim import Victim

from . import _fab
from ._minimal import Closest


@dataclass(frozen=True, kw_only=True)
class FABT(Attack):
    """FAB on the boundary with one class at a time, in the order of their logits at x.

    Croce & Hein, 1907.02044 and 2003.01690: a stage of AutoAttack. Any class but the true one is a
    success, whichever was aimed at. A targeted goal has one boundary, and one run. Departure: a
    success is linearised where it lies instead of after the backward step, which halves the cost.

    steps           iterations per class, one forward and one backward each
    targets         how many classes to aim at (at most all others)
    alpha_max       the most that a step is biased towards x
    eta             a step goes this many times as far as the linearised boundary
    beta            after a success the distance to x is multiplied by this
    until_eps       a sample leaves once it is broken inside the threat's eps
    """

    paper: ClassVar[str] = "1907.02044"
    minimal: ClassVar[bool] = True
    steps: int = 100
    targets: int = 9
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    until_eps: bool = False

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        closest, settings = Closest(x, threat), _fab.Settings.of(self, threat)
        everyone = torch.arange(len(x), device=x.device)
        logits = victim.logits(x)
        closest.offer(everyone, x, logits, goal)
        likely = without(logits, goal.labels).argsort(dim=1, descending=True, stable=True)
        for rank in range(1 if goal.targeted else min(self.targets, logits.shape[1] - 1)):
            rows = everyone[closest.distance > settings.done_at]
            if not len(rows):
                break
            aimed = goal[rows]
            if not goal.targeted:
                aimed = dataclasses.replace(aimed, towards=likely[rows, rank])
            _fab.search(victim[rows], x[rows], aimed, rows, closest, boundary, settings)
        return closest.x_adv


def boundary(logits: Tensor, goal: Goal) -> Tensor:
    """The boundary with the class aimed at."""
    return goal.lead(logits).unsqueeze(1)
