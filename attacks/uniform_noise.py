"""The baseline: what randomness alone breaks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.threat import THREATS, Threat
from robust.core.victim import Access, Victim


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """Uniformly random points of the ball, the first that reaches the goal; no search at all.

    A model that noise breaks is not robust, and an attack that noise beats is not working. A sample
    that no draw breaks returns its last one.

    samples         draws per sample, one query each
    """

    access: ClassVar[Access] = Access.LABELS
    norms: ClassVar[frozenset[str]] = frozenset(THREATS)
    samples: int = 20

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        result, ball = x.clone(), threat.around(x)
        rows = torch.arange(len(x), device=x.device)
        for _ in range(self.samples):
            result[rows] = ball.random(rng)
            left = ~goal.satisfied(victim.labels(result[rows])) & (victim.left > 0)
            rows, victim, goal, ball = rows[left], victim[left], goal[left], ball[left]
            if not len(rows):
                break
        return result
