"""The steps of a torch.export graph: tensor operators and arithmetic on sizes, nothing else."""

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# The numbers of torch's export schema.
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    10: torch.complex64,
    11: torch.complex128,
    12: torch.bool,
    13: torch.bfloat16,
}
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
_PYTHON: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in (
            *("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "neg", "pos", "abs"),
            *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_", "getitem"),
        )
    },
    **{f"math.{name}": getattr(math, name) for name in ("floor", "ceil", "trunc", "sqrt")},
    "torch.sym_float": torch.sym_float,
    "torch.sym_int": torch.sym_int,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_not": torch.sym_not,
}
# The only operators of aten that touch files.
_FORBIDDEN = {"from_file", "save"}


TRAINING = "it was exported in training mode; call .eval() on the module before torch.export"


class Unsupported(Exception):
    """Something in an archive that is not read."""


@dataclass(frozen=True)
class Name:
    """A value computed earlier."""

    name: str


class _InputDevice:
    """Where the graph names a device, the input's is meant: the model may have moved since."""


_DEVICE = _InputDevice()


@dataclass(frozen=True)
class Step:
    """One call: what it computes, from what, under which names, and whose last use it is."""

    target: str
    function: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]
    outputs: list[str | None] | str | None
    dead: tuple[str, ...]


def compile_steps(nodes: Sequence[dict[str, Any]], kept: set[str]) -> list[Step]:
    """The nodes of a graph in order; `kept` are the names needed after the last.

    Raises Unsupported.
    """
    steps: list[Step] = []
    seen: set[str] = set(kept)
    for node in reversed(nodes):
        target, inputs = node["target"], node["inputs"]
        names = [i["name"] for i in inputs]
        values = [_argument(i["arg"]) for i in inputs]
        _refuse_training(target, dict(zip(names, values, strict=True)))
        function = _function(target)
        args, kwargs = _bind(function, names, values)
        used = set(_names([*args, *kwargs.values()]))
        # Read backwards: a name not seen yet is used here for the last time.
        outputs = _output_names(node["outputs"])
        dead = used - seen
        unused = set(_names_of(outputs)) - seen
        seen |= used
        steps.append(Step(target, function, args, kwargs, outputs, tuple(dead | unused)))
    return steps[::-1]


def _refuse_training(target: str, arguments: dict[str, Any]) -> None:
    if target.startswith("torch.ops.aten.batch_norm"):
        training = arguments.get("training") is True and arguments.get("running_mean") is not None
    else:
        training = target.startswith("torch.ops.aten.dropout") and arguments.get("train") is True
    if training:
        raise Unsupported(TRAINING)


def _function(target: str) -> Callable[..., Any]:
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", target)
    if match is not None and match[1] not in _FORBIDDEN:
        function = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
        if isinstance(function, torch._ops.OpOverload) and function.namespace == "aten":
            return function
    if target in _PYTHON:
        return _PYTHON[target]
    raise Unsupported(f"the program uses {target}, which is not supported")


def _bind(
    function: Callable[..., Any], names: list[str], values: list[Any]
) -> tuple[list[Any], dict[str, Any]]:
    if not isinstance(function, torch._ops.OpOverload):
        return values, {}
    given = dict(zip(names, values, strict=True))
    args: list[Any] = []
    for parameter in function._schema.arguments:
        if parameter.kwarg_only or parameter.name not in given:
            break
        args.append(given.pop(parameter.name))
    return args, given


def _argument(argument: dict[str, Any]) -> Any:
    ((kind, value),) = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_int" | "as_float" | "as_bool" | "as_string":
            return value
        case "as_ints" | "as_floats" | "as_bools" | "as_strings":
            return list(value)
        case "as_name":
            return Name(value)
        case "as_tensor":
            return Name(value["name"])
        case "as_tensors":
            return [Name(v["name"]) for v in value]
        case "as_sym_int" | "as_sym_float" | "as_sym_bool" | "as_optional_tensor":
            return _argument(value)
        case "as_sym_ints" | "as_sym_floats" | "as_sym_bools" | "as_optional_tensors":
            return [_argument(v) for v in value]
        case "as_scalar_type":
            return DTYPES[value]
        case "as_memory_format":
            return _MEMORY_FORMATS[value]
        case "as_layout" if value == 7:
            return torch.strided
        case "as_device":
            return _DEVICE
    raise Unsupported(f"the program has an argument of kind {kind!r}, which is not supported")


def _output_names(outputs: list[dict[str, Any]]) -> list[str | None] | str | None:
    if not outputs:
        return None
    if len(outputs) == 1:
        value = _argument(outputs[0])
        if value is None:
            return None
        return [v.name for v in value] if isinstance(value, list) else str(value.name)
    values = [_argument(o) for o in outputs]
    return [None if v is None else v.name for v in values]


def _names_of(outputs: list[str | None] | str | None) -> list[str]:
    if outputs is None:
        return []
    return [outputs] if isinstance(outputs, str) else [o for o in outputs if o is not None]


def _names(arguments: list[Any]) -> list[str]:
    found: list[str] = []
    for argument in arguments:
        if isinstance(argument, Name):
            found.append(argument.name)
        elif isinstance(argument, list):
            found += _names(argument)
    return found


def resolve(argument: Any, values: dict[str, Any], x: Tensor) -> Any:
    if isinstance(argument, Name):
        return values[argument.name]
    if isinstance(argument, list):
        return [resolve(a, values, x) for a in argument]
    return x.device if argument is _DEVICE else argument
