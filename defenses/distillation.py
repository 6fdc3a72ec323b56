"""Defensive distillation: train at a high temperature, deploy at one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robust.core.defense import Defense, Frame, OutputDefense, Step, Task
from robust.core.errors import RobustError
from robust.core.goal import as_logits

from ._fields import above_zero


@dataclass(frozen=True, kw_only=True)
class Distillation(OutputDefense):
    """Learn a teacher's soft labels at a temperature that the deployed model does not have.

    Papernot et al., 1511.04508, in two runs: without a teacher, a network is trained at the
    temperature T on the labels, cross-entropy of softmax(z / T). With it as the teacher, another
    one of the same kind learns its answers at T, cross-entropy of softmax(z / T) with
    softmax(z_teacher / T). Deployed, z counts as it is, T times as large as it was in training:
    softmax(z) is 0 and 1 to the last bits, and cross-entropy has no gradient. Exposed as z / T.

    At the start of a run the loss is T times flatter than at T = 1: train with `--optimizer adam`,
    which does not mind, or with a higher learning rate.

    temperature     T, above 0
    teacher         file of the teacher, any model for the same classes that takes the same samples;
                    none: train on the labels

    The run's class weights and smoothing hold for labels, not for a teacher's answers.

    Raises RobustError for a temperature that is not above 0, and for a teacher of other classes or
    samples.
    """

    family: ClassVar[str] = "gradient masking"
    paper: ClassVar[str] = "1511.04508"
    claims: ClassVar[str] = "smaller gradients, by a factor that grows with the temperature"
    broken_by: ClassVar[str] = "logits over the temperature, or any loss on logits (1608.04644)"
    trained: ClassVar[bool] = True
    temperature: float = 50.0
    teacher: str | None = None

    def __post_init__(self) -> None:
        above_zero(temperature=self.temperature)

    def change(self, logits: Tensor) -> Tensor:
        return logits

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return _Cooled(model, self.temperature)

    @property
    def files(self) -> tuple[str, ...]:
        return () if self.teacher is None else (self.teacher,)

    def opened(self, open_model: Callable[[str], nn.Module], frame: Frame) -> Defense:
        if self.teacher is None:
            return self
        teacher = open_model(self.teacher)
        try:
            with torch.no_grad():
                like = next(teacher.parameters(), torch.empty(0))
                x = torch.full((1, *frame.shape), frame.low, device=like.device)
                found = as_logits(teacher(x), 1).shape[1]
        except (RuntimeError, RobustError) as error:
            line = str(error).strip().splitlines()[0]
            raise RobustError(
                f"the teacher {self.teacher} does not take samples of shape {frame.shape}: {line}"
            ) from error
        if found != frame.num_classes:
            raise RobustError(
                f"the teacher {self.teacher} knows {found} classes, and the data have "
                f"{frame.num_classes}"
            )
        return _Student(temperature=self.temperature, teacher=self.teacher, network=teacher)

    def step(self, model: nn.Module, seen: nn.Module, task: Task) -> Step:
        if self.teacher is not None:
            raise RobustError(f"the teacher {self.teacher} is not opened")
        logits = as_logits(model(task.x), len(task.x))
        value = task.loss(logits / self.temperature, task.y).mean()
        return Step(value, logits.detach(), task.x)


@dataclass(frozen=True, kw_only=True)
class _Student(Distillation):
    """The same with its teacher at hand."""

    network: nn.Module

    def step(self, model: nn.Module, seen: nn.Module, task: Task) -> Step:
        x = task.x
        with torch.no_grad():
            soft = (as_logits(self.network(x), len(x)) / self.temperature).softmax(1)
        logits = as_logits(model(x), len(x))
        values = -(soft * (logits / self.temperature).log_softmax(1)).sum(1)
        return Step(values.mean(), logits.detach(), x)


class _Cooled(nn.Module):
    """model(x) / temperature."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor) -> Any:
        return as_logits(self.model(x), len(x)) / self.temperature
