"""Checks → one verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from .. import text
from .check import Check

if TYPE_CHECKING:
    from ..summary import Report

GROUPS = {
    "athalye": "Signs of masked gradients (Athalye et al., 1802.00420)",
    "ioaf": "Indicators of attack failure (Pintor et al., 2106.09947)",
    "autoattack": "AutoAttack's flags (Croce & Hein, 2003.01690)",
    "binarisation": "The binarisation test (Zimmermann et al., 2206.13991)",
    "convergence": "Convergence, and a second opinion",
}

# What speaks for a number that no check speaks against, the strongest first.
_SPEAKS = ("second-opinion", "convergence", "binarisation", "convergence-estimate", "unbounded")
_MUCH = 0.05  # robust accuracy above which what masks gradients may hide more
# Checks that looked for more than the run had found: without one of them nothing speaks for it.
_SOUGHT = ("second-opinion", "convergence")
# What a diagnosis of a model with gradients has measured once it is complete.
PROBES = ("answers", "gradients", "reference", "traces", "convergence", "binarisation")
_FEW = 19  # samples: that none of so few is broken leaves 15 % open, at a level of 95 %

Status = Literal["trustworthy", "doubtful", "broken"]


@dataclass(frozen=True)
class Verdict:
    """What to make of the robust accuracy of a run.

    status      "trustworthy", "doubtful" (it may well be too high) or "broken" (it is too high, or
                says nothing)
    reasons     one sentence each, the gravest first
    masked      whether the model masks its gradients; None where that was not looked at
    basis       on how many samples and checks it rests, a sentence
    """

    status: Status
    reasons: list[str]
    masked: bool | None
    basis: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(report: "Report", checks: Sequence[Check]) -> Verdict | None:
    """The verdict that these checks lead to; None where none of them had anything to look at.

    One failed check that makes the number broken is enough, then one that makes it doubtful. Where
    more than a twentieth of the samples is left it is doubtful, too, if the model masks its
    gradients, if how to attack it was a guess, if the diagnosis is not complete, or if it could
    look at very few samples. Nothing failed is no verdict where nothing looked for more than the
    run had found, as of models that can only be asked.
    """
    applied = [check for check in checks if check.status != "not applicable"]
    if not (applied and report.n):
        return None
    sought = any(check.key in _SOUGHT for check in applied)
    masking = [check for check in applied if check.masking]
    masked = any(check.failed for check in masking) if masking else None
    broken = [said(check) for check in applied if check.failed and check.weight == "broken"]
    doubtful = [said(check) for check in applied if check.failed and check.weight == "doubtful"]
    doubtful += [*_left_open(report, masked=bool(masked)), *_not_there(report)]
    if not (sought or broken or doubtful):
        return None
    status: Status = "broken" if broken else "doubtful" if doubtful else "trustworthy"
    reasons = [*broken, *doubtful] or _in_favour(applied)
    return Verdict(status, reasons, masked, _basis(report, applied))


def said(check: Check) -> str:
    """A check as a reason: what was measured, and what that means."""
    figure = f" ({check.figure})" if check.figure else ""
    return f"{check.title}{figure}: {check.meaning}"


def _left_open(report: "Report", *, masked: bool) -> list[str]:
    """Reasons to doubt that no single check shows."""
    left = report.robust_accuracy
    if not left > _MUCH:
        return []
    found = []
    if masked:
        found.append(
            f"The model masks its gradients, and {text.percent(left)} of the samples are left: "
            "attacks made for it may leave less."
        )
    if report.spec["model"].get("guessed") and report.defenses:
        found.append(
            "How to attack the model's defense was guessed: attacks made for it may leave less."
        )
    found += _not_looked_at(report)
    return found


def _not_there(report: "Report") -> list[str]:
    if report.complete:
        return []
    there = f"Of {report.n_expected:,} samples {report.n:,} are there"
    return [f"{there}: the number is one of those alone."]


def _not_looked_at(report: "Report") -> list[str]:
    """What is missing of a diagnosis that could have been made."""
    gradient = report.spec.get("access", "gradient") == "gradient"
    if not gradient or report.spec.get("surrogates"):
        return []
    there = report.diagnosis
    missing = [name for name in PROBES if there.get(name, {"failed": True}).get("failed")]
    if missing:
        return [
            f"The diagnosis is not complete ({', '.join(missing)}): resume the run, and what is "
            "missing is measured."
        ]
    seen = _seen(report)
    if seen < _FEW:
        return [
            f"Only {text.plural(seen, 'sample')} could be looked at: too few to notice that the "
            "attacks miss much."
        ]
    return []


def _seen(report: "Report") -> int:
    return max((int(facts.get("n") or 0) for facts in report.diagnosis.values()), default=0)


def _in_favour(applied: Sequence[Check]) -> list[str]:
    by_key = {check.key: check for check in applied if check.status == "passed"}
    found = [said(by_key[key]) for key in _SPEAKS if key in by_key]
    return found or ["No check speaks against it."]


def _basis(report: "Report", applied: Sequence[Check]) -> str:
    failed = sum(check.failed for check in applied)
    seen = _seen(report)
    whole = any(facts.get("of") == seen for facts in report.diagnosis.values())
    told = f"{text.plural(len(applied), 'check')} applied, {failed} failed."
    if seen and whole:
        told += f" They looked at all {text.plural(seen, 'sample')} that the attacks could work on."
    elif seen:
        told += (
            f" They looked at {text.plural(seen, 'sample')} that the attacks could work on, chosen "
            f"at random: what shows in fewer than one of {seen} samples may have been missed."
        )
    return told


def of(report: "Report") -> list[Check]:
    """Every check of a run, group by group; [] where it was not diagnosed."""
    if report.run.get("diagnose", "off") == "off":
        return []
    order = list(GROUPS)
    found = [check for module in modules() for check in module.checks(report)]
    return sorted(found, key=lambda check: order.index(check.group))


def modules() -> list[ModuleType]:
    """The files of this folder that make checks."""
    here = import_module(__package__ or "")
    names = sorted(module.name for module in iter_modules(here.__path__))
    found = [import_module(f".{name}", __package__) for name in names]
    return [module for module in found if hasattr(module, "checks")]
