"""What can be tuned: something that has parameters by name, and can be tried with others."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from robust.core.errors import RobustError
from robust.models import describe_defense, parse_defense
from robust.registry import shown
from robust.registry import suggest as close_to

WORDS = {"true": True, "yes": True, "false": False, "no": False}
Record = Mapping[str, Any]  # {"name", "params"} of an attack or a defense


@dataclass(frozen=True)
class Look:
    """What a trial has come to after `part` (0 … 1) of it: accuracies on the validation samples.

    clean, robust   None: nothing is measured yet
    seconds         that it took
    final           these are the figures of the trial
    notes           what else there is to say of it, JSON-able
    """

    part: float
    clean: float | None = None
    robust: float | None = None
    seconds: float = 0.0
    final: bool = False
    notes: dict[str, Any] | None = None


class Subject(Protocol):
    """A recipe of training, or defenses around a model.

    kind    "training" or "defense"
    usual   names of the parameters that are searched where nobody says which
    """

    kind: str

    @property
    def usual(self) -> list[str]: ...

    def record(self) -> dict[str, Any]:
        """What it is, for run.json."""

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share: `record` without paths."""

    def canonical(self, name: str) -> str:
        """The one name of a parameter. RobustError for unknown ones, with a suggestion."""

    def value(self, name: str) -> Any:
        """What a parameter is without tuning."""

    def type_of(self, name: str) -> type:
        """bool, int, float or str."""

    def check(self, values: Mapping[str, Any]) -> None:
        """RobustError where it cannot be with these values."""

    def options(self, values: Mapping[str, Any]) -> str:
        """The options of the command line that mean these values."""

    def run(self, values: Mapping[str, Any], folder: Path) -> Generator[Look, None, None]:
        """Try it, in a folder of the trial's own; what the folder holds is gone on with."""

    def write(self, values: Mapping[str, Any], folder: Path, out: Path) -> None:
        """The model that a finished trial has made, as a checkpoint."""


def names_of(records: Sequence[Record], name: str) -> tuple[str, str]:
    """ "defense.jpeg.quality", "jpeg.quality" → (name of one of the records, parameter).

    Raises RobustError where no record has the name, or not the parameter.
    """
    owner, _, parameter = name.rpartition(".")
    owner, parameter = owner.removeprefix("defense."), parameter.replace("-", "_")
    for record in records:
        full = str(record["name"])
        if owner in (full, full.rpartition(":")[2]):
            if parameter not in record["params"] and not full.rpartition(":")[0].endswith(".py"):
                raise RobustError(
                    f"{full} has no parameter {parameter!r}{suggest(parameter, record['params'])}"
                )
            return full, parameter
    known = [str(record["name"]) for record in records]
    has = f"there is {', '.join(known)}" if known else "the run has no defense"
    raise RobustError(f"--search {name}: no defense {owner!r}{suggest(owner, known)}; {has}")


def suggest(name: str, known: Iterable[str]) -> str:
    """ "; did you mean …?", or what there is, or nothing."""
    known = list(known)
    return close_to(name, known) or (f"; there is {', '.join(known)}" if known else "")


def with_params(record: Record, changes: Mapping[str, Any]) -> str:
    """The text `NAME,key=value,…` of an attack or a defense with some parameters changed."""
    params = {**record["params"], **changes}
    return ",".join([str(record["name"]), *(f"{k}={shown(v)}" for k, v in params.items())])


def shortest(record: Record, parse: Callable[[str], Record]) -> str:
    """The text of a record, without the parameters that its name alone, parsed, has as well."""
    name, params = str(record["name"]), dict(record["params"])
    with contextlib.suppress(RobustError):  # some cannot be without a parameter
        usual = parse(name)["params"]
        params = {k: v for k, v in params.items() if k not in usual or usual[k] != v}
    return with_params({"name": name, "params": params}, {})


def changed(records: Sequence[Record], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Defenses with the values that are theirs: "jpeg.quality" is that of every jpeg."""
    made = []
    for one in records:
        own = {
            name.rpartition(".")[2]: value
            for name, value in values.items()
            if name.rpartition(".")[0] == one["name"]
        }
        made.append({"name": one["name"], "params": {**one["params"], **own}})
    return made


def parse_record(text: str) -> dict[str, Any]:
    """The record of the defense that a text names."""
    return describe_defense(*parse_defense(text))


def type_of(value: Any) -> type:
    """Of a parameter's value; what has none takes numbers."""
    return type(value) if isinstance(value, bool | int | float | str) else float
