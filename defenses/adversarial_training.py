"""Adversarial training: learn from the worst point of the ball instead of its centre."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from robust.core.attack import Attack
from robust.core.defense import Criterion, Defense, Step
from robust.core.errors import RobustError
from robust.core.goal import Goal, as_logits
from robust.core.threat import Threat
from robust.core.victim import Victim


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(Defense):
    """The loss at the points that an inner attack finds (Madry et al., 1706.06083).

    The attack sees the model in eval mode: its forwards leave no trace in BatchNorm's statistics,
    dropout does not blur its gradients, and it costs no robustness (Pang et al., 2010.00467,
    section 3.2). The update runs in training mode.

    attack      any attack on this threat; None: natural training
    mix         share of each batch that is adversarial, 0 to 1; the rest stays as it came
                (Kurakin et al., 1611.01236). A share of 0 < mix < 1 is rounded to whole samples

    Raises RobustError for a mix outside [0, 1].
    """

    family: ClassVar[str] = "adversarial training"
    paper: ClassVar[str] = "1706.06083"
    claims: ClassVar[str] = "robust inside the ball that it was trained on"
    attack: Attack | None
    mix: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise RobustError(f"mix is a share from 0 to 1, not {self.mix:g}")

    @property
    def attacks(self) -> bool:
        return self.attack is not None and self.mix > 0

    def step(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        rng: Generator,
        *,
        loss: Criterion,
        seen: nn.Module,
    ) -> Step:
        count = round(self.mix * len(x))
        if self.attack is not None and count:
            with evaluating(seen), torch.no_grad():
                # The order of a batch is random already: its first samples are a random choice.
                victim = Victim(seen, count, self.attack.access, x.device)
                goal = Goal(y[:count], persist=True)
                x_adv = self.attack.search(victim, x[:count], goal, threat, rng)
            x = torch.cat([x_adv, x[count:]]) if count < len(x) else x_adv
        logits = as_logits(model(x), len(x))
        return Step(loss(logits, y).mean(), logits.detach(), x)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; each module gets back the mode that it had."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
