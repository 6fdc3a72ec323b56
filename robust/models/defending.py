"""Defenses around a model: by name, from a file of the user's, and those that nobody explained."""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from robust.core.defended import GUESSED_DRAWS, Defended, answer_of, compose
from robust.core.defense import Defense, Frame
from robust.core.errors import RobustError
from robust.core.goal import as_logits
from robust.registry import build, defense_label, find, name_of, parse_pairs

from .building import import_function, user_code

_LOOKS = 4  # answers to one question that are compared, to find out whether they are random
_NOISE = 1e-4  # what the same answers may differ by for reasons of floating point alone


def is_file_defense(name: str) -> bool:
    """Whether a name is that of a defense in a file: "path/to/file.py:Name"."""
    return name.rpartition(":")[0].endswith(".py")


def parse_defense(text: str) -> tuple[str, Defense]:
    """`name,key=value,…` → its name and the defense; "file.py:Name" runs that file.

    Raises RobustError for unknown names and parameters, with a suggestion, and for bad values.
    """
    name, *pairs = [part.strip() for part in text.split(",")]
    values = parse_pairs(name, pairs)
    if is_file_defense(name):
        return name, _from_file(name, {key: _literal(value) for key, value in values.items()})
    found: Defense = build(find("defenses", name), name, values)
    return name, _explained(found)


def make_defense(record: Mapping[str, Any], named: Sequence[tuple[str, Defense]] = ()) -> Defense:
    """{"name", "params"} → the defense, as a checkpoint names it. RobustError where it cannot be.

    named   what the user named: only he may have the code of a file run, and the parameters are
            those of the record
    """
    name = str(record["name"])
    theirs = [defense for other, defense in named if other == name]
    if is_file_defense(name) and theirs:
        if not any(defense.params in ({}, record["params"]) for defense in theirs):
            raise RobustError(
                f"made with {defense_label(record)}, not with the parameters that --with gives: "
                f"pass --with {name}, and those of the checkpoint hold"
            )
        return _from_file(name, dict(record["params"]))
    if is_file_defense(name):
        raise RobustError(
            f"made with the defense {name}, which is not inside the file: pass --with {name} "
            "(this runs that file)"
        )
    pairs = {
        k: str(v).lower() if isinstance(v, bool) else str(v) for k, v in record["params"].items()
    }
    found: Defense = build(find("defenses", name), name, pairs)
    return _explained(found)


def describe_defense(name: str, defense: Defense) -> dict[str, Any]:
    """{"name", "params"}, from which `make_defense` makes it again."""
    return {"name": name, "params": defense.params}


def defend(
    model: nn.Module,
    defenses: str | Sequence[str | Defense],
    *,
    shape: Sequence[int],
    num_classes: int,
    low: float = 0.0,
    high: float = 1.0,
) -> Defended:
    """The model with defenses around it, in the order in which a sample meets them.

    model     pixels in [low, high] to logits
    defenses  as on the command line ("jpeg,quality=75", "blur.py:Blur"), or instances
    shape     of one sample, without the batch dimension

    Raises RobustError for unknown names, an order that makes no sense, and where a defense cannot
    handle such samples or such a model. One that does not say how to attack it is attacked with
    guesses: its gradient is that of the identity, and a look tells whether it is random.
    """
    given = [defenses] if isinstance(defenses, str) else defenses
    named = [parse_defense(one) if isinstance(one, str) else (name_of(one), one) for one in given]
    frame = Frame(tuple(shape), num_classes, low, high)
    return around(model, named, frame)


def around(model: nn.Module, named: Sequence[tuple[str, Defense]], frame: Frame) -> Defended:
    """The same for parsed defenses and a frame."""
    names, defenses = [name for name, _ in named], [defense for _, defense in named]
    guessed = any(isinstance(one, _Foreign | _Unexplained) and one.guessed for one in defenses)
    defended = compose(model, defenses, names, frame, guessed=guessed)
    if guessed and defended.draws == 1 and answers_differ(defended, frame):
        defended.draws = GUESSED_DRAWS
    return defended


def answers_differ(model: nn.Module, frame: Frame, samples: Tensor | None = None) -> bool:
    """Whether a model that is asked the same a few times gives different answers.

    samples   of the data (n, …), asked about too, and about what lies halfway between them
    """
    like = next((p for p in model.parameters()), torch.empty(0))
    rows = torch.linspace(0, 1, 8, device=like.device).view(-1, *[1] * len(frame.shape))
    pattern = torch.linspace(0, 1, int(torch.tensor(frame.shape).prod()), device=like.device)
    x = frame.own((rows + pattern.view(1, *frame.shape)) % 1)
    if samples is not None:
        samples = samples.to(x)
        x = torch.cat([x, samples, (samples + samples.flip(0)) / 2])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, *others = [as_logits(model(x), len(x)) for _ in range(_LOOKS)]
    return not all(torch.allclose(one, first, _NOISE, _NOISE, equal_nan=True) for one in others)


def _literal(text: str) -> Any:
    """A parameter for somebody's own code: a Python number, true or false, else the text."""
    words = {"true": True, "false": False, "none": None}
    try:
        return words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _from_file(name: str, values: dict[str, Any]) -> Defense:
    file, _, what = name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise RobustError(f"no file {file} (of the defense {name})")
    thing: Any = import_function(path, what)
    if inspect.isclass(thing):
        with user_code(f"{name} cannot be made of {values or 'no parameters'}"):
            thing = thing(**values)
        if isinstance(thing, Defense):
            return _explained(thing)
        if not (hasattr(thing, "wrap") or callable(thing)):
            raise RobustError(f"{name} has no wrap(model), and no call that changes samples")
    elif values:
        raise RobustError(f"{name} is a function, which takes no parameters")
    return _Foreign(thing=thing, given=values)


def _explained(defense: Defense) -> Defense:
    """The same, or one that is attacked with guesses: somebody's, which has a wrap of its own and
    leaves `expose` to the base, says nothing of how to attack it.
    """
    kind = type(defense)
    ours = kind.__module__.startswith("robust.")
    if ours or kind.wrap is Defense.wrap or kind.expose is not Defense.expose:
        return defense
    return _Unexplained(inner=defense)


@dataclass(frozen=True, kw_only=True)
class _Unexplained(Defense):
    """A defense of somebody's that leaves open how to attack it."""

    guessed: ClassVar[bool] = True
    inner: Defense

    @property
    def place(self) -> str:  # type: ignore[override]  # an instance's, after its defense
        return self.inner.place or "input"

    @property
    def params(self) -> dict[str, Any]:
        return self.inner.params

    @property
    def draws(self) -> int:
        return self.inner.draws

    def check(self, frame: Frame) -> None:
        self.inner.check(frame)

    def frame_behind(self, frame: Frame) -> Frame:
        return self.inner.frame_behind(frame)

    def parts(self, model: nn.Module, frame: Frame) -> nn.Module | None:
        return self.inner.parts(model, frame)

    def wrap(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        return self.inner.wrap(model, frame, parts)

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        bridge = _Bridge(model)
        return _Guessed(self.inner.wrap(bridge, frame, parts), bridge)


@dataclass(frozen=True, kw_only=True)
class _Foreign(Defense):
    """Somebody's own: an object with `wrap(model)`, and `expose(model)` and `draws` if he says how
    to attack it; or a function of samples.
    """

    place: ClassVar[str] = "input"
    thing: Any
    given: dict[str, Any]

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.given)

    @property
    def guessed(self) -> bool:
        return not hasattr(self.thing, "expose")

    @property
    def draws(self) -> int:
        return int(getattr(self.thing, "draws", 1))

    def wrap(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        if not hasattr(self.thing, "wrap"):
            return _Changing(model, self.thing)
        with user_code("its wrap failed"):
            made = self.thing.wrap(model)
        if not isinstance(made, nn.Module):
            raise RobustError(f"wrap returned {type(made).__name__}, not a torch.nn.Module")
        return made

    def expose(self, model: nn.Module, frame: Frame, parts: nn.Module | None = None) -> nn.Module:
        if self.guessed:
            bridge = _Bridge(model)
            return _Guessed(self.wrap(bridge, frame), bridge)
        with user_code("its expose failed"):
            made = self.thing.expose(model)
        if not isinstance(made, nn.Module):
            raise RobustError(f"expose returned {type(made).__name__}, not a torch.nn.Module")
        return made


class _Changing(nn.Module):
    """model(change(x))."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Any:
        return self.model(self.change(x))


class _Bridge(nn.Module):
    """The model behind a defense that nobody explained: where what comes in has the shape of what
    went into the defense, the gradient passes as if that were the identity (BPDA, 1802.00420).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.x: Tensor | None = None

    def forward(self, u: Tensor) -> Any:
        x = self.x
        if x is not None and x.shape == u.shape:
            u = x + (u - x).detach()
        return self.model(u)


class _Guessed(nn.Module):
    def __init__(self, wrapped: nn.Module, bridge: _Bridge) -> None:
        super().__init__()
        self.wrapped, self.bridge = wrapped, bridge

    def forward(self, x: Tensor) -> Any:
        self.bridge.x = x if x.requires_grad else None
        try:
            return answer_of(self.wrapped, x)
        finally:
            self.bridge.x = None
