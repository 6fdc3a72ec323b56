"""Combinators: attacks made of another attack, whose facts they take over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .attack import Attack
from .errors import RobustError
from .fitted import Fitted
from .threat import Threat
from .victim import Access


@dataclass(frozen=True, kw_only=True)
class Combinator(Attack):
    """An attack around `attack`; a subclass has one field more, and writes `search`."""

    attack: Attack

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.attack, Fitted):
            name = type(self.attack).__name__
            raise RobustError(f"{', '.join(self.own)}: {name} makes one thing for all samples")

    @property
    def access(self) -> Access:  # type: ignore[override]  # an instance's, after its attack
        return self.attack.access

    @property
    def norms(self) -> frozenset[str]:  # type: ignore[override]
        return self.attack.norms

    @property
    def goals(self) -> frozenset[str]:  # type: ignore[override]
        return self.attack.goals

    @property
    def minimal(self) -> bool:  # type: ignore[override]
        return self.attack.minimal

    @property
    def measures(self) -> bool:
        return self.attack.measures

    def check(
        self,
        threat: Threat,
        *,
        targeted: bool = False,
        shape: Sequence[int] | None = None,
        classes: int | None = None,
    ) -> None:
        self.attack.check(threat, targeted=targeted, shape=shape, classes=classes)

    @property
    def own(self) -> dict[str, Any]:
        """Its own fields, by name."""
        return {key: value for key, value in vars(self).items() if key != "attack"}

    @property
    def params(self) -> dict[str, Any]:
        return {**self.attack.params, **self.own}
