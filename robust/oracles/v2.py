"""The Open Inference Protocol, version 2, over REST: Triton, MLServer, KServe, TorchServe.

Specification: https://github.com/kserve/open-inference-protocol. Left out: its binary extensions,
so FP16 goes as JSON numbers, which Triton refuses.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import torch
from torch import Tensor

from robust.core.errors import RobustError

from .dialect import Facts, as_numbers, shown, take
from .options import ServiceOptions
from .pixels import Pixels, forms, numbers
from .sending import Again, Sender

_MODEL = re.compile(r"(.*?/v2)/models/([^/]+)(/versions/[^/]+)?(/infer)?/?")
_FLOATS = ("FP32", "FP64", "FP16")
_WORDS = ("logit", "score", "prob")  # the names of outputs that hold scores, best first


def is_v2(url: httpx.URL) -> bool:
    """Whether the path is …/v2/models/NAME[/versions/V]."""
    return _MODEL.fullmatch(url.path) is not None


@dataclass(frozen=True)
class Slot:
    """An input or output as the metadata describe it."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.datatype} {list(self.shape)})"


@dataclass
class V2:
    """Asks one model of a v2 service. `fixed`: each request must have so many rows."""

    url: httpx.URL
    source: Slot
    batched: bool
    fixed: int | None
    pixels: Pixels
    target: Slot | None
    labels: bool
    most: int | None
    method: str = "POST"

    def body(self, x: Tensor) -> bytes:
        if self.fixed is not None and len(x) < self.fixed:
            x = torch.cat([x, x[-1:].expand(self.fixed - len(x), *x.shape[1:])])
        values = self.pixels.prepare(x)
        slot = {
            "name": self.source.name,
            "shape": list(values.shape if self.batched else values.shape[1:]),
            "datatype": self.source.datatype,
        }
        outputs = "" if self.target is None else json.dumps([{"name": self.target.name}])
        double = self.source.datatype == "FP64"
        data = numbers(values.reshape(-1), double=double)
        text = f'{{"inputs":[{json.dumps(slot)[:-1]},"data":{data}}}]'
        return (text + (f',"outputs":{outputs}}}' if outputs else "}")).encode()

    def read(self, reply: Any, n: int) -> np.ndarray:
        found = self._output(reply)
        rows = self.fixed or n
        name = f"the output {found.get('name')!r}"
        values = as_numbers(take(found, "data", f"in {name}"), name).reshape(-1)
        shape = take(found, "shape", f"in {name}")
        if not isinstance(shape, list) or not all(type(size) is int for size in shape):
            raise RobustError(f"the shape of {name} is {shown(shape)}")
        if math.prod(shape) != len(values):
            raise Again(f"{name} has {len(values)} numbers for the shape {shape}")
        kind = found.get("datatype")
        if (kind not in _FLOATS) != self.labels:
            are = "classes" if self.labels else "scores"
            raise RobustError(
                f"{name} is {kind}, not {are}: name another by --output, or describe the service "
                "by --template"
            )
        if rows == 1 and (not shape or shape[0] != 1 or not self.batched) and len(shape) < 2:
            shape = [1, *shape]  # of a model without a batch dimension
        if not shape or shape[0] != rows or sum(size != 1 for size in shape[1:]) > 1:
            raise RobustError(f"{name} has the shape {shape} for {rows} samples")
        table: np.ndarray = values.reshape(rows, -1)[:n]
        if not self.labels:
            return table
        if table.shape[1] != 1:
            raise RobustError(f"{name} has the shape {shape}: one class a sample is needed")
        return table[:, 0]

    def _output(self, reply: Any) -> dict[str, Any]:
        outputs = take(reply, "outputs", "in it")
        named = [o for o in outputs if isinstance(o, dict)] if isinstance(outputs, list) else []
        if self.target is not None:
            for output in named:
                if output.get("name") == self.target.name:
                    return output
        elif len(named) == 1:
            return named[0]
        names = ", ".join(str(output.get("name")) for output in named) or "none"
        wanted = "name one by --output" if self.target is None else f"not {self.target.name}"
        raise RobustError(f"the service answers with the outputs {names}: {wanted}")


def describe(
    url: httpx.URL,
    sender: Sender,
    options: ServiceOptions,
    shape: tuple[int, ...] | None,
    pixels: dict[str, Any],
) -> tuple[V2, Facts]:
    """How to ask the model at this URL, from what the service says about it."""
    found = _MODEL.fullmatch(url.path)
    assert found is not None
    prefix, name, version, _ = found.groups()
    model = url.copy_with(path=f"{prefix}/models/{name}{version or ''}")
    metadata = sender.get(model)
    if not isinstance(metadata, dict):
        raise RobustError(f"GET {model}: the metadata are {shown(metadata)}, not an object")
    server = sender.get(url.copy_with(path=prefix), optional=True)
    server = server if isinstance(server, dict) else {}
    source = _choose_input(_slots(metadata, "inputs", model), options.input_name, shape)
    eight_bit = source.datatype == "UINT8"
    if not eight_bit and source.datatype not in _FLOATS:
        raise RobustError(
            f"the input {source} takes no {' or '.join(_FLOATS)} and no UINT8, which images are"
        )
    shape = shape or _shape(source)
    layout, last, form, batched = _layout(source, shape)
    fixed = source.shape[0] if batched and source.shape[0] > 0 else None
    target, labels = _choose_output(_slots(metadata, "outputs", model), options.output_name)
    most = fixed if batched else 1
    if most is None and server.get("name") == "triton":
        config = sender.get(model.copy_with(path=model.path + "/config"), optional=True)
        limit = config.get("max_batch_size") if isinstance(config, dict) else None
        most = limit if isinstance(limit, int) and limit > 0 else None
    dialect = V2(
        model.copy_with(path=model.path + "/infer"),
        source,
        batched,
        fixed,
        Pixels(**pixels, eight_bit=eight_bit, last=last, form=form),
        target,
        labels,
        most,
    )
    known = {key: metadata.get(key) for key in ("name", "platform", "inputs", "outputs")}
    known |= {"input": source.name, "output": None if target is None else target.name}
    said = {
        "server": " ".join(str(server[key]) for key in ("name", "version") if server.get(key)),
        "platform": metadata.get("platform"),
        "input": source.name,
        "datatype": source.datatype,
        "layout": layout,
        "output": None if target is None else target.name,
    }
    count = None
    if target is not None and not labels and target.shape:
        count = _count(target.shape, batched)
    extra = {key: value for key, value in said.items() if value}
    return dialect, Facts("v2-service", known, shape, count, None, eight_bit, extra)


def _count(shape: tuple[int, ...], batched: bool) -> int | None:
    """The number of classes that an output of this shape has scores for, if it says that."""
    each = shape[1:] if batched and (len(shape) > 1 or shape[0] < 2) else shape
    size = math.prod(each)
    return None if any(one < 1 for one in each) else max(2, size)


def _slots(metadata: dict[str, Any], which: str, url: httpx.URL) -> list[Slot]:
    slots = []
    for given in metadata.get(which) or []:
        try:
            shape = tuple(int(size) for size in given["shape"])
            slots.append(Slot(str(given["name"]), str(given["datatype"]), shape))
        except (KeyError, TypeError, ValueError):
            raise RobustError(f"GET {url}: the {which} have no name, datatype and shape") from None
    return slots


def _choose_input(slots: list[Slot], name: str | None, shape: tuple[int, ...] | None) -> Slot:
    for slot in slots:
        if slot.name == name or (name is None and len(slots) == 1):
            return slot
    if not slots and name is not None and shape is not None:
        return Slot(name, "FP32", (-1, *shape))
    said = ", ".join(map(str, slots))
    if name is not None:
        raise RobustError(f"the service has no input {name}, but {said or 'does not say which'}")
    if not slots:
        raise RobustError("the service does not say its inputs: name one by --input")
    raise RobustError(f"the service has several inputs, {said}: name one by --input")


def _choose_output(slots: list[Slot], name: str | None) -> tuple[Slot | None, bool]:
    """The output with scores or, where there is none, with classes, and whether it is classes."""
    if name is not None and not slots:
        return Slot(name, "FP32", ()), False
    if not slots:
        return None, False
    if name is not None:
        slots = [slot for slot in slots if slot.name == name] or slots
        if slots[0].name != name:
            said = ", ".join(map(str, slots))
            raise RobustError(f"the service has no output {name}, but {said}")
    for kinds, labels in ((_FLOATS, False), (("INT", "UINT"), True)):
        fit = [slot for slot in slots if slot.datatype.startswith(tuple(kinds))]
        for word in ("", *_WORDS):
            named = [slot for slot in fit if word in slot.name.lower()]
            if len(named) == 1:
                return named[0], labels
        if fit:
            break
    said = ", ".join(map(str, slots))
    if fit:
        raise RobustError(f"the service has several outputs, {said}: name one by --output")
    raise RobustError(
        f"no output of the service has numbers, but {said}: describe it by --template"
    )


def _shape(source: Slot) -> tuple[int, ...]:
    """The shape of one sample, channels first, as far as the metadata say it."""
    each = source.shape[1:]
    if not each or min(each) < 1:
        raise RobustError(f"the input {source} does not say the shape of one sample")
    if len(each) == 3 and each[0] not in (1, 3, 4) and each[2] in (1, 3, 4):
        return each[2], each[0], each[1]
    return each


def _layout(source: Slot, shape: tuple[int, ...]) -> tuple[str, bool, tuple[int, ...], bool]:
    """How samples of this shape fit the input: name, channels last, form, and whether a request
    can have several.
    """
    for batched, each in ((True, source.shape[1:]), (False, source.shape)):
        for layout, last, form in forms(shape):
            if _fits(each, form):
                return layout, last, form, batched
    raise RobustError(f"the input {source} does not take samples of shape {shape}")


def _fits(said: Sequence[int], form: tuple[int, ...]) -> bool:
    return len(said) == len(form) and all(
        size in (-1, 0) or size == own for size, own in zip(said, form, strict=True)
    )
