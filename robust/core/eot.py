"""Expectation over transformation: any gradient attack on the average of a randomised model."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from .combinator import Combinator
from .errors import RobustError
from .goal import Goal, as_logits
from .threat import Threat
from .victim import Access, Victim


@dataclass(frozen=True, kw_only=True)
class EOT(Combinator):
    """Show an attack the mean of `eot` answers of a randomised model, instead of one.

    On the command line `eot=20` among the parameters of any attack with gradients. Athalye et al.,
    1802.00420, as in the rand version of AutoAttack (2003.01690): gradients and losses are averaged
    over the draws. Departure: success is read off the mean of the logits too, where AutoAttack
    takes the last draw's. Every draw is a forward, a backward and a query in the ledger.

    eot             draws per answer
    """

    eot: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.access < Access.GRADIENT:
            raise RobustError(
                f"eot averages gradients, and {type(self.attack).__name__} uses {self.access} only"
            )

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        return self.attack.search(_Averaged.over(victim, self.eot), x, goal, threat, rng)


class _Averaged(Victim):
    """A victim whose every answer is the mean of several draws, each of them in the ledger."""

    _draws: int
    _single: Victim

    @classmethod
    def over(cls, victim: Victim, draws: int) -> "_Averaged":
        averaged = object.__new__(cls)
        vars(averaged).update(vars(victim))
        averaged._draws, averaged._asked = draws, draws * victim._asked
        averaged._single = copy.copy(victim)
        averaged._single._watch = averaged._single._recorder = None  # it is the mean that counts

        def model(x: Tensor) -> Tensor:
            return torch.stack([as_logits(victim.model(x), len(x)) for _ in range(draws)]).mean(0)

        averaged.model = model
        return averaged

    def __getitem__(self, rows: Tensor) -> Victim:
        part = super().__getitem__(rows)
        assert isinstance(part, _Averaged)
        part._single = self._single[rows]
        return part

    def jacobian(
        self, x: Tensor, values: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The means of logits, values and gradients: of a loss the mean, not the loss of a mean."""
        logits, found, gradient = self._single.jacobian(x, values)
        for _ in range(self._draws - 1):
            more = self._single.jacobian(x, values)
            logits, found, gradient = logits + more[0], found + more[1], gradient + more[2]
        logits = logits / self._draws
        self._see(x, logits)
        return logits, found / self._draws, gradient / self._draws

    def _each(self, passes: int) -> Tensor:
        return self._draws * super()._each(passes)
