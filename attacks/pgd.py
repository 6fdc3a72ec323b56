"""PGD: projected gradient ascent from a random start."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.threat import Threat
from robust.core.victim import Victim

from ._loop import projected_ascent


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent: steepest ascent on the loss, projected onto ball ∩ box.

    Madry et al., 1706.06083 (L∞, L2); for L1 the step is sparse (after SLIDE, Tramèr & Boneh,
    1904.13000). Departure: a failed search returns its iterate of highest loss, not the last.

    steps           gradient steps, one forward and one backward each
    step_size       length of a step in the threat's norm, in the units of x;
                    None: 2.5 eps / steps, for L1 10 eps / steps
    random_start    start at a random point of the ball instead of x
    """

    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted", "label-sets"})
    paper: ClassVar[str] = "1706.06083"
    steps: int = 40
    step_size: float | None = None
    loss: Literal["ce", "margin", "dlr"] = "ce"
    random_start: bool = True

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        size = self.step_size
        if size is None:
            rate = 10 if threat.norm == "l1" else 2.5
            size = threat.eps * min(1.0, rate / max(self.steps, 1))
        return projected_ascent(
            victim,
            x,
            goal,
            threat,
            rng,
            steps=self.steps,
            step_size=size,
            loss=LOSSES[self.loss],
            random_start=self.random_start,
        )
