"""What a service is told and what it answers, however it wants to be asked."""

from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import numpy as np
from torch import Tensor

from robust.core.errors import RobustError

from .sending import Again


class Dialect(Protocol):
    """How to ask one service.

    method, url     of each request
    most            samples in one request at most, None: as many as one likes
    labels          the answers are classes, not scores
    """

    method: str
    url: httpx.URL
    most: int | None
    labels: bool

    def body(self, x: Tensor) -> bytes:
        """The request that asks about x (n, *shape)."""
        ...

    def read(self, reply: Any, n: int) -> np.ndarray:
        """Scores (n, K) or labels (n,), float64, NaN where there is none.

        Raises Again where the answer is not what it should be but may be another time, and
        RobustError where it will never be.
        """
        ...


@dataclass(frozen=True)
class Facts:
    """What is known about a service before it is asked.

    kind        "v2-service" or "json-service"
    identity    what makes it this service and no other, JSON-able: hashed, never kept
    """

    kind: str
    identity: Any
    shape: tuple[int, ...] | None
    num_classes: int | None
    classes: tuple[str, ...] | None
    eight_bit: bool
    extra: dict[str, Any] = field(default_factory=dict)


def as_numbers(value: Any, where: str) -> np.ndarray:
    """A JSON list of numbers, nested or not, as float64; null is NaN."""
    try:
        _check(value, where)
        return np.asarray(value, dtype=np.float64)
    except OverflowError:
        return np.full(np.shape(value), np.nan)
    except (ValueError, RecursionError):
        raise RobustError(f"{where} is a ragged list") from None


def _check(value: Any, where: str) -> None:
    if isinstance(value, list):
        for inner in value:
            _check(inner, where)
    elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise RobustError(f"{where} holds {shown(value)}, where numbers should be")


def shown(value: Any) -> str:
    """What a server sent, short enough for a message."""
    text = {list: "a list", dict: "an object", type(None): "nothing"}.get(type(value))
    text = text or repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def take(reply: Any, key: str | int, where: str) -> Any:
    """reply[key]. RobustError where it is not there; Again where the service says that something
    went wrong, if with a status of 200.
    """
    found: Any = None
    try:
        found = reply[key]
    except (KeyError, IndexError, TypeError):
        what = f"no {key!r}" if isinstance(key, str) else f"no element {key}"
        if isinstance(reply, dict) and isinstance(reply.get("error"), str):
            said = " ".join(reply["error"].split())[:200]
            raise Again(f"the answer has {what} {where}: {said}") from None
        raise RobustError(f"the answer has {what} {where}, but {keys(reply)}") from None
    return found


def keys(reply: Any) -> str:
    """What there is instead."""
    if isinstance(reply, dict):
        return ", ".join(sorted(map(str, reply)))[:200] or "nothing"
    return f"{len(reply)} elements" if isinstance(reply, list) else shown(reply)
