"""Free adversarial training: the update's own backward moves the perturbation, too."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust.core.defense import Step, Task
from robust.core.goal import as_logits
from robust.core.trainer import Trainer

from ._fields import at_least


@dataclass(frozen=True, kw_only=True)
class Free(Trainer):
    """Replay each batch, and step weights and perturbation by one and the same backward.

    Shafahi et al., 1904.12843. The perturbation lives on from one replay to the next and from batch
    to batch, and begins at zero; after each update it takes a step of eps along the gradient, and
    is projected. An epoch makes as many updates as there are replays, so a run needs fewer epochs.
    The gradient is that of training mode, for it is the update's. Weights are trained through what
    an adaptive attacker sees of the model: through a defense that hides gradients no perturbation
    would move. Departure: every epoch begins at zero again, so that a run can be resumed there.

    replays     updates for each batch, m in the paper

    Raises RobustError for no replays.
    """

    paper: ClassVar[str] = "1904.12843"
    claims: ClassVar[str] = "robust inside the ball, at the cost of natural training"
    broken_by: ClassVar[str] = (
        "nothing inside its ball where training went well; catastrophic overfitting at few replays "
        "or large eps (2007.02617)"
    )
    replays: int = 4

    def __post_init__(self) -> None:
        at_least(1, replays=self.replays)

    def step(self, model: nn.Module, seen: nn.Module, task: Task) -> Step:
        return next(self.updates(model, seen, task, {}))

    def updates(
        self, model: nn.Module, seen: nn.Module, task: Task, memory: dict[str, Tensor]
    ) -> Iterator[Step]:
        x, threat = task.x, task.threat
        ball = threat.around(x)
        now = ball.project(x + _fitting(memory.get("delta"), x))
        for _ in range(self.replays):
            x_adv = now.detach().requires_grad_()
            with torch.enable_grad():
                logits = as_logits(seen(x_adv), len(x))
                value = task.loss(logits, task.y).mean()
            yield Step(value, logits.detach(), x_adv.detach())
            # The engine's backward has reached x_adv, a leaf like the parameters.
            slope = torch.zeros_like(x) if x_adv.grad is None else x_adv.grad.nan_to_num(nan=0.0)
            now = ball.project(ball.advance(now, slope, threat.eps))
            memory["delta"] = now - x


def _fitting(delta: Tensor | None, x: Tensor) -> Tensor:
    """The perturbation of the batch before, for as many samples as there are now."""
    if delta is None:
        return torch.zeros_like(x)
    rows = torch.arange(len(x), device=x.device) % len(delta)
    return delta[rows]
