"""Counts → fractions and their intervals, and values → JSON types."""

import math
from typing import Any

import numpy as np
from scipy.stats import binomtest

Interval = tuple[float, float]


def wilson(k: int, n: int) -> Interval:
    """95 % Wilson score interval of k out of n; NaN for n = 0."""
    if n == 0:
        return math.nan, math.nan
    ci = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
    return float(ci.low), float(ci.high)


def rate(k: int, n: int) -> float:
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
