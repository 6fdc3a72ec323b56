"""What a tuning run asks for: TuneSpec."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from robust.core.errors import RobustError

from .space import Axis
from .subject import Subject

OBJECTIVES = ("robust", "clean", "mean")


@dataclass(frozen=True, kw_only=True)
class TuneSpec:
    """Everything that decides which trials are made; how many is free, so that more can follow.

    kind        "training" or "defense"
    subject     what is tuned, as the subject tells it
    same        what of that a resumed run must share: all but paths
    search      the axes, as records
    objective   what is to be as high as possible: validation accuracy under attack ("robust"), on
                the samples as they are ("clean"), or the mean of both
    prune       give up trials that are worse than others were at the same point
    """

    kind: str
    subject: dict[str, Any]
    same: dict[str, Any]
    search: list[dict[str, Any]]
    objective: str = "robust"
    prune: bool = True
    seed: int = 0

    @classmethod
    def of(
        cls,
        subject: Subject,
        axes: Sequence[Axis],
        *,
        objective: str = "robust",
        prune: bool = True,
        seed: int = 0,
    ) -> Self:
        """The spec of a search of these axes. RobustError for an unknown objective."""
        if objective not in OBJECTIVES:
            raise RobustError(f"--objective is one of {', '.join(OBJECTIVES)}, not {objective!r}")
        return cls(
            kind=subject.kind,
            subject=subject.record(),
            same=subject.identity(),
            search=[axis.to_dict() for axis in axes],
            objective=objective,
            prune=prune,
            seed=seed,
        )

    @property
    def axes(self) -> list[Axis]:
        return [Axis.from_dict(record) for record in self.search]

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-able; what is only for `hash` is left out."""
        return {key: value for key, value in vars(self).items() if key != "same"}

    @property
    def hash(self) -> str:
        """Hex digest that a resumed run must share."""
        record = {**self.to_dict(), "subject": self.same}
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]

    def value(self, clean: float, robust: float) -> float:
        """What the objective makes of a trial's accuracies."""
        return {"clean": clean, "robust": robust, "mean": (clean + robust) / 2}[self.objective]
