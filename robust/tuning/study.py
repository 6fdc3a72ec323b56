"""What has been tried, what to try next, and what to give up: Optuna's study in a file.

The file is Optuna's journal, one line a change, so that a kill loses nothing but a torn last line.
What is tried next follows from the seed, the number of the trial and the trials before it, and from
no generator that a session would have to keep: a run that goes on after a kill tries the same.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from robust.core.errors import RobustError
from robust.core.rng import derive

from .space import Axis
from .spec import TuneSpec

_NAME = "tune"
TENTHS = 10  # of a trial: the points at which trials are compared
_WARM_UP = 3  # tenths before which nothing is given up: learning rates still rise there
_FIRST = 4  # trials that have to end before one is given up
_STARTUP = 8  # trials at random, before what is tried follows from what they showed
_AGAIN = 50  # draws, to find values that were not tried yet
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


@dataclass(frozen=True)
class Row:
    """One trial, as reports tell it.

    number          from 1, the baseline
    values          of the searched parameters; those of the baseline are its own
    state           "complete", "pruned", "failed" or "running"
    clean, robust   accuracies on the validation samples: the last measured, where it was given up
    value           what the objective makes of them; None unless complete
    error           why it failed
    """

    number: int
    values: dict[str, Any]
    state: str
    clean: float | None = None
    robust: float | None = None
    value: float | None = None
    seconds: float = 0.0
    error: str | None = None
    notes: dict[str, Any] | None = None

    @property
    def baseline(self) -> bool:
        """Whether it is the subject as it came, without tuning."""
        return self.number == 1


class Study:
    """The trials of a run."""

    def __init__(
        self, study: optuna.Study, axes: list[Axis], baseline: dict[str, Any], spec: TuneSpec
    ) -> None:
        self.study, self.axes, self.baseline, self.spec = study, axes, baseline, spec

    @classmethod
    def open(cls, file: Path, spec: TuneSpec, baseline: dict[str, Any]) -> "Study":
        """The study in `file`, to go on with, or a new one. `baseline`: values without tuning."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            _mend(file)
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(file))),
                study_name=_NAME,
                direction="maximize",
                sampler=optuna.samplers.RandomSampler(),  # asked nothing: see `_choose`
                pruner=_pruner(),
                load_if_exists=True,
            )
        except OSError as error:
            raise RobustError(f"cannot write to {file}: {error.strerror or error}") from error
        except Exception as error:
            raise RobustError(f"{file} is damaged; start again in another folder") from error
        return cls(study, spec.axes, baseline, spec)

    @classmethod
    def read(cls, file: Path, spec: TuneSpec, baseline: dict[str, Any]) -> "Study":
        """The study in `file`, to look at: nothing is written, for it may be running."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if not file.exists():
            raise RobustError(f"{file.parent} has no {file.name}: nothing was tried yet")
        try:
            storage = JournalStorage(JournalFileBackend(str(file)))
            study = optuna.load_study(study_name=_NAME, storage=storage)
        except Exception as error:
            raise RobustError(f"{file} is damaged: its trials cannot be read") from error
        return cls(study, spec.axes, baseline, spec)

    def rows(self) -> list[Row]:
        """All trials, in the order of their numbers."""
        return [self._row(trial) for trial in self._trials()]

    @property
    def ended(self) -> int:
        """How many trials have come to an end."""
        return sum(trial.state in _ENDED for trial in self._trials())

    def next(self) -> Trial | None:
        """The trial that a former session left, else a new one; None where all values are tried.

        The first is the baseline: what all others are to be better than.
        """
        left = [trial for trial in self._trials() if trial.state not in _ENDED]
        if not left:
            values = self._choose()
            if values is None:
                return None
            # One line of the journal: a trial is there with all its values, or not at all.
            self.study.enqueue_trial(values)
        if left and left[0].state == TrialState.RUNNING:
            trial = Trial(self.study, left[0]._trial_id)
        else:
            trial = self.study.ask()
        if trial.number or self._inside:
            for axis in self.axes:
                _suggest(trial, axis)
        return trial

    def values(self, trial: Trial) -> dict[str, Any]:
        """The values of a trial's parameters."""
        return self._row(self._frozen(trial)).values

    def seen(self, trial: Trial, part: float, value: float) -> bool:
        """Note what a trial has come to after `part` of it; whether it is to be given up.

        Trials are compared at tenths of their length, whatever that is: `epochs` may be searched.
        """
        known = self._frozen(trial).intermediate_values
        now = math.floor(part * TENTHS + 1e-9)
        if now < max(known, default=0):
            return False  # told once more after a kill: that was decided then
        for tenth in range(1, now + 1):
            if tenth not in known:
                trial.report(value, tenth)
        # The baseline is never given up: it is what the others are told against.
        return bool(self.spec.prune and trial.number and trial.should_prune())

    def end(
        self, trial: Trial, state: str, *, clean: float | None, robust: float | None, **told: Any
    ) -> Row:
        """A trial has come to its end; its row. `told`: its seconds, error and notes."""
        trial.set_user_attr("told", {"clean": clean, "robust": robust, **told})
        if state == "complete":
            assert clean is not None
            assert robust is not None
            self.study.tell(trial, self.spec.value(clean, robust))
        else:
            given_up = TrialState.PRUNED if state == "pruned" else TrialState.FAIL
            self.study.tell(trial, state=given_up)
        return self._row(self._frozen(trial))

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._trials()[trial.number]

    def _row(self, trial: FrozenTrial) -> Row:
        told = trial.user_attrs.get("told", {})
        values = {axis.name: trial.params.get(axis.name) for axis in self.axes}
        return Row(
            trial.number + 1,  # Optuna counts from 0, people from 1
            values if trial.number else dict(self.baseline),
            STATES[trial.state],
            told.get("clean"),
            told.get("robust"),
            trial.value if trial.state == TrialState.COMPLETE else None,
            told.get("seconds") or 0.0,
            told.get("error"),
            told.get("notes"),
        )

    @property
    def _distributions(self) -> dict[str, BaseDistribution]:
        return {axis.name: _distribution(axis) for axis in self.axes}

    @property
    def _inside(self) -> bool:
        """Whether the baseline is a point of the space that is searched."""
        return all(axis.holds(self.baseline[axis.name]) for axis in self.axes)

    def _choose(self) -> dict[str, Any] | None:
        """The values of the next trial, none that was tried before; None where all were."""
        history = self._trials()
        if not history:
            return dict(self.baseline)
        names = set(self._distributions)
        points = [trial for trial in history if set(trial.params) == names]
        tried = [trial.params for trial in points]
        for attempt in range(_AGAIN):
            seed = derive(self.spec.seed, "trial", len(history), attempt) % 2**32
            sampler = optuna.samplers.TPESampler(n_startup_trials=_STARTUP, seed=seed)
            copy = optuna.create_study(direction="maximize", sampler=sampler)
            copy.add_trials(points)
            values = copy.ask(self._distributions).params
            if values not in tried:
                return values
        return next((values for values in _grid(self.axes) if values not in tried), None)


def _pruner() -> optuna.pruners.BasePruner:
    """The median of those that ended, at the same point (Golovin et al., Vizier, 2017).

    Not Hyperband (1603.06560): its brackets give most trials a small part of their length, where a
    schedule that ends low, such as one-cycle, has not come down yet and says little of the end; and
    they ask for more trials than a search of a few dozen has.
    """
    return optuna.pruners.MedianPruner(n_startup_trials=_FIRST, n_warmup_steps=_WARM_UP)


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.choices:
        return CategoricalDistribution(axis.choices)
    assert axis.low is not None
    assert axis.high is not None
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _suggest(trial: Trial, axis: Axis) -> None:
    """Let a trial have the value of an axis that it was queued with."""
    if axis.choices:
        trial.suggest_categorical(axis.name, axis.choices)
        return
    assert axis.low is not None
    assert axis.high is not None
    if axis.whole:
        trial.suggest_int(axis.name, int(axis.low), int(axis.high), log=axis.log)
    else:
        trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)


def _grid(axes: list[Axis]) -> Iterator[dict[str, Any]]:
    """Every point of a space without fractions; none of another one."""
    if math.isinf(math.prod(axis.size for axis in axes)):
        return
    values = [axis.choices or range(int(axis.low or 0), int(axis.high or 0) + 1) for axis in axes]
    for point in itertools.product(*values):
        yield dict(zip([axis.name for axis in axes], point, strict=True))


def _mend(file: Path) -> None:
    """Take off what a killed process may have left: half a line, and the lock of the file."""
    for left in file.parent.glob(f"{file.name}.lock*"):
        left.unlink(missing_ok=True)
    if not file.exists():
        return
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with file.open("r+b") as handle:
            handle.truncate(whole)
