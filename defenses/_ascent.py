"""What inner searches of training share: a few steps of steepest ascent on any loss."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from robust.core.defense import Task
from robust.core.goal import Goal
from robust.core.rng import normal
from robust.core.threat import Threat
from robust.core.trainer import OnPoints
from robust.core.victim import Victim

from ._fields import above_zero, at_least


@dataclass(frozen=True, kw_only=True)
class Ascending(OnPoints):
    """Training whose points are the end of an ascent, each step projected onto the threat."""

    steps: int = 10
    step_size: float | None = None

    def __post_init__(self) -> None:
        at_least(1, steps=self.steps)
        above_zero(step_size=self.step_size)

    def ascend(
        self, seen: nn.Module, task: Task, start: Tensor, height: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """From `start` (n, …) up the height: logits (n, K) → (n,)."""
        x, threat, size = task.x, task.threat, self.step_size
        if size is None:  # as in the attack pgd
            size = threat.eps * min(1.0, (10 if threat.norm == "l1" else 2.5) / self.steps)
        victim, goal = Victim(seen, len(x), device=x.device), Goal(task.y, persist=True)
        ball, now = threat.around(x), start
        for _ in range(self.steps):
            _, _, gradient = victim.gradient(now, lambda logits, _: height(logits), goal)
            now = ball.project(ball.advance(now, gradient, size))
        return now


def nearby(x: Tensor, threat: Threat, rng: Generator) -> Tensor:
    """x with normal noise of a thousandth of the box: off the point where a divergence from x has
    no gradient, as in the authors' code of TRADES."""
    noise = 0.001 * (threat.high - threat.low) * normal(rng, x)
    return threat.around(x).project(x + noise)
