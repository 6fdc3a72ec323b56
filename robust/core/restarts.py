"""Restarts: any attack again, on what it did not solve."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .combinator import Combinator
from .goal import Goal
from .threat import Threat
from .victim import Victim


@dataclass(frozen=True, kw_only=True)
class Restarts(Combinator):
    """Run a randomised attack several times, each time on the samples that are left.

    On the command line `restarts=5` among the parameters of any attack. A sample that no run solves
    gets the point of the run that came nearest to its goal. A minimal attack runs again on every
    sample that it does not leave once broken inside eps, and the nearest success is kept.
    """

    restarts: int = 2

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        if self.minimal:
            return self._nearest(victim, x, goal, threat, rng)
        result = x.clone()
        nearest = torch.full((len(x),), float("-inf"), device=x.device)
        rows = torch.arange(len(x), device=x.device)
        for _ in range(self.restarts):
            part, watch = victim[rows].watched(goal[rows])
            found = self.attack.search(part, x[rows], goal[rows], threat, rng)
            better = watch.margin > nearest[rows]
            result[rows[better]] = found[better]
            nearest[rows[better]] = watch.margin[better]
            if not goal.persist:
                rows = rows[watch.margin <= 0]
            rows = rows[victim[rows].left > 0]
            if not len(rows):
                break
        return result

    def _nearest(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        result = x.clone()
        best = torch.full((len(x),), float("inf"), dtype=torch.float64, device=x.device)
        enough = -1 if self.measures else threat.eps
        for _ in range(self.restarts):
            rows = ((best > enough) & (victim.left > 0)).nonzero().squeeze(1)
            if not len(rows):
                break
            found = self.attack.search(victim[rows], x[rows], goal[rows], threat, rng)
            size = threat.distance(x[rows], found)
            # x itself is no success, but where the sample needs no perturbation at all.
            better = (size > 0) & (size < best[rows])
            result[rows[better]], best[rows[better]] = found[better], size[better]
        return result
