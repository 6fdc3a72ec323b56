"""The folder of a certification.

RUN/run.json        what was asked (CertifySpec), status, argv, versions
RUN/rows.jsonl      one line a sample: its votes and what they prove
RUN/report.json, RUN/report.html    derived from those
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robust.core.errors import RobustError
from robust.core.files import write_text
from robust.store import RunFolder

from .engine import Row
from .spec import CertifySpec

KIND = "certify"


class CertifyFolder:
    """A certification on disk. Nothing is created before the first row is appended."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @classmethod
    def start(
        cls, path: Path, spec: CertifySpec, argv: Sequence[str], *, resume: bool
    ) -> "CertifyFolder":
        """A new run in `path`, or with `resume` the one that is there, if it asks the same.

        Of the latter only whole rows are kept; those of other samples are measured again.
        """
        there = cls(RunFolder.start(path, spec, argv, resume=resume, kind=KIND))
        if there._file.exists():
            rows = [_line(row) for row in there.read()]
            write_text(there._file, "".join(rows))
            there.damage.clear()
        return there

    @classmethod
    def open(cls, path: Path) -> "CertifyFolder":
        """The certification in `path`; RobustError if there is none."""
        run = RunFolder.open(path)
        if run.record.get("kind") != KIND:
            raise RobustError(f"{path} is a {run.record.get('kind')} run, no certification")
        return cls(run)

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def record(self) -> dict[str, Any]:
        return self.run.record

    @property
    def _file(self) -> Path:
        return self.path / "rows.jsonl"

    def begun(self) -> bool:
        """Whether there is anything in it to go on with."""
        return self.run.begun()

    def save(self, **changes: Any) -> None:
        """Change entries of run.json and write it, creating the folder if need be."""
        self.run.save(**changes)

    @property
    def damage(self) -> dict[str, str]:
        """What was found damaged when it was read: file → why."""
        return self.run.damage

    def read(self) -> list[Row]:
        """The rows that can be read; nothing is written, for the run may go on meanwhile.

        Lines that are none are told in `damage`, but for the last one where it has no end: that is
        being written, or its process was killed.
        """
        try:
            lines = self._file.read_text(encoding="utf-8", errors="replace").split("\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RobustError(f"{self._file} cannot be read: {error}") from error
        rows, broken = [], []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                rows.append(_row(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                broken.append(str(number))
        self.damage.pop(self._file.name, None)
        if broken:
            self.damage[self._file.name] = f"no sample can be read from line {', '.join(broken)}"
        return rows

    def append(self, row: Row) -> None:
        """Keep a row, whole and on the disk, before the next one is begun."""
        if not self.begun():
            self.save()
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(_line(row))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error.strerror or error}") from error


def _line(row: Row) -> str:
    return json.dumps(dataclasses.asdict(row)) + "\n"


def _row(line: str) -> Row:
    values = json.loads(line)
    for name in ("selection", "estimation"):  # JSON has no keys but texts
        values[name] = {int(key): int(count) for key, count in values[name].items()}
    return Row(**values)
