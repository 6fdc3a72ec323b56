"""What happens in a tuning run, as its engine tells it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .spec import TuneSpec
from .study import Row


@dataclass(frozen=True)
class TuneStarted:
    """The run in `folder` begins, or goes on after the trials whose `rows` have ended."""

    folder: Path
    spec: TuneSpec
    trials: int
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class TrialStarted:
    """A trial of these values begins, or goes on. Number 1 is the baseline, without tuning."""

    number: int
    values: dict[str, Any]


@dataclass(frozen=True)
class TrialProgress:
    """`part` (0 … 1) of a trial is done; what is measured of it so far."""

    number: int
    part: float
    clean: float | None = None
    robust: float | None = None


@dataclass(frozen=True)
class TrialDone:
    """A trial has ended: it is complete, was given up or failed. `best`: it is the best so far."""

    row: Row
    best: bool


@dataclass(frozen=True)
class TuneDone:
    """All trials are made. `row` is the best one, whose model best.pt and out hold.

    options     of the command line, that mean its values
    exhausted   there are no other values left to try
    """

    folder: Path
    out: Path | None
    row: Row
    rows: tuple[Row, ...]
    options: str
    exhausted: bool


Event = TuneStarted | TrialStarted | TrialProgress | TrialDone | TuneDone
