"""An interpreter for the programs of torch.export."""

import json
from typing import Any

from torch import Tensor, nn

from robust.core.errors import RobustError

from .steps import TRAINING, Unsupported, compile_steps, resolve


class Program(nn.Module):
    """An exported program as a module.

    graph_module  the "graph_module" of the archive's JSON
    tensors       its parameters, buffers and constants by name
    shape         of one sample, None where a dimension after the first is free
    batch         the batch size where it is fixed, else None
    """

    def __init__(self, graph_module: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        graph, signature = graph_module["graph"], graph_module["signature"]
        self._held: dict[str, str] = {}
        inputs = [self._hold(spec, tensors) for spec in signature["input_specs"]]
        users = [name for name in inputs if name is not None]
        if len(users) != 1:
            raise Unsupported(f"the program takes {len(users)} inputs; one is needed")
        self._input = users[0]
        sizes = [s.get("as_int") for s in graph["tensor_values"][self._input]["sizes"]]
        if not sizes:
            raise Unsupported("the program takes a scalar, not a batch of samples")
        self._sizes: tuple[int | None, ...] = tuple(sizes)
        self.batch: int | None = sizes[0]
        known = [s for s in sizes[1:] if s is not None]
        self.shape = tuple(known) if len(known) == len(sizes) - 1 else None
        self._outputs = [_user_output(spec) for spec in signature["output_specs"]]
        if not self._outputs:
            raise Unsupported("the program returns nothing")
        self._keys = _output_keys(graph_module, len(self._outputs))
        self._steps = compile_steps(graph["nodes"], set(self._outputs))

    def _hold(self, spec: dict[str, Any], tensors: dict[str, Tensor]) -> str | None:
        """Keep the tensor that an input of the graph stands for; the name of a user's input."""
        ((kind, body),) = spec.items()
        if kind == "user_input":
            ((argument, value),) = body["arg"].items()
            if argument == "as_none":
                return None
            if argument != "as_tensor":
                raise Unsupported("the program takes an input that is not a tensor")
            return str(value["name"])
        if kind not in ("parameter", "buffer", "tensor_constant"):
            raise Unsupported(f"the program has an input of kind {kind!r}")
        source = body[f"{kind}_name"]
        if source not in tensors:
            raise Unsupported(f"the values of {source!r} are missing")
        # Own names: the archive's may hold dots, or be those of the module's methods.
        held = f"tensor_{len(self._held)}"
        value = tensors[source].detach()
        if kind == "parameter" and (value.is_floating_point() or value.is_complex()):
            self.register_parameter(held, nn.Parameter(value, requires_grad=False))
        else:
            self.register_buffer(held, value)
        self._held[body["arg"]["name"]] = held
        return None

    def forward(self, x: Tensor) -> Any:
        check_shape(x, self._sizes)
        values: dict[str, Any] = {name: getattr(self, held) for name, held in self._held.items()}
        values[self._input] = x
        for step in self._steps:
            args = [resolve(a, values, x) for a in step.args]
            kwargs = {k: resolve(a, values, x) for k, a in step.kwargs.items()}
            result = step.function(*args, **kwargs)
            if isinstance(step.outputs, str):
                values[step.outputs] = result
            elif step.outputs is not None:
                for place, name in enumerate(step.outputs):
                    if name is not None:
                        values[name] = result[place]
            for name in step.dead:
                values.pop(name, None)
        outputs = [values[name] for name in self._outputs]
        if self._keys is not None:
            return dict(zip(self._keys, outputs, strict=True))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


def check_shape(x: Tensor, sizes: tuple[int | None, ...]) -> None:
    """Raise RobustError unless x has these sizes; None is any."""
    if x.dim() != len(sizes) or any(
        e is not None and e != s for e, s in zip(sizes, x.shape, strict=True)
    ):
        wanted = ", ".join("n" if e is None else str(e) for e in sizes)
        raise RobustError(f"the model takes ({wanted}), and the input is {tuple(x.shape)}")


def _user_output(spec: dict[str, Any]) -> str:
    ((kind, body),) = spec.items()
    if kind == "buffer_mutation":
        raise Unsupported(TRAINING)
    if kind != "user_output" or "as_tensor" not in body["arg"]:
        raise Unsupported(f"the program has an output that is not a tensor ({kind})")
    return str(body["arg"]["as_tensor"]["name"])


def _output_keys(graph_module: dict[str, Any], outputs: int) -> list[str] | None:
    """The keys, where the program returns a flat dict."""
    for entry in graph_module.get("module_call_graph", []):
        signature = entry.get("signature")
        if entry["fqn"] == "" and signature is not None:
            spec = json.loads(signature["out_spec"])[1]
            if spec["type"] == "builtins.dict":
                keys = json.loads(spec["context"])
                leaves = all(child["type"] is None for child in spec["children_spec"])
                if leaves and len(keys) == outputs:
                    return [str(k) for k in keys]
    return None
