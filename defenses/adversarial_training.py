"""Adversarial training: learn from the worst point of the ball instead of its centre."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust.core.attack import Attack
from robust.core.defense import Task
from robust.core.discover import registered
from robust.core.errors import RobustError
from robust.core.fitted import Fitted
from robust.core.goal import leaving
from robust.core.threat import Threat
from robust.core.trainer import OnPoints
from robust.core.victim import Victim


@dataclass(frozen=True, kw_only=True)
class AdversarialTraining(OnPoints):
    """The loss at the points that an inner attack finds (Madry et al., 1706.06083).

    attack      any attack on this threat that looks inside its ball; None: natural training
    mix         share of each batch that is adversarial, 0 to 1; the rest stays as it came
                (Kurakin et al., 1611.01236). A share of 0 < mix < 1 is rounded to whole samples

    Raises RobustError for a mix outside [0, 1], for an attack that looks for the smallest
    perturbation instead (it ends where the loss is low: at the boundary), and for one that makes
    one thing for all samples.
    """

    paper: ClassVar[str] = "1706.06083"
    claims: ClassVar[str] = "robust inside the ball that it was trained on"
    broken_by: ClassVar[str] = (
        "nothing with pgd, inside its ball; one step of fgsm may teach it to mask gradients "
        "(catastrophic overfitting, 2001.03994), which attacks of several steps find out"
    )
    reserved: ClassVar[Mapping[str, str]] = {"attack": "`robust train --adv pgd` asks for it"}
    attack: Attack | None
    mix: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.mix <= 1:
            raise RobustError(f"mix is a share from 0 to 1, not {self.mix:g}")
        if self.attack is None:
            return
        name = registered(type(self.attack))
        if self.attack.minimal:
            raise RobustError(
                f"{name} looks for the smallest perturbation, and training wants the worst point "
                "of a ball: train against an attack with a budget, such as pgd"
            )
        if isinstance(self.attack, Fitted):
            raise RobustError(
                f"{name} makes one thing for all samples, and training needs one each"
            )

    @property
    def attacks(self) -> bool:
        return self.attack is not None and self.mix > 0

    def check_threat(self, threat: Threat) -> None:
        if self.attack is not None:
            self.attack.check(threat)

    def points(self, seen: nn.Module, task: Task) -> Tensor:
        x = task.x
        count = round(self.mix * len(x))
        if self.attack is None or not count:
            return x
        # The order of a batch is random already: its first samples are a random choice.
        victim = Victim(seen, count, self.attack.access, x.device)
        goal = leaving(task.y[:count], persist=True)
        x_adv = self.attack.search(victim, x[:count], goal, task.threat, task.rng)
        return torch.cat([x_adv, x[count:]]) if count < len(x) else x_adv
