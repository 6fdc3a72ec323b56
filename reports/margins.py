"""How far right answers are ahead, before an attack and at the worst it came to."""

from typing import TYPE_CHECKING, Any

import numpy as np

from robust.core.outcome import Floats

from .cascade import minimal
from .rates import wilson
from .statistics import quantile_interval

if TYPE_CHECKING:
    from .summary import Report

HAIR = 0.1  # of the median margin of clean samples that are right
POINTS = 120  # of the curve


def of(report: "Report") -> dict[str, Any] | None:
    """Margins of all samples, clean and at their worst candidate inside ε, in the units of the
    logits: by how much the right class leads the best other one, or how far a targeted attacker is
    from the target. Below 0 the attacker has what he wants.

    clean_median, worst_median      with intervals, over all n samples with scores
    hair        a tenth of the median margin of the clean samples that are right
    by_a_hair   of the `robust` samples, those whose worst margin is smaller than that; their share
                and its interval
    curve       (margin, share of clean samples with at least that, share at the worst candidate)

    None where no attack ran that spends all of ε, where the model gives no scores, or without
    samples. Of a random model margins are those of its mean answer.
    """
    clean, worst = -report.columns.margin, -report.columns.worst
    known = np.isfinite(clean) & np.isfinite(worst)
    spending = any(not minimal(attack) for attack in report.spec["attacks"])
    if not (known.any() and report.tallies and spending):
        return None
    right = report.columns.correct & known & (clean > 0)
    hair = HAIR * float(np.median(clean[right])) if right.any() else 0.0
    robust = right & (report.withstood > 0.5)
    near = int((robust & (worst < hair)).sum())
    k = int(robust.sum())
    clean, worst = clean[known], worst[known]
    return {
        "n": len(clean),
        "clean_median": float(np.median(clean)),
        "clean_median_ci": quantile_interval(clean),
        "worst_median": float(np.median(worst)),
        "worst_median_ci": quantile_interval(worst),
        "hair": hair,
        "robust": k,
        "by_a_hair": near,
        "by_a_hair_share": near / k if k else None,
        "by_a_hair_share_ci": wilson(near, k),
        "curve": _curve(clean, worst),
    }


def _curve(clean: Floats, worst: Floats) -> list[tuple[float, float, float]]:
    """Shares of samples (n,) of at least that margin, over the range of all but a few."""
    low, high = np.quantile(np.r_[clean, worst], [0.005, 0.995])
    at = np.unique(np.r_[np.linspace(low, high, POINTS), 0.0 if low < 0 < high else low])
    shares = [1 - np.searchsorted(np.sort(x), at, side="left") / len(x) for x in (clean, worst)]
    return [
        (float(m), float(a), float(b))
        for m, a, b in zip(at.tolist(), *(share.tolist() for share in shares), strict=True)
    ]
