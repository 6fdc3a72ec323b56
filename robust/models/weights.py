"""Plain checkpoints: read without running code, unwrapped, fitted into a network."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust.core.errors import RobustError

from .building import one_line

_NESTED = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")


def read_pickle(path: Path, trust_pickle: bool) -> tuple[Any, bool]:
    """What torch.save wrote, and whether reading it took a pickle with code in it.

    Only tensors and plain containers are read, unless `trust_pickle`. Raises RobustError.
    """
    try:
        return _load(path, weights_only=True), False
    except pickle.UnpicklingError as error:
        refused = _refused(str(error))
        if refused is None:
            raise damaged(path, error) from error
        if not trust_pickle:
            raise RobustError(
                f"{path} is a pickle that holds {refused}, not only tensors: loading it runs code "
                "from the file. If you trust whoever made it, pass --trust-pickle"
            ) from error
    except Exception as error:
        raise damaged(path, error) from error
    try:
        return _load(path, weights_only=False), True
    except Exception as error:
        raise damaged(path, error) from error


def _load(path: Path, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _refused(message: str) -> str | None:
    """What torch's restricted unpickler would not make, as its message names it."""
    named = re.search(r"GLOBAL (\w+(?:\.\w+)*)|but got <class '([\w.]+)'>", message)
    if named is not None:
        return named[1] or named[2]
    # An opcode of the newer protocols, which make objects; others are no pickle at all.
    opcode = re.search(r"Unsupported operand (\d+)", message)
    return "objects" if opcode is not None and int(opcode[1]) >= 0x80 else None


def damaged(path: Path, error: BaseException) -> RobustError:
    """The one line for a file that starts like a model and does not go on like one."""
    return RobustError(f"{path} is damaged or incomplete ({one_line(error)})")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file. Raises RobustError."""
    from safetensors.torch import load_file

    try:
        return load_file(path, device="cpu")
    except Exception as error:
        raise damaged(path, error) from error


def unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in a checkpoint: nested or not, prefixes of wrappers taken off.

    Entries that are no tensors (an epoch number) are left out. Raises RobustError.
    """
    while isinstance(content, Mapping):
        nested = next((k for k in _NESTED if isinstance(content.get(k), Mapping)), None)
        if nested is None:
            break
        content = content[nested]
    if isinstance(content, Tensor):
        raise RobustError(f"{path} holds one tensor, not a state dict")
    if not isinstance(content, Mapping):
        raise RobustError(f"{path} holds {type(content).__name__}, not a state dict")
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:3])) or "none"
        raise RobustError(f"{path} holds no state dict: no tensors among its entries ({keys})")
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if all(k.startswith(prefix) for k in tensors):
                tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
                stripped = True
    return tensors


def fit(net: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, arch: str) -> None:
    """Put the tensors into the network. Raises RobustError where names or shapes differ."""
    expected = net.state_dict()
    shapes = [
        f"{k} is {tuple(tensors[k].shape)} and should be {tuple(v.shape)}"
        for k, v in expected.items()
        if k in tensors and isinstance(v, Tensor) and v.shape != tensors[k].shape
    ]
    same = {k: v for k, v in tensors.items() if not (k in expected and _differs(expected[k], v))}
    try:
        result = net.load_state_dict(same, strict=False)
    except Exception as error:
        raise RobustError(f"{path} does not fit {arch} ({one_line(error)})") from error
    missing = [k for k in result.missing_keys if k not in tensors]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for what, names in (
            ("missing", missing),
            ("unexpected", result.unexpected_keys),
            ("of another shape", shapes),
        )
        if names
    ]
    if problems:
        raise RobustError(f"{path} does not fit {arch}: {'; '.join(problems)}")


def _differs(a: Any, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.shape != b.shape


def guess_classes(tensors: Mapping[str, Tensor]) -> int | None:
    """The rows of the last matrix: the number of classes of the usual classifier."""
    matrices = [v for v in tensors.values() if v.dim() == 2]
    return int(matrices[-1].shape[0]) if matrices else None
