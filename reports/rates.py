"""Counts → fractions and their intervals, and values → JSON types."""

import math
from typing import Any

import numpy as np
from scipy.special import ndtri

Interval = tuple[float, float]


def wilson(k: float, n: int, level: float = 0.95) -> Interval:
    """The Wilson score interval of k out of n, of 95 % unless said otherwise; NaN for n = 0.

    k may be a sum of shares of draws, one for each sample, which no library's interval takes. It is
    wide enough then: shares in [0, 1] of mean p vary by p(1 − p) at most, the draws included, and
    by as much only where every share is 0 or 1.
    """
    if n == 0:
        return math.nan, math.nan
    z, p = float(ndtri((1 + level) / 2)), k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half) if k else 0.0, min(1.0, centre + half) if k < n else 1.0


def rate(k: float, n: int) -> float:
    """k / n; NaN for n = 0."""
    return k / n if n else math.nan


def ratio(k: float, n: float) -> float | None:
    """k / n; None for n = 0."""
    return k / n if n else None


def plain(value: Any) -> Any:
    """The same in JSON types: tuples as lists, NumPy scalars as numbers, NaN and ∞ as null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
