"""Shards and fits as files: a shard is HDF5 behind a block with its checksum, a fit safetensors.

The first 512 bytes of a shard are HDF5's user block, which every reader of HDF5 steps over. They
hold the SHA-256 of what follows, so that one bit that has flipped anywhere is seen. Shards of
earlier versions have no such block; of those HDF5 itself notices what it can.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from .core.outcome import AttackRows, Fit, Shard

_MAGIC = b"robust shard, sha256 "
_BLOCK = 512


class DamagedError(ValueError):
    """What a file should hold is not there; the text says why, in a few words."""


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard; `read_shard` gives it back as it is."""
    import h5py

    # The format of HDF5 1.10 takes a quarter of the room that the first one needs for small shards.
    with h5py.File(path, "w", libver=("v110", "v110"), userblock_size=_BLOCK) as file:
        _put(file, shard)
        for number, rows in enumerate(shard.attacks):
            _put(file.create_group(f"attacks/{number:03d}"), rows)
    with path.open("r+b") as raw:
        raw.seek(_BLOCK)
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
        raw.seek(0)
        raw.write(_MAGIC + digest.encode() + b"\n")


def read_shard(path: Path, *, pixels: bool = True) -> Shard:
    """The shard of a file. Raises DamagedError where it is not what was written.

    pixels  False: without the samples themselves, which are most of it: x and x_adv are of shape
            (m, 0), and of what is left out no damage is seen
    """
    import h5py

    try:
        if pixels:
            with path.open("rb") as raw:
                _compare(raw)
        with h5py.File(path, "r") as file:
            parts = [file["attacks"][key] for key in sorted(file.get("attacks", ()))]
            attacks = [AttackRows(**_get(group, AttackRows, pixels)) for group in parts]
            return Shard(**_get(file, Shard, pixels), attacks=attacks)
    except DamagedError:
        raise
    except FileNotFoundError as error:
        raise DamagedError("it is missing") from error
    except Exception as error:  # h5py raises whatever the broken part happens to bring about
        raise DamagedError(f"it cannot be read: {_line(error)}") from error


def _compare(raw: Any) -> None:
    block = raw.read(_BLOCK)
    if not block:
        raise DamagedError("it is empty")
    if block.startswith(_MAGIC):
        stored = block[len(_MAGIC) :].partition(b"\n")[0]
        if hashlib.file_digest(raw, "sha256").hexdigest().encode() != stored:
            raise DamagedError("it was cut short or changed: its checksum differs")


def _put(group: Any, record: Shard | AttackRows) -> None:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, np.ndarray):
            packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
            options = {**packed, "fletcher32": True} if value.size else {}
            group.create_dataset(field.name, data=value, **options)
        elif field.name != "attacks":
            group.attrs[field.name] = value


# What shards of an earlier version lack, and so takes its default.
_SINCE = {
    *("stages", "entered", "remarks", "remarked", "fooled"),
    *("trace_rows", "trace_queries", "trace_distance", "asked", "repeated", "not_finite"),
    *("right", "trial"),
}


def _get(group: Any, cls: type, pixels: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name in ("x", "x_adv") and not pixels:
            values[field.name] = np.zeros((len(group[field.name]), 0), dtype=np.float32)
        elif field.name in group.attrs:
            value = group.attrs[field.name]
            values[field.name] = value.item() if isinstance(value, np.generic) else value
        elif field.name != "attacks" and (field.name in group or field.name not in _SINCE):
            values[field.name] = group[field.name][()]
    return values


def write_fit(path: Path, fit: Fit) -> None:
    """Write what an attack crafted; `read_fit` gives it back as it is."""
    from safetensors.numpy import save_file

    facts = json.dumps({k: v for k, v in vars(fit).items() if k != "tensor"})
    tensor = np.ascontiguousarray(fit.tensor)
    save_file({"tensor": tensor}, path, {"facts": facts, "sha256": _digest(tensor, facts)})


def read_fit(path: Path) -> Fit:
    """The fit of a file. Raises DamagedError where it is not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            tensor, about = file.get_tensor("tensor"), file.metadata()
        if about.get("sha256", _digest(tensor, about["facts"])) != _digest(tensor, about["facts"]):
            raise DamagedError("it was changed: its checksum differs")
        return Fit(tensor=tensor, **json.loads(about["facts"]))
    except DamagedError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"it cannot be read: {_line(error)}") from error


def _digest(tensor: np.ndarray, facts: str) -> str:
    return hashlib.sha256(tensor.tobytes() + facts.encode()).hexdigest()


def _line(error: Exception) -> str:
    """The first line of an error, or its kind."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
