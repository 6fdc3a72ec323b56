"""What each attack of a run found, and what that took: the `attacks` of a report."""

from typing import TYPE_CHECKING, Any

import numpy as np

from robust.core.outcome import Floats

from . import cost
from .rates import Interval, rate, ratio, wilson
from .rows import Tally
from .statistics import quantile_interval

if TYPE_CHECKING:
    from .summary import Report

ACCESS = {1: "labels", 2: "scores", 3: "gradient"}
_NOTHING = {"forwards": 0, "backwards": 0, "queries": 0, "seconds": 0.0}


def minimal(attack: dict[str, Any]) -> bool:
    """Whether it looks for the smallest distance; older records say it where it was measured."""
    return bool(attack.get("minimal", attack.get("measures")))


def rows(report: "Report") -> list[dict[str, Any]]:
    """One dict per attack: see `Report.attacks`."""
    crafted = {fit["number"]: fit for fit in report.run.get("fits") or []}
    asked = zip(report.spec["attacks"], report.tallies, strict=True)
    return [
        _row(report, attack, tally, crafted.get(number))
        for number, (attack, tally) in enumerate(asked)
    ]


def _row(
    report: "Report", asked: dict[str, Any], t: Tally, crafting: dict[str, Any] | None
) -> dict[str, Any]:
    once = crafting or _NOTHING
    left = t.alone if report.every else t.left
    return {
        "name": asked["name"],
        "label": asked.get("label") or asked["name"],
        "params": asked.get("params") or {},
        "adaptive": asked.get("adaptive"),
        "access": ACCESS.get(asked.get("access", ""), asked.get("access")),
        "given": t.given,
        "successes": t.successes,
        "robust_accuracy": rate(left, report.n),
        "robust_accuracy_ci": wilson(left, report.n),
        "success_rate": ratio(t.successes, t.given),
        "success_rate_ci": wilson(t.successes, t.given),
        "survives_8bit": ratio(t.survive, t.rounded),
        "survives_8bit_ci": wilson(t.survive, t.rounded),
        "forwards": t.forwards + once["forwards"],
        "backwards": t.backwards + once["backwards"],
        "queries": t.queries + once["queries"],
        "forwards_per_sample": ratio(t.forwards, t.given),
        "backwards_per_sample": ratio(t.backwards, t.given),
        "queries_per_sample": ratio(t.queries, t.given),
        "queries_mean": t.economy.mean,
        "queries_median": t.economy.median,
        "queries_median_ci": quantile_interval(t.economy.successes),
        "queries_p90": t.economy.quantile(0.9),
        "queries_p90_ci": quantile_interval(t.economy.successes, 0.9),
        "success_by_queries": _success_by_queries(report, t),
        "distance_by_queries": (minimal(asked) and t.economy.distance()) or None,
        **_distance(asked, t),
        "fooled": ratio(t.shares, t.given) if report.random else None,
        "fooled_ci": wilson(t.shares, t.given) if report.random else None,
        "fooled_mean": ratio(t.fooled, t.checked),
        "flops": cost.flops(
            cost.each(report.run, asked),
            t.forwards + once["forwards"],
            t.backwards + once["backwards"],
        ),
        "seconds": t.seconds + once["seconds"],
        "samples_per_second": ratio(t.given, t.seconds),
        "crafting": crafting,
        "refused": dict(sorted(t.refused.items())),
        "stages": [{"name": name, **vars(stage)} for name, stage in t.stages.items()],
        "remarks": [{"text": text, "samples": k} for text, k in t.remarks.items()],
    }


def _success_by_queries(report: "Report", tally: Tally) -> list[tuple[int, float]] | None:
    followed = tally.economy.traced or report.spec.get("access", "gradient") != "gradient"
    return (followed and tally.economy.success()) or None


def _distance(asked: dict[str, Any], tally: Tally) -> dict[str, float | Interval | None]:
    """Of an attack that looks for the smallest distance: the median over the samples given."""
    found: Floats = np.concatenate([np.zeros(0), *tally.reached])
    if not (minimal(asked) and len(found)):
        return {"distance_median": None, "distance_median_ci": None}
    return {"distance_median": median(found), "distance_median_ci": quantile_interval(found)}


def median(distances: Floats) -> float:
    """The median of distances of which some are infinite: between one and ∞ there is no mean."""
    ordered = np.sort(distances)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(low) if low == high else float((low + high) / 2)
