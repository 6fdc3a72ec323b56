"""PGD with momentum on the gradient (MI-FGSM)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.threat import Ball, Threat
from robust.core.victim import Victim

from ._loop import climb


@dataclass(frozen=True, kw_only=True)
class MomentumPGD(Attack):
    """Momentum iterative method: steps along a decaying sum of L1-normalised gradients.

    Dong et al., 1710.06081 (MI-FGSM). Departure: the projection is exact on ball ∩ box in every
    norm, and a failed search returns its iterate of highest loss.

    decay           μ, the share of the sum that a step keeps
    step_size       length of a step in the threat's norm, in the units of x; None: eps / steps
    random_start    start at a random point of the ball instead of x
    """

    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted", "label-sets"})
    paper: ClassVar[str] = "1710.06081"
    steps: int = 20
    step_size: float | None = None
    decay: float = 1.0
    loss: Literal["ce", "margin", "dlr"] = "ce"
    random_start: bool = False

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        size = threat.eps / max(self.steps, 1) if self.step_size is None else self.step_size
        velocity = torch.zeros_like(x)

        def step(now: Tensor, gradient: Tensor, number: int, rows: Tensor, ball: Ball) -> Tensor:
            length = gradient.flatten(1).abs().sum(1).clamp(min=torch.finfo(x.dtype).tiny)
            unit = gradient / length.view(-1, *[1] * (x.dim() - 1))
            velocity[rows] = self.decay * velocity[rows] + unit
            return ball.project(ball.advance(now, velocity[rows], size))

        ball = threat.around(x)
        start = ball.random(rng) if self.random_start else x
        return climb(victim, start, goal, ball, steps=self.steps, loss=LOSSES[self.loss], step=step)
