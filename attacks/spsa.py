"""SPSA: Adam along a gradient estimated from scores by simultaneous perturbations."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.rng import signs
from robust.core.threat import Ball, Threat
from robust.core.victim import Access, Victim

from ._estimated import estimated_ascent, reach

_B1, _B2 = 0.9, 0.999  # of Adam, as published (1412.6980)
_TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class SPSA(Attack):
    """Simultaneous perturbation stochastic approximation: differences at mirrored steps of random
    signs, the same size in all coordinates, and Adam along their mean.

    Uesato et al., 1802.05666 (L∞; in L2 the step is Adam's direction at the length step_size).
    Departures: the questions are put into ball ∩ box, so that each may be the success; fewer
    samples than the paper's 128 and more, for budgets of thousands and not of millions.

    queries     per sample, all included
    samples     pairs of mirrored questions for each estimate
    sigma       size of their steps in a coordinate (the paper's δ), in the units of x; None:
                eps / 2, in L2 eps / (2 √d) for samples of d coordinates. What is sent as 8-bit
                values must move by a level or more
    step_size   of Adam, in the units of x; in L2 the length of a step; None: eps / 4
    loss        what a step must raise: margin (the paper's) or ce
    """

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    paper: ClassVar[str] = "1802.05666"
    queries: int = 5000
    samples: int = 10
    sigma: float | None = None
    step_size: float | None = None
    loss: Literal["margin", "ce"] = "margin"

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        size = threat.eps / 4 if self.step_size is None else self.step_size
        mean, square = torch.zeros_like(x), torch.zeros_like(x)
        steps = 0

        def step(rows: Tensor, now: Tensor, gradient: Tensor, ball: Ball) -> Tensor:
            nonlocal steps  # all samples have taken as many
            steps += 1
            mean[rows] = _B1 * mean[rows] + (1 - _B1) * gradient
            square[rows] = _B2 * square[rows] + (1 - _B2) * gradient.square()
            first, second = mean[rows] / (1 - _B1**steps), square[rows] / (1 - _B2**steps)
            way = first / second.sqrt().clamp(min=_TINY)
            return now + size * way if threat.norm == "linf" else ball.advance(now, way, size)

        return estimated_ascent(
            victim.limited(self.queries), x, goal, threat, rng,
            samples=self.samples, sigma=reach(self.sigma, threat, x), draw=signs,
            loss=LOSSES[self.loss], step=step,
        )  # fmt: skip
