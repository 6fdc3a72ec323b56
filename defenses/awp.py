"""AWP: adversarial training under the worst small change of the weights, too."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from robust.core.defense import Step, Task
from robust.core.discover import registered
from robust.core.errors import RobustError
from robust.core.threat import Threat
from robust.core.trainer import OnPoints, Trainer, evaluating, unmarked

from ._fields import above_zero


@dataclass(frozen=True, kw_only=True)
class AWP(Trainer):
    """Adversarial weight perturbation around another way to train, at one more pass of it.

    Wu et al., 2004.05884: at the points that the inner search found, the weights of every
    convolution and linear layer take one step of relative length gamma along the gradient of the
    training loss, v = gamma ‖w‖ ∇w / ‖∇w‖; the update's gradient is taken there, and applied where
    they were. Departures: the ascent is made by the network itself instead of a copy, and weights
    are back before the optimiser's step, so that weight decay sees them unperturbed.

    around      what trains
    gamma       relative length of the step, above 0

    Raises RobustError for a gamma that is not above 0, and around training that has no points to
    keep while weights move (free).
    """

    paper: ClassVar[str] = "2004.05884"
    claims: ClassVar[str] = "a flatter loss over weights, and so robustness that generalises better"
    reserved: ClassVar[Mapping[str, str]] = {
        "around": "`robust train --adv pgd --awp 0.005` asks for it"
    }
    around: OnPoints
    gamma: float = 0.005

    def __post_init__(self) -> None:
        above_zero(gamma=self.gamma)
        if not isinstance(self.around, OnPoints):
            raise RobustError(
                "--awp wants training that searches points and then takes their loss, such as pgd, "
                f"n-fgsm, trades or mart, and {registered(type(self.around))} does not"
            )

    @property
    def attacks(self) -> bool:
        return self.around.attacks

    def check_threat(self, threat: Threat) -> None:
        self.around.check_threat(threat)

    def step(self, model: nn.Module, seen: nn.Module, task: Task) -> Step:
        with evaluating(seen), torch.no_grad():
            x_adv = self.around.points(seen, task)
        weights = [w for w in model.parameters() if w.requires_grad and w.dim() > 1]
        with unmarked(model):
            values, _ = self.around.losses(model, task, x_adv)
            gradients = torch.autograd.grad(values.mean(), weights, allow_unused=True)
        kept = [w.detach().clone() for w in weights]

        def after() -> None:
            with torch.no_grad():
                for weight, value in zip(weights, kept, strict=True):
                    weight.copy_(value)

        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    weight.add_(_direction(gradient) * (self.gamma * weight.norm()))
        try:
            values, logits = self.around.losses(model, task, x_adv)
        except BaseException:
            after()
            raise
        return Step(values.mean(), logits.detach(), x_adv[: len(task.x)], after)


def _direction(gradient: Tensor) -> Tensor:
    """The gradient with length 1; zeros where it is flat or no number."""
    # On a scale where the largest is 1: squares of a tiny gradient would be 0.
    scaled = (gradient / gradient.abs().amax()).nan_to_num_(nan=0.0)
    return scaled.div_(scaled.norm().clamp(min=1.0))
