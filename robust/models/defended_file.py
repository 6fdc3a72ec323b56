"""A defended model as a checkpoint, whatever file the model itself came from."""

import os
from pathlib import Path
from typing import Any

import torch

from robust.core.defended import Defended
from robust.core.errors import RobustError

from .checkpoint import (
    FORMAT,
    VERSION,
    check_checkpoint,
    checkpoint_content,
    with_defenses,
    write_checkpoint,
)
from .info import Loaded, ModelInfo
from .weights import read_pickle
from .wrappers import LogProbabilities

_ARCHIVES = ("torch.export", "torchscript", "onnx")


def save_defended(path: str | os.PathLike[str], loaded: Loaded) -> None:
    """Write what `load_model(…, defenses=…)` gave as a checkpoint that needs nothing else.

    A checkpoint of ours keeps all that it says; the file of another format goes in as it is.
    Raises RobustError where the model cannot be written, such as a pickled module.
    """
    defended, info = loaded.module, loaded.info
    assert isinstance(defended, Defended)
    around = with_defenses(defended)
    if any(isinstance(module, LogProbabilities) for module in defended.modules()):
        around["probabilities"] = True
    content: dict[str, Any]
    if info.kind == FORMAT:
        content, _ = read_pickle(Path(info.path), trust_pickle=False)
        content = check_checkpoint(content, Path(info.path))
        content |= {"mean": _listed(info.mean), "std": _listed(info.std), "arch": info.arch}
    elif info.kind in _ARCHIVES:
        content = _around_file(info)
    elif info.arch is None or loaded.net is None:
        raise RobustError(
            f"{info.path} is a {info.kind}, which cannot be kept in a checkpoint: save a "
            "state dict and give its --arch, or a torch.export archive"
        )
    else:
        assert info.shape is not None
        assert info.num_classes is not None
        content = checkpoint_content(
            loaded.net,
            arch=info.arch,
            shape=info.shape,
            num_classes=info.num_classes,
            classes=info.classes,
            mean=info.mean,
            std=info.std,
        )
    write_checkpoint(Path(path), content | around)


def _listed(values: tuple[Any, ...] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _around_file(info: ModelInfo) -> dict[str, Any]:
    """The content of a checkpoint that has a file of another format inside."""
    assert info.shape is not None
    data = Path(info.path).read_bytes()
    return {
        "format": FORMAT,
        "version": VERSION,
        "arch": info.kind,
        "shape": list(info.shape),
        "num_classes": info.num_classes,
        "classes": _listed(info.classes),
        "mean": _listed(info.mean),
        "std": _listed(info.std),
        "data": None,
        "threat": None,
        "extra": {},
        "state_dict": {},
        "program": None,
        "inside": torch.frombuffer(bytearray(data), dtype=torch.uint8),
    }
