"""Charts as inline SVG: no network, colours from the page's CSS custom properties.

Every chart has a text alternative, and shows its values on hover; the page's script reads them out
to the keyboard as well. Marks carry the classes s0 … s3
of their series, which the page colours, so that light, dark and print need one chart.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

Value = float | None

WIDTH, HEIGHT = 330.0, 210.0
HOVER = 1000  # beyond, columns are too narrow to point at
COLOURS = 4  # of series; beyond, colours come again
CHAR = 6.2  # width of a digit at the charts' font size, with a margin for wider fonts
_WIDE = 7.6  # and of other characters
READ = ' data-read="x"'  # the page's script reads the values of such a chart out: see script.js
RIGHT, TOP, BELOW = WIDTH - 16, 26.0, 38.0  # where the plane of a chart ends; labels stand below


@dataclass(frozen=True)
class Series:
    """One line: a value (or None) for each x of the chart.

    raw        the same before smoothing, drawn faint beneath
    low, high  ends of each value's interval, drawn as whiskers
    points     whether the values get a dot each; those between gaps always do
    dashed     so that lines also differ where colours do not
    band       lower and upper values of an area around the line; ∞ reaches to the top
    marks      (x, y, hollow) of points to be pointed out
    steps      a value holds until the next x, where the line jumps
    """

    name: str
    values: Sequence[Value]
    raw: Sequence[Value] | None = None
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    points: bool = False
    dashed: bool = False
    band: tuple[Sequence[Value], Sequence[Value]] | None = None
    marks: Sequence[tuple[float, float, bool]] = ()
    steps: bool = False


def ema(values: Sequence[Value], weight: float) -> list[Value]:
    """Exponential moving average as TensorBoard draws it, debiased: the first value is its own.

    None and NaN are passed over: they stay None and leave the average as it was.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"the weight must lie in [0, 1), not {weight}")
    last, seen, smooth = 0.0, 0, list[Value]()
    for value in values:
        if value is None or not math.isfinite(value):
            smooth.append(None)
            continue
        last = last * weight + (1 - weight) * value
        seen += 1
        smooth.append(last / (1 - weight**seen))
    return smooth


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) that enclose [low, high]."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / about))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if span / (s * power) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high]; where these are few, 2 and 5 times them as well."""
    few = math.log10(high / low) < 2.5
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = (step * 10.0**power for power in powers for step in ((1, 2, 5) if few else (1,)))
    return [t for t in every if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


def line_chart(
    xs: Sequence[float],
    series: Sequence[Series],
    *,
    label: str,
    x_name: str,
    y_name: str,
    x_text: Callable[[float], str] = "{:g}".format,
    y_text: Callable[[float], str] = "{:.3g}".format,
    tick_text: Callable[[float], str] | None = None,
    y_range: tuple[float, float] | None = None,
    x_ticks: Sequence[float] | None = None,
    y_ticks: Sequence[float] | None = None,
    level: tuple[float, str] | None = None,
    level_x: tuple[float, str] | None = None,
    height: float = HEIGHT,
    hover: bool = True,
) -> Markup:
    """Lines over xs. `label` is the text alternative; the texts write axis labels and values,
    `tick_text` the labels of the y axis where they are shorter than its values. `level` and
    `level_x` are a value of y and of x to be told from the others, and their names.
    """
    finite = [
        v
        for s in series
        for row in (s.values, s.raw or (), s.low or (), s.high or ())
        for v in row
        if v is not None and math.isfinite(v)
    ]
    if not xs or not finite:
        return Markup('<p class="empty">No values were recorded.</p>')
    low, high = y_range or (min(finite), max(finite))
    y_ticks = y_ticks or nice_ticks(low, high, 5 if height > 150 else 2)
    low, high = y_range or (y_ticks[0], y_ticks[-1])
    y_ticks = [t for t in y_ticks if low - 1e-12 <= t <= high + 1e-12]
    y_labels = [(tick_text or y_text)(t) for t in y_ticks]
    left = 10 + max(map(breadth, y_labels))
    right, top, bottom = RIGHT, TOP, height - BELOW
    x0, x1 = min(xs), max(xs)

    def px(x: float) -> float:
        return left + (right - left) * ((x - x0) / (x1 - x0) if x1 > x0 else 0.5)

    def py(y: float) -> float:
        return bottom - (bottom - top) * (min(max(y, low), high) - low) / (high - low)

    out = y_axis(y_name, [(py(t), words) for t, words in zip(y_ticks, y_labels, strict=True)], left)
    out += x_axis(x_name, _x_ticks(xs, x_ticks), px, x_text, left, height)
    if level is not None:
        y = py(level[0])
        out.append(f'<path class="level" d="M{left:.1f} {y:.1f}H{right:.1f}"/>')
        at = f'x="{left + 3:.1f}" y="{y - 4:.1f}"'
        out.append(f'<text class="said" {at}>{escape(level[1])}</text>')
    if level_x is not None:
        x = px(level_x[0])
        out.append(f'<path class="level" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>')
        end = x + 4 + breadth(level_x[1]) > WIDTH  # no room at the right
        at = f'x="{x - 4 if end else x + 4:.1f}" y="{top + 10:.1f}"'
        side = ' text-anchor="end"' if end else ""
        out.append(f'<text class="said" {at}{side}>{escape(level_x[1])}</text>')
    for i, s in enumerate(series):
        colour = f"s{i % COLOURS}"
        if s.band is not None:
            out.append(f'<path class="band {colour}" d="{_band(xs, *s.band, px, py, s.steps)}"/>')
        if s.raw is not None:
            out.append(f'<path class="line raw {colour}" d="{_path(xs, s.raw, px, py)}"/>')
    for i, s in enumerate(series):
        out += _line(xs, s, f"s{i % COLOURS}", px, py)
    readable = hover and len(xs) <= HOVER
    if readable:
        out += _hover(xs, series, px, (left, right, top, bottom), f"{x_name} ", x_text, y_text)
    return Markup(
        f'<svg class="chart" role="img" aria-label="{escape(label)}"{READ if readable else ""} '
        f'viewBox="0 0 {WIDTH:g} {height:g}">{"".join(out)}</svg>'
    )


def _line(
    xs: Sequence[float],
    s: Series,
    colour: str,
    px: Callable[[float], float],
    py: Callable[[float], float],
) -> list[str]:
    """A series' line, with whiskers, dots and marks."""
    out = []
    if s.low is not None and s.high is not None:
        for x, a, b in zip(xs, s.low, s.high, strict=True):
            out.append(f'<path class="whisker {colour}" d="M{px(x):.1f} {py(a):.1f}V{py(b):.1f}"/>')
    dashed = " dashed" if s.dashed else ""
    out.append(f'<path class="line {colour}{dashed}" d="{_path(xs, s.values, px, py, s.steps)}"/>')
    dots = [
        (xs[k], v, False)
        for k, v in enumerate(s.values)
        if v is not None and math.isfinite(v) and (s.points or _alone(s.values, k))
    ]
    for x, y, hollow in (*dots, *s.marks):
        kind = "hollow dot" if hollow else "dot"
        out.append(f'<circle class="{kind} {colour}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5"/>')
    return out


def _alone(values: Sequence[Value], k: int) -> bool:
    """Whether no line reaches the value, for it has no neighbour."""
    return all(
        v is None or not math.isfinite(v)
        for v in (*values[max(k - 1, 0) : k], *values[k + 1 : k + 2])
    )


def _x_ticks(xs: Sequence[float], given: Sequence[float] | None) -> list[float]:
    if given is not None:
        return list(given)
    whole = all(float(x).is_integer() for x in xs)
    inside = [t for t in nice_ticks(min(xs), max(xs), 6) if min(xs) <= t <= max(xs)]
    return [t for t in inside if not whole or float(t).is_integer()] or [xs[0]]


def y_axis(name: str, labels: Sequence[tuple[float, str]], left: float) -> list[str]:
    """Its name, and a line across the chart with its label at each place."""
    out = [f'<text class="name" x="2" y="12">{escape(name)}</text>']
    for y, words in labels:
        out.append(
            f'<line class="grid" x1="{left:.1f}" x2="{RIGHT:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        out.append(
            f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(words)}</text>'
        )
    return out


def breadth(words: str) -> float:
    """About how wide they are at the charts' font size."""
    return sum(CHAR if c.isdigit() or c in " .,/:-–" else _WIDE for c in words)


def x_axis(
    name: str,
    ticks: Sequence[float],
    px: Callable[[float], float],
    text: Callable[[float], str],
    left: float,
    height: float,
) -> list[str]:
    """The axis, its name, and the labels that fit beside each other; the last one always does."""
    bottom = height - BELOW
    out = [f'<path class="axis" d="M{left:.1f} {bottom:.1f}H{RIGHT:.1f}"/>']
    edge = WIDTH + 14
    for tick in reversed(ticks):
        words = text(tick)
        half = breadth(words) / 2
        centre = max(min(px(tick), WIDTH - half), half)
        if centre + half > edge - 8:
            continue
        edge = centre - half
        out.append(
            f'<text x="{centre:.1f}" y="{bottom + 15:.1f}" text-anchor="middle">'
            f"{escape(words)}</text>"
        )
    out.append(
        f'<text class="name" x="{(left + RIGHT) / 2:.1f}" y="{height - 4:.1f}" '
        f'text-anchor="middle">{escape(name)}</text>'
    )
    return out


def _path(
    xs: Sequence[float],
    values: Sequence[Value],
    px: Callable[[float], float],
    py: Callable[[float], float],
    steps: bool = False,
) -> str:
    """Path data; a missing value breaks the line."""
    out, pen, last = [], "M", 0.0
    for x, value in zip(xs, values, strict=True):
        if value is None or not math.isfinite(value):
            pen = "M"
            continue
        if steps and pen == "L" and value != last:
            out.append(f"L{px(x):.1f} {py(last):.1f}")
        out.append(f"{pen}{px(x):.1f} {py(value):.1f}")
        pen, last = "L", value
    return "".join(out)


def _band(
    xs: Sequence[float],
    low: Sequence[Value],
    high: Sequence[Value],
    px: Callable[[float], float],
    py: Callable[[float], float],
    steps: bool = False,
) -> str:
    """Path data of the area between two lines, where both have values."""
    there = [
        (x, a, b) for x, a, b in zip(xs, low, high, strict=True) if a is not None and b is not None
    ]
    if not there:
        return ""
    if steps:
        held = [(x, a, b) for (_, a, b), (x, _, _) in pairwise(there)]
        there = [there[0], *(p for pair in zip(held, there[1:], strict=True) for p in pair)]
    upper = [f"{px(x):.1f} {py(b):.1f}" for x, _, b in there]
    lower = [f"{px(x):.1f} {py(a):.1f}" for x, a, _ in reversed(there)]
    return f"M{'L'.join([*upper, *lower])}Z"


def _hover(
    xs: Sequence[float],
    series: Sequence[Series],
    px: Callable[[float], float],
    box: tuple[float, float, float, float],
    prefix: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> list[str]:
    """Invisible columns, one for each x, whose title reads out all values there."""
    left, right, top, bottom = box
    centres = [px(x) for x in xs]
    edges = [left, *((a + b) / 2 for a, b in pairwise(centres)), right]
    out = []
    for i, x in enumerate(xs):
        lines = [prefix + x_text(x)]
        for s in series:
            value = s.raw[i] if s.raw is not None else s.values[i]
            if value is not None and math.isfinite(value):
                lines.append(f"{s.name}: {y_text(value)}")
        out.append(
            f'<rect class="hover" data-x="{centres[i]:.1f}" x="{edges[i]:.1f}" y="{top:.1f}" '
            f'width="{max(edges[i + 1] - edges[i], 0.1):.1f}" height="{bottom - top:.1f}">'
            f"<title>{escape(chr(10).join(lines))}</title></rect>"
        )
    return out


def bar(value: float, low: float, high: float, label: str) -> Markup:
    """A fraction in [0, 1] as a small bar, with the ends of its interval as a whisker."""
    if math.isnan(value):
        return Markup("")
    return Markup(
        f'<svg class="bar" role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>'
        '<rect class="track" width="100%" height="100%" rx="2"/>'
        f'<rect class="fill" width="{100 * value:.1f}%" height="100%" rx="2"/>'
        f'<rect class="range" x="{100 * low:.1f}%" y="42%" width="{100 * (high - low):.1f}%" '
        'height="16%"/></svg>'
    )


def stack(parts: Sequence[tuple[str, int]], label: str) -> Markup:
    """Counts side by side in one bar; each part's class is its name."""
    total, at, out = sum(count for _, count in parts), 0.0, []
    if not total:
        return Markup("")
    for name, count in parts:
        width = 100 * count / total
        out.append(
            f'<rect class="{escape(name)}" x="{at:.2f}%" width="{width:.2f}%" height="100%">'
            f"<title>{escape(name)}: {count:,} of {total:,}</title></rect>"
        )
        at += width
    return Markup(
        f'<svg class="stack" role="img" aria-label="{escape(label)}">{"".join(out)}</svg>'
    )


def envelope(values: Sequence[float], most: int = 240) -> list[int]:
    """At most `most` positions of a long signal: its ends, and each bin's extremes."""
    if len(values) <= most:
        return list(range(len(values)))
    positions, bins = {0, len(values) - 1}, most // 2 - 1
    for k in range(bins):
        part = range(k * len(values) // bins, (k + 1) * len(values) // bins)
        positions |= {min(part, key=values.__getitem__), max(part, key=values.__getitem__)}
    return sorted(positions)
