"""What a network calls, by kind of function, with something else in its place."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten

RELU = {torch.relu, Tensor.relu, functional.relu, _aten.relu.default}
RELU_IN_PLACE = {torch.relu_, Tensor.relu_, _aten.relu_.default}
_LINEAR = {
    *(functional.linear, functional.conv1d, functional.conv2d, functional.conv3d),
    *(torch.conv1d, torch.conv2d, torch.conv3d, _aten.linear.default),
    *(_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default),
    *(_aten.convolution.default, _aten.addmm.default),
}
KINDS: dict[str, set[Any]] = {"relu": RELU | RELU_IN_PLACE, "linear": _LINEAR}

New = Callable[..., Tensor]


class Intercepting(nn.Module):
    """A model in whose forward functions of some kinds are replaced.

    functions   by kind, "relu" (activations) or "linear" (convolutions and linear layers), what is
                called in its place: new(old, number, training, u, *args, **kwargs). `old` is the
                function that the network called, `number` counts the calls of that kind in this
                forward from 0, `training` is the mode of this module, u the tensor that comes in

    Whatever Python calls is seen, exported programs included; TorchScript is not.
    """

    def __init__(self, model: nn.Module, functions: Mapping[str, New]) -> None:
        super().__init__()
        self.model, self.functions = model, dict(functions)
        self.calls = dict.fromkeys(functions, 0)

    def forward(self, x: Tensor) -> Any:
        self.calls = dict.fromkeys(self.functions, 0)
        with _Replacing(self):
            return self.model(x)


class _Replacing(TorchFunctionMode):
    def __init__(self, owner: Intercepting) -> None:
        super().__init__()
        self.owner = owner

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        for kind, new in self.owner.functions.items():
            if func in KINDS[kind]:
                number = self.owner.calls[kind]
                self.owner.calls[kind] += 1
                if not args:
                    args = (given.pop("input"),)
                u, *rest = args
                if kind == "relu":  # what is written in place may be all that the network reads
                    in_place = bool(given.pop("inplace", False))
                    if not (in_place or func in RELU_IN_PLACE):
                        return new(torch.relu, number, self.owner.training, u)
                    # What takes the place may need its input for the backward: it gets a copy.
                    return u.copy_(new(torch.relu, number, self.owner.training, u.clone()))
                if func is _aten.addmm.default:  # addmm(bias, u, weight)
                    bias, u, *rest = args
                    func = _addmm
                    rest.append(bias)
                return new(func, number, self.owner.training, u, *rest, **given)
        return func(*args, **given)


def _addmm(u: Tensor, weight: Tensor, bias: Tensor, **kwargs: Any) -> Tensor:
    found: Tensor = _aten.addmm.default(bias, u, weight, **kwargs)
    return found
