"""Targeted Auto-PGD: leave the true class by way of each likely other one."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal, without
from robust.core.losses import LOSSES
from robust.core.threat import Threat
from robust.core.victim import Victim

from . import _apgd


@dataclass(frozen=True, kw_only=True)
class APGDT(Attack):
    """Auto-PGD on the targeted DLR loss, towards one class after the other.

    Croce & Hein, 2003.01690. The classes come in the order of their logits at x; any class but the
    true one is a success, whichever was aimed at. Where the goal itself is targeted there is one
    class to aim at, and one run. With 3 classes the loss divides by z_π1 − z_π3, with 2 it is the
    margin. Departure: a sample leaves as soon as it is solved.

    steps           iterations per class
    rho             share of steps that must raise the loss, or else the step size is halved
    targets         how many classes to aim at (at most all others)
    """

    paper: ClassVar[str] = "2003.01690"
    steps: int = 100
    targets: int = 9
    loss: Literal["ce", "margin", "dlr"] = "dlr"
    rho: float = 0.75

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        ball, loss = threat.around(x), LOSSES[self.loss]
        if goal.targeted:
            return _apgd.search(
                victim, goal, ball, rng, steps=self.steps, loss=loss, rho=self.rho
            ).x_adv

        logits = victim.logits(x)
        likely = without(logits, goal.labels).argsort(dim=1, descending=True, stable=True)
        n = len(x)
        found = _apgd.Result(
            x.clone(),
            torch.full((n,), float("-inf"), dtype=x.dtype, device=x.device),
            goal.reached(logits) & (not goal.persist),
        )
        for rank in range(min(self.targets, logits.shape[1] - 1)):
            rows = (~found.solved).nonzero().squeeze(1)
            if not len(rows):
                break
            towards = dataclasses.replace(goal[rows], towards=likely[rows, rank])
            run = _apgd.search(
                victim[rows], towards, ball[rows], rng, steps=self.steps, loss=loss, rho=self.rho
            )
            found.keep_better(rows, run)
        return found.x_adv
