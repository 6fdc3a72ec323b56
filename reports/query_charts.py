"""What queries bought → the charts of an attack's page."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import charts, queries, text
from .charts import Series

MOST = 2 * charts.COLOURS  # attacks in one chart: each colour solid and dashed
_STEPS = 96  # numbers of queries that are drawn
_ORDERS = 10  # a scale is logarithmic where its ends differ by such a factor


class Scale:
    """An axis over [low, high], logarithmic where that reads better; texts are as without."""

    def __init__(self, low: float, high: float) -> None:
        self.log = low > 0 and high / low >= _ORDERS
        self.low, self.high = (low if self.log else 0.0), high

    def __call__(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.log else value

    def back(self, place: float) -> float:
        return 10.0**place if self.log else place

    @property
    def ticks(self) -> list[float]:
        """Where the axis has labels."""
        if self.log:
            return [self(t) for t in charts.log_ticks(self.low, self.high)]
        return [t for t in charts.nice_ticks(self.low, self.high) if t <= self.high]


def figures(attacks: Sequence[dict[str, Any]], eps: float) -> list[dict[str, Any]]:
    """The charts for these attacks, as a report tells them: title, legend (class, name), svg,
    caption. None where no attack's answers were followed.
    """
    asked = [attack for attack in attacks if attack["success_by_queries"]]
    out = []
    if asked:
        out.append(_success(asked[:MOST]))
    nearing = [attack for attack in asked if attack["distance_by_queries"]]
    if nearing:
        out.append(_distance(nearing[:MOST], eps))
    for figure, shown in zip(out, (asked, nearing), strict=False):
        if len(shown) > MOST:
            figure["caption"] += f" The first {MOST} of {len(shown)} attacks; report.json has all."
    return out


def _success(attacks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    curves = [attack["success_by_queries"] for attack in attacks]
    # A curve without a success is the end of its budget alone, at 0.
    counts = [[n for n, _ in c] if c[-1][1] else [c[-1][0]] for c in curves]
    scale, xs = _axis(counts, 10 ** math.floor(math.log10(max(1, min(map(min, counts))))))
    known = [attack[key] for attack in attacks for key in ("queries_median", "queries_p90")]
    xs = sorted({*xs, *(round(n) for n in known if n is not None)})  # marks lie on the line
    series = []
    for i, (attack, curve) in enumerate(zip(attacks, curves, strict=True)):
        ends = [(attack["queries_median"], False), (attack["queries_p90"], True)]
        marks = [(scale(n), queries.at(curve, n), hollow) for n, hollow in ends if n is not None]
        values = [queries.at(curve, n) if n <= curve[-1][0] else None for n in xs]
        series.append(
            Series(attack["label"], values, dashed=i >= charts.COLOURS, marks=marks, steps=True)
        )
    says = "; ".join(
        f"{attack['label']} broke {text.percent(curve[-1][1], attack['given'])} of the samples "
        f"that it was given within {curve[-1][0]:,} queries"
        for attack, curve in zip(attacks, curves, strict=True)
    )
    svg = charts.line_chart(
        [scale(n) for n in xs],
        series,
        label=f"Success against queries: {says}",
        x_name="queries",
        y_name="broken, of the samples given",
        x_text=lambda place: f"{round(scale.back(place)):,}",
        x_ticks=scale.ticks,
        y_text=text.percent,
        tick_text=text.whole_percent,
        y_range=(
            0,
            next(top for top in (0.1, 0.25, 0.5, 1) if top >= max(c[-1][1] for c in curves)),
        ),
    )
    return {
        "title": "Success against queries",
        "legend": _legend(series),
        "svg": svg,
        "caption": "By ● half, and by ○ nine tenths of the samples that an attack broke "
        "were broken.",
    }


def _distance(attacks: Sequence[dict[str, Any]], eps: float) -> dict[str, Any]:
    curves = [attack["distance_by_queries"] for attack in attacks]
    counts = [[n for n, _, m, _ in curve if m is not None] or [curve[-1][0]] for curve in curves]
    scale, xs = _axis(counts, min(map(min, counts)))
    seen = [d for curve in curves for _, *spread in curve for d in spread if d]
    height = Scale(min(seen, default=eps), max([*seen, eps]))
    series = []
    for i, (attack, curve) in enumerate(zip(attacks, curves, strict=True)):
        low, median, high = zip(*(_spread(curve, n, height) for n in xs), strict=True)
        upper = [
            math.inf if h is None and m is not None else h
            for m, h in zip(median, high, strict=True)
        ]
        lower = [None if m is None else a for m, a in zip(median, low, strict=True)]
        dashed = i >= charts.COLOURS
        series.append(
            Series(attack["label"], median, dashed=dashed, band=(lower, upper), steps=True)
        )
    says = "; ".join(
        f"{attack['label']} {curve[-1][2]:.3g} after {curve[-1][0]:,} queries"
        if curve[-1][2] is not None
        else f"{attack['label']} on less than half of the samples"
        for attack, curve in zip(attacks, curves, strict=True)
    )
    y_ticks = height.ticks if height.log else charts.nice_ticks(0, height.high)
    svg = charts.line_chart(
        [scale(n) for n in xs],
        series,
        label=f"Median distance against queries: {says}",
        x_name="queries",
        y_name="distance",
        x_text=lambda place: f"{round(scale.back(place)):,}",
        x_ticks=scale.ticks,
        y_text=lambda place: f"{height.back(place):.3g}",
        y_ticks=y_ticks,
        y_range=(height(height.low), max(y_ticks[-1], height(height.high))),
        level=(height(eps), f"ε = {text.eps(eps)}"),
    )
    return {
        "title": "Distance against queries",
        "legend": _legend(series),
        "svg": svg,
        "caption": "The median over all samples given, and the middle half of them. A line begins "
        "where half of the samples have an adversarial example, however far away.",
    }


def _axis(counts: Sequence[Sequence[int]], first: int) -> tuple[Scale, list[int]]:
    """A scale from `first` for these numbers of queries, several attacks', and those to draw."""
    last = max(map(max, counts))
    scale = Scale(first, last)
    ends = {n for one in counts for n in (one[0], one[-1])}
    places = np.linspace(scale(scale.low), scale(last), _STEPS)
    drawn = {round(scale.back(float(place))) for place in places}
    return scale, sorted(drawn | ends)


def _spread(
    curve: Sequence[queries.Spread], n: int, height: Scale
) -> tuple[float | None, float | None, float | None]:
    """Quartiles after n queries as places on the axis; None where the curve has none there."""
    there = [spread for count, *spread in curve if count <= n <= curve[-1][0]]
    if not there:
        return None, None, None
    low, median, high = (None if d is None else height(d) for d in there[-1])
    return low, median, high


def _legend(series: Sequence[Series]) -> list[tuple[str, str]]:
    return [
        (f"s{i % charts.COLOURS}{' dashed' if s.dashed else ''}", s.name)
        for i, s in enumerate(series)
    ]
