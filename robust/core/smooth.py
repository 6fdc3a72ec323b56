"""Gradients that see through dead units and steps: forward as it is, smooth backward."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .intercept import RELU, RELU_IN_PLACE

_STEPS = {
    getattr(where, name)
    for name in ("round", "floor", "ceil", "trunc", "fix")
    for where in (torch, Tensor)
} | {getattr(torch.ops.aten, name).default for name in ("round", "floor", "ceil", "trunc")}


class smoothed(TorchFunctionMode):
    """While active, ∂relu(u)/∂u is σ(u / (width·s)) instead of a step, s the spread of u, and
    rounding to whole numbers, up, down or to the nearest, has the derivative 1.

    Where training has shut the units that an attacker would use, the true gradient is zero or
    points the wrong way; its smooth stand-in shows what lies beyond the kink. The forward is
    unchanged, so the logits, and with them every success, are the model's own. Athalye et al.,
    1802.00420 (backward-pass approximation); Xie et al., 2006.14536, train on such gradients.

    Activations that no Python code calls (TorchScript) keep their own gradient.
    """

    _active = 0

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def __enter__(self) -> "smoothed":
        smoothed._active += 1
        return super().__enter__()  # type: ignore[no-any-return, no-untyped-call]

    def __exit__(self, *details: Any) -> None:
        smoothed._active -= 1
        super().__exit__(*details)  # type: ignore[no-untyped-call]

    @classmethod
    def active(cls) -> bool:
        """Whether any is: compiled code would not know of it."""
        return cls._active > 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in RELU or func in RELU_IN_PLACE:
            u = args[0] if args else given["input"]
            in_place = func in RELU_IN_PLACE or bool(given.get("inplace", args[1:] == (True,)))
            if u.requires_grad:
                return _SmoothReLU.apply(u, self.width, in_place)  # type: ignore[no-untyped-call]
        elif func in _STEPS and (args[0] if args else given["input"]).requires_grad:
            u = args[0] if args else given["input"]
            return u + (func(*args, **given) - u).detach()
        return func(*args, **given)


class _SmoothReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, width: float, in_place: bool) -> Tensor:
        spread = u.double().std(correction=0).to(u.dtype) if u.numel() else u.new_ones(())
        slope = torch.sigmoid(u / (width * spread).clamp(min=torch.finfo(u.dtype).tiny))
        ctx.save_for_backward(slope)
        if in_place:
            ctx.mark_dirty(u)
            return u.clamp_(min=0)
        return u.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None
