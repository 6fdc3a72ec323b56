"""Nearest points: onto a hyperplane, where a linear model puts the boundary, and onto a ball with a
radius of its own for each sample. Within the box, unless a function says otherwise.
"""

from collections.abc import Callable

import torch
from torch import Tensor

_PASSES, _CLOSE = 40, 1e-5  # of the sum, which float32 holds to about 1e-6
_FIRST = 16  # the largest coordinates to look at first, eight times as many next
_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


def length(norm: str, step: Tensor) -> Tensor:
    """‖step‖ in the precision of step: (…, d) → (…)."""
    if norm == "l2":
        found: Tensor = torch.linalg.vector_norm(step, dim=-1)
        return found
    return step.abs().amax(-1) if norm == "linf" else step.abs().sum(-1)


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
    # Arithmetic, not a choice for each coordinate, which takes many times as long.
    way, size = flat.sign().mul_(need.sign()), flat.abs()
    need, middle, half = need.abs(), (high + low) / 2, (high - low) / 2
    room = (middle - z.flatten(1)).mul_(way).add_(half)
    if norm == "l1":
        step = _fill_until(size, room, need)
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


def _fill_until(size: Tensor, room: Tensor, need: Tensor, count: int = _FIRST) -> Tensor:
    """The coordinates of largest size first, each up to its room, until they gain `need`.

    Looks at the `count` largest; the rows to which these are not enough are looked at again.
    """
    count = min(count, size.shape[1])
    largest, order = size.topk(count, dim=1)
    filled = room.gather(1, order)
    gains = largest * filled
    total = gains.cumsum(1)
    left = (need - total + gains).clamp_(min=0)
    filled = torch.where(left < gains, left / largest, filled).mul_(left > 0)
    step = torch.zeros_like(room).scatter_(1, order, filled.nan_to_num_(nan=0.0))
    short = (total[:, -1] < need[:, 0]).nonzero().squeeze(1)
    if count < size.shape[1] and len(short):
        step[short] = _fill_until(size[short], room[short], need[short], 8 * count)
    return step


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
    delta, middle, half = (z - x).flatten(1), (high + low) / 2, (high - low) / 2
    way, size = delta.sign(), delta.abs()
    held = (clipped - x).flatten(1)
    limit = torch.minimum(limit, length(norm, held).unsqueeze(1))  # what is inside stays
    room = (middle - x.flatten(1)).mul_(way).add_(half)
    inner = _shorten(size, room, limit) if norm == "l2" else _soften(size, room, limit)
    return torch.addcmul(x, way.view_as(x), inner.view_as(x)).clamp_(low, high)


def _shorten(size: Tensor, room: Tensor, limit: Tensor) -> Tensor:
    """min(s·size, room) of Euclidean length `limit`, per row (n, d): in squares, it is concave."""
    step = torch.empty_like(size)

    def gain(square: Tensor) -> Tensor:
        torch.mul(size, square.sqrt(), out=step)
        torch.minimum(step, room, out=step)
        return length("l2", step).square().unsqueeze(1)

    need = limit.square()
    _by_chords(gain, need, need / length("l2", size).square().clamp_(min=1e-30).unsqueeze(1))
    return step


def _soften(size: Tensor, room: Tensor, limit: Tensor) -> Tensor:
    """clip(size − λ, 0, room) with the sum `limit`, per row (n, d)."""
    shift = _shift_of_largest(size, room, limit, 4 * _FIRST)
    return torch.minimum((size - shift).clamp_(min=0), room)


def _shift_of_largest(size: Tensor, room: Tensor, limit: Tensor, count: int) -> Tensor:
    """The λ of `_soften` (n, 1), from the `count` largest coordinates of each row; the rows in
    which others are above λ too are looked at again.
    """
    count = min(count, size.shape[1])
    largest, order = size.topk(count, dim=1)
    shift = _shift(largest, room.gather(1, order), limit)
    short = (shift < largest[:, -1:]).squeeze(1).nonzero().squeeze(1)
    if count < size.shape[1] and len(short):
        shift[short] = _shift_of_largest(size[short], room[short], limit[short], 8 * count)
    return shift


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
        cut = _shift(size, None, torch.minimum(amount, size.sum(1, keepdim=True)))
        size = torch.minimum(size, cut)
    return delta.sign() * size.view_as(delta)


def _shift(size: Tensor, room: Tensor | None, limit: Tensor) -> Tensor:
    """λ with Σ clip(size − λ, 0, room) = limit, per row (n, d) → (n, 1); 0 with too little.

    Newton's method on a sum that is piecewise linear in λ, held between a λ that is too small and
    one that is too large.
    """
    low, high = torch.zeros_like(limit), size.amax(1, keepdim=True)
    shift = low
    for _ in range(_PASSES):
        kept = (size - shift).clamp_(min=0)
        if room is not None:
            kept = torch.minimum(kept, room, out=kept)
        excess = kept.sum(1, keepdim=True) - limit
        if bool((excess.abs() <= _CLOSE * limit).all()):
            break
        low, high = torch.where(excess > 0, shift, low), torch.where(excess > 0, high, shift)
        free = kept if room is None else (room - kept).mul_(kept)
        shift = shift + excess / free.sign().sum(1, keepdim=True)
        shift = torch.where((shift > low) & (shift < high), shift, (low + high) / 2)
    return shift
