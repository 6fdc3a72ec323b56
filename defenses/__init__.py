"""Defenses: one file each, found by name, as in robust.attacks."""

from robust.core.defense import Defense
from robust.core.discover import class_named, class_names

__all__ = ["Defense"]


def __getattr__(name: str) -> type[Defense]:
    return class_named(name, __name__, __path__)


def __dir__() -> list[str]:
    return [*__all__, *class_names(__name__, __path__)]
