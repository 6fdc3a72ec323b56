"""Which other files an ONNX file names, read without running or loading anything.

ONNX Runtime checks these names too, but how strictly depends on its version, and it follows them
while it loads. Only the paths of the protobuf that can lead to a tensor are walked.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from robust.core.errors import RobustError

from .info import hash_file

# Message → field number → the message in it, for those that lead to the entries of external data.
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2  # the fields of an entry


def files_beside(path: Path) -> list[Path]:
    """The files of external weights, in the order of their names.

    Raises RobustError for one that is missing, or outside the folder of the file (a folder of links
    into another one, as caches keep it, counts as that other one).
    """
    try:
        names = sorted(_locations(path.read_bytes()))
    except (ValueError, IndexError) as error:
        raise RobustError(f"{path} is damaged or incomplete ({error})") from error
    folders = [path.parent.resolve(), path.resolve().parent]
    found = []
    for name in names:
        file = (path.parent / name).resolve()
        if Path(name).is_absolute() or not any(file.is_relative_to(f) for f in folders):
            raise RobustError(
                f"{path} keeps weights in {name!r}, outside its own folder; such files are not read"
            )
        if not file.is_file():
            raise RobustError(f"{path} keeps weights in {name!r}, and there is no such file")
        found.append(file)
    return found


def hash_with(path: Path, others: list[Path]) -> str:
    """SHA-256 of the file's bytes; where weights are in others, over the digests of all."""
    own = hash_file(path)
    if not others:
        return own
    return hashlib.sha256("".join([own, *map(hash_file, others)]).encode()).hexdigest()


def _locations(data: bytes) -> set[str]:
    if b"location" not in data:  # the key, as it must stand in the file
        return set()
    found: set[str] = set()
    open_parts = [("model", memoryview(data))]
    while open_parts:
        kind, message = open_parts.pop()
        if kind == "entry":
            fields = list(_fields(message))
            if any(number == _KEY and bytes(text) == b"location" for number, text in fields):
                # All of them: which one counts where there are several is the reader's choice.
                found |= {str(text, "utf-8") for number, text in fields if number == _VALUE}
            continue
        inside = _PARTS[kind]
        open_parts += [(inside[n], part) for n, part in _fields(message) if n in inside]
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of the length-delimited fields of a message."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(message, at)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, at = _varint(message, at)
            if at + size > len(message):
                raise ValueError("a field ends behind the end of the file")
            yield tag >> 3, message[at : at + size]
            at += size
        else:
            raise ValueError(f"a field of the unknown kind {wire}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number longer than 64 bits")
