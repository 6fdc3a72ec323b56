"""Square Attack: random search over square windows, by scores alone."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Generator, Tensor

from robust.core.attack import Attack
from robust.core.goal import Goal
from robust.core.losses import LOSSES
from robust.core.threat import Threat
from robust.core.victim import Access, Victim

from . import _square


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square Attack: change a random square, keep what raises the loss.

    Andriushchenko et al., 1912.00049 (L∞: a square goes to a corner of the ball in each channel,
    from a start of stripes; L2: the perturbation of two squares is moved into one); for L1 the
    moves of L2 are projected onto ball ∩ box (2103.01208). The side of the squares falls as in the
    paper (and, as in its code, also at 500 of 10,000), rescaled to the number of queries.
    Departures: each sample has squares of its own; a square that would change nothing takes the
    opposite corner; targeted, too, the margin is raised (the paper: cross-entropy). In samples that
    are no images a window spans all axes but the channels; a vector is one channel.

    queries         per sample, that of the start included; the sides of the squares follow it, or
                    what the sample with most left can pay for, if that is less
    p_init          share of a sample that the first squares cover
    loss            what a square must raise: margin or ce
    """

    access: ClassVar[Access] = Access.SCORES
    paper: ClassVar[str] = "1912.00049"
    queries: int = 5000
    p_init: float = 0.8
    loss: Literal["margin", "ce"] = "margin"

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        victim = victim.limited(self.queries)
        return _square.search(
            victim, x, goal, threat, rng,
            queries=self.queries, of=int(victim.left.max()) if len(x) else 0,
            p_init=self.p_init, loss=LOSSES[self.loss],
        )  # fmt: skip
