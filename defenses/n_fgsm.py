"""N-FGSM: one step of training's own, from a point in strong noise."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from robust.core.defense import Task
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.rng import uniform
from robust.core.trainer import OnPoints
from robust.core.victim import Victim

from ._fields import above_zero, at_least


@dataclass(frozen=True, kw_only=True)
class NFGSM(OnPoints):
    """One gradient step from x plus noise, and no projection back onto the ball.

    de Jorge et al., 2202.01181: noise wider than the ball, and a step that is not cut back, keep
    single-step training from catastrophic overfitting. Its points lie up to (k + alpha) eps from x,
    clipped to the box. Departures: the step sees the model in eval mode, as all inner attacks here
    do. Beyond L∞, which the paper is about: noise uniform in the ball of k eps, and a step of
    length alpha eps in the threat's norm.

    k           noise in multiples of eps; for L∞ uniform in [−k eps, k eps] for each coordinate
    alpha       length of the step in multiples of eps

    Raises RobustError for a negative k or an alpha that is not above 0.
    """

    paper: ClassVar[str] = "2202.01181"
    claims: ClassVar[str] = "robust inside the ball, at the price of single-step training"
    broken_by: ClassVar[str] = (
        "nothing inside its ball, unless catastrophic overfitting came over it, as it may at "
        "large eps or small k (2202.01181)"
    )
    k: float = 2.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        at_least(0, k=self.k)
        above_zero(alpha=self.alpha)

    def points(self, seen: nn.Module, task: Task) -> Tensor:
        x, y, threat, rng, _ = task
        low, high = threat.low, threat.high
        if threat.norm == "linf":
            noise = self.k * threat.eps * (2 * uniform(rng, x) - 1)
            start = (x + noise).clamp(low, high)
        else:
            start = replace(threat, eps=self.k * threat.eps).around(x).random(rng)
        victim = Victim(seen, len(x), device=x.device)
        _, _, gradient = victim.gradient(start, LOSSES["ce"], Goal(y, persist=True))
        x_adv = threat.around(x).advance(start, gradient, self.alpha * threat.eps)
        return x_adv.clamp(low, high)
