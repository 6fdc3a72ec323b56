"""Names ↔ files: attacks and defenses by their file's name, third parties by entry point.

`pgd,steps=10,loss=dlr` is the attack of attacks/pgd.py with these fields. A package of somebody
else's adds one through the entry-point group `robust.attacks`, whose name is the attack's.
"""

import dataclasses
import difflib
import importlib
import inspect
import types
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .core.attack import Attack
from .core.discover import class_in, files
from .core.errors import RobustError
from .core.restarts import Restarts

# What a name stands for that is no file: `auto` until one attack earns it.
PRESETS: dict[str, tuple[str, ...]] = {"auto": ("apgd", "apgd-t")}


@cache
def loaders(kind: str) -> dict[str, Callable[[], type[Any]]]:
    """Name → a function that imports the class, for `kind` "attacks" or "defenses", sorted."""
    package = f"robust.{kind}"
    found: dict[str, Callable[[], type[Any]]] = {
        point.name: partial(_load, point) for point in entry_points(group=package)
    }
    for file in files(importlib.import_module(package).__path__):
        found[file.replace("_", "-")] = partial(class_in, f"{package}.{file}")
    return dict(sorted(found.items()))


@cache
def _load(point: EntryPoint) -> type[Any]:
    package = point.dist.name if point.dist else "?"
    try:
        found = point.load()
    except Exception as error:  # somebody else's package may fail in any way
        raise RobustError(
            f"{point.name} of the package {package} cannot be loaded: {error}"
        ) from error
    if not (
        inspect.isclass(found) and issubclass(found, Attack) and dataclasses.is_dataclass(found)
    ):
        raise RobustError(f"{point.name} of the package {package} is no Attack dataclass")
    _third_party[found] = point.name
    return found


_third_party: dict[type[Any], str] = {}


def names(kind: str) -> list[str]:
    """All names of that kind."""
    return list(loaders(kind))


def find(kind: str, name: str) -> type[Any]:
    """The class of that name; RobustError with a suggestion if there is none."""
    known = loaders(kind)
    if name not in known:
        noun = kind.removesuffix("s")
        raise RobustError(
            f"unknown {noun} {name!r}{_suggest(name, known)}; see `robust list {kind}`"
        )
    return known[name]()


def name_of(thing: object) -> str:
    """The registered name of an attack or defense instance; else the name of its class."""
    cls = type(getattr(thing, "attack", thing))
    if cls.__module__.startswith(("robust.attacks.", "robust.defenses.")):
        return cls.__module__.rpartition(".")[2].replace("_", "-")
    return _third_party.get(cls, cls.__name__)


def parse_attacks(texts: Iterable[str]) -> list[Attack]:
    """Attacks in order, presets unfolded, each once."""
    unfolded = (part for text in texts for part in PRESETS.get(text, (text,)))
    return [parse_attack(text) for text in dict.fromkeys(unfolded)]


def parse_attack(text: str) -> Attack:
    """`name,key=value,…` → the attack. `restarts=n` is understood for every attack.

    Raises RobustError for unknown names and parameters, with a suggestion, and for bad values.
    """
    name, *pairs = [part.strip() for part in text.split(",")]
    if name in PRESETS:
        raise RobustError(f"{name} stands for {' then '.join(PRESETS[name])}; it has no parameters")
    values = _pairs(name, pairs)
    restarts = values.pop("restarts", None)
    attack: Attack = build(find("attacks", name), name, values)
    if restarts is None:
        return attack
    return Restarts(attack=attack, restarts=_convert("restarts", restarts, int))


def label(attack: Attack) -> str:
    """The shortest text that parses to this attack: its name and what differs from the defaults."""
    inner = getattr(attack, "attack", attack)
    parts = [name_of(attack)]
    parts += [
        f"{field.name}={_text(getattr(inner, field.name))}"
        for field in dataclasses.fields(inner)
        if getattr(inner, field.name) != field.default
    ]
    if inner is not attack:
        parts.append(f"restarts={attack.params['restarts']}")
    return ",".join(parts)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def build(cls: type[Any], name: str, values: dict[str, str]) -> Any:
    """cls(**values), each value converted from text to the type of its field."""
    types_of = get_type_hints(cls)
    known = {field.name: types_of[field.name] for field in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise RobustError(f"{name} has no parameter {key!r}{_suggest(key, known)}; {has}")
    return cls(**{key: _convert(key, text, known[key]) for key, text in values.items()})


def _pairs(name: str, pairs: Sequence[str]) -> dict[str, str]:
    values = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals and value):
            raise RobustError(f"{name}: write parameters as key=value, not {pair!r}")
        values[key.replace("-", "_")] = value
    return values


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, [*known, *PRESETS], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def number(text: str) -> float:
    """A decimal number or a fraction: "0.3", "8/255". Raises ValueError."""
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except ZeroDivisionError:
        raise ValueError(f"{text!r} divides by zero") from None


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _convert(key: str, text: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
        if text.lower() == "none":
            return None
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if text not in choices:
            raise RobustError(f"{key} must be one of {', '.join(map(str, choices))}, not {text!r}")
        return text
    try:
        if kind is bool:
            return _WORDS[text.lower()]
        return number(text) if kind is float else kind(text)
    except (ValueError, KeyError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}
        raise RobustError(f"{key} must be {wanted.get(kind, kind)}, not {text!r}") from None
