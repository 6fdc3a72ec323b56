"""Attacks of foolbox and ART, each as an attack of ours: `foolbox:LinfPGD`, `art:HopSkipJump`; and
the preprocessors of ART, each as a defense: `art:JpegCompression`.

The packages are imported when one of these is asked for, not before.
"""

import importlib
from functools import cache
from typing import Any

from robust.core.errors import RobustError

from .peer import Peer, attack_class
from .shield import quiet

# Engine → the package, and the class that runs its attacks.
_ENGINES = {"foolbox": ("foolbox", "FoolboxAttack"), "art": ("art", "ArtAttack")}
ENGINES = tuple(_ENGINES)


@cache
def attacks(engine: str) -> dict[str, type[Peer]]:
    """Name → class of what the engine has, sorted; RobustError if its package is not installed."""
    usable, _, _ = _catalogue(engine)
    return dict(sorted(usable.items(), key=lambda item: item[0].lower()))


def defenses(engine: str) -> dict[str, type[Any]]:
    """Name → class of the defenses that the engine has, sorted; RobustError if it has none."""
    return _preprocessors(engine)[0]


def left_out(engine: str, kind: str = "attacks") -> dict[str, str]:
    """Name → why it is not among them, for the rest of the package's."""
    return _catalogue(engine)[1] if kind == "attacks" else _preprocessors(engine)[1]


def other_names(engine: str) -> dict[str, str]:
    """Further names of attacks that the package has → the names that they are listed by."""
    return _catalogue(engine)[2]


@cache
def _catalogue(engine: str) -> tuple[dict[str, type[Peer]], dict[str, str], dict[str, str]]:
    package, base = _ENGINES[engine]
    try:
        with quiet():
            importlib.import_module(package)
            module = importlib.import_module(f".{engine}", __name__)
            usable, rest, names = module.catalogue()
    except ImportError as error:
        raise RobustError(
            f"the attacks of {engine} need packages that are missing ({error}): "
            "pip install 'robust[peers]'"
        ) from error
    made = {
        name: attack_class(getattr(module, base), name, theirs, facts)
        for name, (theirs, facts) in usable.items()
    }
    return made, rest, names


@cache
def _preprocessors(engine: str) -> tuple[dict[str, type[Any]], dict[str, str]]:
    if engine != "art":
        raise RobustError(f"{engine} has attacks and no defenses; art has some")
    try:
        with quiet():
            module = importlib.import_module(".preprocessors", __name__)
            made: tuple[dict[str, type[Any]], dict[str, str]] = module.catalogue()
    except ImportError as error:
        raise RobustError(
            f"the defenses of {engine} need packages that are missing ({error}): "
            "pip install 'robust[peers]'"
        ) from error
    return made


__all__ = ["ENGINES", "attacks", "defenses", "left_out", "other_names"]
