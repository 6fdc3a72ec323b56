"""ONNX files, answered by ONNX Runtime; with onnx2torch, gradients too.

A file gives scores, or labels where it has no other output. It runs no code of its own: operators
are ONNX Runtime's, no libraries of custom ones are loaded, and weights come from its folder alone.
"""

import math
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust.core.errors import RobustError

from .building import one_line
from .info import ModelInfo
from .onnx_file import files_beside, hash_with
from .wrappers import FixedBatch, first_tensor

_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
}
_INTEGERS = ("tensor(int64)", "tensor(int32)")
# How far a converted network's logits may be from the file's: a share of their range.
_AGREE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 0.02}

Dims = Sequence[int | None]


@dataclass(frozen=True)
class Layout:
    """How samples (n, *shape) become the tensor that a file takes.

    shape   of one sample, channels first; None where neither the file nor anybody says it
    last    channels are moved to the end
    sizes   what a sample is reshaped to, after that; None: as it is
    bare    one sample at a time, without a dimension for the batch
    """

    shape: tuple[int, ...] | None
    last: bool = False
    sizes: tuple[int, ...] | None = None
    bare: bool = False

    def feed(self, x: Tensor) -> Tensor:
        if self.last:
            x = x.movedim(1, -1)
        if self.bare:
            return x.reshape(self.sizes or x.shape[1:])
        return x if self.sizes is None else x.reshape(len(x), *self.sizes)

    def __str__(self) -> str:
        parts = ["channels last"] if self.last else []
        parts += ["no batch"] if self.bare else []
        parts += [] if self.sizes is None else [f"reshaped to {self.sizes}"]
        return ", ".join(parts)


def fit_layout(declared: Dims, shape: Sequence[int] | None) -> Layout | None:
    """How samples of this shape fit what a file declares, batch included; None if they do not.

    None in `declared` is any size. Without a shape the file's own is taken; three dimensions of
    which the last is as small as the channels of an image are channels last.
    """
    rest = tuple(declared[1:])
    if shape is None:
        return _own_layout(declared)
    shape = tuple(shape)
    if not declared or _fits(rest, shape):
        return Layout(shape)
    if len(shape) > 1 and _fits(rest, (*shape[1:], shape[0])):
        return Layout(shape, last=True)
    if rest.count(None) <= 1:
        known = math.prod(d for d in rest if d is not None)
        sizes = tuple(math.prod(shape) // max(1, known) if d is None else d for d in rest)
        if _same_values(sizes, shape):
            return Layout(shape, sizes=sizes)
    whole = tuple(d for d in declared if d is not None)
    if len(whole) == len(declared) and _same_values(whole, shape):
        return Layout(shape, sizes=whole, bare=True)
    return None


def _own_layout(declared: Dims) -> Layout:
    known = tuple(d for d in declared[1:] if d is not None)
    if len(declared) == 1 and declared[0] is not None:
        return Layout((declared[0],), bare=True)
    if not known or len(known) < len(declared) - 1:
        return Layout(None)
    if len(known) == 3 and known[2] <= 4 < min(known[:2]):
        return Layout((known[2], *known[:2]), last=True)
    return Layout(known)


def _fits(dims: Dims, shape: tuple[int, ...]) -> bool:
    return len(dims) == len(shape) and all(d in (None, s) for d, s in zip(dims, shape, strict=True))


def _same_values(sizes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether one shape is the other but for dimensions of 1, or one of them is flat."""
    a, b = ([s for s in t if s != 1] for t in (sizes, shape))
    return math.prod(sizes) == math.prod(shape) and (a == b or min(len(a), len(b)) <= 1)


class OnnxModel(nn.Module):
    """A session of ONNX Runtime as a module: float (n, *shape) to float32 logits, or to one-hot
    labels where the file answers with labels.

    classes   the number of classes of a file that answers with labels, else None
    net       the same in torch, asked where gradients are recorded
    """

    net: nn.Module | None

    def __init__(self, path: str, session: Any, layout: Layout, classes: int | None) -> None:
        super().__init__()
        self.path, self.layout, self.classes = path, layout, classes
        self._session = session
        taken = session.get_inputs()[0]
        self._input, self.dtype = taken.name, _DTYPES[taken.type]
        self.number, self._output = choose_output(session.get_outputs(), path)
        self.net = None

    def forward(self, x: Tensor) -> Tensor:
        feed = self.layout.feed(x).to(self.dtype)
        if self.net is not None and x.requires_grad and torch.is_grad_enabled():
            answer = self.net(feed)
            if isinstance(answer, tuple | list):
                answer = answer[self.number]
            return self._logits(first_tensor(answer), len(x))
        return self._logits(self._run(feed), len(x)).to(x.device)

    def _run(self, feed: Tensor) -> Tensor:
        array = feed.detach().cpu().contiguous().numpy()
        try:
            (answer,) = self._session.run([self._output], {self._input: array})
        except Exception as error:
            shape = tuple(feed.shape)
            raise RobustError(
                f"{self.path} fails on an input of shape {shape}: {reason(error)}"
            ) from error
        return torch.as_tensor(answer)

    def _logits(self, answer: Tensor, n: int) -> Tensor:
        if answer.dim() == 0 or answer.shape[0] != n:
            if n != 1:
                raise RobustError(
                    f"{self.path} answers {n} samples with shape {tuple(answer.shape)}: its first "
                    "dimension is not the batch"
                )
            answer = answer.reshape(1, -1)
        if answer.dim() > 2:
            answer = answer.reshape(n, *(s for s in answer.shape[1:] if s != 1))
        if self.classes is None:
            return answer.float()
        if answer.numel() != n:
            raise RobustError(f"{self.path} gives labels of shape {tuple(answer.shape)}")
        labels = answer.long().reshape(n)
        wrong = labels[(labels < 0) | (labels >= self.classes)]
        if len(wrong):
            raise RobustError(
                f"{self.path} gives the label {int(wrong[0])}, but there are {self.classes} "
                f"classes (0 to {self.classes - 1})"
            )
        return nn.functional.one_hot(labels, self.classes).float()


def choose_output(outputs: Sequence[Any], path: str) -> tuple[int, str]:
    """Number and name of the output to read: "logits", else the first float matrix, else any float,
    else labels.
    """
    ranked = sorted(
        (3 if o.type in _INTEGERS else 2 - (len(o.shape) == 2) - 2 * (o.name == "logits"), number)
        for number, o in enumerate(outputs)
        if o.type in _DTYPES or o.type in _INTEGERS
    )
    if not ranked:
        kinds = ", ".join(f"{o.name}: {o.type}" for o in outputs)
        raise RobustError(f"{path} answers with neither scores nor labels ({kinds})")
    number = ranked[0][1]
    return number, str(outputs[number].name)


def load_onnx(
    file: Path, info: ModelInfo, *, probabilities: bool = False
) -> tuple[nn.Module, ModelInfo]:
    """The model of a file, and what is known of it. Raises RobustError."""
    others = files_beside(file)
    session = _session(file, info.path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs) or "none"
        raise RobustError(f"{info.path} must take one input, not {len(inputs)} ({names})")
    if inputs[0].type not in _DTYPES:
        raise RobustError(f"{info.path} takes {inputs[0].type}; only floats can be attacked")
    # A size that is not fixed is a name, None, or in old files 0 or −1.
    declared = [d if isinstance(d, int) and d > 0 else None for d in inputs[0].shape]
    layout = fit_layout(declared, info.shape)
    if layout is None:
        there = ", ".join("?" if d is None else str(d) for d in declared[1:])
        raise RobustError(f"{info.path} takes samples of shape ({there}), not {info.shape}")
    number, _ = choose_output(outputs, info.path)
    labels = outputs[number].type in _INTEGERS
    if labels and info.num_classes is None:
        raise RobustError(
            f"{info.path} answers with labels alone: say how many classes there are (--classes)"
        )
    if labels and probabilities:
        raise RobustError(f"{info.path} answers with labels, not with probabilities")
    model = OnnxModel(info.path, session, layout, info.num_classes if labels else None)
    batch = 1 if layout.bare else declared[0] if declared else None
    extra = {"layout": str(layout)} if str(layout) else {}
    net: nn.Module = model if batch is None else FixedBatch(model, batch)
    if layout.shape is not None:
        net = _tried(net, layout.shape)
    access = "labels" if labels else "scores"
    if not labels:
        access, why = _add_gradient(model, net, file)
        extra |= {"gradient": why} if why else {}
    info = replace(
        info,
        sha256=hash_with(file, others),
        shape=layout.shape,
        num_classes=info.num_classes if labels else None,  # of scores: as many as there are
        access=access,
        extra=info.extra | extra,
    )
    return net, info


def _session(file: Path, name: str) -> Any:
    import onnxruntime  # not needed for any other format

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what matters is raised
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            str(file),
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # it prints
        )
        # Names that are no text are found when they are read.
        _ = [(o.name, o.shape) for o in (*session.get_inputs(), *session.get_outputs())]
        return session
    except Exception as error:
        text = str(error)
        newer = re.search(r"Opset (\d+) .*till opset (\d+)", text, re.DOTALL) or re.search(
            r"IR version: (\d+), max supported IR version: (\d+)", text
        )
        if newer is not None:
            what = "opset" if "pset" in newer[0] else "IR version"
            raise RobustError(
                f"{name} has {what} {newer[1]}, and this ONNX Runtime "
                f"({onnxruntime.__version__}) reads up to {newer[2]}: upgrade onnxruntime, or "
                f"export the model with an older {what}"
            ) from error
        if "protobuf" in text.lower() or isinstance(error, UnicodeError):
            raise RobustError(f"{name} is damaged or incomplete, or no ONNX file") from error
        raise RobustError(f"{name} cannot be loaded: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What ONNX Runtime says, in one line, without the places in its source."""
    text = " ".join(str(error).split("Status Message:")[-1].split())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S+\.(cc|h|cpp):\d+ (.*?[)>&] (?=[A-Z]))?", "", text)
    return text[:300] or type(error).__name__


def _tried(net: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The network, asked one by one where it declares any batch and cannot take two samples.

    Exporters write shapes into a graph that were those of the example.
    """
    if isinstance(net, FixedBatch):
        _ask(net, shape, 1)
        return net
    try:
        _ask(net, shape, 2)
    except RobustError:
        net = FixedBatch(net, 1)
        _ask(net, shape, 1)
    return net


def _ask(net: nn.Module, shape: tuple[int, ...], n: int) -> None:
    with torch.no_grad():
        net(torch.zeros(n, *shape))


def _add_gradient(model: OnnxModel, net: nn.Module, file: Path) -> tuple[str, str | None]:
    """Access, and why there is no gradient where there is none; `model` gets its net."""
    if model.layout.shape is None:
        return "scores", "the shape of a sample is not known"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import onnx2torch
    except ModuleNotFoundError:
        return "scores", "onnx2torch is not installed: pip install 'robust[onnx]'"
    except Exception as error:  # its own dependencies may be broken in any way
        return "scores", f"onnx2torch cannot be imported ({one_line(error)})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.net = onnx2torch.convert(str(file)).eval()
        why = _difference(model, net, model.layout.shape)
    except Exception as error:
        why = f"onnx2torch cannot convert it ({one_line(error)})"
    if why is None:
        return "gradient", None
    model.net = None
    return "scores", why


def _difference(model: OnnxModel, net: nn.Module, shape: tuple[int, ...]) -> str | None:
    """What is wrong with the converted network: other logits, or no gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.cat(
        [torch.rand(3, *shape, generator=generator), torch.randn(3, *shape, generator=generator)]
    )
    with torch.no_grad():
        own = net(x)
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        logits = net(leaf)
        if not logits.requires_grad:
            return "the converted network gives no gradient"
        torch.autograd.grad(logits.sum(), leaf)
    other = logits.detach()
    if other.shape != own.shape:
        return f"the converted network answers with shape {tuple(other.shape)}"
    off, scale = float((other - own).abs().max()), float(own.abs().max())
    if not off <= _AGREE[model.dtype] * max(scale, 1e-6):
        return f"the converted network answers differently (by {off:.2g} of {scale:.2g})"
    return None
