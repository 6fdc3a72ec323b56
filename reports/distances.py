"""How far the nearest adversarial example is: accuracy at every ε, from the smallest distances."""

from typing import TYPE_CHECKING, Any

import numpy as np

from robust.core.outcome import Floats

from .cascade import median
from .rates import Interval, wilson
from .statistics import quantile_interval

if TYPE_CHECKING:
    from .summary import Report

POINTS = 200  # of the curve


def of(report: "Report") -> dict[str, Any] | None:
    """The distances of a run in which some attack looks for the smallest one; None without.

    n           samples that are right unaltered, over which the median goes; `found` of them have
                an adversarial example at whatever distance
    median      of their distances, with its interval; ∞ (null in JSON) where half of them have none
    curve       (eps, accuracy, interval) wherever it falls, at most 200: an upper bound at any eps,
                for each distance is one that was found, and the smallest may be smaller

    Samples that another attack broke first count with the smallest eps at which it did.
    """
    if not any(attack.get("measures") for attack in report.spec["attacks"]) or report.random:
        return None
    right: Floats = report.radius[report.columns.correct]
    if not len(right):
        return None
    return {
        "n": len(right),
        "found": int(np.isfinite(right).sum()),
        "median": median(right),
        "median_ci": quantile_interval(right),
        "curve": steps(report.radius, POINTS),
    }


def steps(radius: Floats, most: int) -> list[tuple[float, float, Interval]]:
    """(eps, accuracy beyond it, interval) at 0 and wherever samples (n,) of such a radius break.

    Of more than `most` such places those are kept that share the fall evenly: between them the
    accuracy is that of the last one, which is never too low.
    """
    n = len(radius)
    ordered = np.sort(radius)
    places = np.unique(ordered[np.isfinite(ordered) & (ordered > 0)])
    if len(places) > most - 1:
        places = places[np.linspace(0, len(places) - 1, most - 1).round().astype(np.int64)]
    at = [0.0, *places.tolist()]
    left = n - np.searchsorted(ordered, np.array(at) * (1 + 1e-9), side="right")
    return [(eps, k / n, wilson(k, n)) for eps, k in zip(at, left.tolist(), strict=True)]
