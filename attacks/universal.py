"""Universal perturbation: one change that fools the model on many samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from robust.core.fitted import Fitted, Part
from robust.core.goal import Goal
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._fitting import clipped_ce, turns


@dataclass(frozen=True, kw_only=True)
class Universal(Fitted):
    """One perturbation for all samples, by ascent on the sum of their clipped cross-entropies.

    Moosavi-Dezfooli et al., 1610.08401, found as in Shafahi et al., 1811.11304: steps of steepest
    ascent on batches in turn, a sample's loss clipped so that none counts too much. Departures: the
    step length falls from eps / 4 to nothing by a cosine, the loss is clipped at 3 instead of 9,
    and a pixel at the end of the box counts only where the gradient leads back from there. Crafted
    once for a run; applied to a sample it costs nothing but its verification.

    samples         how many samples to craft on
    steps           steps in all, each a forward and a backward for every sample of one batch
    """

    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    paper: ClassVar[str] = "1811.11304"
    samples: int = 1000
    steps: int = 200

    def fit(self, parts: Sequence[Part], threat: Threat, rng: Generator) -> Tensor:
        """The perturbation: (1, …)."""
        delta = torch.zeros_like(parts[0].x[:1])
        span = threat.high - threat.low
        ball = Threat(threat.norm, threat.eps, -span, span).around(delta)
        for share, (victim, x, goal) in turns(parts, self.steps):
            z = x + delta
            at = z.clamp(threat.low, threat.high)
            _, _, gradient = victim.gradient(at, clipped_ce, goal)
            total = torch.where((z - at) * gradient <= 0, gradient, 0).sum(0, keepdim=True)
            delta = ball.project(ball.advance(delta, total, share * threat.eps / 4))
        return delta

    def apply(
        self, fitted: Tensor, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        return threat.around(x).project(x + fitted)
