"""Auto-PGD with one loss."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.threat import Threat
from robust.core.victim import Victim

from . import _apgd


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Auto-PGD: gradient ascent with momentum that sets its own step sizes.

    Croce & Hein, 2003.01690 (L∞, L2) and 2103.01208 (L1: sparse steps in balls of 3 eps, 2 eps and
    eps, exact projection onto ball ∩ box). Departures: a sample leaves as soon as it is solved, and
    a sparse step leaves out coordinates that the box holds back.

    steps           iterations, one forward and one backward each
    loss            ce, dlr (with fewer than 3 classes the margin stands in) or margin
    rho             share of steps that must raise the loss, or else the step size is halved
    """

    paper: ClassVar[str] = "2003.01690"
    steps: int = 100
    loss: Literal["ce", "margin", "dlr"] = "ce"
    rho: float = 0.75

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        return _apgd.search(
            victim,
            goal,
            threat.around(x),
            rng,
            steps=self.steps,
            loss=LOSSES[self.loss],
            rho=self.rho,
        ).x_adv
