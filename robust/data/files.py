"""Readers of .npz and HDF5 files, a few rows at a time."""

import hashlib
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from robust.core.errors import RobustError

from .arrays import X_NAMES, Y_NAMES, ArraySource, pick
from .base import Source

_BLOCK = 1 << 20
# What zipfile and numpy raise for an archive that is damaged, cut short, encrypted or foreign.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError)


def hash_files(paths: Iterable[Path]) -> str:
    """sha256 over the bytes of the files, one after the other."""
    sha = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                sha.update(block)
    return sha.hexdigest()


class FileRows:
    """Rows of an array that lies in a file. Read, not mapped: mapped pages count as memory."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._file, self.shape, self.dtype = file, shape, dtype
        self._values = int(np.prod(shape[1:], dtype=np.int64))

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop−1."""
        self._file.seek(start * self._values * self.dtype.itemsize)
        flat = np.fromfile(self._file, self.dtype, (stop - start) * self._values)
        return flat.reshape(stop - start, *self.shape[1:])


def _header(
    member: IO[bytes], info: zipfile.ZipInfo, key: str, name: str
) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array in an archive, of which the member must hold every byte."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
    else:
        raise RobustError(f"{key} in {name} is not a plain array: save it as numbers")
    if dtype.hasobject:
        raise RobustError(
            f"{key} in {name} holds Python objects, which are never unpickled: "
            "save it as an array of numbers"
        )
    if fortran and len(shape) > 1:
        raise RobustError(
            f"{key} in {name} is stored column by column: save np.ascontiguousarray({key})"
        )
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != info.file_size - member.tell():
        raise ValueError(f"{key} is cut short")
    return shape, dtype


def open_npz(
    path: Path,
    name: str,
    split: str | None,
    low: float,
    high: float,
    *,
    multi_label: bool = False,
) -> Source:
    """x and y of a .npz archive, compressed or not. Object arrays are refused, never unpickled.

    x is copied, block by block, to an unnamed temporary file, from which rows are read.
    multi_label: y holds sets of labels.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {i.filename[:-4]: i for i in archive.infolist() if i.filename.endswith(".npy")}
            if not infos:
                raise RobustError(
                    f"{name} is a zip archive without arrays, not what np.savez writes"
                )
            keys = pick(list(infos), X_NAMES, split, name), pick(list(infos), Y_NAMES, split, name)
            with archive.open(infos[keys[1]]) as member:
                y_shape, y_dtype = _header(member, infos[keys[1]], keys[1], name)
                y = np.frombuffer(member.read(), y_dtype).reshape(y_shape)
            with archive.open(infos[keys[0]]) as member:
                shape, dtype = _header(member, infos[keys[0]], keys[0], name)
                copy = _unnamed(member, name)
    except _DAMAGED as error:
        raise RobustError(f"{name} is damaged or cut short ({_first_line(error)})") from error
    return ArraySource(
        FileRows(copy, shape, dtype),
        y,
        low,
        high,
        name=name,
        digest=cache(lambda: hash_files([path])),
        keys=keys,
        multi_label=multi_label,
    )


def _unnamed(member: IO[bytes], name: str) -> IO[bytes]:
    """A copy in a file without a name, which goes when it is closed or the process ends."""
    try:
        copy = tempfile.TemporaryFile()  # noqa: SIM115 — closed with its rows
        while block := member.read(_BLOCK):
            copy.write(block)
        copy.flush()
    except OSError as error:
        where = tempfile.gettempdir()
        raise RobustError(
            f"{name} cannot be unpacked to {where} ({error.strerror}): set TMPDIR to a larger disk"
        ) from error
    return copy


class HDF5Rows:
    """Rows of an HDF5 data set."""

    def __init__(self, dataset: Any, name: str) -> None:
        self._dataset, self._name = dataset, name
        self.shape: tuple[int, ...] = tuple(dataset.shape)
        self.dtype: np.dtype[Any] = dataset.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows start … stop−1."""
        try:
            return np.asarray(self._dataset[start:stop])
        except OSError as error:
            raise RobustError(
                f"{self._name} is damaged at samples {start} to {stop - 1} ({_first_line(error)})"
            ) from error


def open_hdf5(
    path: Path,
    name: str,
    split: str | None,
    low: float,
    high: float,
    *,
    multi_label: bool = False,
) -> Source:
    """x and y at the top of an HDF5 file. Links, and data kept in other files, are refused.

    multi_label: y holds sets of labels.
    """
    import h5py

    file: Any = None
    try:
        file = h5py.File(path, "r")
        keys = pick(list(file), X_NAMES, split, name), pick(list(file), Y_NAMES, split, name)
        x, y = (_dataset(file, key, name) for key in keys)
        return ArraySource(
            HDF5Rows(x, name),
            np.asarray(y[...]),
            low,
            high,
            name=name,
            digest=cache(lambda: hash_files([path])),
            keys=keys,
            multi_label=multi_label,
        )
    except Exception as error:
        if file is not None:
            file.close()
        if isinstance(error, OSError | RuntimeError | KeyError | ValueError):
            raise RobustError(f"{name} is damaged or cut short ({_first_line(error)})") from error
        raise


def _dataset(file: Any, key: str, name: str) -> Any:
    """A data set whose values are in this very file."""
    import h5py

    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise RobustError(
            f"{key} in {name} is a link, which is not followed: store the array itself"
        )
    item = file[key]
    if not isinstance(item, h5py.Dataset):
        raise RobustError(f"{key} in {name} is a group: x and y must be at the top of the file")
    if item.is_virtual or item.external:
        raise RobustError(f"{key} in {name} is kept in other files: store the array itself")
    if item.shape is None:
        raise RobustError(f"{name} is empty: {key} holds nothing")
    if item.dtype.hasobject:
        raise RobustError(f"{key} in {name} is not an array of numbers")
    return item


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
