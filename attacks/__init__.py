"""Attacks: one file each, found by name.

`robust.attacks.PGD` is the class in attacks/pgd.py. A type checker that should know its fields
imports it from there: `from robust.attacks.pgd import PGD`.
"""

import importlib
import inspect
import pkgutil
from functools import cache

from robust.core.attack import Attack
from robust.core.restarts import Restarts

__all__ = ["Attack", "Restarts"]


@cache
def _classes() -> dict[str, type[Attack]]:
    found: dict[str, type[Attack]] = {}
    for info in pkgutil.iter_modules(__path__):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{__name__}.{info.name}")
            found |= {
                name: value
                for name, value in vars(module).items()
                if inspect.isclass(value)
                and issubclass(value, Attack)
                and value.__module__ == module.__name__
            }
    return found


def __getattr__(name: str) -> type[Attack]:
    if name.startswith("_") or name not in _classes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _classes()[name]


def __dir__() -> list[str]:
    return [*__all__, *_classes()]
