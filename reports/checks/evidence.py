"""What checks are made of: questions, the facts of probes, and what so few samples prove."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scipy.special import bdtrc, betaincinv

from .. import text
from .check import Check, Weight, not_applicable

if TYPE_CHECKING:
    from ..summary import Report

# Samples of the subset are few, and a further attack always finds one here and there. What it
# finds counts once it proves, at a level of 95 %, that the number is too high by more than this.
_DOUBTFUL, _BROKEN = 0.01, 0.05
_LITTLE = 0.05  # robust accuracy that hides nothing worth a doubt
_LEVEL = 0.05  # what is left of the level, on one side


@dataclass(frozen=True)
class Question:
    """A check before it is answered: its key, group and title, and whether it tells of masking."""

    key: str
    group: str
    title: str
    masking: bool = False

    def passed(self, figure: str, meaning: str, value: float | None = None) -> Check:
        return Check(
            self.key, self.group, self.title, "passed", figure, meaning, value,
            masking=self.masking,
        )  # fmt: skip

    def failed(
        self,
        figure: str,
        meaning: str,
        value: float | None = None,
        *,
        weight: Weight = "",
        masking: bool = False,
    ) -> Check:
        return Check(
            self.key, self.group, self.title, "failed", figure, meaning, value, weight, masking
        )

    def without(self, why: str) -> Check:
        return not_applicable(self.key, self.group, self.title, why)


def proven(k: int, n: int) -> float:
    """The share that k of n prove: the lower end of the one-sided 95 % Clopper-Pearson interval."""
    k = min(k, n)
    return float(betaincinv(k, n - k + 1, _LEVEL)) if k > 0 else 0.0


def possible(k: int, n: int) -> float:
    """The share that k of n do not exclude: the upper end of the one-sided 95 % interval."""
    return float(betaincinv(k + 1, n - k, 1 - _LEVEL)) if k < n else 1.0


def more_often(a: int, b: int) -> bool:
    """Whether a against b is more than chance, at 95 %: the sign test on samples that differ."""
    return a > b and float(bdtrc(a - 1, a + b, 0.5)) < _LEVEL


def weight_of(k: int, n: int) -> Weight:
    """What k of n samples that the run left robust, and that another attack broke, make of it.

    "broken" where they prove that it is more than 5 points too high, "doubtful" more than 1 point:
    of 16 samples 3 and 2, of 64 samples 7 and 3.
    """
    share = proven(k, n)
    return "broken" if share > _BROKEN else "doubtful" if share > _DOUBTFUL else ""


def soft(report: "Report", weight: Weight = "doubtful") -> Weight:
    """The weight of a sign that proves nothing: none where there is nothing left to be wrong about.

    A robust accuracy of next to nothing is not too high, however it was found.
    """
    return weight if report.robust_accuracy > _LITTLE else ""


def facts_of(report: "Report", probe: str) -> dict[str, Any] | str:
    """What a probe found, or a sentence on why there is nothing of it."""
    found = report.diagnosis.get(probe)
    if found is None:
        if probe in (report.run.get("diagnosis") or {}):
            return "Another version of robust diagnosed the run: resume it for a new diagnosis."
        if report.spec.get("access", "gradient") != "gradient":
            return "Attackers can only ask the model, and the diagnosis adds no question to theirs."
        if not report.columns.correct.any():
            return "No sample was classified correctly, so that there is nothing to look at."
        return "The run was not diagnosed for it."
    if "error" in found:
        error = str(found["error"])
        return error[:1].upper() + error[1:].rstrip(".") + "."
    return found


@dataclass(frozen=True)
class Reference:
    """The facts of the probe `reference`: what other attacks broke of n samples."""

    n: int
    robust: frozenset[int]
    attacks: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, report: "Report") -> "Reference | str":
        """They, or a sentence on why there are none."""
        facts = facts_of(report, "reference")
        if isinstance(facts, str):
            return facts
        return cls(int(facts["n"]), frozenset(facts["robust"]), facts["attacks"])

    def ran(self, name: str) -> bool:
        return "labels" in self.attacks.get(name, {})

    def why(self, name: str) -> str:
        """A sentence on why it did not run."""
        why = str(self.attacks.get(name, {}).get("why") or "the run has no such attack")
        return why[:1].upper() + why[1:].rstrip(".") + "."

    def given(self, name: str) -> int:
        return int(self.attacks.get(name, {}).get("given", 0))

    def broken(self, name: str) -> frozenset[int]:
        return frozenset(self.attacks.get(name, {}).get("broken", ()))

    def left(self, name: str) -> int:
        """How many of those that it was given it did not break."""
        return self.given(name) - len(self.broken(name))

    def missed(self, name: str) -> int:
        """How many samples it broke that the run had left robust."""
        return len(self.broken(name) & self.robust)

    def labels(self, name: str) -> str:
        """Its attacks, as a run names them."""
        return ", then ".join(self.attacks.get(name, {}).get("labels", ()))

    @property
    def unbroken(self) -> int:
        """How many samples the naive attack with gradients left."""
        return self.n - len(self.broken("plain"))

    def found(self, name: str) -> int:
        """How many of these it broke."""
        return len(self.broken(name) - self.broken("plain"))

    def held(self, missed: int, who: str) -> str:
        """That so many samples broke which the run had left, a sentence."""
        which = text.plural(missed, "sample")
        return (
            f"{who} breaks {which} of {self.n} that the run had left robust, which is more than "
            "chance: its robust accuracy is too high."
        )
