"""A recipe of training as a subject: every trial is a training run of its own."""

import dataclasses
import shlex
import shutil
import types
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from robust.core.errors import RobustError
from robust.core.files import write_whole
from robust.registry import shown
from robust.training import (
    EpochDone,
    Progress,
    TrainDone,
    TrainSpec,
    TrainStarted,
    parse_adv,
    train,
)
from robust.training.data import open_all
from robust.training.engine import fingerprints

from .subject import Look, changed, names_of, parse_record, shortest, suggest, type_of, with_params

# What decides how trials are compared, or where they run: it is the same for all of them.
FIXED = ("val_fraction", "val_limit", "seed", "device", "init")
_MEASURED = ("eps", "norm", "range", "data", "validation", "val_attack", "threat")


class Recipe:
    """A training, whose parameters are the fields of its TrainSpec ("lr"), those of what it trains
    against ("adv.steps") and of its defenses ("jpeg.quality"); "adv" itself is one, too."""

    kind = "training"

    def __init__(self, spec: TrainSpec) -> None:
        """Opens the data, so that they are known to be there and to stay the same."""
        spec.check()
        if spec.multi_label:
            raise RobustError("--multi-label is for robust train: tuning judges by classes only")
        self.spec = dataclasses.replace(spec, fingerprints=fingerprints(spec, open_all(spec)))

    @property
    def usual(self) -> list[str]:
        """The learning rate, weight decay, the margin of eps, and what numbers the attack has."""
        against = [f"adv.{key}" for key in self.spec.adv["params"]]
        fields = ["lr", "weight_decay", *(["eps_scale"] if self._attacks else [])]
        owned = [f"{one['name']}.{key}" for one in self.spec.defenses for key in one["params"]]
        numbers = [n for n in (*against, *owned) if not isinstance(self.value(n), bool)]
        return [*fields, *numbers]

    @property
    def _attacks(self) -> bool:
        return self.spec.defense().attacks

    def record(self) -> dict[str, Any]:
        return {"train": self.spec.to_dict()}

    def identity(self) -> dict[str, Any]:
        return {"train": self.spec.identity()}

    def canonical(self, name: str) -> str:
        if name.startswith("adv."):
            parameter = name.removeprefix("adv.").replace("-", "_")
            known = self.spec.adv["params"]
            if parameter not in known:
                against = self.spec.adv["name"]
                raise RobustError(
                    f"--search {name}: {against} has no parameter {parameter!r}"
                    f"{suggest(parameter, known)}"
                )
            return f"adv.{parameter}"
        if "." in name:
            return ".".join(names_of(self.spec.defenses, name))
        field = name.replace("-", "_")
        if field in FIXED or field in _MEASURED:
            raise RobustError(
                f"--search {name}: trials are compared, so that {name} is the same for all of them"
            )
        if field != "adv" and field not in _searchable():
            names = ["adv", *_searchable(), *(f"adv.{key}" for key in self.spec.adv["params"])]
            raise RobustError(f"--search {name}: no such parameter{suggest(field, names)}")
        return field

    def value(self, name: str) -> Any:
        if name == "adv":
            return with_params(self.spec.adv, {})
        owner, _, parameter = name.rpartition(".")
        if not owner:
            return getattr(self.spec, name)
        if owner == "adv":
            return self.spec.adv["params"].get(parameter)
        return next(
            one["params"].get(parameter) for one in self.spec.defenses if one["name"] == owner
        )

    def type_of(self, name: str) -> type:
        if name == "adv":
            return str
        return type_of(self.value(name)) if "." in name else _searchable()[name]

    def check(self, values: Mapping[str, Any]) -> None:
        self.changed(values).check()

    def changed(self, values: Mapping[str, Any]) -> TrainSpec:
        """The spec with these values. RobustError for what cannot be made."""
        adv = self.spec.adv
        if "adv" in values:
            adv = parse_adv(values["adv"])
        own = {k.removeprefix("adv."): v for k, v in values.items() if k.startswith("adv.")}
        if own:
            adv = parse_adv(with_params(adv, own))
        fields = {k: v for k, v in values.items() if "." not in k and k != "adv"}
        return dataclasses.replace(
            self.spec, adv=adv, defenses=changed(self.spec.defenses, values), **fields
        )

    def options(self, values: Mapping[str, Any]) -> str:
        spec = self.changed(values)
        words: list[str] = []
        for name, value in values.items():
            flag = name.replace("_", "-")
            if "." in name or name == "adv":
                continue
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", shown(value)]
        if any(name.partition(".")[0] == "adv" for name in values):
            words += ["--adv", shortest(spec.adv, parse_adv)]
        if any(name.rpartition(".")[0] not in ("adv", "") for name in values):
            for one in spec.defenses:
                words += ["--defense", shortest(one, parse_record)]
        return shlex.join(words)

    def run(self, values: Mapping[str, Any], folder: Path) -> Generator[Look, None, None]:
        spec, seconds = self.changed(values), 0.0
        events = train(spec, folder=folder, resume=True)
        try:
            for event in events:
                match event:
                    case TrainStarted():
                        yield Look(0.0)
                        for row in event.rows:
                            seconds += row["seconds"]
                            yield _look(row, spec, seconds)
                    case Progress():
                        yield Look((event.epoch - 1 + event.step / event.steps) / spec.epochs)
                    case EpochDone():
                        seconds += event.row["seconds"]
                        yield _look(event.row, spec, seconds)
                    case TrainDone():
                        look = _look(event.row, spec, seconds)
                        notes = {"epoch": event.row["epoch"], "epochs": event.epochs}
                        yield dataclasses.replace(look, part=1.0, final=True, notes=notes)
        finally:
            events.close()  # type: ignore[attr-defined]  # a generator: it leaves a whole folder

    def write(self, values: Mapping[str, Any], folder: Path, out: Path) -> None:
        write_whole(out, lambda path: shutil.copyfile(folder / "best.pt", path))


def _look(row: Mapping[str, Any], spec: TrainSpec, seconds: float) -> Look:
    part = row["epoch"] / spec.epochs
    return Look(part, row["val_accuracy"], row["val_robust_accuracy"], seconds)


def _searchable() -> dict[str, type]:
    """The fields of a TrainSpec that are numbers, words or switches, and their types."""
    found = {}
    for name, hint in get_type_hints(TrainSpec).items():
        kinds = [hint]
        if get_origin(hint) in (Union, types.UnionType):
            kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        if len(kinds) == 1 and kinds[0] in (bool, int, float, str) and name not in FIXED:
            found[name] = kinds[0]
    return found
