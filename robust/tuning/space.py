"""Where the searched parameters may lie: `--search NAME=LOW:HIGH` and `NAME=A,B,C`."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robust.core.errors import RobustError
from robust.registry import number, shown

from .subject import WORDS, Subject

# How far below and above its value a parameter is searched where nobody says so: by these factors,
# or by smaller ones where the parameter does not allow that much.
FACTORS = {"lr": 5.0, "weight_decay": 10.0, "eps_scale": 1.25}
FACTOR = 3.0
MOST_CHECKED = 200  # combinations of choices and ends that are looked at before anything is run


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One parameter that is searched.

    name        as the subject knows it: "lr", "adv.steps", "jpeg.quality"
    low, high   the ends of a range, both included; None where there are choices
    log         even in the logarithm
    whole       whole numbers alone
    choices     the values to choose among; () for a range
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that must be possible: both ends, or all choices."""
        return self.choices or (self.low, self.high)

    @property
    def size(self) -> float:
        """How many values there are."""
        if self.choices:
            return len(self.choices)
        assert self.low is not None
        assert self.high is not None
        return self.high - self.low + 1 if self.whole else math.inf

    def holds(self, value: Any) -> bool:
        """Whether a value is one of those."""
        if self.choices:
            return any(value == one and type(value) is type(one) for one in self.choices)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        assert self.low is not None
        assert self.high is not None
        return self.low <= value <= self.high and (not self.whole or float(value).is_integer())

    def told(self) -> str:
        """ "lr from 0.01 to 0.3 (log)"."""
        if self.choices:
            return f"{self.name} of {', '.join(map(shown, self.choices))}"
        return f"{self.name} from {shown(self.low)} to {shown(self.high)}" + " (log)" * self.log

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-able."""
        return {**dataclasses.asdict(self), "choices": list(self.choices)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Axis":
        """The reverse of to_dict."""
        return cls(**{**record, "choices": tuple(record["choices"])})


def parse_axes(texts: Sequence[str], subject: Subject) -> list[Axis]:
    """`NAME=LOW:HIGH`, `NAME=LOW:HIGH:log`, `…:int` and `NAME=A,B,C` → what is searched; of no
    texts, what a subject is searched for by default.

    Choices that have commas of their own stand between bars: `adv=pgd,steps=5|trades,beta=6`.
    Raises RobustError for unknown names, with a suggestion, and for empty ranges.
    """
    axes = [_parse(text, subject) for text in texts] if texts else _usual(subject)
    for number_, axis in enumerate(axes):
        if axis.name in [other.name for other in axes[:number_]]:
            raise RobustError(f"--search {axis.name} is given twice")
    return axes


def check_axes(axes: Sequence[Axis], subject: Subject) -> None:
    """RobustError unless the subject takes every choice and both ends of every range."""
    first = [axis for axis in axes if axis.name == "adv"]
    around: list[dict[str, Any]] = [{"adv": c} for axis in first for c in axis.choices] or [{}]
    tries = [
        (axis, {**given, axis.name: value})
        for axis in axes
        for value in axis.ends
        for given in (around if axis.name.startswith("adv.") else [{}])
    ]
    for axis, values in tries[:MOST_CHECKED]:
        try:
            subject.check(values)
        except RobustError as error:
            told = ", ".join(f"{name}={shown(value)}" for name, value in values.items())
            raise RobustError(f"--search {axis.name}: {told} is not possible: {error}") from error


def _parse(text: str, subject: Subject) -> Axis:
    given, equals, values = (part.strip() for part in text.partition("="))
    if not (given and equals and values):
        raise RobustError(
            f"--search {text!r}: write NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C"
        )
    name = subject.canonical(given)
    kind = subject.type_of(name)
    parts = [part.strip() for part in values.split(":")]
    if len(parts) > 1 and kind in (int, float) and not {",", "|"} & set(values):
        return _range(name, kind, parts, text)
    bar = "|" if "|" in values else ","
    choices = tuple(_value(part.strip(), kind, text) for part in values.split(bar))
    if len(set(map(repr, choices))) < max(2, len(choices)):
        raise RobustError(f"--search {text}: give at least two values, each once")
    return Axis(name=name, choices=choices)


def _range(name: str, kind: type, parts: list[str], text: str) -> Axis:
    ends, words = parts[:2], parts[2:]
    for word in words:
        if word not in ("log", "int"):
            raise RobustError(f"--search {text}: after LOW:HIGH come log or int, not {word!r}")
    try:
        low, high = (number(end) for end in ends)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError
    except ValueError:
        raise RobustError(f"--search {text}: {' and '.join(ends)} must be numbers") from None
    whole, log = kind is int or "int" in words, "log" in words
    if low >= high:
        raise RobustError(f"--search {text}: the range is empty: the lower end comes first")
    if log and low <= 0:
        raise RobustError(f"--search {text}: a logarithmic range starts above 0")
    if whole and not (low.is_integer() and high.is_integer()):
        raise RobustError(f"--search {text}: {name} takes whole numbers: give such ends")
    return Axis(
        name=name,
        low=int(low) if whole else low,
        high=int(high) if whole else high,
        log=log,
        whole=whole,
    )


def _value(part: str, kind: type, text: str) -> Any:
    if part.lower() == "none" and kind is not str:
        return None
    try:
        if kind is bool:
            return WORDS[part.lower()]
        return number(part) if kind is float else kind(part)
    except (ValueError, KeyError):
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise RobustError(f"--search {text}: {part!r} is not {wanted}") from None


def _usual(subject: Subject) -> list[Axis]:
    axes = [axis for name in subject.usual for axis in _about(name, subject)]
    if not axes:
        raise RobustError(
            "there is nothing that is searched by default here: say what by --search NAME=LOW:HIGH"
        )
    return axes


def _about(name: str, subject: Subject) -> list[Axis]:
    """A range about the value that a parameter has, as wide as it can be; [] if there is none."""
    value = subject.value(name)
    if isinstance(value, bool):
        both = all(_possible(subject, name, choice) for choice in (False, True))
        return [Axis(name=name, choices=(False, True))] if both else []
    if not isinstance(value, int | float) or value <= 0:
        return []
    whole, most = isinstance(value, int), FACTORS.get(name, FACTOR)
    factors = [most ** (k / 4) for k in (4, 3, 2, 1, 0)]

    def end(wanted: list[float]) -> float:
        ends = [round(one) if whole else float(f"{one:.3g}") for one in wanted]
        return next((e for e in ends if e > 0 and _possible(subject, name, e)), value)

    low, high = end([value / f for f in factors]), end([value * f for f in factors])
    if low >= high:
        return []
    return [Axis(name=name, low=low, high=high, log=not whole, whole=whole)]


def _possible(subject: Subject, name: str, value: Any) -> bool:
    try:
        subject.check({name: value})
    except RobustError:
        return False
    return True
