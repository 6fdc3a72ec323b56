"""Names ↔ files: attacks and defenses by their file's name, third parties by entry point.

`pgd,steps=10,loss=dlr` is the attack of attacks/pgd.py with these fields. A package of somebody
else's adds one through the entry-point group `robust.attacks`, whose name is the attack's.
`foolbox:LinfPGD,steps=10` and `art:HopSkipJump` are attacks of these packages (`robust.peers`).
"""

import dataclasses
import difflib
import importlib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .core.adaptive import Adaptive
from .core.attack import Attack
from .core.combinator import Combinator
from .core.defense import Defense
from .core.discover import class_in, files, registered
from .core.eot import EOT
from .core.errors import RobustError
from .core.protocols import autoattack
from .core.restarts import Restarts
from .core.victim import Access

# Names that stand for several attacks, and are no file.
PRESETS = ("autoattack",)
# What the default is for threats that count, where there is no direction of steepest ascent.
AUTO = {"l0": ("fmn", "sigma-zero"), "patch": ("patch",)}
# What the default is where the model can only be asked: the first that answers the kind of goal.
AUTO_ASKING: dict[str, dict[str, tuple[str, ...]]] = {
    "scores": {"linf": ("guided-square",), "l2": ("guided-square",), "l1": ("guided-square",)},
    "labels": {"linf": ("block-flips", "hop-skip-jump"), "l2": ("cgba",)},
}
# Names that people look for, and the attack that they are; more parameters may follow.
ALIASES = {
    "mi-fgsm": "transfer",
    "ni-fgsm": "transfer,nesterov=true",
    "di-fgsm": "transfer,diversity=0.5",
    "ti-fgsm": "transfer,translation=7",
    "si-ni-fgsm": "transfer,nesterov=true,scales=5",
}


@cache
def loaders(kind: str) -> dict[str, Callable[[], type[Any]]]:
    """Name → a function that imports the class, for `kind` "attacks" or "defenses", sorted."""
    package = f"robust.{kind}"
    found: dict[str, Callable[[], type[Any]]] = {
        point.name: partial(_load, point, kind) for point in entry_points(group=package)
    }
    for file in files(importlib.import_module(package).__path__):
        found[file.replace("_", "-")] = partial(class_in, f"{package}.{file}")
    return dict(sorted(found.items()))


@cache
def _load(point: EntryPoint, kind: str) -> type[Any]:
    package = point.dist.name if point.dist else "?"
    try:
        found = point.load()
    except Exception as error:  # somebody else's package may fail in any way
        raise RobustError(
            f"{point.name} of the package {package} cannot be loaded: {error}"
        ) from error
    base = _BASES[kind]
    if not (inspect.isclass(found) and issubclass(found, base) and dataclasses.is_dataclass(found)):
        raise RobustError(f"{point.name} of the package {package} is no {base.__name__} dataclass")
    _third_party[found] = point.name
    return found


_third_party: dict[type[Any], str] = {}
_BASES: dict[str, type[Any]] = {"attacks": Attack, "defenses": Defense}


def names(kind: str) -> list[str]:
    """All names of that kind."""
    return list(loaders(kind))


def black_box(norm: str, access: str) -> list[str]:
    """The names of our attacks on threats of that norm that need no more than this access."""
    levels = {str(level): level for level in Access}
    return [
        name
        for name in names("attacks")
        if (cls := find("attacks", name)).access <= levels[access] and norm in cls.norms
    ]


def find(kind: str, name: str) -> type[Any]:
    """The class of that name; RobustError with a suggestion if there is none."""
    engine, colon, theirs = name.partition(":")
    if colon:
        return _find_peer(kind, engine, theirs)
    known = loaders(kind)
    if name not in known:
        noun = kind.removesuffix("s")
        raise RobustError(
            f"unknown {noun} {name!r}{suggest(name, known)}; see `robust list {kind}`"
        )
    return known[name]()


def peers(engine: str, kind: str = "attacks") -> dict[str, type[Any]]:
    """The attacks or defenses of another package that can be run, by their names there; see
    `robust.peers`."""
    there = importlib.import_module("robust.peers")
    if engine not in there.ENGINES:
        raise RobustError(
            f"unknown engine {engine!r}{suggest(engine, there.ENGINES)}; there are "
            f"{' and '.join(there.ENGINES)}"
        )
    found: dict[str, type[Any]] = (there.attacks if kind == "attacks" else there.defenses)(engine)
    return found


def _find_peer(kind: str, engine: str, name: str) -> type[Any]:
    known, there = peers(engine, kind), importlib.import_module("robust.peers")
    other_names = there.other_names(engine) if kind == "attacks" else {}
    reasons = there.left_out(engine, kind)
    if name in reasons:
        raise RobustError(f"{engine}:{name} cannot be run: {reasons[name]}")
    found = known.get(other_names.get(name, name))
    if found is None:
        raise RobustError(
            f"unknown {kind.removesuffix('s')} {name!r} of {engine}"
            f"{suggest(name, [*known, *other_names])}; see `robust list {kind} --engine {engine}`"
        )
    return found


def _inner(thing: object) -> object:
    """What combinators are wrapped around; else the thing itself."""
    return _inner(thing.attack) if isinstance(thing, Combinator) else thing


def name_of(thing: object) -> str:
    """The registered name of an attack or defense instance; else the name of its class."""
    cls = type(_inner(thing))
    return _third_party.get(cls) or registered(cls)


def parse_attacks(
    texts: Iterable[str], norm: str = "linf", access: str = "gradient", *, targeted: bool = False
) -> list[Attack]:
    """Attacks in order, each once; presets are unfolded for threats of that norm, that access and
    that kind of goal.
    """
    unfolded = [
        parse_attack(part)
        for text in texts
        for part in unfold(text, norm, access=access, targeted=targeted)
    ]
    return list({label(attack): attack for attack in unfolded}.values())


def unfold(
    text: str, norm: str = "linf", *, access: str = "gradient", targeted: bool = False
) -> tuple[str, ...]:
    """`autoattack,version=plus` → the attacks that it stands for, `auto` those of AUTO and
    AUTO_ASKING; any other text → itself.
    """
    name, *pairs = [part.strip() for part in text.split(",")]
    defaults = AUTO if access == "gradient" else _auto_asking(access, targeted)
    if name == "auto" and access != "gradient" and norm not in defaults:
        others = ", ".join(black_box(norm, access))
        raise RobustError(
            f"auto has no attack on {norm} threats with access to {access} only; there is {others}"
        )
    if name == "auto" and norm in defaults:
        for key in set(parse_pairs(name, pairs)) - {"restarts", "eot", "adaptive"}:
            raise RobustError(f"auto has no parameter {key!r}; it has none")
        return tuple(",".join([one, *pairs]) for one in defaults[norm])
    if name not in PRESETS:
        return (text,)
    values = parse_pairs(name, pairs)
    version = values.pop("version", "standard")
    if values:
        raise RobustError(
            f"autoattack takes version=standard, plus or rand and nothing else, not "
            f"{', '.join(values)}: its attacks run as published"
        )
    return autoattack(version, norm)


def _auto_asking(access: str, targeted: bool) -> dict[str, tuple[str, ...]]:
    kind = "targeted" if targeted else "untargeted"
    return {
        norm: tuple(one for one in choices if kind in find("attacks", one).goals)[:1]
        for norm, choices in AUTO_ASKING[access].items()
    }


def parse_attack(text: str) -> Attack:
    """`name,key=value,…` → the attack. `restarts=n` is understood for every attack, `eot=n` and
    `adaptive=true` for every attack with gradients.

    Raises RobustError for unknown names and parameters, with a suggestion, and for bad values.
    """
    name, *pairs = [part.strip() for part in text.split(",")]
    if name in PRESETS:
        raise RobustError(f"{name} stands for several attacks, and here one is needed")
    values = parse_pairs(name, pairs)
    if name in ALIASES:
        name, *meant = ALIASES[name].split(",")
        values = parse_pairs(name, meant) | values
    around = {key: values.pop(key) for key in ("restarts", "eot", "adaptive") if key in values}
    attack: Attack = build(find("attacks", name), name, values)
    if "restarts" in around:
        attack = Restarts(attack=attack, restarts=_convert("restarts", around["restarts"], int))
    if "eot" in around:  # outside: that a restart has solved a sample is read off means as well
        attack = EOT(attack=attack, eot=_convert("eot", around["eot"], int))
    if _convert("adaptive", around.get("adaptive", "false"), bool):
        attack = Adaptive(attack=attack)
    return attack


def label(attack: Attack) -> str:
    """The shortest text that parses to this attack: its name and what differs from the defaults."""
    inner: Any = _inner(attack)
    parts = [name_of(attack)]
    parts += [
        f"{field.name}={shown(getattr(inner, field.name))}"
        for field in dataclasses.fields(inner)
        if getattr(inner, field.name) != field.default
    ]
    while isinstance(attack, Combinator):
        parts += [f"{key}={shown(value)}" for key, value in attack.own.items()]
        attack = attack.attack
    return ",".join(parts)


def defense_label(record: Mapping[str, Any]) -> str:
    """The text that parses to the defense of that name and those params."""
    given = [f"{key}={shown(value)}" for key, value in record["params"].items()]
    return ",".join([record["name"], *given])


def shown(value: object) -> str:
    """A parameter's value as it is written after the `=`."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return value if isinstance(value, str) else str(value).lower()


def build(cls: type[Any], name: str, values: dict[str, str]) -> Any:
    """cls(**values), each value converted from text to the type of its field."""
    types_of = get_type_hints(cls)
    known = {field.name: types_of[field.name] for field in dataclasses.fields(cls)}
    for key in values:
        if key in getattr(cls, "reserved", {}):
            raise RobustError(f"{name}: {key} is not yours to set: {cls.reserved[key]}")
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise RobustError(f"{name} has no parameter {key!r}{suggest(key, known)}; {has}")
    for field in dataclasses.fields(cls):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            why = getattr(cls, "reserved", {}).get(field.name)
            if why:
                raise RobustError(f"{name} is not to be named by itself: {why}")
            raise RobustError(f"{name} needs {field.name}=…, which has no default")
    return cls(**{key: _convert(key, text, known[key]) for key, text in values.items()})


def parse_pairs(name: str, pairs: Sequence[str]) -> dict[str, str]:
    """`key=value` parts → values by key, with _ for -. RobustError for what is not one."""
    values = {}
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals and value):
            raise RobustError(f"{name}: write parameters as key=value, not {pair!r}")
        if key.replace("-", "_") in values:
            raise RobustError(f"{name}: {key} is given twice")
        values[key.replace("-", "_")] = value
    return values


def suggest(name: str, known: Iterable[str]) -> str:
    """How to end a message about an unknown name: with the nearest known name or preset, if any."""
    names = {one.lower(): one for one in [*known, *PRESETS]}
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    close.sort(key=lambda one: sorted(one) != sorted(name.lower()))  # swapped letters come first
    return f"; did you mean {names[close[0]]!r}?" if close else ""


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
