"""Restarts: any attack again, on what it did not solve."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from .attack import Attack
from .goal import Goal
from .threat import Threat
from .victim import Access, Victim


@dataclass(frozen=True, kw_only=True)
class Restarts(Attack):
    """Run a randomised attack several times, each time on the samples that are left.

    On the command line `restarts=5` among the parameters of any attack. A sample that no run solves
    gets the point of the run that came nearest to its goal. A minimal attack runs again on every
    sample, and the nearest success is kept.
    """

    attack: Attack
    restarts: int = 2

    @property
    def access(self) -> Access:  # type: ignore[override]  # an instance's, after its attack
        return self.attack.access

    @property
    def norms(self) -> frozenset[str]:  # type: ignore[override]
        return self.attack.norms

    @property
    def minimal(self) -> bool:  # type: ignore[override]
        return self.attack.minimal

    @property
    def params(self) -> dict[str, Any]:
        return {**self.attack.params, "restarts": self.restarts}

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
            if not len(rows):
                break
        return result

    def _nearest(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        result = x.clone()
        best = torch.full((len(x),), float("inf"), dtype=torch.float64, device=x.device)
        for _ in range(self.restarts):
            found = self.attack.search(victim, x, goal, threat, rng)
            size = threat.distance(x, found)
            # x itself is no success, but where the sample needs no perturbation at all.
            better = (size > 0) & (size < best)
            result[better], best[better] = found[better], size[better]
        return result
