"""A network in eval mode as a graph in which BatchNorm is part of the convolution before it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from .program import check_shape
from .wrappers import FixedBatch, first_tensor, log_probabilities, standardise

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_ATEN = torch.ops.aten


class ChannelAffine(nn.Module):
    """What a BatchNorm in eval mode is where no convolution precedes it: x·scale + shift."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: Any, dim: int) -> None:
        super().__init__()
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.detach().double()
        shift = -norm.running_mean.double() * scale
        if norm.bias is not None:
            shift = shift + norm.bias.detach().double()
        view, dtype = (-1, *[1] * (dim - 2)), norm.running_mean.dtype
        self.register_buffer("scale", scale.to(dtype).view(view))
        self.register_buffer("shift", shift.to(dtype).view(view))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype))


class _Tracer(fx.Tracer):
    """Leaves whole what of this package looks at the shape or the type of a value."""

    def __init__(self) -> None:
        own = (standardise, first_tensor, log_probabilities, check_shape)
        super().__init__(autowrap_functions=own)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, FixedBatch) or super().is_leaf_module(m, module_qualified_name)


def folded(net: nn.Module, x: Tensor) -> tuple[nn.Module, int]:
    """The same function of x (n, …) as a graph, and how many BatchNorms it no longer computes.

    `net` is in eval mode and used up: its parts become parts of the graph. Raises whatever its code
    raises where it cannot be traced, for instance because it branches on values.
    """
    count = 0
    for part in [part for part in net.modules() if isinstance(part, FixedBatch)]:
        # It loops over the batch: the network inside is a graph by itself.
        part.net, inside = _graph(part.net, x[:1].expand(part.size, *x.shape[1:]))
        count += inside
    graph, outside = _graph(net, x)
    return graph, count + outside


def _graph(net: nn.Module, x: Tensor) -> tuple[fx.GraphModule, int]:
    module = fx.GraphModule(net, _Tracer().trace(net))
    ShapeProp(module).propagate(x)
    count = 0
    for node in list(module.graph.nodes):
        _make_module(module, node)
        count += _fold(module, node)
    for node in reversed(module.graph.nodes):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    module.graph.lint()
    return fx.GraphModule(module, module.graph), count  # with what the graph still uses alone


def _fold(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the node was a BatchNorm: it goes into the layer before, or becomes an affine map.

    A layer that is used twice is folded for each use by itself.
    """
    norm = _layer(module, node)
    if type(norm) not in _NORMS.values() or norm.running_mean is None or norm.training:
        return False
    source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    if not isinstance(source, fx.Node) or "tensor_meta" not in source.meta:
        return False
    dim = len(source.meta["tensor_meta"].shape)
    fused = _fused(_layer(module, source), norm, dim) if len(source.users) == 1 else None
    if fused is None:
        _put(module, node, ChannelAffine(norm, dim))
    else:
        _put(module, source, fused)
        node.replace_all_uses_with(source)
        module.graph.erase_node(node)
    return True


def _fused(layer: nn.Module | None, norm: Any, dim: int) -> nn.Module | None:
    """The layer with the norm behind it inside, as a new module; None for other layers."""
    if type(layer) in _CONVOLUTIONS.values():
        return fuse_conv_bn_eval(layer, norm)  # type: ignore[type-var]
    if type(layer) in _TRANSPOSED:
        return fuse_conv_bn_eval(layer, norm, transpose=True)  # type: ignore[type-var]
    if type(layer) is nn.Linear and dim == 2:
        return fuse_linear_bn_eval(layer, norm)
    return None


def _make_module(module: fx.GraphModule, node: fx.Node) -> None:
    """Convolutions, linear layers and norms of an exported program become modules again.

    A view becomes a reshape: the same, and allowed in channels_last too.
    """
    if node.op == "call_method" and node.target == "view":
        if not any(isinstance(arg, torch.dtype) for arg in node.args):
            node.target = "reshape"
    elif node.target is _ATEN.view.default:
        node.target = _ATEN.reshape.default
    elif node.op == "call_function" and node.target in _ATEN_LAYERS and not node.kwargs:
        layer = _ATEN_LAYERS[node.target](*(_value(module, arg) for arg in node.args))
        if layer is not None:
            _put(module, node, layer)
            node.args = node.args[:1]


def _convolution(x: Any, weight: Any, bias: Any = None, *rest: Any) -> nn.Module | None:
    """rest is stride, padding, dilation, groups. None where the weights are computed."""
    if not isinstance(weight, Tensor) or isinstance(bias, fx.Node):
        return None
    dims, groups = weight.dim() - 2, rest[3] if len(rest) > 3 else 1
    stride, padding, dilation = (
        tuple(rest[k]) if len(rest) > k else (default,) * dims
        for k, default in enumerate((1, 0, 1))
    )
    out, inp, *size = weight.shape
    kind: Any = _CONVOLUTIONS[dims]
    layer = kind(inp * groups, out, tuple(size), stride, padding, dilation, groups, device="meta")
    return _holding(layer, weight, bias)


def _linear(x: Any, weight: Any, bias: Any = None) -> nn.Module | None:
    if not isinstance(weight, Tensor) or isinstance(bias, fx.Node):
        return None
    out, inp = weight.shape
    return _holding(nn.Linear(inp, out, device="meta"), weight, bias)


def _batch_norm(
    x: fx.Node, weight: Any, bias: Any, mean: Any, variance: Any, training: Any, *rest: Any
) -> nn.Module | None:
    constant = all(isinstance(value, Tensor) for value in (mean, variance))
    dim = len(x.meta["tensor_meta"].shape)
    if training or not constant or isinstance(weight, fx.Node) or isinstance(bias, fx.Node):
        return None
    norm = _NORMS[max(1, dim - 2)](len(mean), eps=rest[1], device="meta")
    norm.running_mean, norm.running_var = mean, variance
    return _holding(norm, weight, bias)


_ATEN_LAYERS: dict[Any, Callable[..., nn.Module | None]] = {
    _ATEN.conv1d.default: _convolution,
    _ATEN.conv2d.default: _convolution,
    _ATEN.conv3d.default: _convolution,
    _ATEN.linear.default: _linear,
    _ATEN.batch_norm.default: _batch_norm,
}


def _holding(layer: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    for name, value in (("weight", weight), ("bias", bias)):
        held = None if value is None else nn.Parameter(value, requires_grad=False)
        layer.register_parameter(name, held)
    return layer.eval()


def _value(module: fx.GraphModule, argument: Any) -> Any:
    """The tensor that an argument stands for where it is one of the network's own."""
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return argument
    parent, _, name = str(argument.target).rpartition(".")
    return getattr(module.get_submodule(parent), name)


def _layer(module: fx.GraphModule, node: fx.Node) -> Any:
    return module.get_submodule(str(node.target)) if node.op == "call_module" else None


def _put(module: fx.GraphModule, node: fx.Node, layer: nn.Module) -> None:
    """Let the node call this layer, kept under a name of its own."""
    name = f"prepared_{node.name}"
    module.add_submodule(name, layer)
    node.op, node.target = "call_module", name
