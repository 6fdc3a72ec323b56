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
    gets the point of the run that came nearest to its goal.
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
    def params(self) -> dict[str, Any]:
        return {**self.attack.params, "restarts": self.restarts}

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
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
