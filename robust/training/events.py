"""What happens in a training run, as its engine tells it."""

from dataclasses import dataclass
from pathlib import Path

from .folder import Row
from .spec import TrainSpec


@dataclass(frozen=True)
class TrainStarted:
    """The run in `folder` begins, or goes on after the epochs whose `rows` are there.

    samples, validation     how many are trained on, and how many measured on
    fresh                   parameters that `init` could not give (another number of classes)
    """

    folder: Path
    spec: TrainSpec
    samples: int
    validation: int
    parameters: int
    flops: int
    rows: tuple[Row, ...] = ()
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """`step` of the `steps` of an epoch are done."""

    epoch: int
    step: int
    steps: int


@dataclass(frozen=True)
class EpochDone:
    """An epoch is measured and stored; `best`: it is the best so far."""

    row: Row
    best: bool


@dataclass(frozen=True)
class Alarm:
    """Something is wrong with the training, in one line; it goes on."""

    epoch: int
    text: str


@dataclass(frozen=True)
class TrainDone:
    """The run is finished. `row` is that of the best epoch, whose weights best.pt and out hold."""

    folder: Path
    out: Path | None
    row: Row
    epochs: int
    stopped_early: bool
    seconds: float


Event = TrainStarted | Progress | EpochDone | Alarm | TrainDone
