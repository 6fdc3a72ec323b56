"""Figures of a report → the parts of its page: charts, their legends, and words about them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from . import charts, classes, cost, survival, text, traces
from .bracket import Bracket
from .charts import Series

if TYPE_CHECKING:
    from .certification import Certificates
    from .summary import Report

SEARCHES = 4  # attacks whose searches are drawn
OVERLAP = 12  # attacks; beyond, the matrix has those that broke most
_REACH = 0.95  # of the distances found that the chart shows at least, and those within ε


def parts(report: "Report", certificates: "Certificates | None" = None) -> dict[str, Any]:
    """What the sections of an attack's page show beside the report itself."""
    return {
        "class_words": classes.sentences(report),
        "survival": _survival(report),
        "margins": _margins(report),
        "searches": searches(report),
        "transfer": report.transfer,
        "effort": _effort(report),
        "bracket": Bracket.of(report, certificates),
    }


def curve(report: "Report") -> Markup:
    """Accuracy against ε: step by step where distances were measured, else where it was tested."""
    if not report.n:
        return Markup("")
    found = report.distances
    if found is not None:
        return _steps(report, found["curve"])
    if len(report.curve) < 2:
        return Markup("")
    xs, ys = zip(*report.curve, strict=True)
    cis = [report.curve_ci(y) for y in ys]
    low, high = zip(*cis, strict=True)
    return _accuracy(
        report, xs, Series("accuracy at most", ys, points=True, low=low, high=high), xs
    )


def _steps(report: "Report", found: Sequence[tuple[float, float, Any]]) -> Markup:
    """The curve of all distances, as far as most of them reach."""
    places = [eps for eps, _, _ in found]
    far = float(np.quantile(places, _REACH, method="higher")) if len(places) > 1 else 0.0
    end = 1.05 * max(2 * report.eps, min(far, 8 * report.eps))
    shown = [(eps, accuracy, ci) for eps, accuracy, ci in found if eps <= end]
    # What holds at the last step does so up to the end.
    xs, ys, cis = (list(column) for column in zip(*shown, (end, *shown[-1][1:]), strict=True))
    low, high = ([ci[k] for ci in cis] for k in (0, 1))
    series = Series("accuracy at most", ys, band=(low, high), steps=True)
    ticks = [t for t in charts.nice_ticks(0, end, 5) if t <= end]
    return _accuracy(report, xs, series, ticks, mark=True)


def _accuracy(
    report: "Report",
    xs: Sequence[float],
    series: Series,
    ticks: Sequence[float],
    *,
    mark: bool = False,
) -> Markup:
    says = "; ".join(f"{text.percent(y, report.n)} at {text.eps(x)}" for x, y in report.curve)
    return charts.line_chart(
        xs,
        [series],
        label=f"Accuracy against ε, an upper bound: {says}",
        x_name="ε",
        y_name="accuracy, at most",
        x_text=text.eps,
        y_text=text.percent,
        tick_text=text.whole_percent,
        y_range=(0, 1),
        x_ticks=ticks,
        level_x=(report.eps, f"ε = {text.eps(report.eps)}") if mark else None,
    )


def _effort(report: "Report") -> dict[str, Any] | None:
    """What the attacks took, in passes and operations; None where none ran."""
    if not (report.attacks and report.n):
        return None
    asked = report.spec["attacks"]
    each = [cost.each(report.run, attack) for attack in asked]
    spent: dict[str, float] = {
        key: sum(attack[key] for attack in report.attacks)
        for key in ("forwards", "backwards", "seconds")
    }
    return {
        **spent,
        "given": sum(attack["given"] for attack in report.attacks),
        "flops": cost.total(report),
        "why": cost.why(report),
        "each": next((one for one in each if "why" not in one), None),
        "alike": all(one == each[0] for one in each),
        "energy": cost.energy(report),
    }


def _survival(report: "Report") -> dict[str, Any] | None:
    """Rows and the matrix of what attacks broke alike; None where there is one attack alone."""
    rows = report.survival
    if len(rows) < 2 or not report.n:
        return None
    most = sorted(range(len(rows)), key=lambda a: -int(rows[a]["broken"]))[:OVERLAP]
    kept = sorted(most)
    matrix = survival.overlap(report)
    known = any(matrix[i][j] is not None for i in kept for j in kept if i != j)
    largest = max(int(rows[a]["broken"]) for a in kept) or 1
    return {
        "rows": rows,
        "alone_known": any(row["alone"] is not None for row in rows),
        "left_out": len(rows) - len(kept),
        "names": [rows[a]["attack"] for a in kept],
        "overlap": [[(matrix[i][j], (matrix[i][j] or 0) / largest) for j in kept] for i in kept]
        if known
        else None,
    }


def _margins(report: "Report") -> dict[str, Any] | None:
    """The chart of both distributions, and what it shows."""
    found = report.margins
    if found is None:
        return None
    at, clean, worst = (list(column) for column in zip(*found["curve"], strict=True))
    n = found["n"]
    says = ", ".join(f"{name} median {found[key]:.3g}" for name, key in _SIDES)
    near = [t for t in charts.nice_ticks(at[0], at[-1], 6) if at[0] <= t <= at[-1]]
    svg = charts.line_chart(
        at,
        [Series("unaltered", clean), Series("at the worst point found", worst, dashed=True)],
        label=f"Samples by the margin of the right class: {says}",
        x_name="margin, in logits",
        y_name="samples of at least that margin",
        x_text="{:.3g}".format,
        y_text=lambda share: text.percent(share, n),
        tick_text=text.whole_percent,
        y_range=(0, 1),
        x_ticks=near,
        level_x=(0.0, "") if at[0] < 0 < at[-1] else None,
    )
    return {**found, "svg": svg}


_SIDES = (("unaltered", "clean_median"), ("at the worst point found", "worst_median"))


def searches(report: "Report") -> list[dict[str, Any]]:
    """For each attack that the diagnosis followed, how near it came to its goal by its answers."""
    return [
        {"attack": one.attack, "of": one.of, "svg": _search(one)}
        for one in traces.traces(report)[:SEARCHES]
        if len(one.median) > 1
    ]


def _search(trace: traces.Trace) -> Markup:
    xs = [answers for answers, _ in trace.median]
    values = [value for _, value in trace.median]
    low, high = (dict(trace.quantiles.get(q, ())) for q in (0.1, 0.9))
    band = ([low.get(x) for x in xs], [high.get(x) for x in xs])
    name = "best margin so far" if trace.of == "margin" else "nearest success so far"
    return charts.line_chart(
        xs,
        [Series(name, values, band=band)],
        label=f"{name} of {trace.attack}, in the median: {values[0]:.3g} after {xs[0]} answers, "
        f"{values[-1]:.3g} after {xs[-1]}",
        x_name="answers",
        y_name=name,
        x_text="{:,.0f}".format,
        y_text="{:.3g}".format,
        level=(0, "goal") if trace.of == "margin" else None,
        height=170,
    )
