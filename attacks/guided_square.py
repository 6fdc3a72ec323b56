"""Guided Square: Square Attack whose answers also teach a smooth gradient that it follows."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.threat import Threat
from robust.core.victim import Access, Victim

from . import _square
from ._regression import Guide


@dataclass(frozen=True, kw_only=True)
class GuidedSquare(Attack):
    """Square Attack that learns from every answer, and asks now and then for what it has learned.

    Andriushchenko et al., 1912.00049, with two additions. The change of the loss at each point that
    is asked about, kept or refused, is an equation for the gradient, and ridge regression on the
    smoothest cosines of a sample (where 1905.07121 looks first, too) solves them. After 10
    questions, and again after each further tenth, a question is for the point of ball ∩ box where
    this linear model is largest; it is kept if the loss rises, as a square would be. And half of
    the squares have one sign in all channels, for the gradients of channels look alike.

    queries         per sample, that of the start included; the sides of the squares follow it
                    where less can be paid for, too: large ones teach more
    p_init          share of a sample that the first squares cover; None: 0.8, in L∞ 0.3 (the
                    paper's for MNIST), where large moves come from the regression
    alike           share of the squares that have one sign in all channels
    waves           cosines in which the gradient is estimated
    loss            what a question must raise: margin or ce
    """

    access: ClassVar[Access] = Access.SCORES
    paper: ClassVar[str] = "1912.00049"
    queries: int = 5000
    p_init: float | None = None
    alike: float = 0.5
    waves: int = 64
    loss: Literal["margin", "ce"] = "margin"

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        p_init = self.p_init or (0.3 if threat.norm == "linf" else 0.8)

        def guide(start: Tensor) -> Guide:
            return Guide(start, *_square.layout(start.shape[1:]), self.waves)

        return _square.search(
            victim.limited(self.queries), x, goal, threat, rng,
            queries=self.queries, of=self.queries, p_init=p_init, loss=LOSSES[self.loss],
            alike=self.alike, guide=guide,
        )  # fmt: skip
