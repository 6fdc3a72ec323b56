"""Sources over arrays: in memory, and rows of a file; scikit-learn's digits."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust.core.errors import RobustError

from .base import Batch, Ids, Source, Subset, check_ids
from .pixels import Pixels, chunks, class_ids, label_sets

X_NAMES = ("x", "images", "data", "image", "x_train", "x_test", "img", "features", "audio")
Y_NAMES = ("y", "labels", "target", "label", "y_train", "y_test", "targets")


class Rows(Protocol):
    """An array (n, …) of which rows can be read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop−1."""
        ...


class MemoryRows:
    """Rows of an array in memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.shape = array.shape
        self.dtype = array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop−1."""
        return self.array[start:stop]


def gather(rows: Rows, ids: NDArray[np.int64]) -> NDArray[Any]:
    """The rows with these ids, in this order; runs of neighbours are read at once."""
    rising, back = np.unique(ids, return_inverse=True)
    out = np.empty((len(rising), *rows.shape[1:]), rows.dtype)
    at = 0
    for run in np.split(rising, np.flatnonzero(np.diff(rising) != 1) + 1):
        if len(run):
            out[at : at + len(run)] = rows.read(int(run[0]), int(run[-1]) + 1)
        at += len(run)
    return out[back]


class ArraySource(Source):
    """Samples that are the rows of an array."""

    def __init__(
        self,
        rows: Rows,
        y: NDArray[Any],
        low: float,
        high: float,
        *,
        name: str,
        digest: Callable[[], str],
        keys: tuple[str, str] = ("x", "y"),
        classes: Sequence[str] | None = None,
        top: int | None = None,
        last: bool | None = None,
        multi_label: bool = False,
    ) -> None:
        """name, keys: what errors call the file and its two arrays. digest: the fingerprint.
        multi_label: y holds sets of labels, (n, K) of 0 and 1.

        Raises RobustError for types and shapes that do not fit, and for pixels outside the box:
        all of x is checked here, before anything is made of it.
        """
        x_key, y_key = keys
        self.low, self.high = low, high
        self._rows, self._digest = rows, digest
        self._pixels = Pixels(
            rows.shape, rows.dtype, low, high, key=x_key, name=name, top=top, last=last
        )
        self.shape = self._pixels.shape
        if y.ndim and len(y) != rows.shape[0]:
            raise RobustError(
                f"{name}: {x_key} has {rows.shape[0]} samples, but {y_key} has {len(y)}"
            )
        self.multi_label = multi_label
        self._y = (label_sets if multi_label else class_ids)(y, y_key, name)
        self.classes = tuple(classes) if classes else None
        self._pixels.check(self._chunks())

    def _chunks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        size = int(np.prod(self._rows.shape[1:])) * self._rows.dtype.itemsize
        for start, stop in chunks(len(self), size):
            yield start, self._rows.read(start, stop)

    def __len__(self) -> int:
        return self._rows.shape[0]

    def batch(self, ids: Ids) -> Batch:
        """The samples with these ids, in this order."""
        wanted = check_ids(ids, len(self))
        x = self._pixels.convert(gather(self._rows, wanted))
        return Batch(torch.tensor(wanted), x, torch.from_numpy(self._y[wanted]))

    def labels(self) -> NDArray[np.int64]:
        """Every label."""
        return self._y.copy()

    def fingerprint(self) -> str:
        """A sha256 of the content."""
        return self._digest()


def pick(available: Sequence[str], names: Sequence[str], split: str | None, where: str) -> str:
    """The one of the available keys that goes by one of these names (in any case).

    With a split, only the names that end in it. RobustError if there is none, or more than one.
    """
    if split is not None:
        names = [n for n in names if n.endswith(f"_{split}")]
    found = [key for key in available if key.lower() in names]
    if len(found) == 1:
        return found[0]
    has = ", ".join(sorted(available)[:20]) or "nothing"
    if not found:
        raise RobustError(f"{where} has no {names[0]}: it has {has}")
    both = " (choose with :train or :test at the end)" if split is None else ""
    raise RobustError(f"{where} is ambiguous{both}: it has {', '.join(found)}; keep one")


def from_arrays(
    x: Tensor | NDArray[Any],
    y: Tensor | NDArray[Any] | Sequence[int],
    *,
    low: float = 0.0,
    high: float = 1.0,
    classes: Sequence[str] | None = None,
    channels_last: bool | None = None,
) -> Source:
    """A source over arrays in memory, which are not copied: do not change them meanwhile.

    x  (n, …): uint8 or uint16, scaled to [low, high], or float, which must lie in it.
       Four axes: NCHW or NHWC, as channels_last says, or else as the shape suggests
    y  whole numbers (n,), or one-hot (n, K)

    Raises RobustError for anything else.
    """
    xs, ys = _array(x), _array(y)

    def digest() -> str:
        return hash_arrays(xs, ys)

    return ArraySource(
        MemoryRows(xs),
        ys,
        low,
        high,
        name="the data",
        digest=digest,
        classes=classes,
        last=channels_last,
    )


def _array(values: Tensor | NDArray[Any] | Sequence[int]) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def hash_arrays(*arrays: NDArray[Any]) -> str:
    """sha256 over types, shapes and values."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        for start, stop in chunks(len(array), array.nbytes // max(len(array), 1)):
            sha.update(np.ascontiguousarray(array[start:stop]).tobytes())
    return sha.hexdigest()


def open_digits(split: str | None, low: float, high: float) -> Source:
    """scikit-learn's digits: 1797 grey images (1, 8, 8), ten classes.

    "train" and "test" are 80 and 20 percent of each class, always the same ones. None is "test".
    """
    from sklearn.datasets import load_digits

    if split not in (None, "train", "test"):
        raise RobustError(f"digits has the splits train and test, not {split}")
    loaded = load_digits()
    x, y = loaded.images.astype(np.uint8), loaded.target.astype(np.int64)
    whole = ArraySource(
        MemoryRows(x),
        y,
        low,
        high,
        name="digits",
        digest=lambda: hash_arrays(x, y),
        classes=[str(k) for k in range(10)],
        top=16,
    )
    test = np.zeros(len(y), bool)
    draw = np.random.Generator(np.random.PCG64(1797))
    for k in range(10):
        members = np.flatnonzero(y == k)
        # Sorted draws, because numpy may change how it shuffles.
        test[members[np.argsort(draw.random(len(members)))[: round(len(members) / 5)]]] = True
    return Subset(whole, np.flatnonzero(test == (split != "train")))
