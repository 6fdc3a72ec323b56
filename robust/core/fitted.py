"""Attacks that make one thing for all samples: crafted once for a run, then only applied."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Generator, Tensor

from .attack import Attack
from .goal import Goal
from .threat import Threat
from .victim import Victim


class Part(NamedTuple):
    """A batch of the samples to craft on: who answers for them, they themselves, their goal."""

    victim: Victim
    x: Tensor
    goal: Goal


class Fitted(Attack):
    """An attack in two phases: `fit` crafts a tensor, `apply` turns samples by means of it.

    An evaluation fits once, on samples that it does not attack if there are any, keeps the tensor
    in the run folder and applies it to every shard. A call on a batch fits on that batch. A
    subclass has a field `samples`, how many to craft on.
    """

    samples: int

    @abstractmethod
    def fit(self, parts: Sequence[Part], threat: Threat, rng: Generator) -> Tensor:
        """What all samples share, crafted on these. Called without gradient recording."""

    @abstractmethod
    def apply(
        self, fitted: Tensor, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        """Points of the threat around x (n, …), made of x and `fitted`: as `search` returns."""

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        fitted = self.fit([Part(victim, x, goal)], threat, rng)
        return self.apply(fitted, victim, x, goal, threat, rng)
