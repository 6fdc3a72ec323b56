"""The engine of training: epochs of defense steps, each epoch measured, kept and resumable.

`train` yields events and prints nothing. All randomness of an epoch is derived from the seed and
the epoch's number, so a run that goes on after a kill ends with the same weights.
"""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robust.core.errors import RobustError
from robust.core.files import write_whole
from robust.core.rng import derive, generator, seeded
from robust.models import describe, flops, read_weights
from robust.models.info import hash_file
from robust.preflight import choose_device

from .adv import make_attack
from .augment import Augment, parse_augment
from .data import Data, Samples, choose, open_all
from .events import Alarm, EpochDone, Event, Progress, TrainDone, TrainStarted
from .feed import Feed
from .folder import Row, TrainFolder, finite
from .guard import Guard, describe_adv, stronger
from .keeper import Keeper
from .learner import Learner
from .measure import measure
from .spec import TrainSpec, eps_at

_ROLLBACKS = 2  # in one epoch, at most
_CHUNK = 50  # steps between two looks at the loss, and so between two Progress events


def train(
    spec: TrainSpec,
    *,
    folder: Path,
    out: Path | None = None,
    resume: bool = False,
    argv: Sequence[str] | None = None,
) -> Iterator[Event]:
    """Train what the spec asks for, in a run folder; `out` gets a copy of its best.pt at the end.

    resume  go on where the folder's run stopped; start it if there is none; answer with its end if
            it is finished

    Raises RobustError for whatever cannot be used, before anything is written; and where the loss
    stops being a number, with the last good epoch kept. The run is "interrupted" when the caller
    stops it (KeyboardInterrupt, or closing the iterator) and "failed" after any other exception.
    """
    spec.check()
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise RobustError(f"{out} cannot be written: its folder must exist, and it be no folder")
    data = open_all(spec)
    spec = dataclasses.replace(spec, fingerprints=fingerprints(spec, data))
    run_folder = TrainFolder.open(folder, spec, argv or [], resume=resume)
    run = _Run(spec, data, run_folder)
    try:
        yield from run.events(out)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | GeneratorExit)
        run.give_up("interrupted" if stopped else "failed")
        raise
    finally:
        run_folder.close()


class _Run:
    """One session of a run: what learns, what it learns from, and what is kept of it."""

    def __init__(self, spec: TrainSpec, data: Data, folder: TrainFolder) -> None:
        self.spec, self.data, self.folder = spec, data, folder
        device = choose_device(spec.device)
        source = data.train
        samples = Samples(source, choose(source, len(source), spec.seed), device)
        extra = None
        if data.extra is not None:
            extra = Samples(data.extra, choose(data.extra, len(data.extra), spec.seed), device)
        self.feed = Feed(spec, samples, extra)
        self.validation = Samples(
            data.validation, choose(data.validation, spec.val_limit, spec.seed), device
        )
        self.learner = Learner(spec, data, samples, device)
        defended = self.learner.network.defended
        assert defended.frame is not None
        self.augment = Augment(parse_augment(spec.augment), defended.frame)
        self.augment.check()
        self.keeper = Keeper(spec, data, folder, self.learner, len(self.validation))
        self.guard = Guard(spec, defended, self.validation, self.learner.threat)
        self.began = time.perf_counter()
        self.earlier = 0.0
        self.started = False

    def events(self, out: Path | None) -> Iterator[Event]:
        network = self.learner.network
        behind = network.defended.behind
        assert behind is not None
        size = {
            "parameters": sum(p.numel() for p in network.trained.parameters()),
            "flops": flops(network.net, behind.shape),
        }
        self.folder.begin(describe(network.net, behind.shape), size)
        self.started = True
        self._restore()
        rows = self.folder.rows()
        yield TrainStarted(
            folder=self.folder.path,
            spec=self.spec,
            samples=len(self.feed.samples),
            validation=len(self.validation),
            rows=tuple(rows),
            fresh=network.fresh,
            **size,
        )
        epoch = len(rows)
        while epoch < self.spec.epochs and not self.keeper.stale(epoch):
            epoch += 1
            yield from self._epoch(epoch)
        yield self._finish(epoch, out)

    def _epoch(self, epoch: int) -> Iterator[Event]:
        began = time.perf_counter()
        self.learner.memory.clear()
        learner, guarded = self.learner, self.spec.guard and self.learner.trainer.attacks
        told: list[str] = []
        sums, looks = Sums(0, 0.0, 0.0), set(self._looks() if guarded else ())
        good = (sums, learner.state()) if guarded else None
        row: Row | None = None
        while row is None:
            problem = None
            for part in self._learn(epoch, sums, looks):
                sums = part
                yield Progress(epoch, sums.step, self.feed.steps)
                if sums.step in looks:
                    problem = self.guard.look(epoch, sums.step)
                    if problem is not None:
                        break
                    good = (sums, learner.state())
            else:
                row = self._row(epoch, sums)
                problem = self.keeper.problem(row)
            if problem is None:
                continue
            adv = stronger(learner.adv) if good and len(told) < _ROLLBACKS else None
            if adv is None or good is None:
                looks.clear()  # nothing more can be done; the row says how it ended
                continue
            text = self._roll_back(epoch, problem, sums, *good, adv)
            sums, row = good[0], None
            told.append(text)
            yield Alarm(epoch, text)
        row["seconds"] = time.perf_counter() - began
        before = self.folder.state
        best = self.keeper.keep(row, told, self.guard.best, self._seconds())
        yield EpochDone(row, best)
        if row["collapsed"] and not (before and before["row"].get("collapsed")):
            yield Alarm(epoch, row["alarm"])

    def _looks(self) -> list[int]:
        """The steps after which the guard looks; at the end, too, where the epoch's measurement is
        of an average of the weights."""
        steps = self.feed.steps
        looks = self.guard.when(steps, len(self.feed.samples))
        return [*looks, steps] if self.spec.ema or self.spec.swa else looks

    def _learn(self, epoch: int, done: "Sums", looks: set[int]) -> Iterator["Sums"]:
        """The rest of an epoch, `done` being its beginning, in parts that end where a look is due:
        after each the sums so far."""
        learner, seed = self.learner, self.spec.seed
        steps, stream = self.feed.steps, self.feed.epoch(epoch, done.step)
        loss, correct = torch.tensor(done.loss), torch.tensor(done.correct)
        loss, correct = loss.to(learner.device), correct.to(learner.device)
        start = done.step
        while start < steps:
            whole = (start // _CHUNK + 1) * _CHUNK
            stop = min([whole, steps, *(look for look in looks if look > start)])
            learner.training_mode()
            # Random layers draw from torch's own generators; the caller gets those back untouched.
            with seeded(seed, "layers", epoch, start):
                for step in range(start, stop):
                    x, y, criterion = self.augment(*next(stream), learner.criterion)
                    rng = generator(seed, "attack", epoch, step)
                    passed = epoch - 1 + step / steps
                    losses, hits = learner.step(passed, 1 / steps, x, y, rng, criterion)
                    loss += losses
                    correct += hits
            if not bool(loss.isfinite()):
                self._diverged(epoch)
            yield Sums(stop, float(loss), float(correct))
            start = stop

    def _row(self, epoch: int, sums: "Sums") -> Row:
        """What an epoch has come to."""
        learner = self.learner
        with seeded(self.spec.seed, "average", epoch):  # BatchNorm looks through random defenses
            learner.average.after_epoch(epoch > self.spec.epochs - self.spec.swa)
        count = self.feed.count
        row: Row = {
            "epoch": epoch,
            "lr": learner.optimizer.param_groups[0]["lr"],
            "eps": eps_at(self.spec, epoch),
            "adv": describe_adv(learner.adv),
            "train_loss": sums.loss / count,
            "train_accuracy": sums.correct / count,
        }
        with seeded(self.spec.seed, "measure", epoch), learner.average.in_place():
            row |= measure(
                learner.network.defended,
                self.validation,
                learner.threat,
                make_attack(self.spec.val_attack),
                num_classes=self.data.num_classes,
                classes=self.data.train.classes,
                batch_size=max(self.spec.batch_size, 256),
                # The same points to start from in every epoch, so that their figures compare.
                seed=derive(self.spec.seed, "validation"),
            )
        if not finite(row):
            self._diverged(epoch)
        return row

    def _roll_back(
        self,
        epoch: int,
        problem: str,
        now: "Sums",
        good: "Sums",
        state: dict[str, Any],
        adv: dict[str, Any],
    ) -> str:
        """Go back to a good state, and on with `adv`: in one line."""
        before = describe_adv(self.learner.adv)
        self.learner.load(state)
        self.learner.switch(adv)
        steps = self.feed.steps
        return (
            f"catastrophic overfitting in epoch {epoch}, seen after step {now.step} of {steps}: "
            f"{problem}; went back to step {good.step}, and on with {describe_adv(adv)} in place "
            f"of {before}"
        )

    def _restore(self) -> None:
        state = self.folder.state
        if state is not None:
            self.learner.load(state)
            self.guard.best = state.get("looks_best", 0.0)
            self.earlier = state["seconds"]
            self.began = time.perf_counter()

    def _finish(self, epoch: int, out: Path | None) -> TrainDone:
        state = self.folder.state
        assert state is not None
        self.keeper.checkpoints()
        if out is not None:
            try:
                write_whole(out, lambda path: shutil.copyfile(self.folder.path / "best.pt", path))
            except OSError as error:
                raise RobustError(f"{out} cannot be written: {error.strerror or error}") from error
        seconds, stopped_early = state["seconds"], epoch < self.spec.epochs
        self.folder.save(
            status="done",
            seconds=seconds,
            epochs=epoch,
            best_epoch=state["best_row"]["epoch"],
            stopped_early=stopped_early,
        )
        return TrainDone(self.folder.path, out, state["best_row"], epoch, stopped_early, seconds)

    def give_up(self, status: str) -> None:
        """Leave a folder that can be resumed, unless this session had not begun or is finished."""
        if not self.started or self.folder.done:
            return
        if self.folder.state is not None:
            self.keeper.checkpoints()
        self.folder.save(status=status, seconds=self._seconds())

    def _diverged(self, epoch: int) -> None:
        kept = f"; epoch {epoch - 1} is kept in {self.folder.path}" if epoch > 1 else ""
        raise RobustError(
            f"the loss is no longer a finite number in epoch {epoch}: start again with a lower "
            f"--lr than {self.spec.lr:g}, or with --precision fp32 or bf16{kept}"
        )

    def _seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.began


@dataclass(frozen=True)
class Sums:
    """The first `step` batches of an epoch: sums of losses and of right predictions."""

    step: int
    loss: float
    correct: float


def fingerprints(spec: TrainSpec, data: Data) -> dict[str, str]:
    """Content hashes of all that a run reads. RobustError where the spec has others."""
    found = {"data": data.train.fingerprint(), "validation": data.validation.fingerprint()}
    if data.extra is not None:
        found["extra"] = data.extra.fingerprint()
    for number, path in enumerate(spec.defense().files):
        if not Path(path).is_file():
            raise RobustError(f"there is no file {path}, which the training asks for")
        found[f"file {number}"] = hash_file(Path(path))
    if spec.init is not None:
        read_weights(spec.init)  # says what is wrong, where it cannot be read
        found["init"] = hash_file(Path(spec.init))
    for part, digest in spec.fingerprints.items():
        if found.get(part) != digest:
            raise RobustError(f"the content of {part} is not that of the spec's fingerprint")
    return found
