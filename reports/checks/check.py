"""One check of a run: what was looked at, what came out, and what that means."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["passed", "failed", "not applicable"]
Weight = Literal["broken", "doubtful", ""]


@dataclass(frozen=True)
class Check:
    """A question that a reader should ask before believing the figure, and its answer.

    key         a name that stays, for report.json
    group       "athalye", "ioaf", "autoattack", "binarisation" or "convergence"
    title       what is looked at, in a few words
    status      "failed" is bad news, whatever was looked at
    figure      what was measured, in words: "3 of 48 samples"; "" where nothing was
    meaning     one sentence on what that says, or why the check is not applicable
    value       the same figure as a number, None where nothing was measured
    weight      what a failure makes of the number: "broken", "doubtful", or nothing by itself
    masking     whether a failure is a sign that the model masks its gradients
    """

    key: str
    group: str
    title: str
    status: Status
    figure: str
    meaning: str
    value: float | None = None
    weight: Weight = ""
    masking: bool = False

    @property
    def failed(self) -> bool:
        return self.status == "failed"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def not_applicable(key: str, group: str, title: str, why: str) -> Check:
    """A check that has nothing to look at; `why` is a sentence."""
    return Check(key, group, title, "not applicable", "", why)
