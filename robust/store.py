"""The run folder: run.json, one HDF5 file a shard, written whole or not at all.

RUN/run.json            what was asked (RunSpec), status, argv, versions
RUN/shards/00000.h5     the rows of one shard and its adversarial examples
RUN/queries/00000.answers     what an oracle answered for a shard that is not complete yet
RUN/fitted/000.safetensors    what an attack crafted once for all samples, if any does
RUN/diagnosis/NAME.json       what a probe found, by which the verdict on the run is given
RUN/report.json, RUN/report.html    derived from those, by robust.reports
"""

import contextlib
import hashlib
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from .core.errors import RobustError
from .core.files import write_text, write_whole
from .core.oracle import Journal
from .core.outcome import SCHEMA_VERSION, Fit, RunSpec, Shard
from .journal import FileJournal
from .shards import DamagedError, read_fit, read_shard, write_fit, write_shard

T = TypeVar("T")


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


# Schema version → what makes a record of it one of the next version, without changing its figures.
# What only gained an entry with a default, as every version so far did, is still of version 1.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def read_record(path: Path) -> dict[str, Any]:
    """The contents of run.json in a run folder, brought up to this version's schema.

    Raises RobustError where there is none, or one that this version cannot read.
    """
    try:
        record = dict(json.loads((path / "run.json").read_text(encoding="utf-8")))
        version, _, spec = (record[key] for key in ("schema_version", "kind", "spec"))
        if type(version) is not int or not isinstance(spec, dict):
            raise TypeError("not what a run writes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RobustError(f"{path} is no run folder: no readable run.json in it") from error
    if version > SCHEMA_VERSION:
        raise RobustError(
            f"{path} was written by a newer version of robust (schema {version}; this one "
            f"reads up to {SCHEMA_VERSION}): update robust"
        )
    for number in range(version, SCHEMA_VERSION):
        if number not in MIGRATIONS:
            raise RobustError(
                f"{path} was written by an older version of robust (schema {version}), which this "
                "one can no longer read: make its report with that version"
            )
        record = {**MIGRATIONS[number](record), "schema_version": number + 1}
    return record


class Spec(Protocol):
    """What a run asks, as it is stored; runs of equal hashes come to the same."""

    @property
    def hash(self) -> str: ...
    def to_dict(self) -> dict[str, Any]: ...


class Store(Protocol):
    """Where the engine puts shards, and what attacks crafted before the first one.

    damage  what was found damaged when it was read: file → why. It counts as not there, so that a
            resumed run makes it again, and goes out of here once that is written
    """

    damage: dict[str, str]

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
        self.damage: dict[str, str] = {}
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
        self.damage: dict[str, str] = {}

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The run in `path`; RobustError if there is none that this version can read."""
        return cls(path, read_record(path))

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
        """The numbers of the shards that can be read, all of which are, so that the rest is made
        again.
        """
        return {shard.index for shard in self.shards()}

    def kept(self) -> int:
        """How many shards there are; whether they can be read is not looked at."""
        return len(self._numbers())

    def write(self, shard: Shard) -> None:
        file = self._file(shard.index)
        self._begin()
        self._keep(file, lambda path: write_shard(path, shard))

    def fits(self) -> dict[int, Fit]:
        """What attacks have crafted for the whole run, by their number."""
        files = sorted((self.path / "fitted").glob("[0-9]*.safetensors"))
        found = ((file, self._read(file, read_fit)) for file in files)
        return {int(file.stem): fit for file, fit in found if fit is not None}

    def write_fit(self, fit: Fit) -> None:
        self.save()
        file = self.path / "fitted" / f"{fit.number:03d}.safetensors"
        self._keep(file, lambda path: write_fit(path, fit))

    def diagnosis(self) -> dict[str, dict[str, Any]]:
        """What the probes have found, by their names."""
        files = sorted((self.path / "diagnosis").glob("*.json"))
        found = ((file, self._read(file, _read_facts)) for file in files)
        return {file.stem: facts for file, facts in found if facts is not None}

    def write_diagnosis(self, name: str, facts: dict[str, Any]) -> None:
        """Keep what the probe of that name has found: values of JSON types."""
        text = json.dumps({**facts, "sha256": _digest(facts)}, indent=1) + "\n"
        file = self.path / "diagnosis" / f"{name}.json"
        self._keep(file, lambda path: path.write_text(text, encoding="utf-8"))

    def _keep(self, file: Path, write: Callable[[Path], object]) -> None:
        """Write a file of the run whole."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, write)
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error}") from error
        self.damage.pop(self._name(file), None)

    def _read(self, file: Path, read: Callable[[Path], T]) -> T | None:
        """What a file of the run holds; None, and an entry in `damage`, where that is damaged."""
        try:
            return read(file)
        except DamagedError as error:
            self.damage[self._name(file)] = str(error)
            return None

    def _name(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

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

    def shards(self, *, pixels: bool = True) -> Iterator[Shard]:
        """The shards that are there, in order, one at a time; without `pixels` their small columns
        alone, see `read_shard`.
        """
        for index in range(max([*self._numbers(), self._last()], default=-1) + 1):
            shard = self._shard(index, pixels)
            if shard is not None:
                yield shard

    def read(self, index: int) -> Shard:
        """One shard; RobustError where it is damaged."""
        shard = self._shard(index, True)
        if shard is None:
            name = self._name(self._file(index))
            raise RobustError(
                f"{self._file(index)} is damaged ({self.damage[name]}); run again with --resume"
            )
        return shard

    def _last(self) -> int:
        """The number of the last shard that must be there, −1 where the run is not done."""
        if self.record.get("status") != "done":
            return -1
        spec = self.record["spec"]
        sizes = [size for size in (spec["data"].get("n"), spec.get("limit")) if size is not None]
        return -(-min(sizes) // spec["batch_size"]) - 1 if sizes else -1

    def _numbers(self) -> set[int]:
        return {int(file.stem) for file in (self.path / "shards").glob("[0-9]*.h5")}

    def _shard(self, index: int, pixels: bool) -> Shard | None:
        return self._read(self._file(index), lambda file: self._read_own(file, pixels))

    def _read_own(self, file: Path, pixels: bool) -> Shard:
        """A shard of this run, which another one's that was put in its place is not."""
        shard = read_shard(file, pixels=pixels)
        asked = {attack.get("label") or attack["name"] for attack in self.record["spec"]["attacks"]}
        if shard.index != int(file.stem) or not {rows.label for rows in shard.attacks} <= asked:
            raise DamagedError("it is not the shard of this run that should be there")
        return shard

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


def _read_facts(file: Path) -> dict[str, Any]:
    try:
        facts = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(f"it cannot be read: {error}") from error
    if facts.pop("sha256", None) != _digest(facts):
        raise DamagedError("it was changed: its checksum differs")
    return facts


def _digest(facts: dict[str, Any]) -> str:
    """Of facts as JSON gives them back."""
    text = json.dumps(json.loads(json.dumps(facts)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def argv() -> list[str]:
    """The command that is running, as a user would type it again."""
    return ["robust", *sys.argv[1:]]
