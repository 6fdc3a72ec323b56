"""NES: ascent along a gradient that natural evolution strategies estimate from scores."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.rng import normal
from robust.core.threat import Ball, Threat
from robust.core.victim import Access, Victim

from ._estimated import estimated_ascent, reach


@dataclass(frozen=True, kw_only=True)
class NES(Attack):
    """Natural evolution strategies: differences at mirrored Gaussian steps, then steps as in PGD.

    Ilyas et al., 1804.08598 (L∞; L2 takes the normalised gradient). Departures: the margin is
    raised unless loss=ce (the paper: log-probabilities, which end in ties where a model is sure);
    the questions are put into ball ∩ box, so that each may be the success; the step size is fixed;
    targeted, too, the search stays in the ball from the start.

    queries     per sample, all included
    samples     pairs of mirrored questions for each estimate (the paper: 25 and more)
    sigma       standard deviation of their steps in a coordinate, in the units of x; None: eps / 2,
                in L2 eps / (2 √d) for samples of d coordinates. What is sent as 8-bit values must
                move by more than a level
    step_size   length of a step in the threat's norm; None: eps / 4
    decay       of the directions before, which are added to each estimate
    loss        what a step must raise: margin or ce
    """

    access: ClassVar[Access] = Access.SCORES
    norms: ClassVar[frozenset[str]] = frozenset({"linf", "l2"})
    paper: ClassVar[str] = "1804.08598"
    queries: int = 5000
    samples: int = 10
    sigma: float | None = None
    step_size: float | None = None
    decay: float = 0.9
    loss: Literal["margin", "ce"] = "margin"

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        size = threat.eps / 4 if self.step_size is None else self.step_size
        kept = torch.zeros_like(x)

        def step(rows: Tensor, now: Tensor, gradient: Tensor, ball: Ball) -> Tensor:
            kept[rows] = self.decay * kept[rows] + gradient
            return ball.advance(now, kept[rows], size)

        return estimated_ascent(
            victim.limited(self.queries), x, goal, threat, rng,
            samples=self.samples, sigma=reach(self.sigma, threat, x), draw=normal,
            loss=LOSSES[self.loss], step=step,
        )  # fmt: skip
