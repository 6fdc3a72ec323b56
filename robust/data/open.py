"""open_data: from what the user named to a source."""

import glob
from pathlib import Path

from robust.core.errors import RobustError

from .arrays import open_digits
from .base import Source, hold_out
from .files import open_hdf5, open_npz
from .hub import open_hub
from .local import open_folder, open_parquet
from .spec import DataSpec

_MAGIC = {
    b"PK\x03\x04": ".npz",
    b"PK\x05\x06": ".npz",
    b"\x89HDF\r\n\x1a\n": "HDF5",
    b"PAR1": "parquet",
    b"\x93NUMPY": ".npy",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"\x1f\x8b": "gzip",
}
_KINDS = {
    ".npz": ".npz",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".hdf": "HDF5",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_ADVICE = {
    ".npy": "one array without labels: save both with np.savez(…, x=…, y=…)",
    "PNG": "one image: give a folder with one folder of images per class",
    "JPEG": "one image: give a folder with one folder of images per class",
    "GIF": "one image: give a folder with one folder of images per class",
    "gzip": "a compressed file: unpack it first",
}


def open_data(spec: DataSpec) -> Source:
    """The source that the spec names.

    Raises RobustError, one line, for whatever cannot be used: no such file, the wrong kind, a
    damaged or empty one, missing arrays, x and y of different length, labels or pixels out of
    range. Local files are read without the network.
    """
    name, split = _split(spec)
    if spec.multi_label:
        source = _open_label_sets(name, split, spec)
    elif name == "digits":
        source = open_digits(split or ("train" if spec.held else None), spec.low, spec.high)
    elif name.startswith("hf:"):
        source = open_hub(name[3:], split, spec.low, spec.high, held=spec.held)
    else:
        source = _open_path(name, split, spec.low, spec.high)
    if spec.split in ("held-in", "held-out"):
        return hold_out(source, spec.split, spec.fraction, spec.seed, spec.source)
    return source


def _split(spec: DataSpec) -> tuple[str, str | None]:
    """The source's name without a split at its end, and the split, whichever way it was given."""
    name, split = spec.source, None
    before, colon, after = name.rpartition(":")
    is_hub = name.startswith("hf:")
    part = after in ("train", "test") or (is_hub and after != "" and "/" not in after)
    there = Path(name[3:] if is_hub else name).exists()
    if colon and part and before not in ("", "hf") and not there:
        name, split = before, after
    if spec.split is None or spec.held:
        return name, split
    if split not in (None, spec.split):
        raise RobustError(f"{spec.source} names the split {split}, but {spec.split} was asked for")
    return name, spec.split


def _open_label_sets(name: str, split: str | None, spec: DataSpec) -> Source:
    path = Path(name).expanduser()
    if name == "digits" or name.startswith("hf:") or path.is_dir() or glob.has_magic(name):
        raise RobustError(_no_sets(name))
    if not path.exists():
        raise RobustError(_missing(name))
    try:
        reader = {".npz": open_npz, "HDF5": open_hdf5}.get(_kind(path, name))
        if reader is None:
            raise RobustError(_no_sets(name))
        return reader(path, name, split, spec.low, spec.high, multi_label=True)
    except OSError as error:
        raise RobustError(f"{name} cannot be read: {error.strerror or error}") from error


def _no_sets(name: str) -> str:
    return (
        f"{name} has one class per sample: --multi-label takes sets of labels, y (n, K) of 0 and "
        "1, from .npz or HDF5"
    )


def _open_path(name: str, split: str | None, low: float, high: float) -> Source:
    path = Path(name).expanduser()
    try:
        if path.is_dir():
            inside = [p for p in path.glob("*.parquet") if p.is_file()]
            if inside:
                return open_parquet(inside, name, split, low, high)
            _no_split(name, split)
            return open_folder(path, name, low, high)
        if not path.exists():
            matches = [Path(p) for p in glob.glob(str(path))] if glob.has_magic(name) else []
            if not matches:
                raise RobustError(_missing(name))
            for match in matches:
                if _kind(match, str(match)) != "parquet":
                    raise RobustError(
                        f"{match} is not a parquet file: a pattern must match only those"
                    )
            return open_parquet(matches, name, split, low, high)
        kind = _kind(path, name)
        if kind == ".npz":
            return open_npz(path, name, split, low, high)
        if kind == "HDF5":
            return open_hdf5(path, name, split, low, high)
        _no_split(name, split)
        return open_parquet([path], name, None, low, high)
    except OSError as error:
        raise RobustError(f"{name} cannot be read: {error.strerror or error}") from error


def _no_split(name: str, split: str | None) -> None:
    if split is not None:
        raise RobustError(f"{name} has no splits: leave out {split}")


def _missing(name: str) -> str:
    if "://" in name:
        return f"{name} is an address: download it, or name a data set of the hub as hf:NAME"
    if glob.has_magic(name):
        return f"no file matches {name}"
    if "/" not in name and "." not in name:
        return f"there is no data called {name}: give digits, a file, a folder or hf:{name}"
    return f"there is no file {name}"


def _kind(path: Path, name: str) -> str:
    """What the file is: .npz, HDF5 or parquet, by its first bytes, with which its name agrees."""
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        raise RobustError(f"{name} is empty")
    found = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if found is None:
        import h5py

        found = "HDF5" if h5py.is_hdf5(path) else None
    said = _KINDS.get(path.suffix.lower())
    if found in _ADVICE:
        raise RobustError(f"{name} is {_ADVICE[found]}")
    if found is None:
        if said:
            raise RobustError(f"{name} is not {said}: it is damaged, or has the wrong name")
        raise RobustError(f"{name} is none of .npz, HDF5 and parquet")
    if said and found != said:
        raise RobustError(f"{name} holds {found}, not {said}: rename it")
    return found
