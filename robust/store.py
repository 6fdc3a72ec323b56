"""The run folder: run.json, one HDF5 file a shard, written whole or not at all.

RUN/run.json            what was asked (RunSpec), status, argv, versions
RUN/shards/00000.h5     the rows of one shard and its adversarial examples
RUN/queries/00000.answers     what an oracle answered for a shard that is not complete yet
RUN/fitted/000.safetensors    what an attack crafted once for all samples, if any does
RUN/diagnosis/NAME.json       what a probe found, by which the verdict on the run is given
RUN/report.json, RUN/report.html    derived from those, by robust.reports
"""

import contextlib
import dataclasses
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from .core.errors import RobustError
from .core.files import write_text, write_whole
from .core.oracle import Journal
from .core.outcome import SCHEMA_VERSION, AttackRows, Fit, RunSpec, Shard
from .journal import FileJournal


def versions() -> dict[str, str]:
    """What could change a figure: versions of the packages, platform, threads and GPU."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    packages = "robust torch numpy scipy scikit-learn datasets pyarrow pillow h5py safetensors"
    for package in [*packages.split(), "onnxruntime", "httpx"]:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    for package in ("foolbox", "adversarial-robustness-toolbox"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    found["threads"] = str(torch.get_num_threads())
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["cuda"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    return found


def new_record(kind: str, spec: dict[str, Any], digest: str, argv: Sequence[str]) -> dict[str, Any]:
    """The contents of run.json at the start of a run of `kind` "attack", "train", …"""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": list(argv),
        "spec_hash": digest,
        "spec": spec,
        "versions": versions(),
    }


class Spec(Protocol):
    """What a run asks, as it is stored; runs of equal hashes come to the same."""

    @property
    def hash(self) -> str: ...
    def to_dict(self) -> dict[str, Any]: ...


class Store(Protocol):
    """Where the engine puts shards, and what attacks crafted before the first one."""

    def done(self) -> set[int]: ...
    def write(self, shard: Shard) -> None: ...
    def fits(self) -> dict[int, Fit]: ...
    def write_fit(self, fit: Fit) -> None: ...
    def journal(self, name: str) -> Journal | None: ...
    def forget(self, name: str) -> None: ...
    def shards(self) -> Iterator[Shard]: ...
    def diagnosis(self) -> dict[str, dict[str, Any]]: ...
    def write_diagnosis(self, name: str, facts: dict[str, Any]) -> None: ...


class MemoryStore:
    """Shards kept in memory, for the Python API without a run folder."""

    def __init__(self) -> None:
        self._shards: dict[int, Shard] = {}
        self._fits: dict[int, Fit] = {}
        self._diagnosis: dict[str, dict[str, Any]] = {}

    def done(self) -> set[int]:
        return set(self._shards)

    def write(self, shard: Shard) -> None:
        self._shards[shard.index] = shard

    def shards(self) -> Iterator[Shard]:
        """The shards that are there, in order."""
        return (self._shards[index] for index in sorted(self._shards))

    def read(self, index: int) -> Shard:
        return self._shards[index]

    def diagnosis(self) -> dict[str, dict[str, Any]]:
        return self._diagnosis

    def write_diagnosis(self, name: str, facts: dict[str, Any]) -> None:
        self._diagnosis[name] = facts

    def fits(self) -> dict[int, Fit]:
        return self._fits

    def write_fit(self, fit: Fit) -> None:
        self._fits[fit.number] = fit

    def journal(self, name: str) -> None:
        return None

    def forget(self, name: str) -> None: ...


class RunFolder:
    """A run on disk. Nothing is created before the first shard is written."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path, self.record = path, record

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run in `path`; RobustError if there is none that this version can read."""
        try:
            record = json.loads((path / "run.json").read_text(encoding="utf-8"))
            written = record["schema_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RobustError(f"{path} is no run folder: no readable run.json in it") from error
        if written > SCHEMA_VERSION:
            raise RobustError(
                f"{path} was written by a newer version of robust (schema {written}; this one "
                f"reads up to {SCHEMA_VERSION}): update robust"
            )
        return cls(path, record)

    @classmethod
    def start(
        cls, path: Path, spec: Spec, argv: Sequence[str], *, resume: bool, kind: str = "attack"
    ) -> "RunFolder":
        """A new run in `path`, or with `resume` the one that is there, if it asks the same.

        Raises RobustError if `path` holds a run and `resume` is off, or a run that differs.
        """
        if not (path / "run.json").exists():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RobustError(f"{path} exists and is no run folder; choose another --out")
            return cls(path, new_record(kind, spec.to_dict(), spec.hash, argv))
        there = cls.open(path)
        if not resume:
            raise RobustError(f"{path} holds a run already; add --resume or choose another --out")
        if there.record.get("kind") != kind:
            raise RobustError(f"{path} is a run of robust {there.record.get('kind')}, not {kind}")
        if there.record["spec_hash"] != spec.hash:
            changed = ", ".join(_differences(there.record["spec"], spec.to_dict()))
            raise RobustError(
                f"{path} cannot be resumed: {changed} differ from what it was started with; "
                "give the same options, or another --out"
            )
        return there

    @property
    def spec(self) -> RunSpec:
        return RunSpec.from_dict(self.record["spec"])

    def save(self, **changes: Any) -> None:
        """Change entries of run.json and write it, creating the folder if need be."""
        self.record.update(changes)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / "run.json", json.dumps(self.record, indent=1) + "\n")
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error.strerror}") from error

    def done(self) -> set[int]:
        return {int(path.stem) for path in (self.path / "shards").glob("[0-9]*.h5")}

    def write(self, shard: Shard) -> None:
        self._begin()
        try:
            (self.path / "shards").mkdir(exist_ok=True)
            write_whole(self._file(shard.index), lambda path: _write(path, shard))
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error}") from error

    def fits(self) -> dict[int, Fit]:
        """What attacks have crafted for the whole run, by their number."""
        files = sorted((self.path / "fitted").glob("[0-9]*.safetensors"))
        return {int(file.stem): _read_fit(file) for file in files}

    def write_fit(self, fit: Fit) -> None:
        self.save()
        file = self.path / "fitted" / f"{fit.number:03d}.safetensors"
        try:
            file.parent.mkdir(exist_ok=True)
            write_whole(file, lambda path: _write_fit(path, fit))
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error}") from error

    def diagnosis(self) -> dict[str, dict[str, Any]]:
        """What the probes have found, by their names."""
        found = {}
        for file in sorted((self.path / "diagnosis").glob("*.json")):
            try:
                found[file.stem] = dict(json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise RobustError(
                    f"{file} is damaged ({error}); delete it and run again with --resume"
                ) from error
        return found

    def write_diagnosis(self, name: str, facts: dict[str, Any]) -> None:
        """Keep what the probe of that name has found: values of JSON types."""
        file = self.path / "diagnosis" / f"{name}.json"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(facts, indent=1) + "\n")
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error}") from error

    def journal(self, name: str) -> FileJournal:
        """Where the answers of an oracle are kept until the shard, or the run, is complete."""
        return FileJournal(self.path / "queries" / f"{name}.answers", self._begin)

    def forget(self, name: str) -> None:
        """Delete the journal of that name, whose answers have become rows."""
        (self.path / "queries" / f"{name}.answers").unlink(missing_ok=True)

    def begun(self) -> bool:
        """Whether there is anything in it to go on with."""
        return (self.path / "run.json").exists()

    def _begin(self) -> None:
        if not self.begun():
            self.save()

    def shards(self) -> Iterator[Shard]:
        """The shards that are there, in order, one at a time."""
        for index in sorted(self.done()):
            yield self.read(index)

    def read(self, index: int) -> Shard:
        try:
            return _read(self._file(index))
        except (OSError, KeyError, ValueError) as error:
            raise RobustError(
                f"{self._file(index)} is damaged ({error}); delete it and run again with --resume"
            ) from error

    def _file(self, index: int) -> Path:
        return self.path / "shards" / f"{index:05d}.h5"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [key for key in new if old.get(key) != new[key]] or ["the options"]


def choose_folder(root: Path, kind: str, name: str) -> Path:
    """A folder of its own for a new run: root/<kind>-<name>-<number>."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".-") or "model"
    number = 1
    while (root / f"{kind}-{safe}-{number}").exists():
        number += 1
    return root / f"{kind}-{safe}-{number}"


def find_unfinished(root: Path, wanted: Callable[[dict[str, Any]], bool]) -> Path | None:
    """The newest run below `root` that has not come to its end and whose record is wanted."""
    candidates = []
    for file in root.glob("*/run.json"):
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            fits = record["status"] != "done" and wanted(record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if fits:
            candidates.append((file.stat().st_mtime, file.parent))
    return max(candidates)[1] if candidates else None


def _write(path: Path, shard: Shard) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        _put(file, shard)
        for number, rows in enumerate(shard.attacks):
            _put(file.create_group(f"attacks/{number:03d}"), rows)


def _put(group: Any, record: Shard | AttackRows) -> None:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
            options = {**packed, "fletcher32": True} if value.size else {}
            group.create_dataset(field.name, data=value, **options)
        elif field.name != "attacks":
            group.attrs[field.name] = value


def _read(path: Path) -> Shard:
    import h5py

    with h5py.File(path, "r") as file:
        parts = [file["attacks"][key] for key in sorted(file.get("attacks", ()))]
        attacks = [AttackRows(**_get(group, AttackRows)) for group in parts]
        return Shard(**_get(file, Shard), attacks=attacks)


def _write_fit(path: Path, fit: Fit) -> None:
    from safetensors.numpy import save_file

    facts = {k: v for k, v in vars(fit).items() if k != "tensor"}
    save_file({"tensor": np.ascontiguousarray(fit.tensor)}, path, {"facts": json.dumps(facts)})


def _read_fit(path: Path) -> Fit:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return Fit(tensor=file.get_tensor("tensor"), **json.loads(file.metadata()["facts"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RobustError(
            f"{path} is damaged ({error}); delete it and run again with --resume"
        ) from error


# What shards of an earlier version lack, and so takes its default.
_SINCE = {
    *("stages", "entered", "remarks", "remarked", "fooled"),
    *("trace_rows", "trace_queries", "trace_distance", "asked", "repeated", "not_finite"),
    *("right", "trial"),
}


def _get(group: Any, cls: type) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name in group.attrs:
            value = group.attrs[field.name]
            values[field.name] = value.item() if isinstance(value, np.generic) else value
        elif field.name != "attacks" and (field.name in group or field.name not in _SINCE):
            values[field.name] = group[field.name][()]
    return values


def argv() -> list[str]:
    """The command that is running, as a user would type it again."""
    return ["robust", *sys.argv[1:]]
