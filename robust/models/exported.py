"""torch.export archives (.pt2), read as data.

`torch.export.load` is no way to read a file of unknown origin: it unpickles members with
`weights_only=False`, loads compiled libraries, resolves any attribute of torch as an operator, and
passes strings of the file to `exec` (guards) and `eval` (sympy). Here the program is parsed as JSON
and its tensors as raw bytes, and `program.py` interprets it. What cannot be read this way is
refused.
"""

import io
import json
import math
import re
import zipfile
from typing import Any

import torch
from torch import Tensor

from robust.core.errors import RobustError

from .building import one_line
from .program import Program
from .steps import DTYPES, Unsupported

_SCHEMA = 8  # major version of torch's export schema


def load_exported(file: str | io.BytesIO, name: str) -> Program:
    """The program of an archive. Runs no code from it. Raises RobustError calling it `name`."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _read(_members(archive), archive)
    except Unsupported as error:
        raise RobustError(f"{name}: {error}") from error
    except RobustError:
        raise
    except Exception as error:
        # Whatever is wrong inside a damaged or hostile file ends here, in one line.
        raise RobustError(
            f"{name} is a damaged torch.export archive ({one_line(error)})"
        ) from error


def is_exported(members: set[str]) -> bool:
    """Whether the members of a zip file (without its top folder) are those of an export."""
    return "serialized_exported_program.json" in members or any(
        re.fullmatch(r"models/[^/]+\.json", m) or m.startswith("data/aotinductor/") for m in members
    )


def _members(archive: zipfile.ZipFile) -> dict[str, str]:
    """Path inside the archive's one top folder, where it has one → name of the member."""
    names = archive.namelist()
    one_top = len({name.split("/")[0] for name in names}) == 1
    return {name.partition("/")[2] if one_top else name: name for name in names}


def _read(members: dict[str, str], archive: zipfile.ZipFile) -> Program:
    def read(member: str) -> bytes:
        if member not in members:
            raise Unsupported(f"the archive has no member {member}")
        return archive.read(members[member])

    if any(m.startswith("data/aotinductor/") for m in members):
        raise Unsupported(
            "it holds compiled code (AOTInductor), which cannot be loaded safely; save the program "
            "with torch.export.save"
        )
    if "byteorder" in members and read("byteorder") != b"little":
        raise Unsupported("it was written on a big-endian machine")
    if "serialized_exported_program.json" in members:  # torch ≤ 2.7
        document = json.loads(read("serialized_exported_program.json"))
        tensors = _plain_tensors(read("serialized_constants.pt"))
        tensors |= _plain_tensors(read("serialized_state_dict.pt"))
    else:
        document = json.loads(read("models/model.json"))
        tensors = {}
        for folder, config in (("constants", "constants"), ("weights", "weights")):
            legacy, base = f"data/{folder}/model.pt", f"data/{folder}/"
            if legacy in members:
                tensors |= _plain_tensors(read(legacy))
                continue
            entries = json.loads(read(f"{base}model_{config}_config.json"))["config"]
            tensors |= {k: _raw_tensor(k, v, read, base) for k, v in entries.items()}
    major = document["schema_version"]["major"]
    if major != _SCHEMA:
        raise Unsupported(f"its schema version is {major}, and only {_SCHEMA} can be read")
    return Program(document["graph_module"], tensors)


def _plain_tensors(data: bytes) -> dict[str, Tensor]:
    if not data:
        return {}
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise Unsupported(
            f"its tensors are pickled with something else, which could run code ({one_line(error)})"
        ) from error
    return {k: v for k, v in tensors.items() if isinstance(v, Tensor)}


def _raw_tensor(name: str, entry: dict[str, Any], read: Any, base: str) -> Tensor:
    if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
        raise Unsupported(f"{name!r} is stored as a pickle, and unpickling could run code")
    meta = entry["tensor_meta"]
    dtype = DTYPES[meta["dtype"]]
    sizes, strides = ([s["as_int"] for s in meta[k]] for k in ("sizes", "strides"))
    data = bytearray(read(base + entry["path_name"]))
    if not data:
        if math.prod(sizes):
            raise Unsupported(f"the values of {name!r} are missing")
        return torch.zeros(sizes, dtype=dtype)
    flat = torch.frombuffer(data, dtype=dtype)
    # as_strided checks the bounds; a copy, so that no two names share memory by accident.
    return flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).clone()
