"""BIM: FGSM repeated in small steps from the clean sample."""

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
class BIM(Attack):
    """Basic iterative method: `steps` steps of eps / steps from the clean sample.

    Kurakin et al., 1607.02533. Departure: the paper fixes steps of 1/255 and derives their number
    from eps; here the number is given and the step follows.

    step_size       length of a step in the threat's norm, in the units of x; None: eps / steps
    """

    goals: ClassVar[frozenset[str]] = frozenset({"untargeted", "targeted", "label-sets"})
    paper: ClassVar[str] = "1607.02533"
    steps: int = 10
    step_size: float | None = None
    loss: Literal["ce", "margin", "dlr"] = "ce"

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        size = threat.eps / max(self.steps, 1) if self.step_size is None else self.step_size
        return projected_ascent(
            victim,
            x,
            goal,
            threat,
            rng,
            steps=self.steps,
            step_size=size,
            loss=LOSSES[self.loss],
            random_start=False,
        )
