"""The engine of tuning: one trial after the other, each measured, kept and resumable.

`tune` yields events and prints nothing.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from optuna.trial import Trial

from robust.core.errors import RobustError
from robust.core.files import write_whole

from .events import Event, TrialDone, TrialProgress, TrialStarted, TuneDone, TuneStarted
from .folder import TuneFolder
from .space import check_axes
from .spec import TuneSpec
from .study import Row, Study
from .subject import Look, Subject


def tune(
    subject: Subject,
    spec: TuneSpec,
    *,
    trials: int,
    folder: Path,
    out: Path | None = None,
    resume: bool = False,
    argv: Sequence[str] = (),
) -> Iterator[Event]:
    """Search the subject's parameters by `trials` trials, the first of them without any change.

    out     gets a copy of the run's best.pt at the end
    resume  go on where the folder's run stopped; start it if there is none; more trials than it had
            are added to those that have ended

    Raises RobustError for whatever cannot be used, before anything is written; and where no trial
    came to its end. A trial that fails (a training that diverges) is told and counted. The run is
    "interrupted" when the caller stops it and "failed" after any other exception.
    """
    if trials < 1:
        raise RobustError("--trials must be at least 1")
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise RobustError(f"{out} cannot be written: its folder must exist, and it be no folder")
    check_axes(spec.axes, subject)
    run_folder = TuneFolder.open(folder, spec, argv, resume=resume)
    baseline = {axis.name: subject.value(axis.name) for axis in spec.axes}
    run_folder.save(status="running", baseline=baseline, trials=trials)
    run = _Run(subject, spec, run_folder, Study.open(run_folder.study, spec, baseline))
    try:
        yield from run.events(trials, out)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | GeneratorExit)
        if run_folder.record["status"] != "done":
            run_folder.save(status="interrupted" if stopped else "failed")
        raise


class _Run:
    """One session of a run."""

    def __init__(self, subject: Subject, spec: TuneSpec, folder: TuneFolder, study: Study) -> None:
        self.subject, self.spec, self.folder, self.study = subject, spec, folder, study

    def events(self, trials: int, out: Path | None) -> Iterator[Event]:
        rows = self.study.rows()
        self.folder.sweep(rows)
        ended = tuple(row for row in rows if row.state != "running")
        yield TuneStarted(self.folder.path, self.spec, trials, ended)
        exhausted = False
        while self.study.ended < trials and not exhausted:
            trial = self.study.next()
            if trial is None:
                exhausted = True
            else:
                yield from self._trial(trial)
        yield self._finish(out, exhausted)

    def _trial(self, trial: Trial) -> Iterator[Event]:
        number, values = trial.number + 1, self.study.values(trial)
        yield TrialStarted(number, values)
        # The baseline is the subject as it came: what it cannot be taken for need not be set.
        changes = values if number > 1 else {}
        looks = self.subject.run(changes, self.folder.trial(number))
        last, state, error = None, "failed", None
        try:
            for look in looks:
                yield TrialProgress(number, look.part, look.clean, look.robust)
                last = look if look.clean is not None or last is None else last
                if look.final:
                    state = "complete"
                elif look.clean is not None and look.robust is not None:
                    value = self.spec.value(look.clean, look.robust)
                    if self.study.seen(trial, look.part, value):
                        state = "pruned"
                        break
        except RobustError as failure:
            if last is None and number == 1:
                raise  # what cannot even begin without any change is bad input
            error = str(failure)
        finally:
            looks.close()  # a training leaves a whole folder
        yield self._end(trial, state, last or Look(0.0), error)

    def _end(self, trial: Trial, state: str, last: Look, error: str | None) -> TrialDone:
        row = self.study.end(
            trial,
            state,
            clean=last.clean,
            robust=last.robust,
            seconds=last.seconds,
            error=error,
            notes=last.notes,
        )
        self.folder.sweep([row])
        best = best_of(self.study.rows()) == row
        if best:
            self._write(row)
        return TrialDone(row, best)

    def _write(self, row: Row) -> None:
        changes = {} if row.baseline else row.values
        folder = self.folder.trial(row.number)
        self.subject.write(changes, folder, self.folder.path / "best.pt")

    def _finish(self, out: Path | None, exhausted: bool) -> TuneDone:
        rows = self.study.rows()
        best = best_of(rows)
        if best is None:
            raise RobustError(
                f"none of the {len(rows)} trials came to its end; the last one: {rows[-1].error}"
            )
        self._write(best)
        if out is not None:
            try:
                made = self.folder.path / "best.pt"
                write_whole(out, lambda path: shutil.copyfile(made, path))
            except OSError as error:
                raise RobustError(f"{out} cannot be written: {error.strerror or error}") from error
        seconds = sum(row.seconds for row in rows)
        options = self.subject.options({} if best.baseline else best.values)
        self.folder.save(
            status="done", seconds=seconds, options=options, exhausted=exhausted, best=best.number
        )
        return TuneDone(self.folder.path, out, best, tuple(rows), options, exhausted)


def best_of(rows: Sequence[Row]) -> Row | None:
    """The complete trial of the highest value, the first of equals; None where there is none."""
    done = [row for row in rows if row.value is not None]
    return max(done, key=lambda row: (row.value or 0.0, -row.number), default=None)
