"""Figures → words: percentages, radii, durations, counts, as the pages write them."""

import math
import shlex
from collections.abc import Sequence

NARROW = "\u202f"  # a space that does not break, between a figure and its unit
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0", "patch": "patch"}


def norm(name: str) -> str:
    return NORMS.get(name, name)


def digits(n: int) -> int:
    """Decimals of a percentage that n samples can carry."""
    return 0 if n < 50 else 1 if n < 20_000 else 2


def percent(value: float | None, n: int = 1000, *, unit: bool = True) -> str:
    """0.505 → "50.5 %"; the decimals follow n; exactly 0 and 1 are written without any."""
    if value is None or math.isnan(value):
        return "–"
    places = 0 if value in (0, 1) else digits(n)
    text = f"{100 * value:.{places}f}"
    if not 0 < float(text) < 100:  # 99.97 must not read as 100, nor 0.03 as 0
        text = {0.0: "0", 1.0: "100"}.get(value) or ("> 99.9" if value > 0.5 else "< 0.1")
    return text + NARROW + "%" if unit else text


def points(value: float) -> str:
    """A difference of two fractions: 0.71 → "71 points", 0.043 → "4.3 points"."""
    whole = f"{100 * value:.0f}" if abs(value) >= 0.0995 else f"{100 * value:.1f}"
    return f"{whole.removesuffix('.0')} points"


def whole_percent(value: float) -> str:
    return percent(value, 1)


def interval(ci: tuple[float, float], n: int = 1000) -> str:
    """(0.436, 0.574) → "43.6–57.4"."""
    if math.isnan(ci[0]):
        return "–"
    places = digits(n)
    return f"{100 * ci[0]:.{places}f}–{100 * ci[1]:.{places}f}"


def eps(value: float) -> str:
    """8/255 as "8/255", 0.1 as "0.1". Above 32/255 a decimal is what was meant (0.2 = 51/255)."""
    steps = round(value * 255)
    if 0 < steps <= 32 and math.isclose(value * 255, steps, rel_tol=1e-6):
        return f"{steps}/255"
    return f"{value:.4g}"


def seconds(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    if value < 10:
        return f"{value:.2g}{NARROW}s" if value < 1 else f"{value:.1f}{NARROW}s"
    whole = round(value)
    if whole < 60:
        return f"{whole}{NARROW}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{NARROW}min {rest}{NARROW}s"
    return f"{minutes // 60}{NARROW}h {minutes % 60}{NARROW}min"


def number(value: float | None, places: int = 1) -> str:
    """12400 → "12,400"; 3.25 → "3.2"; None → "–"."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() or value >= 1000 else f"{value:,.{places}f}"


def count(value: float | None) -> str:
    """A mean or quantile of counts, with a decimal below 100: 217.84 → "218", 3.5 → "3.5"."""
    return number(value, 0 if value is not None and value >= 100 else 1)


def short(value: float | None) -> str:
    """12 300 000 → "12.3 M"."""
    if value is None:
        return "–"
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{value / 10**power:.3g}{NARROW}{letter}"
    return f"{value:g}"


def command(argv: Sequence[str]) -> str:
    """A line that a POSIX shell reads back as these arguments."""
    return shlex.join(argv)


def said_p(p: float) -> str:
    """ "p = 0.031", "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def plural(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(parts: Sequence[str]) -> str:
    """["a", "b", "c"] → "a, b and c"."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
