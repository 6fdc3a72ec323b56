"""How the run's attacks came nearer to their goals: curves for a chart, from the diagnosis."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .summary import Report

Point = tuple[int, float]


@dataclass(frozen=True)
class Trace:
    """The searches of one attack, over the samples that it was given.

    attack      its label
    of          "margin": the best margin so far, above 0 where the goal is reached; "distance": of
                a minimal attack, that of the nearest success so far
    quantiles   by the share of samples that lie below, 0.1 to 0.9: (answers, value), ascending,
                without the points at which that sample had no value yet
    """

    attack: str
    of: str
    quantiles: dict[float, list[Point]]

    @property
    def median(self) -> list[Point]:
        return self.quantiles.get(0.5, [])


def traces(report: "Report") -> list[Trace]:
    """One for each attack that the diagnosis followed; [] where it followed none."""
    attacks: list[dict[str, Any]] = report.diagnosis.get("traces", {}).get("attacks", [])
    return [_trace(attack) for attack in attacks if attack["curve"]["answers"]]


def _trace(attack: dict[str, Any]) -> Trace:
    curve = attack["curve"]
    quantiles = {
        float(q): [
            (int(answers), float(value))
            for answers, value in zip(curve["answers"], values, strict=True)
            if value is not None
        ]
        for q, values in curve["quantiles"].items()
    }
    return Trace(attack["attack"], curve["of"], quantiles)
