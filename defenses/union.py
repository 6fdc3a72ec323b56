"""Several threats at once: train on the worst of them, or on all."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust.core.defense import Task
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.core.trainer import OnPoints


@dataclass(frozen=True, kw_only=True)
class Union(OnPoints):
    """Train against a union of threats (Tramèr & Boneh, 1904.13000).

    Each threat has its own inner search. "max" trains each sample on that one of its points where
    the loss is highest, found by a forward each; "average" on the mean loss over all points.

    around      what trains against one threat
    threats     the first is the run's; the others grow and shrink with it, as a warm-up or a margin
                changes its eps
    how         max or average

    Raises RobustError for fewer than two threats, and for those with boxes of their own.
    """

    paper: ClassVar[str] = "1904.13000"
    claims: ClassVar[str] = "robust inside every one of several balls, if less so in each"
    reserved: ClassVar[Mapping[str, str]] = {
        "around": "`robust train --adv pgd --also l2:1.5` asks for it",
        "threats": "those of --eps and of --also NORM:EPS",
    }
    around: OnPoints
    threats: tuple[Threat, ...]
    how: Literal["max", "average"] = "max"

    def __post_init__(self) -> None:
        if not isinstance(self.around, OnPoints) or not self.around.attacks:
            raise RobustError("--also wants training against an attack, such as --adv pgd")
        if len(self.threats) < 2:
            raise RobustError("a union has at least two threats: name another one by --also")
        if len({(threat.low, threat.high) for threat in self.threats}) > 1:
            raise RobustError("the threats of a union share the range of the data")
        if self.how not in ("max", "average"):
            raise RobustError(f"--union is max or average, not {self.how!r}")
        given = getattr(self.around, "attack", self.around)
        if (
            getattr(given, "step_size", None) is not None
            and len({t.norm for t in self.threats}) > 1
        ):
            raise RobustError("step_size is a length in one norm: leave it out with --also")

    def check_threat(self, threat: Threat) -> None:
        for one in self._now(threat):
            self.around.check_threat(one)

    def _now(self, threat: Threat) -> list[Threat]:
        """The threats where the run's is this one."""
        first, *others = self.threats
        share = threat.eps / first.eps if first.eps else 1.0
        return [threat, *(replace(other, eps=share * other.eps) for other in others)]

    def points(self, seen: nn.Module, task: Task) -> Tensor:
        """(n, …) for "max"; for "average" (k·n, …), those of the run's threat first."""
        found = [
            self.around.points(seen, task._replace(threat=threat))
            for threat in self._now(task.threat)
        ]
        if self.how == "average":
            return torch.cat(found)
        worst = torch.stack([self.around.losses(seen, task, at)[0] for at in found]).argmax(0)
        return torch.stack(found)[worst, torch.arange(len(worst), device=worst.device)]

    def losses(self, model: nn.Module, task: Task, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        parts = torch.split(x_adv, len(task.x))
        made = [self.around.losses(model, task, at) for at in parts]
        return torch.stack([values for values, _ in made]).mean(0), made[0][1]
