"""Fast adaptive boundary."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal, without
from robust.core.threat import Threat
from robust.core.victim import Victim

from . import _apgd, _fab
from ._minimal import Closest


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Track the boundary towards x, by projections onto the nearest linearised one within the box.

    Croce & Hein, 1907.02044. Each step differentiates the difference of every other class to the
    true one; `fab-t` aims at one class after the other for a fraction of the cost. A targeted goal
    has one boundary, with the likeliest other class. Departures: a success is linearised where it
    lies instead of after the backward step, which halves the cost; no final search, which found
    nothing after 100 steps.

    steps           iterations, one forward and a backward for each other class
    alpha_max       the most that a step is biased towards x
    eta             a step goes this many times as far as the linearised boundary
    beta            after a success the distance to x is multiplied by this
    random_start    start at half the threat's eps from x, in a random direction; with restarts
    until_eps       a sample leaves once it is broken inside the threat's eps
    """

    paper: ClassVar[str] = "1907.02044"
    minimal: ClassVar[bool] = True
    steps: int = 100
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    random_start: bool = False
    until_eps: bool = False

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        start = x
        if self.random_start:
            start = _apgd.random_start(
                dataclasses.replace(threat, eps=threat.eps / 2).around(x), rng
            )
        closest, settings = Closest(x, threat), _fab.Settings.of(self, threat)
        rows = torch.arange(len(x), device=x.device)
        logits = victim.logits(x)
        rows = rows[~closest.offer(rows, x, logits, goal)]
        if len(rows):
            _fab.search(victim[rows], start[rows], goal[rows], rows, closest, boundaries, settings)
        return closest.x_adv


def boundaries(logits: Tensor, goal: Goal) -> Tensor:
    """z_j − z_y for every class j ≠ y; to arrive at a class, its margin."""
    if goal.targeted:
        return goal.margin(logits).unsqueeze(1)
    others = without(logits.detach(), goal.labels).argsort(dim=1, descending=True)[:, :-1]
    return logits.gather(1, others) - logits.gather(1, goal.labels.unsqueeze(1))
