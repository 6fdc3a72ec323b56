"""Refusing fields of a defense that cannot be meant."""

import math

from robust.core.errors import RobustError


def at_least(least: float, **fields: float | None) -> None:
    """RobustError for a field that is no finite number of at least `least`; None is one."""
    for name, value in fields.items():
        if value is not None and not (math.isfinite(value) and value >= least):
            raise RobustError(f"{name} must be a finite number, at least {least:g}, not {value:g}")


def above_zero(**fields: float | None) -> None:
    """RobustError for a field that is no finite number above 0; None is one."""
    for name, value in fields.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise RobustError(f"{name} must be a finite number above 0, not {value:g}")
