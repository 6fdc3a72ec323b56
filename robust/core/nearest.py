"""Nearest points: onto a hyperplane, where a linear model puts the boundary, and onto a ball with a
radius of its own for each sample. Within the box, unless a function says otherwise.
"""

import math

import torch
from torch import Tensor

from .threat import l2_scale

_PASSES, _CLOSE = 40, 1e-5  # of the sum, which float32 holds to about 1e-6
_DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}


def dual_norm(norm: str, slope: Tensor) -> Tensor:
    """The most that ⟨slope, d⟩ can gain with a step d of length 1 in `norm`: (…, d) → (…)."""
    length: Tensor = torch.linalg.vector_norm(slope, _DUAL[norm], dim=-1)
    return length


def shortest(norm: str, slope: Tensor, gain: Tensor) -> Tensor:
    """The shortest d in "linf" or "l2" with ⟨slope, d⟩ = gain, whatever the box; 0 where flat."""
    flat = slope.flatten(1)
    if norm == "l2":
        step = flat / flat.square().sum(1, keepdim=True).clamp(min=1e-30)
    else:
        step = flat.sign() / flat.abs().sum(1, keepdim=True).clamp(min=1e-30)
    return (step * gain.unsqueeze(1)).view_as(slope)


def step_to_plane(
    norm: str, z: Tensor, slope: Tensor, gain: Tensor, low: float, high: float
) -> Tensor:
    """The shortest d in `norm` with ⟨slope, d⟩ = gain and z + d in the box: (n, …) → (n, …).

    z inside the box, slope (n, …), gain (n,) of either sign. Where the box does not hold enough, d
    leads to its corner. All norms have one form: coordinate i moves min(s·uᵢ, roomᵢ), with the
    same s for all; L1 fills the coordinates of largest slope instead.
    """
    ahead = slope * gain.view(-1, *[1] * (z.dim() - 1)).sign()
    room = torch.where(ahead > 0, high - z, z - low).mul_(ahead != 0).flatten(1)
    size, need = ahead.abs().flatten(1), gain.abs().unsqueeze(1)
    if norm == "l1":
        step = _fill_until(size, room, need)
    else:
        unit = size if norm == "l2" else torch.ones_like(size)
        step = _share(size, room, need, unit)
    return ahead.sign() * step.view_as(z)


def _share(size: Tensor, room: Tensor, need: Tensor, unit: Tensor) -> Tensor:
    """min(s·unit, room) with Σ size·min(s·unit, room) = need, per row (n, d).

    Starts from the s of no clipped coordinate and takes the clipped ones out; s and the clipped set
    only grow, so it ends, in practice after a handful of rounds.
    """
    weight, held = size * unit, size * room
    clipped = torch.zeros_like(size, dtype=torch.bool)
    while True:
        spent = torch.where(clipped, held, 0).sum(1, keepdim=True)
        free = torch.where(clipped, 0, weight).sum(1, keepdim=True)
        scale = ((need - spent).clamp(min=0) / free).nan_to_num(nan=math.inf, posinf=math.inf)
        reach = (scale * unit).nan_to_num(nan=0.0, posinf=math.inf)
        now = clipped | (reach > room)
        if bool((now == clipped).all()):
            return torch.minimum(reach, room)
        clipped = now


def _fill_until(size: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """The coordinates of largest size first, each up to its room, until they gain `need`."""
    size, order = size.sort(dim=1, descending=True, stable=True)
    filled = room.gather(1, order)
    gains = size * filled
    before = gains.cumsum(1) - gains
    left = (need - before).clamp(min=0)
    filled = torch.where(left < gains, left / size, filled).mul_(left > 0)
    return torch.zeros_like(room).scatter_(1, order, filled.nan_to_num_(nan=0.0))


def project_radius(
    norm: str, x: Tensor, z: Tensor, radius: Tensor, low: float, high: float
) -> Tensor:
    """The point nearest to z in {p in the box : ‖p − x‖ ≤ radius}, with radius (n,): (n, …).

    `Ball.project` has one radius and holds it to the last bit; this holds it up to rounding.
    """
    limit = radius.to(x.dtype).unsqueeze(1)
    if norm == "linf":
        limit = limit.view(-1, *[1] * (x.dim() - 1))
        return torch.clamp(torch.clamp(z, x - limit, x + limit), low, high)
    clipped = torch.clamp(z, low, high)
    if norm == "l0":
        worth = ((z - x).square() - (z - clipped).square()).flatten(1)
        most = min(int(limit.amax().ceil()), worth.shape[1])
        first = worth.topk(most, dim=1).indices
        chosen = torch.arange(most, device=x.device) < limit
        changed = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, first, chosen)
        return torch.where(changed.view_as(x), clipped, x)
    size, held = (z - x).abs().flatten(1), (clipped - x).abs().flatten(1)
    room = torch.where(z > x, high - x, x - low).flatten(1)
    if norm == "l2":
        outside = torch.linalg.vector_norm(held, dim=1, keepdim=True) > limit
        inner = torch.minimum(size * l2_scale(size, room, limit), room)
    else:
        outside = held.sum(1, keepdim=True) > limit
        inner = torch.minimum((size - _shift(size, room, limit)).clamp(min=0), room)
    step = torch.where(outside, inner, held).view_as(x)
    return torch.clamp(x + (z - x).sign() * step, low, high)


def shrink(norm: str, delta: Tensor, amount: Tensor) -> Tensor:
    """The d that minimises amount·‖d‖ + ‖d − delta‖²/2, with amount (n,): (n, …) → (n, …).

    L2: shorter by `amount`. L1: each coordinate nearer to zero by it. L∞: what the projection onto
    the L1 ball of that radius leaves, in other words the largest coordinates cut to one size.
    """
    size, amount = delta.abs().flatten(1), amount.unsqueeze(1)
    if norm == "l2":
        length = torch.linalg.vector_norm(size, dim=1, keepdim=True)
        size = size * (1 - amount / length.clamp(min=1e-12)).clamp(min=0)
    elif norm == "l1":
        size = (size - amount).clamp(min=0)
    else:
        room = torch.full_like(size, math.inf)
        cut = _shift(size, room, torch.minimum(amount, size.sum(1, keepdim=True)))
        size = torch.minimum(size, cut)
    return delta.sign() * size.view_as(delta)


def _shift(size: Tensor, room: Tensor, limit: Tensor) -> Tensor:
    """λ with Σ clip(size − λ, 0, room) = limit, per row (n, d) → (n, 1); below 0 with too little.

    Newton's method on a sum that is piecewise linear in λ, held between a λ that is too small and
    one that is too large: a dozen passes over the data, a tenth of the time of sorting them.
    """
    low, high = torch.zeros_like(limit), size.amax(1, keepdim=True)
    shift = low
    for _ in range(_PASSES):
        left = size - shift
        excess = torch.minimum(left, room).clamp_(min=0).sum(1, keepdim=True) - limit
        if bool((excess.abs() <= _CLOSE * limit).all()):
            break
        low, high = torch.where(excess > 0, shift, low), torch.where(excess > 0, high, shift)
        free = ((left > 0) & (left < room)).sum(1, keepdim=True)
        shift = shift + excess / free
        shift = torch.where((shift > low) & (shift < high), shift, (low + high) / 2)
    return shift
