"""Attacks: one file each, found by name.

`robust.attacks.PGD` is the class in attacks/pgd.py. A type checker that should know its fields
imports it from there: `from robust.attacks.pgd import PGD`.
"""

from robust.core.attack import Attack
from robust.core.discover import class_named, class_names
from robust.core.eot import EOT
from robust.core.restarts import Restarts

__all__ = ["EOT", "Attack", "Restarts"]


def __getattr__(name: str) -> type[Attack]:
    return class_named(name, __name__, __path__)


def __dir__() -> list[str]:
    return [*__all__, *class_names(__name__, __path__)]
