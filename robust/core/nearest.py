"""Nearest points: onto a hyperplane, where a linear model puts the boundary, and onto a ball with a
radius of its own for each sample. Within the box, unless a function says otherwise.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .lengths import fill, length, rooms, shift, softened, stretched

_PASSES, _CLOSE = 40, 1e-5  # of what a step is to gain
_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


def dual_norm(norm: str, slope: Tensor) -> Tensor:
    """The most that ⟨slope, d⟩ can gain with a step d of length 1 in `norm`: (…, d) → (…)."""
    return length(_DUAL[norm], slope)


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
    same s for all; L1 fills the coordinates of largest slope instead. Up to rounding.
    """
    flat, need = slope.flatten(1), gain.unsqueeze(1)
    way, size, room = rooms(z.flatten(1), flat * need.sign(), low, high)
    need = need.abs()
    if norm == "l1":
        step = fill(size, room, need, rate=size)
    else:
        step = _share(size, room, need, size if norm == "l2" else None)
    return step.mul_(way).view_as(z)


def _share(size: Tensor, room: Tensor, need: Tensor, unit: Tensor | None) -> Tensor:
    """min(s·unit, room) with Σ size·min(s·unit, room) = need, per row (n, d); no unit means 1."""
    step, part = torch.empty_like(size), torch.empty_like(size)

    def gain(scale: Tensor) -> Tensor:
        wish = scale if unit is None else torch.mul(unit, scale, out=step)
        torch.minimum(room, wish, out=step)
        return torch.mul(size, step, out=part).sum(1, keepdim=True)

    weight = size if unit is None else torch.mul(size, unit, out=part)
    _by_chords(gain, need, need / weight.sum(1, keepdim=True).clamp_(min=1e-30))
    return step


def _by_chords(gain: Callable[[Tensor], Tensor], need: Tensor, scale: Tensor) -> None:
    """Call `gain` for scales (n, 1) that grow until it gives `need`, or all that there is.

    gain is concave, 0 at 0, and gives too little for the first scale. So does a chord drawn on to
    `need`: the scales come close from below, in a handful of rounds.
    """
    before = gained_before = torch.zeros_like(need)
    for _ in range(_PASSES):
        gained = gain(scale)
        missing, rise = need - gained, (gained - gained_before) / (scale - before)
        short = (missing > _CLOSE * need) & (rise > 0)
        if not bool(short.any()):
            break
        before, gained_before = scale, gained
        scale = torch.where(short, scale + missing / rise, scale).clamp_(max=1e30)


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
    if norm == "l0":
        clipped = torch.clamp(z, low, high)
        worth = ((z - x).square() - (z - clipped).square()).flatten(1)
        most = min(int(limit.amax().ceil()), worth.shape[1])
        first = worth.topk(most, dim=1).indices
        chosen = torch.arange(most, device=x.device) < limit
        changed = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, first, chosen)
        return torch.where(changed.view_as(x), clipped, x)
    flat = x.flatten(1)
    delta = z.flatten(1) - flat
    if norm == "l2":
        return stretched(flat, delta, limit, low, high, most=1.0).view_as(x)
    return softened(flat, delta, limit, low, high).view_as(x)


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
        cut = shift(size, None, torch.minimum(amount, size.sum(1, keepdim=True)))
        size = torch.minimum(size, cut)
    return delta.sign() * size.view_as(delta)
