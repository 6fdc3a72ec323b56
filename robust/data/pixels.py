"""From stored values to what is delivered: layout, scale and labels, checked."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust.core.errors import RobustError

CHANNELS = (1, 3, 4)
INTEGER_TOPS = {"|u1": 255, "u2": 65535}
# Values may leave the box by this part of its width (float32 rounding, such as 1.0000001 after a
# division); they are clipped.
SLACK = 1e-6


def channels_last(shape: Sequence[int]) -> bool:
    """Whether an array of this shape (n, …) holds images as NHWC.

    NCHW if the second axis has 1, 3 or 4 entries, NHWC if only the last has. Where both have, the
    reading with square images wins, else NCHW: (n, 4, 4, 3) is NHWC, (n, 3, 32, 3) is NCHW.
    """
    if len(shape) != 4 or shape[3] not in CHANNELS:
        return False
    if shape[1] not in CHANNELS:
        return True
    return shape[1] == shape[2] and shape[2] != shape[3]


class Pixels:
    """How the values of one array become float32 (n, *shape) in [low, high].

    uint8 and uint16 are scaled from [0, 255] and [0, 65535] (or [0, top]) to the box. Floats must
    lie in it. Integer arrays (n, H, W) are grey images and gain a channel; float ones stay as they
    are (audio, features).
    """

    shape: tuple[int, ...]

    def __init__(
        self,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        low: float,
        high: float,
        *,
        key: str,
        name: str,
        top: int | None = None,
        last: bool | None = None,
    ) -> None:
        """shape: of the stored array (n, …). key, name: what errors call the array and its file.

        top: what stands for `high`, if not the type's largest value. last: whether channels come
        last, where that is known.

        Raises RobustError for a shape or type that cannot be samples.
        """
        self.low, self.high, self.key, self.name = low, high, key, name
        if len(shape) < 2:
            raise RobustError(
                f"{key} in {name} has shape {tuple(shape)}: it must be (n, …), a sample per row"
            )
        if 0 in shape:
            raise RobustError(f"{name} is empty: {key} has shape {tuple(shape)}")
        top = top or INTEGER_TOPS.get(dtype.str.lstrip("<>="))
        if dtype.kind != "f" and top is None:
            raise RobustError(
                f"{key} in {name} has type {dtype}: save it as uint8, uint16 or float32"
            )
        self._table: NDArray[np.float32] | None = None
        if top is not None:
            # Computed once in float64, so that each value is the nearest float32.
            values = low + np.arange(top + 1) / top * (high - low)
            self._table = values.astype(np.float32)
        self._last = channels_last(shape) if last is None else last
        self._grey = len(shape) == 3 and self._table is not None
        one = tuple(int(s) for s in shape[1:])
        self.shape = (one[2], one[0], one[1]) if self._last else (1, *one) if self._grey else one

    def convert(self, raw: NDArray[Any]) -> Tensor:
        """Stored values (n, …) as float32 (n, *shape) in the box. Floats were checked before."""
        if self._table is not None:
            x = self._table[raw]
        else:
            bounds = np.float32(self.low), np.float32(self.high)
            x = np.clip(raw.astype(np.float32), *bounds)
        if self._last:
            x = np.moveaxis(x, 3, 1)
        if self._grey:
            x = x[:, None]
        return torch.from_numpy(np.ascontiguousarray(x))

    def check(self, chunks: Iterable[tuple[int, NDArray[Any]]]) -> None:
        """Raise RobustError if a float is outside the box or not finite.

        chunks: the id of the first row, and rows (n, …). Integers are never outside.
        """
        if self._table is not None:
            return
        lowest, highest = np.inf, -np.inf
        for first, rows in chunks:
            least, most = float(rows.min()), float(rows.max())
            if not np.isfinite([least, most]).all():
                finite = np.isfinite(rows.reshape(len(rows), -1)).all(1)
                raise RobustError(
                    f"{self.key} in {self.name} has values that are not finite: "
                    f"first in sample {first + int(np.argmin(finite))}"
                )
            lowest, highest = min(lowest, least), max(highest, most)
        slack = SLACK * (self.high - self.low)
        if lowest < self.low - slack or highest > self.high + slack:
            raise RobustError(
                f"pixels outside the box: {self.key} has values from {lowest:g} to {highest:g} in "
                f"{self.name}, but the range is [{self.low:g}, {self.high:g}]; "
                f"pass --range {suggest(lowest, highest)} or rescale"
            )


def suggest(lowest: float, highest: float) -> str:
    """The customary range that holds these values, as --range takes it."""
    for low, high in ((0, 1), (-1, 1), (0, 255)):
        if low <= lowest and highest <= high:
            return f"{low},{high}"
    return f"{lowest:g},{highest:g}"


def chunks(n: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about 4 MB each."""
    step = max(1, (4 << 20) // max(row_bytes, 1))
    for start in range(0, n, step):
        yield start, min(start + step, n)


def class_ids(raw: NDArray[Any], key: str, name: str) -> NDArray[np.int64]:
    """Labels as int64 (n,), from whole numbers (n,) or (n, 1), or one-hot rows (n, K).

    Raises RobustError for anything else, and for a negative label, with its sample.
    """
    what = f"{key} in {name}"
    if raw.ndim == 2 and raw.shape[1] > 1 and raw.dtype.kind in "iufb":
        ones = raw == 1
        wrong = ~((ones | (raw == 0)).all(1) & (ones.sum(1) == 1))
        if wrong.any():
            sets = bool((ones | (raw == 0)).all())
            raise RobustError(
                f"{what} has shape {raw.shape}, but sample {int(np.argmax(wrong))} is not one-hot: "
                "give one class number per sample"
                + (", or train on sets of labels with --multi-label" if sets else "")
            )
        hot: NDArray[np.int64] = np.argmax(ones, axis=1).astype(np.int64)
        return hot
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim != 1 or raw.dtype.kind not in "iu":
        raise RobustError(
            f"{what} has type {raw.dtype} and shape {raw.shape}: "
            "labels must be whole numbers (n,), or one-hot (n, K)"
        )
    if raw.dtype.kind == "u" and len(raw) and int(raw.max()) > np.iinfo(np.int64).max:
        raise RobustError(f"{what} has a label of {raw.max()}: classes are counted from 0")
    labels: NDArray[np.int64] = raw.astype(np.int64)
    if (labels < 0).any():
        first = int(np.argmax(labels < 0))
        raise RobustError(
            f"{what} has a negative label: {labels[first]} for sample {first}; "
            "classes are counted from 0"
        )
    return labels


def label_sets(raw: NDArray[Any], key: str, name: str) -> NDArray[np.int64]:
    """Sets of labels as int64 (n, K ≥ 2) of 0 and 1: which of K labels each sample has.

    Raises RobustError for anything else, with its sample.
    """
    what = f"{key} in {name}"
    if raw.ndim != 2 or raw.dtype.kind not in "iufb":
        raise RobustError(
            f"{what} has type {raw.dtype} and shape {raw.shape}: --multi-label wants 0 or 1 for "
            "each label of each sample, (n, K)"
        )
    if raw.shape[1] < 2:
        raise RobustError(
            f"{what} has shape {raw.shape}: one label is a matter of two classes: drop "
            "--multi-label"
        )
    odd = ~((raw == 0) | (raw == 1)).all(1)
    if odd.any():
        first = int(np.argmax(odd))
        values = raw[first][(raw[first] != 0) & (raw[first] != 1)]
        raise RobustError(
            f"{what} has a value of {values[0]:g} for sample {first}: --multi-label wants 0 or 1"
        )
    return raw.astype(np.int64)
