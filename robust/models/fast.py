"""The search copy: a model made ready for the many passes of a search, beside the model itself.

Attacks search on the copy; what counts is what the original answers. `Victim` asks it wherever the
copy comes near the goal, and the engine verifies every candidate on it.
"""

import contextlib
import copy
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from robust.core.goal import as_logits
from robust.core.smooth import smoothed

from .folding import folded

# Rules about the model alone, never a timing: the same seed must give the same numbers.
# Multiply-adds per sample from which channels_last, and then bf16, gain more than they cost.
COPY_PAYS, BF16_PAYS = 2e6, 20e6

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear,
           nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)  # fmt: skip
# How far a copy's logits and input gradients may be from the original's, in fp32 and in bf16:
# shares of the range of the logits, and of the length of the gradient.
_LOGITS, _GRADIENT = {False: 1e-4, True: 0.1}, {False: 0.01, True: 0.4}
_SAFETY = 4  # a band of so many times the largest error seen


@dataclass(frozen=True)
class SearchCopy:
    """A module that computes nearly what the original computes, and how nearly.

    band            a copy's goal margin nearer to 0 than this says nothing about the original's
    folded          how many BatchNorms it no longer computes
    channels_last   whether its convolutions work in that layout
    low_precision   whether its layers compute in bf16
    """

    module: nn.Module
    band: float
    folded: int
    channels_last: bool
    low_precision: bool


def prepare(
    module: nn.Module, x: Tensor, *, low_precision: bool | None = None, compiled: bool = False
) -> SearchCopy | None:
    """A copy of a model in eval mode that searches faster; None where the model itself is best.

    x               a few samples (n, …) on the model's device, to compare copy and original on
    low_precision   bf16, but for the first layer, which sees the pixels, and the last, which makes
                    the logits; None: where the processor has it and the network is large enough
    compiled        by torch.compile: minutes at first, rarely worth it on a processor

    BatchNorm is folded where the code can be traced; convolutions work in channels_last.
    Parameters get no gradient. The original is only asked, never changed. What is small, random,
    hooked, scripted, not differentiable, or answers otherwise as a copy, is not prepared.
    """
    if any(not _can_be_copied(part) for part in module.modules()):
        return None
    try:
        known = _examine(module, x)
        if known is None or known.work < COPY_PAYS:
            return None
        if low_precision is None:
            low_precision = known.work >= BF16_PAYS and has_bf16(x.device)
        for low in (True, False) if low_precision else (False,):
            for fast in (True, False) if compiled else (False,):
                found = _build(module, x, known, low=low, compiled=fast)
                if found is not None:
                    return found
    except Exception:  # somebody else's code, in any way: the model itself is still there
        pass
    return None


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bf16, so that it is faster than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)


@dataclass
class _Known:
    """What the original answered: logits (n, K), for two classes of each sample the gradient of
    the difference between them (n, …), and the multiply-adds that a sample takes: all of them, and
    those of convolutions over images.
    """

    logits: Tensor
    pair: Tensor
    gradient: Tensor
    work: float
    images: float


def _can_be_copied(part: nn.Module) -> bool:
    if isinstance(part, torch.jit.ScriptModule):
        return False
    hooked = any(
        getattr(part, name, None)
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks",
                     "_backward_pre_hooks")
    )  # fmt: skip
    single = all(p.dtype == torch.float32 for p in part.parameters(recurse=False))
    return single and not (hooked or part.training)


def _examine(module: nn.Module, x: Tensor) -> _Known | None:
    """Ask the original; None if it is random: draws numbers, or answers the same twice unalike."""
    before = _generators(x)
    with torch.no_grad(), _Work() as work:
        logits = as_logits(module(x), len(x))
    pair = logits.topk(2, dim=1).indices
    again, gradient = _answer(module, x, pair)
    drawn = any(not torch.equal(a, b) for a, b in zip(before, _generators(x), strict=True))
    if drawn or not torch.allclose(again, logits, rtol=1e-4, atol=1e-4 * float(logits.abs().max())):
        return None
    return _Known(logits, pair, gradient, work.total / len(x), work.images / len(x))


def _generators(x: Tensor) -> list[Tensor]:
    """The states of all global generators that a model could draw from."""
    numbers: Any = np.random.get_state()
    others = (hash(random.getstate()), hash((numbers[1].tobytes(), *numbers[2:])))
    states = [torch.get_rng_state(), torch.tensor(others)]
    return [*states, torch.cuda.get_rng_state(x.device)] if x.is_cuda else states


def _answer(model: nn.Module, x: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = as_logits(model(x), len(x))
        two = logits.gather(1, pair)
        (gradient,) = torch.autograd.grad((two[:, 0] - two[:, 1]).sum(), x)
    return logits.detach(), gradient


def _build(
    module: nn.Module, x: Tensor, known: _Known, *, low: bool, compiled: bool
) -> SearchCopy | None:
    """The copy, if there is any gain in it and it agrees with the original."""
    net: nn.Module = copy.deepcopy(module).requires_grad_(False)
    count = 0
    with contextlib.suppress(Exception):  # what cannot be traced gains by layout and precision
        net, count = folded(net, x)
    if not isinstance(net, fx.GraphModule):
        net = copy.deepcopy(module).requires_grad_(False)
    images = 0 < known.images >= COPY_PAYS
    if not (low or count or images):
        return None
    try:
        if low:
            _lower(net, x)
        if images:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        prepared = _Prepared(net, low=low, compiled=compiled).eval()
        error = _error(prepared, x, known, low=low)
    except Exception:  # its code may bear another layout, precision or compiler ill
        return None
    return None if error is None else SearchCopy(prepared, _SAFETY * error, count, images, low)


def _error(prepared: nn.Module, x: Tensor, known: _Known, *, low: bool) -> float | None:
    """The largest error of a difference between two logits; None where the copy is too far off."""
    logits, gradient = _answer(prepared, x, known.pair)
    if logits.dtype != known.logits.dtype:  # rounded logits: too many would be equal
        return None
    off = (logits - known.logits).double()
    error = float((off.amax(1) - off.amin(1)).max())
    size = float((known.logits.amax(1) - known.logits.amin(1)).double().mean())
    length = known.gradient.flatten(1).double().norm(dim=1)
    apart = (gradient - known.gradient).flatten(1).double().norm(dim=1)
    share = torch.where(apart > 0, apart / length, 0).clamp(max=1)
    if error <= _LOGITS[low] * size and float(share.mean()) <= _GRADIENT[low]:
        return max(error, 1e-6 * size)
    return None


class _Prepared(nn.Module):
    """The prepared network, with bf16 where it is wanted."""

    def __init__(self, net: nn.Module, *, low: bool, compiled: bool) -> None:
        super().__init__()
        self.net, self.low = net, low
        self.compiled = torch.compile(self._answer, dynamic=True) if compiled else None

    def forward(self, x: Tensor) -> Any:
        if self.compiled is None or smoothed.active():
            return self._answer(x)
        return self.compiled(x)

    def _answer(self, x: Tensor) -> Any:
        if not self.low:
            return self.net(x)
        with torch.autocast(x.device.type, torch.bfloat16, cache_enabled=False):
            return self.net(x)


class _FullPrecision(nn.Module):
    """A layer that stays in fp32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())


def _lower(net: nn.Module, x: Tensor) -> None:
    """Weights in bf16, in place, but for the first and the last layer: bf16 rounds away small
    perturbations of pixels, and small differences between logits.
    """
    order: list[str] = []
    layers = {name: part for name, part in net.named_modules() if type(part) in _LAYERS}
    handles = [
        part.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, part in layers.items()
    ]
    with torch.no_grad():
        net(x[:1])
    for handle in handles:
        handle.remove()
    for name, part in layers.items():
        if name in (order[0], order[-1]):
            parent, _, child = name.rpartition(".")
            setattr(net.get_submodule(parent), child, _FullPrecision(part))
        else:
            part.to(torch.bfloat16)


class _Work(TorchDispatchMode):
    """Counts the multiply-adds of convolutions and matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = self.images = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket
        if name is torch.ops.aten.convolution:
            transposed, weight = args[6], args[1]
            work = (args[0] if transposed else out).numel() * weight[0].numel()
            self.total += work
            self.images += work if weight.dim() == 4 else 0
        elif name in _PRODUCTS:
            self.total += out.numel() * args[-2].shape[-1]
        return out


_PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}
