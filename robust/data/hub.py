"""Sources that the `datasets` library reads: parquet, image folders, data sets of the hub."""

import contextlib
import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from robust.core.errors import RobustError

from .arrays import X_NAMES, Y_NAMES, pick
from .base import Batch, Ids, Source, check_ids
from .images import fit, pixels_of
from .pixels import Pixels, class_ids

# `datasets` maps its files into memory, where every page that was touched stays and counts.
# After this many bytes the map is opened anew.
_MAPPED = 8 << 20
_FAULT = 400 << 10  # mapped by one scattered read, as measured: far more than is asked for


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """The `datasets` module, its progress bars and log lines switched off meanwhile."""
    import datasets
    from datasets.utils import logging

    level = logging.get_verbosity()
    shown = not datasets.utils.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    datasets.utils.disable_progress_bars()
    try:
        yield datasets
    finally:
        logging.set_verbosity(level)
        if shown:
            datasets.utils.enable_progress_bars()


def is_image(feature: Any) -> bool:
    """Whether a column holds encoded images, also where a plain parquet file does not say so."""
    import datasets

    if isinstance(feature, datasets.Image):
        return True
    if isinstance(feature, dict):
        return "bytes" in feature
    return getattr(feature, "dtype", "") in ("binary", "large_binary")


class HubSource(Source):
    """Rows of a `datasets.Dataset`: an image or numeric column, and labels."""

    def __init__(
        self,
        data: Any,
        low: float,
        high: float,
        *,
        name: str,
        digest: Callable[[], str],
        files: bool = False,
        sample: Callable[[int], str] | None = None,
    ) -> None:
        """data: a Dataset. files: whether a row may point to an image file elsewhere.

        sample: what errors call the sample with an id.
        """
        import datasets

        self.low, self.high = low, high
        self._name, self._digest, self._files = name, digest, files
        self._sample = sample or (lambda i: f"sample {i} of {name}")
        columns = list(data.features)
        self._x, self._label = (pick(columns, names, None, name) for names in (X_NAMES, Y_NAMES))
        if not len(data):
            raise RobustError(f"{name} is empty")
        data = data.select_columns([self._x, self._label]).with_format(None)
        self._y, self.classes = self._labels(data)
        feature = data.features[self._x]
        self._image = is_image(feature)
        if self._image:
            self._decoder = datasets.Image()
            data = data.cast_column(self._x, datasets.Image(decode=False))
        elif isinstance(feature, datasets.Audio):
            raise RobustError(f"{name} holds audio files: save the waves as arrays, in .npz")
        self._dtype = np.dtype(object) if self._image else _dtype(feature, self._x, name)
        self._data, self._touched = data, 0
        size = sum(Path(f["filename"]).stat().st_size for f in data.cache_files)
        self._row_bytes = size / len(data)
        self._first = self._raw([0])[0]
        self._dtype = self._first.dtype
        self._pixels = Pixels(
            (len(data), *self._first.shape),
            self._dtype,
            low,
            high,
            key=self._x,
            name=name,
            last=True if self._image else None,
        )
        self.shape = self._pixels.shape

    def __len__(self) -> int:
        return len(self._y)

    def _labels(self, data: Any) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
        import datasets

        feature, what = data.features[self._label], f"{self._label} in {self._name}"
        column = data.select_columns([self._label]).with_format("arrow")[:].column(self._label)
        if column.null_count:
            raise RobustError(f"{what} has {column.null_count} samples without a label")
        if getattr(feature, "dtype", "") in ("string", "large_string"):
            raise RobustError(f"{what} is text: labels must be whole numbers, counted from 0")
        try:
            values = np.asarray(column.to_pylist() if column.type.num_fields else column)
        except ValueError as error:
            raise RobustError(f"{what} has rows of different lengths") from error
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        return class_ids(values, self._label, self._name), tuple(names) if names else None

    def _rows(self, ids: Sequence[int]) -> list[Any]:
        jumps = int(np.count_nonzero(np.diff(ids) != 1)) + 1
        self._touched += int(len(ids) * self._row_bytes) + jumps * _FAULT
        if self._row_bytes * len(self) > _MAPPED and self._touched > _MAPPED:
            # A Dataset is pickled as the name of its file: this closes the map and opens another.
            self._data, self._touched = pickle.loads(pickle.dumps(self._data)), 0
        values: list[Any] = self._data[list(ids)][self._x]
        return values

    def _raw(self, ids: Sequence[int]) -> list[NDArray[Any]]:
        """The samples as they are stored, one array each."""
        if self._image:
            return [self._picture(i, row) for i, row in zip(ids, self._rows(ids), strict=True)]
        try:
            return [np.asarray(row, dtype=self._dtype) for row in self._rows(ids)]
        except (ValueError, TypeError) as error:
            raise RobustError(f"{self._x} in {self._name} is not an array of numbers") from error

    def _picture(self, i: int, row: Any) -> NDArray[Any]:
        from PIL.Image import DecompressionBombError

        what = self._sample(i)
        if row is None or (row["bytes"] is None and not self._files):
            raise RobustError(f"{what} has no image in it")
        try:
            picture = self._decoder.decode_example(row)
            return pixels_of(picture, what)
        except (OSError, ValueError, SyntaxError, EOFError, DecompressionBombError) as error:
            raise RobustError(f"{what} is not a readable image: it may be cut short") from error

    def batch(self, ids: Ids) -> Batch:
        """The samples with these ids, in this order. RobustError for one that does not fit."""
        wanted = check_ids(ids, len(self))
        shape = self._first.shape
        raw = self._raw(wanted.tolist()) if len(wanted) else []
        for k, (i, one) in enumerate(zip(wanted.tolist(), raw, strict=True)):
            if self._image:
                raw[k] = fit(one, shape, self._dtype, self._sample(i))
            elif one.shape != shape:
                raise RobustError(
                    f"samples differ in shape: {self._sample(i)} is {one.shape}, "
                    f"the first is {shape}"
                )
        stored = np.stack(raw) if raw else np.empty((0, *shape), self._dtype)
        self._pixels.check((i, one[None]) for i, one in zip(wanted.tolist(), raw, strict=True))
        x = self._pixels.convert(stored)
        return Batch(torch.tensor(wanted), x, torch.from_numpy(self._y[wanted]))

    def labels(self) -> NDArray[np.int64]:
        """Every label."""
        return self._y.copy()

    def fingerprint(self) -> str:
        """A sha256 of the content, or of what `datasets` knows it by."""
        return self._digest()


def _dtype(feature: Any, key: str, name: str) -> np.dtype[Any]:
    """The type of the numbers in a column of lists."""
    leaf, nested = feature, False
    while hasattr(leaf, "feature") or (isinstance(leaf, list) and len(leaf) == 1):
        leaf, nested = (leaf[0] if isinstance(leaf, list) else leaf.feature), True
    nested = nested or hasattr(leaf, "shape")
    try:
        if nested:
            dtype: np.dtype[Any] = np.dtype(leaf.dtype)
            return dtype
    except (TypeError, AttributeError):
        pass
    raise RobustError(f"{key} in {name} holds neither images nor arrays of numbers")


def open_hub(name: str, split: str | None, low: float, high: float, *, held: bool) -> Source:
    """`NAME`, `OWNER/NAME/CONFIG` or a local folder in the layout of the hub, after `hf:`.

    Without a split: the test split (for a hold-out: the train split), else the only one there is.
    """
    path, config = _address(name)
    shown = f"hf:{name}"
    with quiet() as datasets:
        try:
            splits = datasets.get_dataset_split_names(path, config)
            split = split or _default_split(splits, shown, "train" if held else "test")
            if split not in splits:
                raise RobustError(f"{shown} has the splits {', '.join(splits)}, not {split}")
            data = datasets.load_dataset(path, config, split=split)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RobustError(f"{shown} cannot be loaded: {reason}") from error
        _release()
        known = hashlib.sha256(f"{shown}:{split}:{data._fingerprint}".encode()).hexdigest()
        return HubSource(data, low, high, name=f"{shown}:{split}", digest=lambda: known, files=True)


def _address(name: str) -> tuple[str, str | None]:
    """What load_dataset is to be called with: a path and perhaps a configuration."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder), None
    if name.startswith((".", "/", "~")):
        if folder.parent.is_dir() and (folder.parent / "README.md").exists():
            return str(folder.parent), folder.name
        raise RobustError(f"there is no folder {name}")
    owner, _, config = name.partition("/")
    if "/" in config:
        repository, _, config = config.partition("/")
        return f"{owner}/{repository}", config
    return name, None


def _default_split(splits: Sequence[str], shown: str, wanted: str) -> str:
    if wanted in splits:
        return wanted
    if len(splits) == 1:
        return splits[0]
    raise RobustError(
        f"{shown} has the splits {', '.join(splits)}: add one, as in {shown}:{splits[0]}"
    )


def _release() -> None:
    """Give back what reading parquet left in Arrow's memory pool."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()
