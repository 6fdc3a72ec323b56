"""What adversarial training is made of: points that an inner search finds, and their loss."""

import contextlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .defense import Defense, Step, Task
from .errors import RobustError
from .goal import as_logits
from .threat import CONVEX, THREATS, Threat


@dataclass(frozen=True, kw_only=True)
class Trainer(Defense):
    """A way to train on adversarial examples, that leaves nothing around the deployed model.

    norms       the threats that it answers
    reserved    by name, the fields that no text can set, and what to do instead; one without such
                fields may be named by `--adv`
    """

    family: ClassVar[str] = "adversarial training"
    norms: ClassVar[frozenset[str]] = frozenset(CONVEX)
    reserved: ClassVar[Mapping[str, str]] = {}

    @property
    def attacks(self) -> bool:
        return True

    def check_threat(self, threat: Threat) -> None:
        """Raise RobustError where it does not answer that threat."""
        if threat.norm not in self.norms:
            names = ", ".join(norm for norm in THREATS if norm in self.norms)
            raise RobustError(f"{type(self).__name__} answers {names} threats, not {threat.norm}")


@dataclass(frozen=True, kw_only=True)
class OnPoints(Trainer):
    """Training in two acts: `points` looks for adversarial points, `losses` is what they cost.

    The search sees the model in eval mode: its forwards leave no trace in BatchNorm's statistics,
    dropout does not blur its gradients, and it costs no robustness (Pang et al., 2010.00467,
    section 3.2). The losses are those of training mode.
    """

    @abstractmethod
    def points(self, seen: nn.Module, task: Task) -> Tensor:
        """Where to train in place of task.x: (n, …). Called in eval mode, without gradient
        recording; `seen` is the model as an adaptive attacker sees it."""

    def losses(self, model: nn.Module, task: Task, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of each sample (n,) given the points x_adv that `points` found, and the logits
        (n, K) there: the run's loss there, unless a subclass has its own."""
        logits = as_logits(model(x_adv), len(x_adv))
        return task.loss(logits, task.y), logits

    def step(self, model: nn.Module, seen: nn.Module, task: Task) -> Step:
        with evaluating(seen), torch.no_grad():
            x_adv = self.points(seen, task)
        values, logits = self.losses(model, task, x_adv)
        return Step(values.mean(), logits.detach(), x_adv[: len(task.x)])


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


@contextlib.contextmanager
def unmarked(model: nn.Module) -> Iterator[None]:
    """Forwards in here leave no trace in the model's buffers, such as BatchNorm's statistics."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
