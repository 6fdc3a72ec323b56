"""Checks → one verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from .check import Check

if TYPE_CHECKING:
    from ..summary import Report

GROUPS = {
    "athalye": "Signs of masked gradients (Athalye et al., 1802.00420)",
    "ioaf": "Indicators of attack failure (Pintor et al., 2106.09947)",
    "autoattack": "AutoAttack's flags (Croce & Hein, 2003.01690)",
    "binarisation": "The binarisation test (Zimmermann et al., 2206.13991)",
    "convergence": "Convergence",
}


@dataclass(frozen=True)
class Verdict:
    """What to make of the robust accuracy of a run.

    status      "trustworthy", "doubtful" (it may well be too high) or "broken" (it is too high, or
                says nothing)
    reasons     one sentence each, the gravest first
    masked      whether the model masks its gradients; None where that was not looked at
    """

    status: Literal["trustworthy", "doubtful", "broken"]
    reasons: list[str]
    masked: bool | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def of(report: "Report") -> list[Check]:
    """Every check of a run, group by group; [] where it was not diagnosed."""
    return []


def judge(report: "Report", checks: Sequence[Check]) -> Verdict | None:
    """The verdict that these checks lead to; None where nothing was checked."""
    return None
