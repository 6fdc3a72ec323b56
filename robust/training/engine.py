"""The engine of training: epochs of defense steps, each epoch measured, kept and resumable.

`train` yields events and prints nothing. All randomness of an epoch is derived from the seed and
the epoch's number, so a run that goes on after a kill ends with the same weights.
"""

import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from robust.core.defense import Defense
from robust.core.errors import RobustError
from robust.core.files import write_whole
from robust.core.rng import derive, generator, seeded
from robust.core.threat import Threat
from robust.models import describe, flops, read_weights, save_checkpoint
from robust.models.info import hash_file
from robust.preflight import choose_device

from .adv import make_attack
from .data import Data, Samples, choose, cut, open_all
from .events import Alarm, EpochDone, Event, Progress, TrainDone, TrainStarted
from .folder import Row, TrainFolder, finite
from .measure import alarm, measure
from .network import (
    Autocast,
    Criterion,
    freeze,
    make_network,
    make_optimizer,
)
from .spec import TrainSpec, eps_at, lr_at

_CHUNK = 50  # steps between two looks at the loss, and so between two Progress events
_REFRESH = 60.0  # seconds after which model.pt and best.pt are written in mid-run


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
    spec = dataclasses.replace(spec, fingerprints=_fingerprints(spec, data))
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
    """One session of a run: the network and what changes with it."""

    def __init__(self, spec: TrainSpec, data: Data, folder: TrainFolder) -> None:
        self.spec, self.data, self.folder = spec, data, folder
        self.device = choose_device(spec.device)
        self.threat = Threat(**spec.threat)
        self.defense: Defense = spec.defense()
        source = data.train
        self.samples = Samples(source, choose(source, len(source), spec.seed), self.device)
        self.validation = Samples(
            data.validation, choose(data.validation, spec.val_limit, spec.seed), self.device
        )
        self.network = make_network(spec, data, self.samples, self.device)
        self.still = freeze(self.network.net, spec.freeze)
        self.optimizer = make_optimizer(spec, self.network.free())
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=spec.precision == "fp16")
        self.criterion = Criterion(spec, data).to(self.device)
        defended = self.network.defended
        self.forward = Autocast(defended.model, self.device.type, spec.precision)
        self.seen = self.forward
        if defended.exposed is not defended.model:
            self.seen = Autocast(defended.exposed, self.device.type, spec.precision)
        self.began = time.perf_counter()
        self.refreshed = self.began
        self.earlier = 0.0
        self.started = False

    def events(self, out: Path | None) -> Iterator[Event]:
        net, behind = self.network.net, self.network.defended.behind
        assert behind is not None
        size = {
            "parameters": sum(p.numel() for p in self.network.trained.parameters()),
            "flops": flops(net, behind.shape),
        }
        self.folder.begin(describe(net, behind.shape), size)
        self.started = True
        self._restore()
        rows = self.folder.rows()
        yield TrainStarted(
            folder=self.folder.path,
            spec=self.spec,
            samples=len(self.samples),
            validation=len(self.validation),
            rows=tuple(rows),
            fresh=self.network.fresh,
            **size,
        )
        epoch = len(rows)
        while epoch < self.spec.epochs and not self._stale(epoch):
            epoch += 1
            yield from self._epoch(epoch)
        yield self._finish(epoch, out)

    def _epoch(self, epoch: int) -> Iterator[Event]:
        began = time.perf_counter()
        order = generator(self.spec.seed, "order", epoch)
        chunks = cut(torch.randperm(len(self.samples), generator=order), self.spec.batch_size)
        total = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        stream = self.samples.stream(chunks)
        for start in range(0, len(chunks), _CHUNK):
            stop = min(start + _CHUNK, len(chunks))
            self._training_mode()
            # Random layers draw from torch's own generators; the caller gets those back untouched.
            with seeded(self.spec.seed, "layers", epoch, start):
                for step in range(start, stop):
                    loss, hits = self._step(epoch, step, len(chunks), *next(stream))
                    total += loss
                    correct += hits
            if not bool(total.isfinite()):
                self._diverged(epoch)
            yield Progress(epoch, stop, len(chunks))
        row: Row = {
            "epoch": epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "eps": eps_at(self.spec, epoch),
            "train_loss": float(total) / len(self.samples),
            "train_accuracy": float(correct) / len(self.samples),
            **self._measure(epoch),
        }
        if not finite(row):
            self._diverged(epoch)
        row["seconds"] = time.perf_counter() - began
        before = self.folder.state
        best = self._keep(row)
        yield EpochDone(row, best)
        if row["alarm"] and not (before and before["row"]["alarm"]):
            yield Alarm(epoch, row["alarm"])

    def _step(
        self, epoch: int, step: int, steps: int, x: Tensor, y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One batch: (sum of its losses, number of its samples that were predicted right)."""
        spec, passed = self.spec, epoch - 1 + step / steps
        for group in self.optimizer.param_groups:
            group["lr"] = lr_at(spec, passed / spec.epochs)
        threat = dataclasses.replace(self.threat, eps=eps_at(spec, passed + 1 / steps))
        rng = generator(spec.seed, "attack", epoch, step)
        result = self.defense.step(
            self.forward, x, y, threat, rng, loss=self.criterion, seen=self.seen
        )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(result.loss).backward()  # type: ignore[no-untyped-call]
        if result.after is not None:
            result.after()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return result.loss.detach() * len(x), (result.logits.argmax(1) == y).sum()

    def _training_mode(self) -> None:
        self.network.defended.train()
        for module in self.still:
            module.eval()

    def _measure(self, epoch: int) -> Row:
        with seeded(self.spec.seed, "measure", epoch):
            return measure(
                self.network.defended,
                self.validation,
                self.threat,
                make_attack(self.spec.val_attack),
                num_classes=self.data.num_classes,
                classes=self.data.train.classes,
                batch_size=max(self.spec.batch_size, 256),
                # The same points to start from in every epoch, so that their figures compare.
                seed=derive(self.spec.seed, "validation"),
            )

    def _keep(self, row: Row) -> bool:
        """Add the alarm to the row, compare it with the best one, and commit the epoch."""
        old = self.folder.state
        highest = old["highest"] if old else {"val_accuracy": 0.0, "val_robust_accuracy": 0.0}
        row["alarm"] = None
        if self.defense.attacks:
            row["alarm"] = alarm(row, highest["val_robust_accuracy"])
        highest = {key: max(value, row[key]) for key, value in highest.items()}
        weights = self.network.weights()
        best = old is None or self._better(row, old["best_row"], highest)
        self.folder.commit(
            {
                "spec_hash": self.spec.hash,
                "row": row,
                "weights": weights,
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "highest": highest,
                "best_row": row if best or old is None else old["best_row"],
                "best_weights": weights if best or old is None else old["best_weights"],
                "seconds": self._seconds(),
            }
        )
        if time.perf_counter() - self.refreshed > _REFRESH:
            self._checkpoints()
        return best

    def _better(self, row: Row, old: Row, highest: dict[str, float]) -> bool:
        """Early stopping (2002.11569) on validation accuracy, robust accuracy where the run trains
        against an attack. Accuracies within one standard error of the highest so far are not told
        apart: of those epochs, the one of lower loss is the better."""
        kind = "val_robust" if self.defense.attacks else "val"
        accuracy, loss = f"{kind}_accuracy", f"{kind}_loss"
        top = highest[accuracy]
        least = top - math.sqrt(top * (1 - top) / len(self.validation))
        if row[accuracy] < least:
            return False
        return bool(old[accuracy] < least or row[loss] < old[loss])

    def _stale(self, epoch: int) -> bool:
        state = self.folder.state
        if not self.spec.patience or state is None:
            return False
        return bool(
            epoch - max(state["best_row"]["epoch"], self.spec.eps_warmup) >= self.spec.patience
        )

    def _restore(self) -> None:
        state = self.folder.state
        if state is not None:
            self.network.trained.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.earlier = state["seconds"]
            self.began = time.perf_counter()

    def _finish(self, epoch: int, out: Path | None) -> TrainDone:
        state = self.folder.state
        assert state is not None
        self._checkpoints()
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
            self._checkpoints()
        self.folder.save(status=status, seconds=self._seconds())

    def _checkpoints(self) -> None:
        """model.pt and best.pt from the state. The network itself keeps its weights."""
        state = self.folder.state
        assert state is not None
        network, now = self.network, self.network.weights()
        for name, key, row in (
            ("model.pt", "weights", state["row"]),
            ("best.pt", "best_weights", state["best_row"]),
        ):
            network.trained.load_state_dict(state[key])
            save_checkpoint(
                self.folder.path / name,
                network.net,
                arch=self.spec.arch,
                shape=self.data.train.shape,
                num_classes=self.data.num_classes,
                classes=self.data.train.classes,
                mean=network.mean,
                std=network.std,
                data=self.data.attack.to_dict(),
                threat=self.spec.threat,
                extra={
                    "adv": self.spec.adv,
                    "mix": self.spec.mix,
                    "epoch": row["epoch"],
                    "val_accuracy": row["val_accuracy"],
                    "val_robust_accuracy": row["val_robust_accuracy"],
                    "seed": self.spec.seed,
                    "spec_hash": self.spec.hash,
                },
                defended=network.defended,
            )
        network.trained.load_state_dict(now)
        self.refreshed = time.perf_counter()

    def _diverged(self, epoch: int) -> None:
        kept = f"; epoch {epoch - 1} is kept in {self.folder.path}" if epoch > 1 else ""
        raise RobustError(
            f"the loss is no longer a finite number in epoch {epoch}: start again with a lower "
            f"--lr than {self.spec.lr:g}, or with --precision fp32 or bf16{kept}"
        )

    def _seconds(self) -> float:
        return self.earlier + time.perf_counter() - self.began


def _fingerprints(spec: TrainSpec, data: Data) -> dict[str, str]:
    found = {"data": data.train.fingerprint(), "validation": data.validation.fingerprint()}
    if spec.init is not None:
        read_weights(spec.init)  # says what is wrong, where it cannot be read
        found["init"] = hash_file(Path(spec.init))
    for part, digest in spec.fingerprints.items():
        if found.get(part) != digest:
            raise RobustError(f"the content of {part} is not that of the spec's fingerprint")
    return found
