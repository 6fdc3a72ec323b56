"""What a run took: operations and energy, where these are known."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .summary import Report

Each = Mapping[str, Any]


def each(run: Mapping[str, Any], attack: Mapping[str, Any]) -> Each:
    """Operations of a forward and a backward of what answers this attack: "forward", "backward"; or
    "why" nobody knows.
    """
    known: Mapping[str, Any] = run.get("flops") or {}
    if known.get("surrogates"):
        return _mean(known["surrogates"])
    if attack.get("adaptive") and "exposed" in known:
        exposed: Each = known["exposed"]
        return exposed
    deployed: Each = known.get("model") or {"why": "The run did not count them."}
    return deployed


def _mean(several: list[Each]) -> Each:
    """Of surrogates, through each of which a pass counts once."""
    for one in several:
        if "why" in one:
            return one
    return {
        key: None
        if any(one[key] is None for one in several)
        else sum(one[key] for one in several) / len(several)
        for key in ("forward", "backward")
    }


def flops(one: Each, forwards: float, backwards: float) -> float | None:
    """So many passes as operations; None where they were not counted."""
    if "why" in one or (backwards and one["backward"] is None):
        return None
    return float(forwards * one["forward"] + backwards * (one["backward"] or 0))


def total(report: "Report") -> float | None:
    """Operations of all searches of a run; None where those of some attack are not known."""
    spent = [attack["flops"] for attack in report.attacks]
    return None if None in spent or not spent else float(sum(spent))


def why(report: "Report") -> str:
    """Why operations are not known, a sentence; "" where they are."""
    reasons = [each(report.run, attack).get("why") for attack in report.spec["attacks"]]
    return next((str(reason) for reason in reasons if reason), "")


def energy(report: "Report") -> dict[str, Any] | None:
    """joules of the whole run, its diagnosis included, and the sources that told; None without."""
    found: dict[str, Any] | None = report.run.get("energy")
    return found
