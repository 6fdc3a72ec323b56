"""What the numbers that configure random defenses must be."""

import math

from robust.core.errors import RobustError


def refuse_deviation(name: str, value: float, *, zero: bool = False) -> None:
    """RobustError unless it can be the standard deviation of noise."""
    if not (math.isfinite(value) and (value >= 0 if zero else value > 0)):
        least = "of at least 0" if zero else "above 0"
        raise RobustError(f"{name} is a finite number {least}, not {value:g}")


def refuse_count(name: str, value: int) -> None:
    """RobustError unless it is a number of draws."""
    if value < 1:
        raise RobustError(f"{name} must be at least 1, not {value}")
