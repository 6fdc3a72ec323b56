"""TorchScript archives.

TorchScript is interpreted by torch and cannot reach Python, and its pickles are read by torch's own
unpickler, which makes no Python objects. But two of its operators write files, and code of the
archive may already run while it is loaded (`__setstate__`): archives that name them are refused.
"""

import io
import re
import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn

from robust.core.errors import RobustError

from .building import one_line

# As names, whatever stands before them: `x.save(…)` on a tensor is torch.save, too.
_FILE_OPERATORS = re.compile(rb"\b(save|from_file)\b")
# As torch writes it, for attributes such as "0"; any other form could spell a name out of pieces.
_GETATTR = re.compile(rb'\bgetattr\(([\w.]+), "[\w.-]*"\)')
_NAMESPACES = {b"aten", b"prim", b"quantized", b"torchvision", b"torchaudio"}


def load_torchscript(path: Path) -> nn.Module:
    """The module of an archive, on the CPU, in the mode it was saved in. Raises RobustError."""
    try:
        copy = _checked_copy(path)
        with warnings.catch_warnings():
            # torch ≥ 2.10 deprecates the format.
            warnings.simplefilter("ignore")
            module: nn.Module = torch.jit.load(copy, map_location="cpu")  # type: ignore[no-untyped-call]
    except RobustError:
        raise
    except Exception as error:
        raise RobustError(
            f"{path} is a damaged or unreadable TorchScript archive ({one_line(error)})"
        ) from error
    return module


def _checked_copy(path: Path) -> io.BytesIO:
    """The archive written anew: torch reads the very members that were checked.

    Two readers of zip files can see two different contents in one crafted file.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as out:
        names = archive.namelist()
        if len(set(names)) != len(names):
            raise RobustError(f"{path} is a zip archive with two members of one name")
        if any(name.partition("/")[2] == "model.json" or name == "model.json" for name in names):
            # Its code may lie in any member.
            raise RobustError(f"{path} has the TorchScript format of torch < 1.2: save it anew")
        for name in names:
            data = archive.read(name)
            _check(path, data if name.endswith(".py") else b"")
            out.writestr(name, data)
    copy.seek(0)
    return copy


def _check(path: Path, code: bytes) -> None:
    found = _FILE_OPERATORS.search(code)
    rest = _GETATTR.sub(rb"\1", code)
    while rest != code:
        code, rest = rest, _GETATTR.sub(rb"\1", rest)
    found = found or re.search(rb"\bgetattr\b", code)
    foreign = [n for n in re.findall(rb"\bops\s*\.\s*(\w+)\s*\.", code) if n not in _NAMESPACES]
    if found is not None or foreign:
        what = found[0] if found is not None else b"operators of " + foreign[0]
        raise RobustError(
            f"{path}: its TorchScript code uses {what.decode()!r}, which could reach files; "
            "such archives are not loaded"
        )
