"""What is known about a model, and the model with it."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust.core.defended import Defended


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a model, as a run records them.

    path         where it was read from ("" in memory)
    kind         "robust-checkpoint", "state-dict", "safetensors", "torchscript", "torch.export",
                 "pickled-module", "in-memory", "onnx", "function", "v2-service" or "json-service"
    sha256       of the file's bytes; in memory, of the parameters and buffers in order
    arch         name of the architecture, or "file.py:factory"
    shape        of one sample, without the batch dimension
    classes      their names
    mean, std    the normalisation that `robust` put inside the model, per channel
    data         the data set that the model was trained on, as `robust train` stored it
    threat       {"norm", "eps", "low", "high"}, as `robust train` stored it
    parameters   their number
    extra        whatever else training stored, or is known of a service, JSON-able
    access       the most that it gives: "gradient", "scores" or "labels"
    eight_bit    it is sent 8-bit images: every value is rounded on the way
    defenses     {"name", "params"} of each defense around it, in the order in which a sample meets
                 them
    box          (low, high) of its input, where it was made with defenses
    """

    path: str
    kind: str
    sha256: str
    arch: str | None
    shape: tuple[int, ...] | None
    num_classes: int | None
    classes: tuple[str, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    data: dict[str, Any] | None
    threat: dict[str, Any] | None
    parameters: int
    extra: dict[str, Any] = field(default_factory=dict)
    access: str = "gradient"
    eight_bit: bool = False
    defenses: tuple[dict[str, Any], ...] = ()
    box: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values: tuples become lists."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass
class Loaded:
    """A model from pixels in the data's own range to logits, and what is known about it.

    net     the network alone, without its normalisation and defenses, where it was read from a file
    """

    module: nn.Module
    info: ModelInfo
    net: nn.Module | None = None


def in_memory(
    module: nn.Module,
    *,
    shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
) -> Loaded:
    """A module of the caller's as `Loaded`. The module is neither copied nor changed."""
    info = ModelInfo(
        path="",
        kind="in-memory",
        sha256=hash_module(module) if module.state_dict() else "",  # a function has no weights
        arch=type(module).__name__,
        shape=None if shape is None else tuple(shape),
        num_classes=num_classes,
        classes=None if classes is None else tuple(classes),
        mean=None,
        std=None,
        data=None,
        threat=None,
        parameters=count_parameters(module),
    )
    if isinstance(module, Defended) and module.frame is not None:
        frame = module.frame
        info = dataclasses.replace(
            info, defenses=tuple(module.records), box=(frame.low, frame.high)
        )
    return Loaded(module, info)


def count_parameters(module: nn.Module) -> int:
    """The number of parameters, shared ones once."""
    return sum(p.numel() for p in module.parameters())


def hash_module(module: nn.Module) -> str:
    """SHA-256 over the parameters and then the buffers, in the module's order."""
    digest = hashlib.sha256()
    for tensors in (module.named_parameters(), module.named_buffers()):
        for name, tensor in tensors:
            value = tensor.detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            # Through uint8, because NumPy has no bfloat16.
            digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
