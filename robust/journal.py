"""Answers of an oracle on disk, appended as they arrive: a killed run asks nothing twice."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .core.errors import RobustError
from .core.oracle import Key

_MAGIC = b"robust answers 1\n"
_KEY = 20


class FileJournal:
    """One file of records of equal length: key, scores as float32, checksum.

    before  called before the first record is written: it makes the folder

    A record that a kill cut short, or that is damaged, and all behind it, is dropped when read, and
    overwritten by what follows.
    """

    def __init__(self, path: Path, before: Callable[[], None]) -> None:
        self.path, self._before = path, before
        self._file: BinaryIO | None = None
        self._classes: int | None = None
        self._end = 0

    def read(self) -> dict[Key, np.ndarray]:
        """Every whole answer that is there."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        head = len(_MAGIC) + 4
        if not content.startswith(_MAGIC) or len(content) < head:
            return {}
        classes = int.from_bytes(content[len(_MAGIC) : head], "little")
        size, found = _size(classes), dict[Key, np.ndarray]()
        self._classes, self._end = classes, head
        for start in range(head, len(content) - size + 1, size):
            body, check = (
                content[start : start + size - 4],
                content[start + size - 4 : start + size],
            )
            if zlib.crc32(body).to_bytes(4, "little") != check:
                break
            found[body[:_KEY]] = np.frombuffer(body[_KEY:], dtype="<f4")
            self._end = start + size
        return found

    def append(self, keys: Sequence[Key], answers: np.ndarray) -> None:
        """Add answers (k, K); they are with the operating system when this returns."""
        classes = answers.shape[1]
        if self._classes not in (None, classes):
            raise RobustError(
                f"the model answered with {classes} scores, and with {self._classes} before"
            )
        rows = answers.astype("<f4")
        bodies = [key + row.tobytes() for key, row in zip(keys, rows, strict=True)]
        records = b"".join(body + zlib.crc32(body).to_bytes(4, "little") for body in bodies)
        try:
            if self._file is None:
                self._file = self._open()
            if self._classes is None:
                self._classes = classes
                self._file.write(_MAGIC + classes.to_bytes(4, "little"))
            self._file.write(records)
        except OSError as error:
            raise RobustError(f"cannot write to {self.path}: {error.strerror}") from error

    def _open(self) -> BinaryIO:
        self._before()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("r+b" if self._end else "wb", buffering=0)
        file.truncate(self._end)
        file.seek(self._end)
        return file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _size(classes: int) -> int:
    return _KEY + 4 * classes + 4
