"""Points in a plane as inline SVG, each with words of its own on hover."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from markupsafe import Markup, escape

from . import text
from .charts import BELOW, CHAR, HEIGHT, RIGHT, TOP, WIDTH, nice_ticks, x_axis, y_axis

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """A dot at (x, y) in the colour of series `colour`, larger where it is the one to look at.

    mark    a few characters beside it, left out where they would cover others
    """

    x: float
    y: float
    title: str
    colour: int = 0
    hollow: bool = False
    large: bool = False
    mark: str = ""


def scatter(
    points: Sequence[Point],
    *,
    label: str,
    x_name: str,
    y_name: str,
    x_text: Callable[[float], str] = "{:g}".format,
    y_text: Callable[[float], str] = "{:g}".format,
    x_ticks: Sequence[float] | None = None,
    y_ticks: Sequence[float] | None = None,
    front: Sequence[tuple[float, float]] = (),
    height: float = HEIGHT,
) -> Markup:
    """The points over axes that hold them all. `label` is the text alternative.

    front   points that no other one exceeds in both, by rising x: what lies below and left of them
            is reached, and a line goes round it
    """
    if not points:
        return Markup('<p class="empty">No values were recorded.</p>')
    xs, ys = [p.x for p in points], [p.y for p in points]
    y_ticks = y_ticks or nice_ticks(min(ys), max(ys), 5 if height > 150 else 2)
    x_ticks = x_ticks or nice_ticks(min(xs), max(xs), 5)
    x0, x1 = min(*xs, x_ticks[0]), max(*xs, x_ticks[-1])
    low, high = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])
    words = [y_text(tick) for tick in y_ticks]
    left, bottom = 10 + CHAR * max(map(len, words)), height - BELOW
    inner = left + 6  # a dot at the edge is whole

    def px(x: float) -> float:
        return inner + (RIGHT - 6 - inner) * ((x - x0) / (x1 - x0) if x1 > x0 else 0.5)

    def py(y: float) -> float:
        return bottom - (bottom - TOP) * (y - low) / (high - low)

    out = y_axis(y_name, [(py(t), w) for t, w in zip(y_ticks, words, strict=True)], left)
    out += x_axis(x_name, x_ticks, px, x_text, left, height)
    if front:
        path = f"M{left:.1f} {py(front[0][1]):.1f}"
        for x, y in front:
            path += f"V{py(y):.1f}H{px(x):.1f}"
        out.append(f'<path class="line raw s0" d="{path}V{bottom:.1f}"/>')
    for p in points:
        kind = "hollow dot" if p.hollow else "dot"
        out += [
            f'<circle class="{kind} s{p.colour}" cx="{px(p.x):.1f}" cy="{py(p.y):.1f}" '
            f'r="{5.5 if p.large else 3.5}"><title>{escape(p.title)}</title></circle>'
        ]
    out += _marks([(p.mark, px(p.x), py(p.y)) for p in points])
    return Markup(
        f'<svg class="chart" role="img" data-read="xy" aria-label="{escape(label)}" '
        f'viewBox="0 0 {WIDTH:g} {height:g}">{"".join(out)}</svg>'
    )


def _marks(points: Sequence[tuple[str, float, float]]) -> list[str]:
    """Words at the right of dots, or at the left: each where it covers no dot and no other word."""
    found, taken = list[str](), [(x - 4, x + 4, y) for _, x, y in points]
    for mark, x, y in points:
        wide = len(mark) * CHAR
        for start in (x + 6, x - 6 - wide):
            fits = all(
                abs(y - other) > 9 or start > high or start + wide < low
                for low, high, other in taken
            )
            if mark and fits and start + wide <= WIDTH:
                taken.append((start, start + wide, y))
                found.append(f'<text x="{start:.1f}" y="{y + 3.5:.1f}">{escape(mark)}</text>')
                break
    return found


def unexceeded(items: Iterable[T], of: Callable[[T], tuple[float, float]]) -> list[T]:
    """The items that no other one exceeds in one of their two figures without falling behind in the
    other (Pareto), by the first one, rising; of equal items the first.
    """
    found: list[T] = []
    for item in sorted(items, key=lambda it: tuple(-value for value in of(it))):
        if not found or of(item)[1] > of(found[-1])[1]:
            found.append(item)
    return found[::-1]


def share_ticks(values: Sequence[float]) -> list[float] | None:
    """Round shares that enclose these, none above 1. None where there is nothing to enclose."""
    if not values:
        return None
    ticks = nice_ticks(min(values), max(values))
    # Where all are 100 %, that leaves one, and an axis has two ends.
    inside = [tick for tick in ticks if tick <= 1 + 1e-9]
    return inside if len(inside) > 1 else [0.5, 1.0]


def fine_percent(value: float) -> str:
    """A share as a tick says it: ticks may lie less than a percent apart."""
    return f"{100 * value:.4g}{text.NARROW}%"
