"""Any model file as a module from pixels to logits."""

import io
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust.core.defense import Frame
from robust.core.errors import RobustError

from .architectures import architectures
from .building import construct, one_line
from .checkpoint import FORMAT, check_checkpoint, program_bytes
from .defending import around, is_file_defense, make_defense, parse_defense
from .exported import is_exported, load_exported
from .info import Loaded, ModelInfo, count_parameters, hash_file
from .onnx import load_onnx
from .program import Program
from .torchscript import load_torchscript
from .weights import fit, guess_classes, read_pickle, read_safetensors, unwrap
from .wrappers import FixedBatch, LogProbabilities, Standardise, TensorOutput, check_normalisation


class NoArchitecture(RobustError):
    """A state dict was given, and not the network that it belongs to."""


def load_model(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    trust_pickle: bool = False,
    probabilities: bool = False,
    defenses: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
) -> Loaded:
    """A model file of any format, told by its content, without running code from it.

    arch           for state dicts: a name of `architectures()` or "file.py:factory", which runs
                   that file. Overrides what a checkpoint says
    mean, std      normalisation to put inside the model, one value or one per channel, in the
                   data's own range. Overrides what a checkpoint says
    shape          of one sample, channels first, where the file does not say it, or says it in
                   another order (.onnx)
    num_classes    where the file does not say it
    trust_pickle   load a pickled module, which runs code from the file
    probabilities  the model returns probabilities: their logarithm becomes the logits
    defenses       "name,key=value" of defenses to put around it, in front of its own, as
                   `robust defend` does; "file.py:Name" runs that file. One of a file that the
                   checkpoint names is made here, too
    low, high      range of the samples, for defenses; what the file says holds, else 0 and 1

    The module is on the CPU, in eval mode, and its parameters need no gradient. That of a model
    with defenses is a `Defended`.
    Raises RobustError for whatever cannot be used.
    """
    file = Path(path)
    given = None if shape is None else tuple(int(s) for s in shape)
    kind = _kind(file)
    info = ModelInfo(
        path=str(path),
        kind=kind,
        sha256=hash_file(file),
        arch=arch,
        shape=given,
        num_classes=num_classes,
        classes=None,
        mean=None,
        std=None,
        data=None,
        threat=None,
        parameters=0,
    )
    net: nn.Module
    content: Any = None
    if arch is not None and kind in _ARCHIVES:
        raise RobustError(f"{path} is {_ARCHIVES[kind]}, which has its network inside: drop --arch")
    if kind == "torch.export":
        net, info = _from_program(load_exported(str(file), str(path)), info)
    elif kind == "torchscript":
        net = load_torchscript(file)
    elif kind == "onnx":
        net, info = load_onnx(file, info, probabilities=probabilities)
    elif kind == "safetensors":
        net, info = _from_tensors(unwrap(read_safetensors(file), file), info)
    else:
        content, trusted = read_pickle(file, trust_pickle)
        if isinstance(content, dict) and content.get("format") == FORMAT:
            net, info = _from_checkpoint(check_checkpoint(content, file), info)
        elif trusted and (module := _module_in(content)) is not None:
            net, info = module, replace(info, kind="pickled-module")
        else:
            net, info = _from_tensors(unwrap(content, file), info)
    if mean is not None or std is not None:
        means, stds = check_normalisation(mean, std)
        info = replace(info, mean=means, std=stds)
    if isinstance(content, dict):
        probabilities = probabilities or content.get("probabilities") is True
    loaded = _finish(net, info, probabilities)
    if loaded.info.kind == FORMAT:  # what comes in may have another shape than what reaches it
        shape = tuple(content["shape"])
        loaded = Loaded(loaded.module, replace(loaded.info, shape=shape), loaded.net)
    parts = content.get("parts") if isinstance(content, dict) else None
    return _with_defenses(loaded, defenses, parts or {}, (low, high))


def _with_defenses(
    loaded: Loaded,
    texts: Sequence[str],
    parts: dict[str, Tensor],
    box: tuple[float | None, float | None],
) -> Loaded:
    """The model with the defenses of its file around it, and in front of them those of `texts`."""
    info = loaded.info
    named = [parse_defense(text) for text in texts]
    own = []
    for record in info.defenses:
        name = str(record["name"])
        try:
            own.append((name, make_defense(record, named)))
        except RobustError as error:
            raise RobustError(f"{info.path}: {error}") from error
    theirs = {name for name, _ in own}
    named = [one for one in named if not (is_file_defense(one[0]) and one[0] in theirs)]
    if not named and not own:
        return loaded
    if info.shape is None or info.num_classes is None:
        raise RobustError(f"{info.path} does not say the shape of its samples: give --data")
    low, high = _range(info, box)
    frame = Frame(info.shape, info.num_classes, low, high)
    defended = around(loaded.module, [*named, *own], frame)
    shift = len(named)  # parts are named by the number of their defense
    moved = {_shifted(key, shift): value for key, value in parts.items()}
    fresh = {k: v for k, v in defended.parts.state_dict().items() if _number(k) < shift}
    fit(defended.parts, {**fresh, **moved}, info.path, "its defenses")
    defended.eval()
    defended.requires_grad_(False)
    records = tuple(defended.records)
    return Loaded(defended, replace(info, defenses=records, box=(low, high)), loaded.net)


def _range(info: ModelInfo, given: tuple[float | None, float | None]) -> tuple[float, float]:
    """The range of samples: what the file says of it, else what was given, else [0, 1]."""
    threat = info.threat or {}
    known = info.box or (threat.get("low"), threat.get("high"))
    if None in known:
        return given[0] or 0.0, 1.0 if given[1] is None else given[1]
    if given not in ((None, None), tuple(known)):
        raise RobustError(
            f"--range {given[0]:g},{given[1]:g} is not the checkpoint's: {info.path} takes values "
            f"in [{known[0]:g}, {known[1]:g}]"
        )
    return float(known[0]), float(known[1])  # type: ignore[arg-type]


def _number(key: str) -> int:
    number = key.partition(".")[0]
    return int(number) if number.isdecimal() else -1


def _shifted(key: str, by: int) -> str:
    return f"{_number(key) + by}.{key.partition('.')[2]}"


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The plain state dict in a checkpoint, a state dict file or a .safetensors file.

    For fine-tuning: only tensors are read. Raises RobustError for every other format.
    """
    file = Path(path)
    kind = _kind(file)
    if kind == "safetensors":
        return unwrap(read_safetensors(file), file)
    if kind != "state-dict":
        raise RobustError(f"{path} is {_ARCHIVES[kind]}; weights are read from state dicts only")
    content, _ = read_pickle(file, trust_pickle=False)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        content = check_checkpoint(content, file)["state_dict"]
    return unwrap(content, file)


def _kind(path: Path) -> str:
    """The format, by content: "state-dict" is whatever torch.save wrote."""
    try:
        if path.is_dir():
            raise RobustError(f"{path} is a directory, not a model file")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise RobustError(f"{path} cannot be read: {error.strerror}") from error
    if size == 0:
        raise RobustError(f"{path} is empty")
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "state-dict"
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header <= 100_000_000:
        return "safetensors"
    # A protobuf whose first field is ir_version, and the next one of a model's.
    if path.suffix.lower() == ".onnx" or (head[:1] == b"\x08" and head[2:3] in _ONNX_FIELDS):
        return "onnx"
    raise RobustError(f"{path} is not a model file. {_ACCEPTED}")


_ACCEPTED = (
    "robust reads its own checkpoints, state dicts (torch.save), .safetensors, TorchScript and "
    "torch.export archives, and ONNX"
)
_ARCHIVES = {
    "torch.export": "a torch.export archive",
    "torchscript": "a torchscript archive",
    "onnx": "an ONNX file",
}
_ONNX_FIELDS = (b"\x12", b"\x1a", b"\x22", b"\x2a", b"\x32", b"\x3a", b"\x42", b"\x72")


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise RobustError(f"{path} is damaged or incomplete ({one_line(error)})") from error
    members = {name.partition("/")[2] for name in names} | set(names)
    if is_exported(members):
        return "torch.export"
    if "constants.pkl" in members:
        return "torchscript"
    if "data.pkl" in members:
        return "state-dict"
    if any(name.endswith(".npy") for name in names):
        raise RobustError(f"{path} is a NumPy archive: data, not a model")
    raise RobustError(f"{path} is a zip archive, but not a model file. {_ACCEPTED}")


def _module_in(content: Any) -> nn.Module | None:
    if isinstance(content, Mapping):
        content = next((v for v in content.values() if isinstance(v, nn.Module)), None)
    return content if isinstance(content, nn.Module) else None


def _from_tensors(tensors: dict[str, Tensor], info: ModelInfo) -> tuple[nn.Module, ModelInfo]:
    if info.arch is None:
        raise NoArchitecture(
            f"{info.path} is a state dict, which does not say its architecture: pass --arch NAME "
            f"({', '.join(architectures())}) or --arch file.py:factory"
        )
    classes = info.num_classes or guess_classes(tensors)
    net = construct(info.arch, info.shape, classes)
    fit(net, tensors, info.path, info.arch)
    return net, info


def _from_program(program: Program, info: ModelInfo) -> tuple[nn.Module, ModelInfo]:
    if program.shape is not None:
        if info.shape is not None and info.shape != program.shape:
            raise RobustError(
                f"{info.path} takes samples of shape {program.shape}, not {info.shape}"
            )
        info = replace(info, shape=program.shape)
    return program if program.batch is None else FixedBatch(program, program.batch), info


def _from_checkpoint(content: dict[str, Any], info: ModelInfo) -> tuple[nn.Module, ModelInfo]:
    classes, mean, std = (content[k] for k in ("classes", "mean", "std"))
    override = info.arch
    if info.shape is not None and list(info.shape) != content["shape"]:
        raise RobustError(
            f"{info.path} takes samples of shape {tuple(content['shape'])}, not {info.shape}"
        )
    info = replace(
        info,
        kind=FORMAT,
        arch=override or content["arch"],
        shape=tuple(content.get("behind") or content["shape"]),
        num_classes=content["num_classes"],
        classes=None if classes is None else tuple(classes),
        mean=None if mean is None else tuple(mean),
        std=None if std is None else tuple(std),
        data=content["data"],
        threat=content["threat"],
        extra=content["extra"],
        defenses=tuple(content.get("defenses") or ()),
        box=None if content.get("box") is None else tuple(content["box"]),
    )
    inside = program_bytes(content, "inside")
    if inside is not None:
        return _from_file(inside, info, override)
    arch, shape = str(info.arch), info.shape
    if override is None and arch not in architectures():
        # A checkpoint may name any file: only the user may have it run.
        program = program_bytes(content)
        if program is None:
            raise RobustError(
                f"{info.path} was made with the architecture {arch}, which is not inside the file: "
                f"pass --arch {arch} (this runs that file)"
            )
        return _from_program(load_exported(program, info.path), info)
    net = construct(arch, shape, info.num_classes)
    fit(net, content["state_dict"], info.path, arch)
    return net, info


def _from_file(
    inside: io.BytesIO, info: ModelInfo, override: str | None
) -> tuple[nn.Module, ModelInfo]:
    """The model of another format that a checkpoint has inside."""
    if override is not None:
        raise RobustError(f"{info.path} has its network inside: drop --arch")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model"
        file.write_bytes(inside.getvalue())
        try:
            loaded = load_model(file, shape=info.shape, num_classes=info.num_classes)
        except RobustError as error:
            raise RobustError(str(error).replace(str(file), f"{info.path} (inside)")) from error
    assert loaded.net is not None
    return loaded.net, replace(info, access=loaded.info.access)


def _finish(net: nn.Module, info: ModelInfo, probabilities: bool) -> Loaded:
    parameters = count_parameters(net)
    plain = info.arch in architectures()
    module: nn.Module = net if plain else TensorOutput(net)
    if info.mean is not None and info.std is not None:
        module = Standardise(module, info.mean, info.std)
    if probabilities:
        module = LogProbabilities(module)
    module.eval()
    for parameter in module.parameters():  # script modules have no requires_grad_
        parameter.requires_grad_(False)
    info = replace(info, parameters=parameters)
    if info.shape is not None:
        output = _probe(module, info.shape, info.path)
        if info.num_classes is None and output.dim() == 2:
            info = replace(info, num_classes=int(output.shape[1]))
    return Loaded(module, info, net)


def _probe(module: nn.Module, shape: tuple[int, ...], path: str) -> Tensor:
    """One black sample's output: a model that cannot take the shape is found here."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output = module(torch.zeros(1, *shape))
    except RobustError as error:
        raise RobustError(f"{path}: {error}") from error
    except Exception as error:
        raise RobustError(
            f"{path} does not take samples of shape {shape} ({one_line(error)})"
        ) from error
    if not isinstance(output, Tensor):
        raise RobustError(f"{path} returns {type(output).__name__}, not a tensor of logits")
    return output
