"""FGSM: one step."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.threat import CONVEX, THREATS, Ball, Threat
from robust.core.victim import Victim

from ._loop import climb


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """Fast gradient (sign) method: the best point of the ball for the linearised loss.

    Goodfellow et al., 1412.6572. Departure: for L2 and L1 the maximiser of the linear model is
    taken on ball ∩ box, not on the ball and then clipped; for L∞ the two are the same. For L0 it
    moves the eps coordinates that gain most, for a patch the square that does, with or without a
    random start.

    random_start    start at a random point of the ball and step 1.25 eps along the steepest
                    direction (Wong et al., 2001.03994), as fast adversarial training does
    """

    norms: ClassVar[frozenset[str]] = frozenset(THREATS)
    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted", "label-sets"})
    paper: ClassVar[str] = "1412.6572"
    loss: Literal["ce", "margin", "dlr"] = "ce"
    random_start: bool = False

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        def step(now: Tensor, gradient: Tensor, number: int, rows: Tensor, ball: Ball) -> Tensor:
            if self.random_start and threat.norm in CONVEX:
                return ball.project(ball.advance(now, gradient, 1.25 * threat.eps))
            return ball.extreme(gradient)

        ball = threat.around(x)
        start = ball.random(rng) if self.random_start else x
        return climb(victim, start, goal, ball, steps=1, loss=LOSSES[self.loss], step=step)
