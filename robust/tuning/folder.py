"""The folder of a tuning run.

    RUN/run.json        what was asked (TuneSpec), status, argv, versions
    RUN/study.log       every trial: its values, what it came to (Optuna's journal)
    RUN/trials/00012/   what a trial made; of a training its run folder
    RUN/best.pt         the model of the best trial

Of a training that has ended its history and best.pt are kept, of one that was given up or failed
its history: states to go on from would fill the disk.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robust.core.errors import RobustError
from robust.core.files import write_text
from robust.store import RunFolder, new_record

from .spec import TuneSpec
from .study import Row, Study


class TuneFolder:
    """A tuning run on disk. Nothing is created before `save`."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path, self.record = path, record

    @classmethod
    def open(cls, path: Path, spec: TuneSpec, argv: Sequence[str], *, resume: bool) -> "TuneFolder":
        """A new run in `path`, or with `resume` the one that is there, if it asks the same.

        Raises RobustError if `path` holds something and `resume` is off, or a run that differs.
        """
        if not (path / "run.json").exists():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RobustError(f"{path} exists and is no run folder; choose another one")
            return cls(path, new_record("tune", spec.to_dict(), spec.hash, argv))
        there = RunFolder.open(path).record
        if there.get("kind") != "tune":
            raise RobustError(f"{path} is a {there.get('kind')} run, no tuning; choose another one")
        if not resume:
            raise RobustError(f"{path} holds a run already; add --resume or choose another folder")
        if there["spec_hash"] != spec.hash:
            raise RobustError(
                f"{path} cannot be resumed: {', '.join(_changed(there['spec'], spec))} differ from "
                "what it was started with; give the same options, or another folder"
            )
        return cls(path, there)

    @property
    def study(self) -> Path:
        return self.path / "study.log"

    def trial(self, number: int) -> Path:
        return self.path / "trials" / f"{number:05d}"

    def save(self, **changes: Any) -> None:
        """Change entries of run.json and write it, creating the folder if need be."""
        self.record.update(changes)
        try:
            (self.path / "trials").mkdir(parents=True, exist_ok=True)
            write_text(self.path / "run.json", json.dumps(self.record, indent=1) + "\n")
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error.strerror or error}") from error

    def sweep(self, rows: Sequence[Row]) -> None:
        """Take from the disk what trials that have ended need no more."""
        for row in rows:
            kept = {"best.pt"} if row.state == "complete" else set()
            if row.state != "running":
                for file in self.trial(row.number).glob("*.pt"):
                    if file.name not in kept:
                        file.unlink()


def read_run(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """The record and the trials of a stored run. RobustError where there is none."""
    record = RunFolder.open(path).record
    known = {key: record["spec"][key] for key in TuneSpec.__dataclass_fields__ if key != "same"}
    spec = TuneSpec(**known, same={})
    return record, Study.read(path / "study.log", spec, record["baseline"]).rows()


def _changed(old: dict[str, Any], spec: TuneSpec) -> list[str]:
    """Names of what differs."""
    new = json.loads(json.dumps(spec.to_dict()))
    names = [
        key for key in ("kind", "search", "objective", "prune", "seed") if old[key] != new[key]
    ]
    if old["subject"] != new["subject"]:
        before, after = (_flat(one["subject"]) for one in (old, new))
        names += [key for key in after if before.get(key) != after[key]]
    return names or ["the options"]


def _flat(subject: dict[str, Any]) -> dict[str, Any]:
    return {**subject, **subject.get("train", {}), "train": None}
