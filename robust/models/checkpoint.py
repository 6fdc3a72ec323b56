"""The project's own checkpoints: plain containers and tensors, readable without running code."""

import contextlib
import copy
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust.core.defended import Defended
from robust.core.errors import RobustError
from robust.core.files import write_whole

from .building import is_file_arch
from .exported import load_exported
from .wrappers import Standardise, check_normalisation, first_tensor

FORMAT = "robust-checkpoint"
VERSION = 2  # since there are defenses; a checkpoint without is written as 1, which says the same


def save_checkpoint(
    path: str | os.PathLike[str],
    net: nn.Module,
    *,
    arch: str,
    shape: Sequence[int],
    num_classes: int,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    data: Mapping[str, Any] | None = None,
    threat: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    defended: Defended | None = None,
) -> None:
    """Write a checkpoint that needs nothing else to be loaded; whole or not at all.

    net                  the network without its normalisation. A `Standardise` gives its own mean
                         and std unless they are passed
    mean, std            per channel, in the data's own range; None: no normalisation
    data, threat, extra  JSON-able
    defended             the network with its normalisation and defenses, which go in, too

    Where `arch` is a factory in a file, the network goes in as a torch.export program, too, so
    that loading runs no code. Where it cannot be exported, loading will ask for --arch.
    Raises RobustError for values that are not JSON-able, or where the file cannot be written.
    """
    content = checkpoint_content(
        net,
        arch=arch,
        shape=shape,
        num_classes=num_classes,
        classes=classes,
        mean=mean,
        std=std,
        data=data,
        threat=threat,
        extra=extra,
        behind=None if defended is None or defended.behind is None else defended.behind.shape,
    )
    if defended is not None and defended.records:
        content |= with_defenses(defended)
    write_checkpoint(Path(path), content)


def checkpoint_content(
    net: nn.Module,
    *,
    arch: str,
    shape: Sequence[int],
    num_classes: int,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    data: Mapping[str, Any] | None = None,
    threat: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    behind: Sequence[int] | None = None,
) -> dict[str, Any]:
    """What `save_checkpoint` writes of a network, but for defenses around it.

    behind  shape of what these hand to the network; None: as samples come
    """
    if isinstance(net, Standardise):
        if mean is None and std is None:
            mean, std = net.mean.tolist(), net.std.tolist()
        net = net.net
    normalised = mean is not None or std is not None
    means, stds = check_normalisation(mean, std) if normalised else (None, None)
    try:
        plain = json.loads(json.dumps({"data": data, "threat": threat, "extra": extra or {}}))
    except (TypeError, ValueError) as error:
        raise RobustError(
            f"data, threat and extra of a checkpoint must be JSON: {error}"
        ) from error
    return {
        "format": FORMAT,
        "version": 1,
        "arch": arch,
        "shape": [int(s) for s in shape],
        "num_classes": int(num_classes),
        "classes": None if classes is None else [str(c) for c in classes],
        "mean": None if means is None else list(means),
        "std": None if stds is None else list(stds),
        **plain,
        "state_dict": {
            k: v.detach().cpu().clone() for k, v in net.state_dict().items() if _is_tensor(v)
        },
        "program": _export(net, behind or shape) if is_file_arch(arch) else None,
    }


def with_defenses(defended: Defended) -> dict[str, Any]:
    """What a checkpoint says of the defenses around its network."""
    assert defended.frame is not None
    assert defended.behind is not None
    try:
        records = json.loads(json.dumps(defended.records))
    except (TypeError, ValueError) as error:
        raise RobustError(f"parameters of a defense must be JSON: {error}") from error
    return {
        "version": VERSION,
        "defenses": records,
        "box": [defended.frame.low, defended.frame.high],
        "behind": list(defended.behind.shape),
        "parts": {k: v.detach().cpu().clone() for k, v in defended.parts.state_dict().items()},
    }


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint's content, whole or not at all. Raises RobustError."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a path would put its name into the archive
            torch.save(dict(content), file)

    try:
        write_whole(path, write)
    except OSError as error:
        raise RobustError(f"{path} cannot be written: {error.strerror or error}") from error


def check_checkpoint(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint's content, its fields of the right types. Raises RobustError."""
    version = content.get("version")
    if not isinstance(version, int) or version < 1:
        raise RobustError(f"{path} is a damaged checkpoint: its version is {version!r}")
    if version > VERSION:
        raise RobustError(
            f"{path} was written by a newer robust (checkpoint version {version}; this one reads "
            f"up to {VERSION}): upgrade robust"
        )
    for key, valid in _FIELDS.items():
        if not valid(content.get(key)):
            raise RobustError(
                f"{path} is a damaged checkpoint: its {key!r} is not what it should be"
            )
    return content


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _list_of(kind: type | tuple[type, ...], value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, kind) for v in value)


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "arch": lambda v: isinstance(v, str),
    "shape": lambda v: _list_of(int, v) and len(v) > 0 and min(v) > 0,
    "num_classes": lambda v: isinstance(v, int) and v > 0,
    "classes": lambda v: v is None or _list_of(str, v),
    "mean": lambda v: v is None or _list_of((int, float), v),
    "std": lambda v: v is None or _list_of((int, float), v),
    "data": lambda v: v is None or isinstance(v, dict),
    "threat": lambda v: v is None or isinstance(v, dict),
    "extra": lambda v: isinstance(v, dict),
    "state_dict": lambda v: isinstance(v, dict) and all(map(_is_tensor, v.values())),
    "program": lambda v: v is None or (_is_tensor(v) and v.dtype == torch.uint8),
    "inside": lambda v: v is None or (_is_tensor(v) and v.dtype == torch.uint8),
    "defenses": lambda v: v is None or (isinstance(v, list) and all(map(_is_record, v))),
    "box": lambda v: v is None or (_list_of((int, float), v) and len(v) == 2),
    "behind": lambda v: v is None or (_list_of(int, v) and len(v) > 0 and min(v) > 0),
    "parts": lambda v: v is None or (isinstance(v, dict) and all(map(_is_tensor, v.values()))),
}


def _is_record(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("params"), dict)
    )


def program_bytes(content: Mapping[str, Any], key: str = "program") -> io.BytesIO | None:
    """The torch.export archive inside a checkpoint; under "inside" the file of any other model."""
    program = content.get(key)
    return None if program is None else io.BytesIO(program.numpy().tobytes())


def _export(net: nn.Module, shape: Sequence[int]) -> Tensor | None:
    """The network as a torch.export archive with a free batch size; None where that fails."""
    try:
        with _silent(), torch.random.fork_rng(devices=[]):
            module = copy.deepcopy(net).cpu().eval().requires_grad_(False)
            x = torch.rand(2, *shape)
            batch = torch.export.Dim("batch", min=1)
            program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},))
            buffer = io.BytesIO()
            torch.export.save(program, buffer)
            # Kept only if it can be read back, and says the same for another batch size.
            again = load_exported(io.BytesIO(buffer.getvalue()), "the exported network")
            x = torch.rand(3, *shape)
            with torch.no_grad():
                torch.testing.assert_close(first_tensor(again(x)), first_tensor(module(x)))
    except Exception:  # somebody's network may fail to export in any way; loading asks for --arch
        return None
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
