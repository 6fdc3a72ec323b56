"""Who answers a search: the model, a copy made for it, what defenses expose, or surrogates."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from .core.adaptive import Adaptive
from .core.attack import Attack
from .core.defended import Defended
from .core.goal import Goal
from .core.oracle import Oracle
from .core.outcome import RunSpec
from .core.recorder import Recorder
from .core.rng import seeded
from .core.surrogate import Ensemble
from .core.victim import Access, Original, Victim
from .data import Source
from .models.fast import SearchCopy, prepare

SEARCHES = ("auto", "exact", "compiled")


def sees_through(attack: Attack, model: nn.Module) -> bool:
    """Whether an attack searches on what the defenses of this model expose."""
    return isinstance(model, Defended) and isinstance(attack, Adaptive)


class Searching:
    """The victims of a run; see `Evaluation`. `ensemble` is empty where there are no surrogates."""

    def __init__(
        self, spec: RunSpec, model: nn.Module, ensemble: Ensemble, device: torch.device
    ) -> None:
        self.spec, self.model, self.ensemble, self.device = spec, model, ensemble, device
        self.copies: dict[bool, SearchCopy | None] = {}  # of the model, and of what it exposes
        self._prepared = False

    def prepare(self, attacks: Sequence[Attack], source: Source) -> None:
        """Make the copies that any of the attacks can gain by, once."""
        if self._prepared:
            return
        self._prepared = True
        exact = self.spec.search == "exact" or isinstance(self.model, Oracle)
        if exact or len(self.ensemble) or self.spec.checks > 1:  # a random model has no copy
            return
        places = np.linspace(0, len(source) - 1, min(len(source), 16)).astype(np.int64)
        x = source.batch(source.ids[places]).x.to(self.device)
        for seen in {sees_through(attack, self.model) for attack in attacks if _gains(attack)}:
            # What defenses do to a sample is no layer that bf16 would spare: it stays in fp32.
            low = False if isinstance(self.model, Defended) else None
            with seeded(self.spec.seed, "search copy"):
                self.copies[seen] = prepare(
                    self._original(seen),
                    x,
                    low_precision=low,
                    compiled=self.spec.search == "compiled",
                )

    def victim(
        self,
        n: int,
        attack: Attack,
        goal: Goal | None = None,
        recorder: Recorder | None = None,
    ) -> Victim:
        """Who answers this attack on n samples; without a goal, the model itself."""
        if len(self.ensemble):
            return Victim(
                self.ensemble,
                n,
                attack.access,
                self.device,
                surrogates=len(self.ensemble),
                recorder=recorder,
            )
        seen = sees_through(attack, self.model)
        fast = self.copies.get(seen)
        if fast is None or goal is None or not _gains(attack):
            return Victim(self.model, n, attack.access, self.device, recorder=recorder)
        module = fast.module
        if seen:
            assert isinstance(self.model, Defended)
            module = Defended(self.model.model, module)
        original = Original(self._original(seen), goal, fast.band)
        return Victim(module, n, attack.access, self.device, original=original, recorder=recorder)

    def _original(self, seen: bool) -> nn.Module:
        return self.model.exposed if seen and isinstance(self.model, Defended) else self.model


def _gains(attack: Attack) -> bool:
    """Whether it is worth searching on a copy: not where a search stays at the boundary, for there
    the model itself is asked again and again.
    """
    return not attack.minimal and attack.access > Access.LABELS
