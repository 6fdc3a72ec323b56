"""The folder of a training run: what is in it, and how it stays whole.

    RUN/run.json           what was asked (TrainSpec), status, argv, versions, size of the model
    RUN/state.pt           the last epoch that is done, with all that the next one needs
    RUN/history.jsonl      one row an epoch
    RUN/model.pt, best.pt  checkpoints of the last epoch and of the best
    RUN/architecture.txt   module tree, parameters, FLOPs
    RUN/tensorboard/       the numbers of history.jsonl

state.pt is the truth: it is replaced in one step, and holds the last row of the history, the last
weights and the best ones. The rest is written after it, and made again from it by `repair`.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from robust.core.errors import RobustError
from robust.core.files import write_text, write_whole
from robust.store import new_record

from .spec import TrainSpec

Row = dict[str, Any]

# Rows → TensorBoard: train and validation of the same thing come to lie side by side.
SCALARS = {
    "lr": "learning_rate",
    "eps": "eps",
    "train_loss": "loss/train",
    "train_accuracy": "accuracy/train",
    "val_loss": "loss/validation",
    "val_accuracy": "accuracy/validation",
    "val_robust_loss": "loss/validation_robust",
    "val_robust_accuracy": "accuracy/validation_robust",
    "val_fgsm_accuracy": "accuracy/validation_fgsm",
    "val_hamming": "hamming_loss/validation",
    "val_robust_hamming": "hamming_loss/validation_robust",
    "val_fgsm_hamming": "hamming_loss/validation_fgsm",
    "val_jaccard": "jaccard/validation",
    "val_robust_jaccard": "jaccard/validation_robust",
    "val_fgsm_jaccard": "jaccard/validation_fgsm",
    "seconds": "seconds",
}


class TrainFolder:
    """A training run on disk. Nothing is created before `begin`."""

    def __init__(self, path: Path, record: dict[str, Any], state: dict[str, Any] | None) -> None:
        self.path, self.record, self.state = path, record, state
        self._board: Any = None

    @classmethod
    def open(
        cls, path: Path, spec: TrainSpec, argv: Sequence[str], *, resume: bool
    ) -> "TrainFolder":
        """A new run in `path`, or with `resume` the one that is there, if it asks the same.

        Raises RobustError if `path` holds something and `resume` is off, or a run that differs.
        """
        new = new_record("train", spec.to_dict(), spec.hash, argv)
        if not (path / "run.json").exists():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise RobustError(f"{path} exists and is no run folder; choose another one")
            return cls(path, new, None)
        try:
            record = json.loads((path / "run.json").read_text(encoding="utf-8"))
            kind, status, version = record["kind"], record["status"], record["schema_version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RobustError(f"{path} is no run folder: its run.json cannot be read") from error
        if kind != "train":
            raise RobustError(f"{path} holds an {kind} run; choose another folder")
        if not resume:
            what = "a finished run" if status == "done" else "an unfinished run (--resume goes on)"
            raise RobustError(f"{path} holds {what}; choose another folder")
        if version != new["schema_version"]:
            raise RobustError(
                f"{path} was written by another version of robust: it cannot be resumed"
            )
        if record["spec_hash"] != spec.hash:
            old = TrainSpec.from_dict(record["spec"]).identity()
            changed = [k for k, v in spec.identity().items() if old.get(k) != v]
            raise RobustError(
                f"{path} cannot be resumed: {', '.join(changed) or 'the options'} differ from what "
                "it was started with; give the same options, or another folder"
            )
        return cls(path, record, _read_state(path / "state.pt", spec.hash))

    @property
    def done(self) -> bool:
        return bool(self.record["status"] == "done")

    def begin(self, architecture: str, model: Mapping[str, int]) -> None:
        """Write what is known at the start, and make the files fit the state."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.save(status="running", model=dict(model))
            write_text(self.path / "architecture.txt", architecture)
            rows = self._repair()
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error.strerror or error}") from error
        self._open_board(rows)

    def save(self, **changes: Any) -> None:
        """Change entries of run.json and write it."""
        self.record.update(changes)
        write_text(self.path / "run.json", json.dumps(self.record, indent=1) + "\n")

    def commit(self, state: dict[str, Any]) -> None:
        """An epoch is done: keep its state in one step, then add its row to the logs."""
        try:
            write_whole(self.path / "state.pt", lambda path: torch.save(state, path))
            self.state = state
            with (self.path / "history.jsonl").open("a", encoding="utf-8") as file:
                file.write(_line(state["row"]))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error.strerror or error}") from error
        self._log(state["row"])

    def rows(self) -> list[Row]:
        """The history up to the state's epoch; a torn or later line is left out."""
        if self.state is None:
            return []
        last: Row = self.state["row"]
        rows: list[Row] = []
        file = self.path / "history.jsonl"
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
            try:
                row = json.loads(line)
            except ValueError:
                break
            if row["epoch"] != len(rows) + 1 or row["epoch"] >= last["epoch"]:
                break
            rows.append(row)
        if len(rows) != last["epoch"] - 1:
            raise RobustError(f"{file} is damaged: the row of epoch {len(rows) + 1} is missing")
        return [*rows, last]

    def close(self) -> None:
        if self._board is not None:
            self._board.close()

    def _repair(self) -> list[Row]:
        rows = self.rows()
        write_text(self.path / "history.jsonl", "".join(map(_line, rows)))
        for left in self.path.glob(".*.*.*"):  # temporary files of a killed process
            left.unlink()
        return rows

    def _open_board(self, rows: Sequence[Row]) -> None:
        """A TensorBoard log with these rows, in place of the one that a former session wrote:
        so no step is there twice."""
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = self.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        self._board = SummaryWriter(str(folder))
        for row in rows:
            self._log(row)

    def _log(self, row: Row) -> None:
        for key, tag in SCALARS.items():
            if key in row:
                self._board.add_scalar(tag, row[key], row["epoch"])
        self._board.flush()


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"


def _read_state(path: Path, digest: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["spec_hash"] == digest:
            for key in {"net", "best_net"} & state.keys():  # before there were defenses
                state[key.replace("net", "weights")] = {
                    f"net.{name}": value for name, value in state.pop(key).items()
                }
            return state
    except Exception as error:
        raise RobustError(f"{path} is damaged; start again in another folder") from error
    raise RobustError(f"{path} belongs to another run; start again in another folder")


def finite(row: Row) -> bool:
    """Whether every loss of the row is a number."""
    return all(math.isfinite(row[k]) for k in ("train_loss", "val_loss", "val_robust_loss"))
