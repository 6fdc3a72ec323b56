"""Input-gradient regularisation: a loss that is flat around the samples."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from robust.core.defense import Defense, Step, Task
from robust.core.goal import as_logits

from ._fields import at_least


@dataclass(frozen=True, kw_only=True)
class GradientRegularisation(Defense):
    """Penalise the squared length of the loss's gradient with respect to the input.

    Ross & Doshi-Velez, 1711.09404: loss + strength · ‖∂loss/∂x‖², by double backpropagation, with
    x on a scale of [0, 1] whatever the range of the data. Nothing is hidden from an attacker, who
    differentiates the model as it is. Departure: the loss is the run's, class weights and smoothing
    included, and it is differentiated through what an adaptive attacker sees of the model.

    strength    weight of the penalty, λ in the paper; much more than is needed leaves a model that
                answers everything alike

    Raises RobustError for a negative strength.
    """

    family: ClassVar[str] = "gradient masking"
    paper: ClassVar[str] = "1711.09404"
    claims: ClassVar[str] = "a flatter loss, and so smaller changes of it by small perturbations"
    broken_by: ClassVar[str] = "nothing is masked; multi-step attacks leave a part of what it gives"
    trained: ClassVar[bool] = True
    strength: float = 0.03

    def __post_init__(self) -> None:
        at_least(0, strength=self.strength)

    def step(self, model: nn.Module, seen: nn.Module, task: Task) -> Step:
        x, threat = task.x, task.threat
        at = x.detach().requires_grad_()
        logits = as_logits(seen(at), len(x))
        values = task.loss(logits, task.y)
        (slope,) = torch.autograd.grad(values.sum(), at, create_graph=True)
        slope = slope * (threat.high - threat.low)
        penalty = slope.flatten(1).square().sum(1)
        return Step((values + self.strength * penalty).mean(), logits.detach(), x)
