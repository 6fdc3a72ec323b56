"""The adaptive attacker: any gradient attack on what a defended model exposes."""

import copy
from dataclasses import dataclass, replace
from typing import Any

from torch import Generator, Tensor

from .combinator import Combinator
from .defended import Defended
from .eot import EOT
from .errors import RobustError
from .goal import Goal
from .threat import Threat
from .victim import Access, Victim


@dataclass(frozen=True, kw_only=True)
class Adaptive(Combinator):
    """Attack a defended model through what its defenses expose, averaged over their draws.

    On the command line `adaptive=true` among the parameters of any attack with gradients. BPDA and
    EOT as in Athalye et al., 1802.00420, and a smooth stand-in for what has no useful gradient
    (Tramer et al., 2002.08347): each defense declares its own. A model without defenses is
    attacked as it is. Where the model is random the search goes on after success, for the goal is
    to fool as many draws as possible. A search copy, if the victim has one, is one of the exposed
    model.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.access < Access.GRADIENT:
            raise RobustError(
                "adaptive=true gives better gradients, and "
                f"{type(self.attack).__name__} uses {self.access} only"
            )

    @property
    def own(self) -> dict[str, Any]:
        return {"adaptive": True}

    def search(
        self, victim: Victim, x: Tensor, goal: Goal, threat: Threat, rng: Generator
    ) -> Tensor:
        model = victim.model
        if not isinstance(model, Defended):
            return self.attack.search(victim, x, goal, threat, rng)
        seen = copy.copy(victim)
        seen.model = model.exposed
        attack = self.attack
        if model.draws > 1:
            if not isinstance(attack, EOT):
                attack = EOT(attack=attack, eot=model.draws)
            goal = replace(goal, persist=True)
        return attack.search(seen, x, goal, threat, rng)
